import csv
import os
import shutil
from pathlib import Path

import pytest
import torch

from tests import sets
from tests.sets import boxes, read, states, write, write_images
from trmml.datasets.base import Dataset
from trmml.datasets.convert import convert
from trmml.datasets.formats.folder import read_categories, read_folder
from trmml.datasets.tables import changed
from trmml.errors import DataError


def assert_same(plain: Dataset, original: Dataset) -> None:
    assert plain.category_names == original.category_names
    assert torch.equal(plain.matrix.known, original.matrix.known)
    assert torch.equal(plain.matrix.labels, original.matrix.labels)
    assert plain.matrix.checksum() == original.matrix.checksum()
    contents = ([path.read_bytes() for path in data.paths] for data in (plain, original))
    assert next(contents) == next(contents)


@pytest.mark.parametrize("images", ["link", "copy", None])
def test_a_set_comes_back_as_it_was(tmp_path, images):
    from tests.datasets.test_voc import write_devkit

    root, out = write_devkit(tmp_path / "devkit"), tmp_path / "new" / "plain"
    options = {"difficult": "unknown"}
    done = convert("voc2007", root, out, options, images=images)
    assert (done.folder, done.images, done.categories) == (out, {"train": 3, "test": 1}, 20)
    names = read_categories(out / "categories.txt")
    for split in ("train", "test"):
        original = sets.read("voc2007", root, split, **options)  # type: ignore[arg-type]
        table = read_folder(out / "images", out / f"{split}.csv", categories=names)
        assert_same(table, original)
        plain = read("folder", out, split)  # type: ignore[arg-type]
        assert_same(plain, original)
        assert [box[1:] for box in boxes(plain)] == [box[1:] for box in boxes(original)]
        assert [path.is_symlink() for path in plain.paths] == [images != "copy"] * len(plain)
    assert done.boxes == 2 and len((out / "boxes.csv").read_text().splitlines()) == 3
    assert sorted(os.listdir(out)) == ["boxes.csv", "categories.txt", "images", "test.csv",
                                       "train.csv"]  # fmt: skip
    assert os.listdir(tmp_path / "new") == ["plain"]


def test_boxes_come_back_to_the_last_bit(tmp_path):
    write(
        tmp_path, {"in/classes.txt": "cat", "in/labels/a.txt": "0 0.3 0.7 0.1 0.0123456789012345"}
    )
    write_images(tmp_path, ["in/images/a.png"])
    convert("yolo", tmp_path / "in", tmp_path / "out", {}, splits=["train"])
    first, second = read("yolo", tmp_path / "in"), read("folder", tmp_path / "out")
    assert first.boxes is not None and second.boxes is not None
    assert torch.equal(first.boxes.edges, second.boxes.edges)


NAMES = ("salt, pepper", 'a "quoted" name', "ñandú", "two;words", "#", "1", "  ", "no")


def test_names_of_every_kind(tmp_path):
    names = [name for name in NAMES if name.strip()]
    with (tmp_path / "train.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerows(
            [["image", *names], ["a, b.png", *"1010101"], ['c"d.png', *"01", *[""] * 5]]
        )
    write_images(tmp_path, ["images/a, b.png", 'images/c"d.png'])
    convert("folder", tmp_path, tmp_path / "out", {}, splits=["train"])
    assert_same(read("folder", tmp_path / "out"), read("folder", tmp_path))
    assert states(read("folder", tmp_path / "out"))[1] == [False, True, *[None] * 5]


def test_an_image_that_is_listed_twice_is_two_images(tmp_path, monkeypatch):
    from tests.datasets.test_packed import LISTS, parquet

    monkeypatch.setenv("TRMML_CACHE", str(tmp_path / "cache"))
    parquet(tmp_path / "in", "train.parquet", **LISTS)
    convert("parquet", tmp_path / "in", tmp_path / "out", {"blank": "absent"}, splits=["train"])
    plain = read("folder", tmp_path / "out")
    assert_same(plain, read("parquet", tmp_path / "in", blank="absent"))
    assert len(set(plain.images)) == 4 and not (tmp_path / "out/boxes.csv").exists()


def test_a_second_name_of_an_image_is_never_that_of_another(tmp_path):
    names = ("x.png", "x-2.png", "x.png", "x-3.png", "x.png")
    lines = "".join(f"images/{name}\n" for name in names)
    labels = {"labels/x.txt": "0 0.5 0.5 1 1", "labels/x-2.txt": "", "labels/x-3.txt": ""}
    write(tmp_path / "in", {"classes.txt": "cat", "train.txt": lines} | labels)
    write_images(tmp_path / "in", {f"images/{name}" for name in names})
    convert("yolo", tmp_path / "in", tmp_path / "out", {}, splits=["train"])
    plain = read("folder", tmp_path / "out")
    assert_same(plain, read("yolo", tmp_path / "in"))
    assert len(set(plain.images)) == 5


@pytest.mark.parametrize("unpack", ["", "here"])
def test_unpacked_images_are_copied_unless_links_are_asked_for(tmp_path, monkeypatch, unpack):
    from tests.datasets.test_packed import LISTS, parquet

    monkeypatch.setenv("TRMML_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    parquet(tmp_path / "in", "train.parquet", **LISTS)
    options = {"blank": "absent", "unpack": unpack}
    convert("parquet", tmp_path / "in", tmp_path / "out", options, splits=["train"])
    linked = tmp_path / "linked"
    convert("parquet", tmp_path / "in", linked, options, splits=["train"], images="link")
    assert all(path.is_symlink() for path in read("folder", linked).paths)
    shutil.rmtree(tmp_path / (unpack or "cache"))
    plain = read("folder", tmp_path / "out")
    assert not any(path.is_symlink() for path in plain.paths)
    with pytest.raises(DataError, match="4 of the 4 train images are not there"):
        read("folder", linked)


def test_names_that_make_another_table_are_refused_and_nothing_is_left(tmp_path):
    write(tmp_path, {"in/classes.txt": "cat\nimage\n", "in/labels/a.txt": ""})
    write_images(tmp_path, ["in/images/a.png"])
    with pytest.raises(
        DataError, match=r"cannot be read back: .* may have the name of the column of images"
    ):
        convert("yolo", tmp_path / "in", tmp_path / "out", {"blank": "absent"}, splits=["train"])
    assert os.listdir(tmp_path) == ["in"]


def test_a_category_may_be_called_as_a_column_of_lists(tmp_path):
    write(tmp_path, {"in/classes.txt": "cat\ntags\n", "in/labels/a.txt": ""})
    write_images(tmp_path, ["in/images/a.png"])
    convert("yolo", tmp_path / "in", tmp_path / "out", {"blank": "absent"}, splits=["train"])
    assert read("folder", tmp_path / "out").category_names == ("cat", "tags")


def test_a_table_that_says_something_else_is_never_left(tmp_path, monkeypatch):
    write(tmp_path, {"in/classes.txt": "cat", "in/labels/a.txt": ""})
    write_images(tmp_path, ["in/images/a.png"])
    monkeypatch.setattr(changed, "_CELLS", ("", "1", "1"))
    with pytest.raises(DataError, match="read back differs from the labels"):
        convert("yolo", tmp_path / "in", tmp_path / "out", {"blank": "absent"}, splits=["train"])
    assert os.listdir(tmp_path) == ["in"]


def test_what_cannot_be_written(tmp_path):
    write(tmp_path, {"in/train.csv": "image,cat\na.png,1\n", "in/test.csv": "image,dog\na.png,1\n"})
    write_images(tmp_path, ["in/images/a.png"])
    with pytest.raises(DataError, match="different categories, so they cannot share a table"):
        convert("folder", tmp_path / "in", tmp_path / "out", {})
    write(tmp_path, {"out/file": "x"})
    with pytest.raises(DataError, match="out is there already"):
        convert("folder", tmp_path / "in", tmp_path / "out", {}, splits=["train"])
    assert (tmp_path / "out/file").read_text() == "x"
    (tmp_path / "in/images/a.png").unlink()
    with pytest.raises(DataError, match="1 of the 1 train images"):
        convert("folder", tmp_path / "in", tmp_path / "new", {}, splits=["train"])
    assert not (tmp_path / "new").exists()


def test_the_current_folder_cannot_be_replaced(tmp_path, monkeypatch):
    write(tmp_path, {"in/train.csv": "image,cat\na.png,1\n"})
    write_images(tmp_path, ["in/images/a.png"])
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    for out in (Path(), tmp_path / "out"):
        with pytest.raises(DataError, match=r"is the current folder, .* Name a new folder in it"):
            convert("folder", tmp_path / "in", out, {}, splits=["train"])
    assert convert("folder", tmp_path / "in", Path("new"), {}, splits=["train"]).categories == 1


def test_an_empty_folder_may_be_filled(tmp_path):
    write(tmp_path, {"in/train.csv": "image,cat\na.png,1\n"})
    write_images(tmp_path, ["in/images/a.png"])
    (tmp_path / "out").mkdir()
    assert convert("folder", tmp_path / "in", tmp_path / "out", {}, splits=["train"]).boxes == 0
    assert (tmp_path / "out" / "images" / "train" / "a.png").is_symlink()
