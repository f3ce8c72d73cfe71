"""`trmml batch` as a user types it."""

import json
import shutil
from pathlib import Path

import polars as pl
import pytest

from tests.cli.test_main import good, run
from tests.conftest import TOY_SPEC, ToyImages
from trmml.cli.batch import _storage


@pytest.fixture
def manifest(toy_images: ToyImages, tmp_path: Path) -> Path:
    path = tmp_path / "m.parquet"
    assert good("batch", "manifest", toy_images.test, "--out", path) == f"16 images in {path}\n"
    return path


def test_tag_and_status(finished_run: Path, manifest: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["batch", "tag", finished_run, manifest, out, "--trust", "--device", "cpu"]
    assert good(*words, "--part", "6") == "16 of 16 images, 3 of 3 parts\n"
    assert good("batch", "status", out) == "16 of 16 images, 3 of 3 parts\n"
    tree = json.loads(good("batch", "status", out, "--json"))
    assert (tree["rows"], tree["errors"], tree["failed"]) == (16, 0, 0)
    assert len(pl.read_parquet(out / "part-*.parquet")) == 16


def test_a_failed_part_ends_in_exit_code_1(
    finished_run: Path, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ValueError("broken")

    monkeypatch.setattr("trmml.scale.part._frame", broken)
    result = run(
        "batch", "tag", finished_run, manifest, tmp_path / "out", "--trust", "--device", "cpu"
    )
    assert result.exit_code == 1
    assert result.stdout == "0 of 16 images, 0 of 1 parts\n"
    assert "1 of 1 parts failed twice" in result.stderr and "failed.jsonl" in result.stderr


def test_a_list_on_stdin_is_read_as_that_of_tag(toy_images: ToyImages, tmp_path: Path) -> None:
    paths = [str(path) for path in sorted(toy_images.test.iterdir())[:2]]
    words = ["batch", "manifest", "-", "--out", tmp_path / "m.parquet"]
    for end, more in (("\n", ()), ("\r\n", ()), ("\0", ("-0",))):
        listed = "\ufeff" + "".join(path + end for path in paths)
        result = run(*words, *more, stdin=listed)
        assert result.exit_code == 0, result.stderr
        assert pl.read_parquet(tmp_path / "m.parquet")["uri"].to_list() == paths
    result = run(*words, stdin="\0".join(paths))
    assert result.exit_code == 2 and "give -0" in result.stderr


def test_storage_options_have_types() -> None:
    given = ["anon=false", "max=3", "rate=0.5", 'id="12"', "endpoint_url=http://x", "empty="]
    wanted = {"anon": False, "max": 3, "rate": 0.5, "id": "12", "endpoint_url": "http://x"}
    assert dict(_storage(given).options) == {**wanted, "empty": ""}


def test_an_encoder_that_moved_is_named(finished_run: Path, manifest: Path, tmp_path: Path) -> None:
    moved = tmp_path / "run"
    shutil.copytree(finished_run, moved)
    tree = json.loads((moved / "model.json").read_text("utf-8"))
    (moved / "model.json").write_text(json.dumps({**tree, "encoder_spec": "gone.py:make"}), "utf-8")
    words = ["batch", "tag", moved, manifest, tmp_path / "out", "--device", "cpu"]
    assert "16 of 16 images" in good(*words, "--encoder", TOY_SPEC)


@pytest.mark.parametrize("more", [("--workers", "2"), ("--address", "x"), ("--precision", "auto")])
def test_options_that_would_do_nothing_are_wrong_usage(
    more: tuple[str, str], manifest: Path, tmp_path: Path
) -> None:
    result = run("batch", "tag", tmp_path, manifest, tmp_path / "out", *more)
    assert result.exit_code == 2 and more[0] in result.stderr


def test_a_manifest_that_cannot_be_written_is_refused_first(tmp_path: Path) -> None:
    for out in (tmp_path / "no" / "m.parquet", tmp_path):
        result = run("batch", "manifest", tmp_path / "none", "--out", out)
        assert result.exit_code == (1 if out == tmp_path else 2)
        assert "folder" in result.stderr


def test_options_are_refused_in_a_sentence(manifest: Path, tmp_path: Path) -> None:
    result = run("batch", "status", tmp_path)
    assert result.exit_code == 1 and "holds no job" in result.stderr
    words = ["batch", "manifest", tmp_path, "--out", tmp_path / "n.parquet"]
    result = run(*words, "--storage-option", "secret=x")
    assert result.exit_code == 1 and "would show a secret" in result.stderr
