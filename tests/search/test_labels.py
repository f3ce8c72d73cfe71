"""Labels of an index go with the content of a file: renamed, away, made anew, killed between."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ToyImages
from trmml.datasets.formats.folder import read_folder
from trmml.search import build as module
from trmml.search.build import Built
from trmml.search.table import open_images

pytest.importorskip("lancedb", reason="the extra `search` is not installed")

NONE: tuple[list[str], list[str]] = ([], [])
RED, VIOLET = (["red"], ["violet"]), (["violet"], ["red"])


@pytest.fixture
def photos(toy_images: ToyImages, tmp_path: Path) -> Path:
    """A folder of a few images, of which two have labels."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("001.png", "002.png", "004.png"):
        shutil.copy2(toy_images.test / name, folder)
    return folder


@pytest.fixture
def labelled(build: Callable[..., Built], photos: Path, tmp_path: Path) -> Path:
    """The folder, indexed with labels."""
    table = tmp_path / "labels.csv"
    table.write_text("image,red,violet\n001.png,1,0\n002.png,0,1\n")
    build(labels=read_folder(photos, table))
    return photos


def known(index: Path) -> dict[str, tuple[list[str], list[str]]]:
    rows = open_images(index)[0].search().limit(None).to_list()
    return {row["image"]: (row["given"], row["absent"]) for row in rows}


def renumber(photos: Path) -> None:
    (photos / "002.png").rename(photos / "003.png")
    (photos / "001.png").rename(photos / "002.png")


def dies(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("replaced", [False, True])
def test_renumbered_files_keep_their_labels(
    build: Callable[..., Built], labelled: Path, tmp_path: Path, replaced: bool
) -> None:
    renumber(labelled)
    build(also=["violet"] if replaced else [], replace_other=replaced)
    assert known(tmp_path / "index") == {"002.png": RED, "003.png": VIOLET, "004.png": NONE}


@pytest.mark.parametrize("replaced", [False, True])
def test_an_edited_file_keeps_its_labels(
    build: Callable[..., Built], labelled: Path, toy_images: ToyImages, tmp_path: Path,
    replaced: bool,
) -> None:  # fmt: skip
    shutil.copy2(toy_images.test / "009.png", labelled / "001.png")
    build(also=["violet"] if replaced else [], replace_other=replaced)
    assert known(tmp_path / "index")["001.png"] == RED


def test_a_new_file_under_an_old_name_has_no_labels(
    build: Callable[..., Built], labelled: Path, toy_images: ToyImages, tmp_path: Path
) -> None:
    renumber(labelled)
    shutil.copy2(toy_images.test / "009.png", labelled / "001.png")
    build()
    assert known(tmp_path / "index") == {
        "001.png": NONE, "002.png": RED, "003.png": VIOLET, "004.png": NONE,
    }  # fmt: skip


def test_broken_files_are_not_taken_for_one_another(
    build: Callable[..., Built], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_disk(path: Path) -> str:
        raise OSError(5, "Input/output error", str(path))

    monkeypatch.setattr("trmml.search.changes.hash_file", no_disk)
    table = tmp_path / "labels.csv"
    table.write_text("image,red,violet\n001.png,1,0\n")
    build(labels=read_folder(photos, table))
    (photos / "001.png").rename(photos / "009.png")
    build()
    assert known(tmp_path / "index")["009.png"] == NONE


@pytest.mark.parametrize("step", ["rows_of", "_settle", "gone"])
def test_a_kill_between_loses_no_label(
    build: Callable[..., Built],
    labelled: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
) -> None:
    monkeypatch.setattr(module, "ROWS", 1)
    renumber(labelled)
    real, calls = getattr(module, step), list[int]()

    def second_dies(*given: object) -> object:
        calls.append(1)
        return dies() if len(calls) > (step == "rows_of") else real(*given)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, step, second_dies)
        build()
    build()
    assert known(tmp_path / "index") == {"002.png": RED, "003.png": VIOLET, "004.png": NONE}
    assert not (tmp_path / "index" / "removed.lance").exists()


def test_labels_of_a_link_whose_disk_was_away_come_back(
    build: Callable[..., Built], labelled: Path, tmp_path: Path
) -> None:
    away = (labelled / "001.png").rename(tmp_path / "away.png")
    (labelled / "001.png").symlink_to(tmp_path / "nowhere.png")
    build()
    (labelled / "001.png").unlink()
    build()
    (labelled / "001.png").symlink_to(away)
    build()
    assert known(tmp_path / "index")["001.png"] == RED


def test_a_file_that_can_be_read_again_is_known_by_its_content(
    build: Callable[..., Built], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(path: Path) -> str:
        raise PermissionError(path)

    with monkeypatch.context() as patch:
        patch.setattr("trmml.search.changes.hash_file", closed)
        build()
    build()
    rows = open_images(tmp_path / "index")[0].search().limit(None).to_list()
    assert all(row["sha256"] for row in rows)


@pytest.mark.parametrize("replaced", [False, True])
def test_labels_of_a_folder_that_was_away_come_back(
    build: Callable[..., Built], labelled: Path, tmp_path: Path, replaced: bool
) -> None:
    (labelled / "001.png").rename(tmp_path / "away.png")
    how = {"also": ["violet"], "replace_other": True} if replaced else {}
    build(**how)
    build(**how)
    (tmp_path / "away.png").rename(labelled / "more.png")
    build(**how)
    assert known(tmp_path / "index")["more.png"] == RED
    assert not (tmp_path / "index" / "removed.lance").exists()
