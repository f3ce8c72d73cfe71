"""`trmml data export`: a source of each kind, what is lost, and what is refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tests.conftest import ToyImages
from tests.sets import states, write, write_images
from trmml.cli.main import app
from trmml.curation import collection
from trmml.curation.answers import Answer, Answers, new_id, now
from trmml.datasets.formats.folder import read_folder
from trmml.storage.hashes import hash_file
from trmml.training import run_folder


def run(*words: object) -> Result:
    return CliRunner().invoke(app, ["data", "export", *map(str, words)])


def good(*words: object) -> str:
    done = run(*words)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture
def given(tmp_path: Path) -> Path:
    """Images and a table of two categories."""
    write(tmp_path, {"labels.csv": "image,cat,dog\na.png,1,\nb.png,,0\n"})
    write_images(tmp_path, ["photos/a.png", "photos/b.png"])
    return tmp_path


def test_a_table_says_what_is_lost(given: Path) -> None:
    table, photos, out = given / "labels.csv", given / "photos", given / "out"
    assert good("cvat", table, out, "--images", photos).splitlines() == [
        f"{out}: 2 images, 2 categories",
        "1 pairs present, 1 absent, 2 unknown; 0 boxes",
        "not kept: cvat says what is present alone, not which of 3 other pairs are absent and which"
        " unknown; trmml.csv keeps the three states",
    ]
    tree = json.loads(good("wide", table, given / "new.csv", "--images", photos, "--json"))
    assert tree == {"out": str(given / "new.csv"), "images": 2, "categories": 2, "present": 1,
                    "tags": 0, "absent": 1, "unknown": 2, "boxes": 0, "lost": []}  # fmt: skip


def test_a_run_tags_what_nobody_labelled(
    finished_run: Path, toy_images: ToyImages, tmp_path: Path
) -> None:
    for name in ("000.png", "001.png"):
        (tmp_path / "photos").mkdir(exist_ok=True)
        shutil.copy(toy_images.train / name, tmp_path / "photos" / name)
    photos, out = tmp_path / "photos", tmp_path / "out"
    text = good("label-studio", finished_run, out, "--images", photos, "--trust")
    tasks = json.loads((out / "tasks.json").read_text())
    assert [task["data"]["image"] for task in tasks] == [
        f"/data/local-files/?d=photos/{name}.png" for name in ("000", "001")
    ]
    assert all("annotations" not in task for task in tasks) and "tags of the run" in text
    tags = sum(len(task["predictions"][0]["result"]) for task in tasks)
    assert f"{tags} pairs present ({tags} of them tags of the run), 0 absent" in text
    names = list(tasks[0]["meta"]["trmml"]["probabilities"])
    write(tmp_path, {"labels.csv": f"image,{names[0]},horse\n000.png,0,1\n"})
    words = ("--images", photos, "--labels", tmp_path / "labels.csv", "--trust")
    done = run("wide", finished_run, tmp_path / "new.csv", *words)
    assert done.exit_code == 0 and "left out, for the run does not know them: horse" in done.stderr
    data = read_folder(photos, tmp_path / "new.csv")
    assert data.category_names == tuple(names) and states(data)[0][0] is False
    write(tmp_path, {"labels.csv": "image,horse\n000.png,1\n"})
    refused = run("wide", finished_run, tmp_path / "none.csv", *words)
    assert refused.exit_code == 1 and "none of the table's 1 categories (horse)" in refused.stderr


def test_what_cannot_be_written_is_refused_before_a_run_reads_an_image(
    finished_run: Path, toy_images: ToyImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*_: object, **__: object) -> None:
        raise AssertionError("images are read")

    monkeypatch.setattr(collection, "read_collection", read)
    words = ("--images", toy_images.test, "--trust")
    write(tmp_path, {"old.csv": ""})
    for out, message in (("old.csv", "is there already"), ("no/such/a.csv", "there is no folder")):
        done = run("wide", finished_run, tmp_path / out, *words)
        assert done.exit_code == 1 and message in done.stderr, done.output
    card = run_folder.load_card(finished_run)
    names = ("image", *card.category_names[1:])
    monkeypatch.setattr(run_folder, "load_card", lambda _: replace(card, category_names=names))
    done = run("wide", finished_run, tmp_path / "new.csv", *words)
    assert done.exit_code == 1 and "the name of the column of images" in done.stderr
    for form in ("yolo", "coco"):
        done = run(form, finished_run, tmp_path / form, *words)
        assert done.exit_code == 2, done.output
        assert "a run tags whole images" in " ".join(done.stderr.replace("│", " ").split())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old.csv"]


def test_choices_of_a_data_set_are_refused_for_a_run(
    finished_run: Path, toy_images: ToyImages, tmp_path: Path
) -> None:
    words = ["wide", finished_run, tmp_path / "new", "--images", toy_images.test]
    for more, said in (
        (["--option", "blank=absent"], "not with a run"),
        (["--split", "test"], "not with a run"),
        (["--blank", "absent"], "explain a table: --labels TABLE"),
    ):
        done = run(*map(str, words), *more)
        assert done.exit_code == 2 and not (tmp_path / "new").exists()
        assert said in " ".join(done.stderr.replace("│", " ").split())


def test_a_journal(given: Path) -> None:
    sha256 = hash_file(given / "photos/b.png")
    row = Answer(
        new_id(), now(), "", "b.png", sha256, "owl", "present", "unknown", 0.5, "learn", ""
    )
    other = row._replace(id=new_id(), sha256="0" * 64)
    with Answers(given / "a.sqlite") as journal:
        journal.add([row, other])
    done = run("long", given / "a.sqlite", given / "new.csv", "--images", given / "photos")
    assert done.exit_code == 0, done.output
    assert (given / "new.csv").read_text() == "image,present,absent\nb.png,owl,\n"
    assert "1 answers are about images that are not here" in done.stderr


def test_a_data_set(given: Path) -> None:
    write(given, {"set/classes.txt": "cat\ndog\n", "set/labels/a.txt": "1 0.5 0.5 0.5 0.5\n"})
    write_images(given, ["set/images/a.png"])
    good("coco", given / "set", given / "coco", "--kind", "yolo")
    assert states(read_folder(given / "set", given / "coco/instances.json")) == [[False, True]]
    write(given, {"plain/train.csv": "image,cat\na.png,1\n"})
    write_images(given, ["plain/images/a.png"])
    good("parquet", given / "plain", given / "new.parquet")
    assert states(read_folder(given / "plain/images", given / "new.parquet")) == [[True]]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["wide", "labels.csv", "new"], "--images is needed: the folder of the images of labels.c"),
        (["wide", "photos", "new"], "photos is no run and holds no table; say --kind NAME"),
        (["wide", "nothing.csv", "new", "--images", "photos"], "nothing.csv does not exist. Name"),
        (["wide", "labels.csv", "new", "--kind", "folder", "--images", "photos"], "its own images"),
        (
            ["wide", "labels.csv", "new", "--images", "photos", "--ask", "choices"],
            "--ask goes with",
        ),
        (["cvat", "labels.csv", "new", "--images", "photos", "--image-level"], "goes with coco"),
        (
            ["wide", "labels.csv", "photos", "--images", "photos"],
            "is there already, and nothing is",
        ),
        (
            ["wide", "labels.csv", "new", "--images", "photos", "--option", "a=b"],
            "data set's folder",
        ),
        (
            ["wide", "labels.csv", "new", "--images", "photos", "--labels", "labels.csv"],
            "with a run",
        ),
        (["yolo", "labels.csv", "new", "--images", "photos"], "coco --image-level"),
        (["wide", "up.csv", "new", "--images", "photos"], "leads out of the images folder"),
        (["wide", "a.xmp", "new", "--images", "photos"], "is an XMP sidecar, no file of labels"),
        (["wide", "empty", "new"], "empty is no run and holds no table"),
        (["none", "labels.csv", "new"], "'none' is not one of"),
        (
            ["wide", "labels.csv", "new", "--images", "photos", "--on-bad-image", "skip"],
            "--on-bad-image goes with a run",
        ),
        *(
            (["wide", "labels.csv", "new", "--images", "photos", *more], f"{more[0]} goes with")
            for more in (["--split", "train"], ["--encoder", "x"], ["--trust"], ["--device", "cpu"])
        ),
        (["wide", "set", "new", "--kind", "folder", "--trust"], "goes with a run, not with a data"),
    ],
)
def test_bad_input(
    given: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.chdir(given)
    write(given, {"up.csv": "image,cat\n../a.png,1\n", "a.xmp": "<x:xmpmeta xmlns:x='a'/>"})
    (given / "empty").mkdir()
    before = sorted(path.name for path in given.rglob("*"))
    done = run(*words)
    assert done.exit_code in (1, 2) and message in " ".join(done.stderr.split())
    assert sorted(path.name for path in given.rglob("*")) == before
