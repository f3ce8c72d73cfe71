"""`trmml index` and `trmml search` as a user types them."""

import csv
import io
import json
import shutil
from pathlib import Path

import pytest

from tests.cli.test_main import good, run
from tests.conftest import ToyImages

pytest.importorskip("lancedb", reason="the extra `search` is not installed")


def bad(*words: object) -> str:
    result = run(*words)
    assert result.exit_code == 1 and "Error: " in result.stderr
    return result.stderr


@pytest.fixture
def indexed(finished_run: Path, toy_images: ToyImages, tmp_path: Path) -> Path:
    words = ["index", toy_images.test, "--run", finished_run, "--out", tmp_path / "index"]
    said = good(*words, "--labels", toy_images.test_table, "--trust")
    assert said.startswith("16 images in")
    return tmp_path / "index"


def test_every_form_names_the_same_images(indexed: Path, toy_images: ToyImages) -> None:
    words = ["search", indexed, "red", "--trust", "--top", "3"]
    tree = json.loads(good(*words, "--json"))
    names = [hit["image"] for hit in tree["hits"]]
    assert len(names) == 3
    rows = list(csv.DictReader(io.StringIO(good(*words, "--format", "csv"))))
    assert [row["image"] for row in rows] == names
    paths = [str(toy_images.test / name) for name in names]
    assert good(*words, "--paths").splitlines() == paths
    assert good(*words, "-0") == "".join(f"{path}\0" for path in paths)
    table = good(*words)
    assert all(name in table for name in names)


def test_a_filter_alone_needs_no_trust(indexed: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "found.html"
    found = json.loads(good("search", indexed, "--tag", "red", "--json", "--sheet", sheet))
    assert all("red" in hit["given"] for hit in found["hits"]) and found["hits"]
    assert "+red" in sheet.read_text("utf-8")
    good("search", indexed, "--tag", "red", "--sheet", sheet)  # a sheet may be written over
    (tmp_path / "mine.csv").write_text("mine")
    refused = bad("search", indexed, "--tag", "red", "--sheet", tmp_path / "mine.csv")
    assert "no contact sheet" in refused and (tmp_path / "mine.csv").read_text() == "mine"


def test_what_is_wrong_is_said_in_a_sentence(indexed: Path, tmp_path: Path) -> None:
    assert "--trust" in bad("search", indexed, "red")
    assert "did you mean red" in bad("search", indexed, "--tag", "rad")
    assert "takes a number or auto" in bad("search", indexed, "red", "--min", "x", "--trust")
    assert "holds no index" in bad("search", tmp_path, "red")
    assert "nothing is searched for" in bad("search", indexed)


def test_keywords_of_sidecars_are_tags_and_labels_count_first(
    finished_run: Path, toy_images: ToyImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    photos = Path(shutil.copytree(toy_images.test, tmp_path / "photos"))
    first, second, third = sorted(path.name for path in photos.glob("*.png"))[:3]
    table = tmp_path / "labels.csv"
    table.write_text(f"image,red,Holiday\n{first},0,\n{second},,1\n")
    words = tmp_path / "words.csv"
    words.write_text(f"image,red,holiday\n{first},1,\n{second},1,\n{third},,1\n")
    good("sidecar", "write", photos, "--from", words)
    build = ["index", photos, "--run", finished_run, "--out", "index", "--trust", "--sidecars"]
    ledger = Path("sidecars.jsonl").rename("elsewhere.jsonl")
    assert "knew more" not in run(*build, "--labels", table).stderr
    assert given("red") == [second] and given("Holiday") == sorted([second, third])
    assert "the index knew more of 2 images" in run(*build).stderr
    assert given("red") == sorted([first, second]) and given("holiday") == [third]
    good(*build, "--ledger", ledger)  # it says that nobody else wrote these words
    assert "did you mean" not in bad("search", "index", "--tag", "holiday")


def test_options_of_index_that_would_do_nothing_are_refused(tmp_path: Path) -> None:
    words = ["index", tmp_path, "--run", tmp_path, "--out", tmp_path / "index"]
    for more, needed in (
        (["--blank", "absent"], "--labels"),
        (["--separator", "|"], "--labels"),
        (["--ledger", "x.jsonl"], "--sidecars"),
    ):
        refused = run(*words, *more)
        assert refused.exit_code == 2 and needed in refused.stderr


def given(tag: str) -> list[str]:
    """Images that somebody gave a tag."""
    hits = json.loads(good("search", "index", "--tag", tag, "--json"))["hits"]
    return sorted(hit["image"] for hit in hits if tag in hit["given"])
