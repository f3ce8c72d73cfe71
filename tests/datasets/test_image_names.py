"""Ways in which tables, lists and options name the images that are there."""

import json
from pathlib import Path

import pytest

from tests.sets import N, Y, read, states, write, write_images
from trmml import read_folder
from trmml.datasets.files import read_xml
from trmml.errors import DataError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_images(tmp_path, ["images/a/1.png", "images/b c.png", "images/0a1b2c3d-boat.png"])
    return tmp_path


def named(root: Path, *names: str) -> tuple[str, ...]:
    lines = ["image,gull", *(f"{name},1" for name in names)]
    write(root, {"labels.csv": "\n".join(lines)})
    return read_folder(root / "images", root / "labels.csv").images


@pytest.mark.parametrize(
    "name, image",
    [
        ("{root}/images/a/1.png", "a/1.png"),
        ("file://{root}/images/a/1.png", "a/1.png"),
        ("file://{root}/images/b%20c.png", "b c.png"),
        ("b%20c.png", "b c.png"),
        ("images/a/1.png", "a/1.png"),
        ("images\\a\\1.png", "a/1.png"),
        ("a/1", "a/1.png"),
        ("b c", "b c.png"),
        ("boat.png", "0a1b2c3d-boat.png"),
        ("boat", "0a1b2c3d-boat.png"),
    ],
)
def test_one_image_by_many_names(root, name, image):
    assert named(root, name.format(root=root)) == (image,)


@pytest.mark.parametrize(
    "name, message",
    [
        ("https://host.example/a/1.png", "is an address, not a file below the images folder"),
        ("C:/images/a/1.png", "leads out of the images folder"),
        ("/elsewhere/1.png", "leads out of the images folder"),
        ("1.png", "there is no image '1.png'"),
    ],
)
def test_names_of_nothing_below(root, name, message):
    with pytest.raises(DataError, match=f"labels.csv line 2: .*{message}"):
        named(root, name)


def test_a_name_without_suffix_must_mean_one_file(root):
    write_images(root, ["images/b c.webp"])
    with pytest.raises(DataError, match="there is no image 'b c'"):
        named(root, "b c")


def test_two_names_of_one_image(root):
    with pytest.raises(DataError, match=r"line 3: the image a/1\.png is that of 2 already"):
        named(root, "a/1.png", "images/a/1.png")


def test_first_lines_and_columns_of_spreadsheets(root):
    write(root, {"t.csv": "sep=;\nimage_name;gull;;\na/1;1.00;;\nb c;0,;;\n".replace("0,", "0.0")})
    data = read_folder(root / "images", root / "t.csv")
    assert data.category_names == ("gull",) and states(data) == [[Y], [N]]
    write(root, {"t.csv": "sep=;\nimage;gull\na/1;x\n"})
    with pytest.raises(DataError, match=r"t\.csv line 3, column 'gull'"):
        read_folder(root / "images", root / "t.csv")
    write(root, {"t.csv": "sep=;\n"})
    with pytest.raises(DataError, match="a line for Excel, and nothing else"):
        read_folder(root, root / "t.csv")


COCO = {
    "images": [{"id": "7", "file_name": "1.png", "width": 8, "height": 4}],
    "categories": [{"id": "b", "name": "buoy"}, {"id": 2, "name": "gull"}],
    "annotations": [{"image_id": 7, "category_id": "2", "bbox": [1, 1, 2, 2]}],
}


@pytest.mark.parametrize(
    "folder", ["images/a", "./images/a/", "{root}/images/a", "file://{root}/images/a"]
)
def test_folders_of_options(root, folder):
    write(root, {"train.json": json.dumps(COCO)})
    data = read("coco", root, train_images=folder.format(root=root))
    assert data.images == ("images/a/1.png",)
    assert data.category_names == ("gull", "buoy") and states(data) == [[Y, N]]


@pytest.mark.parametrize("folder", [".", "./", "{root}", "file://{root}"])
def test_the_root_as_a_folder(root, folder):
    write_images(root, ["1.png"])
    write(root, {"train.json": json.dumps(COCO)})
    assert read("coco", root, train_images=folder.format(root=root)).images == ("1.png",)


@pytest.mark.parametrize("folder", ["..", "/elsewhere", "C:\\images"])
def test_folders_outside_are_refused(root, folder):
    write(root, {"train.json": json.dumps(COCO)})
    with pytest.raises(DataError, match=r"option train_images: .* leads out"):
        read("coco", root, train_images=folder)


def test_places_of_uploads_in_coco(root):
    image = COCO["images"][0] | {"file_name": "../../data/media/upload/1/0a1b2c3d-boat.png"}
    write(root, {"train.json": json.dumps(COCO | {"images": [image]})})
    assert read("coco", root).images == ("images/0a1b2c3d-boat.png",)


def test_folders_called_upload_in_coco(root):
    names = ["a/upload/1.png", "a/upload/7/1.png", "upload/2.png", "b/upload/3.png"]
    write_images(root / "images", names[:3])
    write_images(root, ["3.png"])
    images = [{"id": 1 + n, "file_name": name} for n, name in enumerate(names)]
    write(root, {"train.json": json.dumps(COCO | {"images": images, "annotations": []})})
    found = read("coco", root, blank="absent").images
    assert found == (*(f"images/{name}" for name in names[:3]), "3.png")


@pytest.mark.parametrize("encoding", ["utf-8", "iso-8859-1", "utf-16", "utf-8-sig"])
def test_xml_in_its_declared_encoding(tmp_path, encoding):
    declared = encoding.removesuffix("-sig")
    text = f'<?xml version="1.0" encoding="{declared}"?><a>m\u00f6we</a>'
    write(tmp_path, {"a.xml": text.encode(encoding)})
    assert read_xml(tmp_path / "a.xml").text == "m\u00f6we"
    write(tmp_path, {"a.xml": text.replace("<a>", "<!DOCTYPE a><a>").encode(encoding)})
    with pytest.raises(DataError, match=r"a\.xml is no XML: it declares a document type"):
        read_xml(tmp_path / "a.xml")
