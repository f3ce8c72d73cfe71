import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trmml.errors import DataError
from trmml.image_search import find_images


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    names = ["10.jpg", "2.jpg", "b/1.PNG", "B2/x.webp", "notes.txt", ".hidden.jpg", ".git/a.jpg"]
    for name in [*names, "b/deep/z.tiff", "Img 1.jpeg"]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return tmp_path


def found(folder: Path, *paths: str) -> list[str]:
    return [
        path.relative_to(folder).as_posix()
        for path in find_images([str(folder / p) for p in paths])
    ]


def test_a_folder_is_searched_in_natural_order(folder: Path) -> None:
    everything = ["2.jpg", "10.jpg", "b/1.PNG", "b/deep/z.tiff", "B2/x.webp", "Img 1.jpeg"]
    assert found(folder, "") == everything
    assert find_images([str(folder)]) == find_images([folder])


def test_files_patterns_and_order(folder: Path) -> None:
    assert found(folder, "notes.txt", ".hidden.jpg") == ["notes.txt", ".hidden.jpg"]
    assert found(folder, "*.jpg") == ["2.jpg", "10.jpg"]
    assert found(folder, "**/*.PNG") == ["b/1.PNG"]
    assert found(folder, "b*") == ["b/1.PNG", "b/deep/z.tiff"]
    assert found(folder, "10.jpg", "*", "2.jpg")[:2] == ["10.jpg", "2.jpg"]
    assert len(found(folder, "", "*", "2.jpg")) == 6


def test_a_name_with_brackets_is_a_file_first(folder: Path) -> None:
    (folder / "a[1].jpg").write_bytes(b"x")
    assert found(folder, "a[1].jpg") == ["a[1].jpg"]


def test_nothing_found_is_an_error(folder: Path) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(DataError, match=r"the folder .*empty holds no image \(\.avif \.bmp"):
        found(folder, "empty")
    with pytest.raises(DataError, match=r"the pattern .*\*\.gif matches no image"):
        found(folder, "*.gif")
    with pytest.raises(DataError, match=r"none\.jpg does not exist\. Name an image"):
        found(folder, "2.jpg", "none.jpg")
    with pytest.raises(DataError, match="no image was named"):
        find_images([])


def test_links_to_folders_are_followed_but_in_no_circle(folder: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere/deep"
    elsewhere.mkdir(parents=True)
    (elsewhere / "y.png").write_bytes(b"x")
    top = folder / "b"
    (top / "linked").symlink_to(elsewhere.parent)
    (top / "again").symlink_to(elsewhere)  # the same image by two names
    (top / "deep/up").symlink_to(top)
    (elsewhere / "round").symlink_to(top)
    assert found(folder, "b") == [
        "b/1.PNG", "b/again/y.png", "b/deep/z.tiff", "b/linked/deep/y.png"
    ]  # fmt: skip


@settings(max_examples=20)
@given(st.permutations(["a1", "a02", "a10", "A3", "b", "ä", "1", "02", "²"]))
def test_the_order_does_not_depend_on_the_disk(
    tmp_path_factory: pytest.TempPathFactory, names: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("order")
    for name in names:
        (folder / f"{name}.jpg").write_bytes(b"x")
    stems = [path.stem for path in find_images([folder])]
    assert stems == ["1", "02", "a1", "a02", "A3", "a10", "b", "²", "ä"]


def test_what_only_looks_like_an_image_is_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a.jpg", "b.CR2", "c.cr2", "d.svg", "e.txt", ".f.svg", "g.HEIC", "h.avif"):
        (tmp_path / name).write_bytes(b"x")
    os.mkfifo(tmp_path / "p.jpg")
    for path in (tmp_path, tmp_path / "*"):
        caplog.clear()
        assert [image.name for image in find_images([path])] == ["a.jpg", "g.HEIC", "h.avif"]
        (told,) = caplog.messages
        assert "3 images; 4 files that look like images are passed over (" in told
        assert all(part in told for part in ("2 .cr2", "1 .svg", "1 pipe, socket or device"))
    with pytest.raises(DataError, match=r"1 pipe, socket or device; first .*p\.jpg\)\.$"):
        find_images([tmp_path / "p*"])
    with pytest.raises(DataError, match=r"matches no image.*1 file that looks like an image is"):
        find_images([tmp_path / "*.svg"])


def test_a_folder_of_images_alone_is_passed_without_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a.jpg", "notes.txt", "labels.csv"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere")  # its reader says so
    assert len(find_images([tmp_path])) == 2
    assert not caplog.messages
