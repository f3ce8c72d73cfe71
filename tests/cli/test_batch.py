"""`trmml batch` as a user types it."""

import json
from pathlib import Path

import polars as pl
import pytest

from tests.cli.test_main import good, run
from tests.conftest import ToyImages


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


def test_options_are_refused_in_a_sentence(manifest: Path, tmp_path: Path) -> None:
    result = run("batch", "status", tmp_path)
    assert result.exit_code == 1 and "holds no job" in result.stderr
    words = ["batch", "manifest", tmp_path, "--out", tmp_path / "n.parquet"]
    result = run(*words, "--storage-option", "secret=x")
    assert result.exit_code == 1 and "would show a secret" in result.stderr
