"""What `--labels` takes beside a table, and what it refuses by name."""

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.sets import N, U, Y, states, write, write_images
from trmml.datasets import Dataset
from trmml.datasets.formats.folder import read_folder
from trmml.errors import DataError

Read = Callable[..., Dataset]
GULL_BUOY = ("buoy", "gull")


@pytest.fixture
def read(tmp_path: Path) -> Read:
    write_images(tmp_path, ["images/a.png", "images/b.png"])

    def read(content: str | bytes, name: str = "labels.json", **options: Any) -> Dataset:
        write(tmp_path, {name: content})
        return read_folder(tmp_path / "images", tmp_path / name, **options)

    return read


CVAT = """<?xml version="1.0" encoding="utf-8"?><annotations><version>1.1</version>
<image id="0" name="a.png" width="8"><tag label="gull"/><box label="buoy" xtl="1"/></image>
<image id="1" name="b.png"><polygon label="gull"/></image></annotations>"""
TAGGED = [
    {"file_name": "a.png", "tags": ["gull", "buoy"]},
    {"file_name": "b.png", "tags": ["gull"]},
]
CREATE_ML = [
    {"image": "a.png", "annotations": [{"label": "gull", "coordinates": {"x": 1}}, "buoy"]},
    {"image": "b.png", "annotations": ["gull"]},
]
FIFTY_ONE = {"classes": ["gull", "buoy"], "labels": {"a": [{"label": "gull"}, 1], "b": [0]}}
NAMED = {
    "x.jsonl": "\n\n".join(map(json.dumps, TAGGED)),
    "list.json": json.dumps(TAGGED),
    "createml.json": json.dumps(CREATE_ML),
    "mapping.json": json.dumps({"a.png": ["gull", "buoy"], "b.png": ["gull"]}, indent=1),
    "texts.json": json.dumps({"a.png": "gull;buoy", "b.png": "gull"}),
    "fiftyone.json": json.dumps(FIFTY_ONE),
    "cvat.xml": CVAT,
    "rows.csv": "image,label\na.png,gull\na.png,buoy\nb.png,gull\n",
    "boxes.csv": "filename,width,class,xmin\na.png,8,gull,1\nb.png,8,gull,1\na.png,8,buoy,2\n",
    "one.csv": "image,tag\na.png,gull;buoy\nb.png,gull\n",
    "ids.csv": "Id,Target\na,gull buoy\nb,gull\n",
}


@pytest.mark.parametrize("name", NAMED)
def test_forms_that_list_what_is_present(read: Read, name: str) -> None:
    content, separator = NAMED[name], " " if name == "ids.csv" else None
    data = read(content, name, blank="absent", separator=separator)
    assert data.images == ("a.png", "b.png") and data.category_names == GULL_BUOY
    assert states(data) == [[Y, Y], [N, Y]]
    with pytest.raises(DataError, match=r"lists in '.*' what is present, but not what is ab"):
        read(content, name, separator=separator)


def test_objects_may_answer_for_each_category(read: Read) -> None:
    data = read(json.dumps([{"image": "a.png", "cat": 1, "dog": 0}, {"image": "b.png", "dog": 1}]))
    assert data.category_names == ("cat", "dog") and states(data) == [[Y, N], [U, Y]]


def test_a_confidence_tells_present_from_absent(read: Read) -> None:
    table = "ImageID,Source,LabelName,Confidence\na,v,gull,1\na,v,buoy,0\nb,v,gull,0\n"
    data = read(table, "x.csv")
    assert data.category_names == GULL_BUOY and states(data) == [[N, Y], [U, N]]
    with pytest.raises(
        DataError, match=r"x\.csv line 3, column 'Confidence': .* got '0\.7' \(1 su"
    ):
        read(table.replace("buoy,0", "buoy,0.7"), "x.csv")
    with pytest.raises(DataError, match="'gull' is both present and absent"):
        read(table + "a,v,gull,0\n", "x.csv")


def test_a_row_per_label_in_parquet(read: Read, tmp_path: Path) -> None:
    rows = {"image": ["b.png", "a.png", "a.png"], "category": [["x"], ["x", "y"], None]}
    pl.DataFrame(rows).write_parquet(tmp_path / "x.parquet")
    data = read_folder(tmp_path / "images", tmp_path / "x.parquet", blank="unknown")
    assert data.images == ("b.png", "a.png") and data.rows == (1, 2)
    assert data.category_names == ("x", "y") and states(data) == [[Y, U], [Y, Y]]


def test_a_label_column_of_another_kind_is_refused(read: Read, tmp_path: Path) -> None:
    rows = {"image": ["a.png", "b.png"], "label": pl.Series([1, 2], dtype=pl.Duration)}
    pl.DataFrame(rows).write_parquet(tmp_path / "x.parquet")
    with pytest.raises(DataError, match=r"column 'label' holds times, not lists of names"):
        read_folder(tmp_path / "images", tmp_path / "x.parquet", blank="unknown")


def test_a_category_may_be_called_label_or_path(read: Read) -> None:
    data = read("path,image,label\n1,a.png,0\n0,b.png,1\n", "x.csv")
    assert data.category_names == ("path", "label") and states(data) == [[Y, N], [N, Y]]
    for table in (
        "image,tags,cat\na.png,1,0\nb.png,0,1\n",
        "image,class,cat\na.png,1,0\nb.png,0,1\n",
    ):
        data = read(table, "x.csv", categories=[table[6:].partition(",")[0], "cat"])
        assert states(data) == [[Y, N], [N, Y]]
    with pytest.raises(DataError, match="column 'class': 'gull' is not one of 1"):
        read("image,class,cat\na.png,gull,0\nb.png,tern,1\n", "x.csv")  # cat would be left out


def test_numbers_of_categories(read: Read) -> None:
    names = ["gull", "buoy", "boat"]
    for table, separator in (("image,labels\na.png,0;2\nb.png,1\n", None),
                             ("Id,Target\na,0 2\nb,1\n", " "),
                             ("image,label\na.png,0\nb.png,1\na.png,2\n", None)):  # fmt: skip
        data = read(table, "x.csv", blank="absent", categories=names, separator=separator)
        assert data.category_names == tuple(names) and states(data) == [[Y, N, Y], [N, Y, N]]
    with pytest.raises(DataError, match=r"x\.csv line 2: 2 is the number of none of the 2 categ"):
        read("image,labels\na.png,0;2\nb.png,1\n", "x.csv", blank="absent", categories=names[:2])
    with pytest.raises(DataError, match=r"1 of 2 names hold ' ', as in '0 2'.*--separator ' '"):
        read("Id,Target\na,0 2\nb,1\n", "x.csv", blank="absent")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("images\\a.png\t1,0,1\nimages\\b.png\t0,0,-1\n", [[Y, N, Y], [N, N, U]]),
        ("a.png,1,0,1\nb.png,0,0,-1\n", [[Y, N, Y], [N, N, U]]),
        ("a.png 0 2\nb.png\n", [[Y, N, Y], [N, N, N]]),
        ("a.png, 2\nb.png, 0;1\n", [[N, N, Y], [Y, Y, N]]),
    ],
)
def test_lists_without_header(read: Read, text: str, expected: list[list[bool | None]]) -> None:
    names = ["gull", "buoy", "boat"]
    data = read(text, "list.txt", blank="absent", minus_one="unknown", categories=names)
    expected = [
        [N if state is None and "-1" not in text else state for state in row] for row in expected
    ]
    assert data.category_names == tuple(names) and states(data) == expected
    with pytest.raises(DataError, match=r"list\.txt line 1 names an image, so it has no hea"):
        read(text, "list.txt", blank="absent")


def test_a_list_without_header_that_can_be_read_in_two_ways_or_none(read: Read) -> None:
    for text, problem in (
        ("a.png,1,0\nb.png,0,1\n", "may be either"),
        ("a.png,7\n", "are neither"),
    ):
        with pytest.raises(DataError, match=f"list.txt: the numbers after the images {problem}"):
            read(text, "list.txt", categories=["cat", "dog"])
    with pytest.raises(
        DataError, match=r"list\.txt line 2: expected an image and numbers, got 'x'"
    ):
        read("a.png,1\nx\n", "list.txt", categories=["cat"])


TASK = {"id": 1, "data": {"image": "a.png"}, "annotations": []}
ROW = {"image": "a.png", "annotation_id": 1, "annotator": 2}
REFUSED: dict[str, tuple[Any, str]] = {
    "p.json": (
        [TASK],
        r"fit --data label-studio .* --data-option train=p\.json\..* --option train=p",
    ),
    "min.json": ([ROW], "--data label-studio"),
    "p.csv": ("annotation_id,annotator,image\n1,1,a.png\n", "--data label-studio"),
    "via.json": ({"a.png1": {"filename": "a.png", "regions": []}}, "of VGG Image Annotator, which"),
    "via.csv": ("filename,region_count,region_shape_attributes\n", "VGG Image Annotator"),
    "x.ndjson": ({"data_row": {"external_id": "a.png"}}, "file of Labelbox.*COCO's form"),
    "labelme.json": ({"shapes": [], "imagePath": "a.png"}, "LabelMe"),
    "supervisely.json": ({"tags": [], "objects": []}, "Supervisely"),
    "Annotations/a.xml": ("<annotation/>", "trmml fit --data voc-xml .*[^s]. Check"),
    "xml/a.xml": ("<annotation/>", "--data-option annotations=xml"),
    "data.yaml": ("names: [cat]\n", "--data yolo"),
    "a.xml": ("<svg/>", "is XML with <svg> outside, neither CVAT's"),
    "a.json": ({"version": 1}, "is JSON of no form that is known; it holds version"),
    "null.json": ([None], "it holds nothing"),
    "numbers.json": ([1, 2], "it holds nothing"),
    "cut.json": ('{"a": [1,\n', r"cut\.json line 2 is no JSON"),
    "lines.json": ('{"image": "a.png"}\n{"image"', r"lines\.json line 2 is no JSON"),
    "deep.json": ([{"image": "a.png", "labels": [[[[[[["x"]]]]]]]}], "no table of objects"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_forms_are_named(read: Read, name: str) -> None:
    content, message = REFUSED[name]
    with pytest.raises(DataError, match=message):
        read(content if isinstance(content, str) else json.dumps(content), name, blank="absent")


def test_a_folder_is_named_by_what_it_holds(read: Read, tmp_path: Path) -> None:
    write(tmp_path, {"Annotations/a.xml": ""})
    with pytest.raises(DataError, match=r"Annotations is no table.*--data voc-xml"):
        read_folder(tmp_path / "images", tmp_path / "Annotations")


def test_answers_by_image_are_read(read: Read) -> None:
    tree = {"a.png": {"buoy": 1, "gull": True}, "b.png": {"buoy": None, "gull": 0}}
    data = read(json.dumps(tree))
    assert data.category_names == GULL_BUOY and states(data) == [[Y, Y], [U, N]]


def test_coco_with_a_long_description_is_coco(read: Read) -> None:
    tree = {
        "info": {"description": "x" * 70_000},
        "images": [{"id": n, "file_name": f"{'ab'[n]}.png"} for n in (0, 1)],
        "categories": [{"id": n, "name": name} for n, name in enumerate(GULL_BUOY)],
        "annotations": [{"image_id": 0, "category_id": 0}, {"image_id": 1, "category_id": 1}],
    }
    assert states(read(json.dumps(tree))) == [[Y, N], [N, Y]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            '[{"image_id": 1, "category_id": 2, "bbox": [1, 2, 3, 4]}]',
            "results alone, without",
        ),
        ("<!DOCTYPE html><html>404</html>", "is a web page, no file of labels. Fetch"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git lfs pull"),
        (b"\x1f\x8b\x08\x00", "packed by gzip"),
        (b"SQLite format 3\x00", "an SQLite database"),
        (b"\x93NUMPY\x01\x00", "a NumPy array"),
        (b"\x80\x04\x95", "opens no pickles"),
    ],
)
@pytest.mark.parametrize("name", ["labels.json", "labels.csv"])
def test_what_is_no_file_of_labels_is_called_by_its_name(
    read: Read, content: str | bytes, message: str, name: str
) -> None:
    with pytest.raises(DataError, match=message):
        read(content, name)


def test_cvat_keeps_what_it_declares_and_tells_what_is_unfinished(
    read: Read, caplog: pytest.LogCaptureFixture
) -> None:
    labels = "".join(
        f"<label><name>{name}</name><parent>{parent}</parent></label>"
        for name, parent in (("gull", ""), ("tern", ""), ("beak", "gull"))
    )
    meta = "<meta><task><status>{}</status><labels>" + labels + "</labels></task></meta>"
    tree = CVAT.replace("<version>", meta.format("annotation") + "<version>")
    data = read(tree, "cvat.xml", blank="unknown")
    assert data.category_names == ("buoy", "gull", "tern")
    assert states(data) == [[Y, Y, U], [U, Y, U]]
    assert "CVAT says ['annotation'], not 'completed'. Where nobody has looked" in caplog.text
    assert "no annotation" not in caplog.text
    caplog.clear()
    blank = tree.replace('<polygon label="gull"/>', "").replace(">annotation<", ">completed<")
    with pytest.raises(DataError, match="lists in 'present' what is present, but not"):
        read(blank, "cvat.xml")
    assert "1 of 2 images have no annotation. Where nobody has looked" in caplog.text
    assert "CVAT says" not in caplog.text
    assert states(read(blank, "cvat.xml", blank="unknown"))[1] == [U, U, U]


def test_what_a_model_marked_in_cvat_is_no_label(
    read: Read, caplog: pytest.LogCaptureFixture
) -> None:
    tree = CVAT.replace('<tag label="gull"', '<tag source="auto" label="gull"')
    tree = tree.replace("<polygon ", '<polygon source="file" ')
    data = read(tree, "cvat.xml", blank="unknown")
    assert data.category_names == ("buoy", "gull") and states(data) == [[Y, U], [U, Y]]
    assert "1 annotations are a model's (source auto) and do not count" in caplog.text


def test_a_parquet_file_is_no_list_without_header(read: Read) -> None:
    file = io.BytesIO()
    pl.DataFrame({"image": ["a.png", "a" * 9 + ".png"], "gull": [True, None]}).write_parquet(file)
    with pytest.raises(DataError, match="there is no image 'aaaaaaaaa"):
        read(file.getvalue(), "labels.parquet")


def test_0_and_1_under_label_are_answers_or_with_categories_their_numbers(
    read: Read, caplog: pytest.LogCaptureFixture
) -> None:
    table = "image,label\na.png,0\nb.png,1\n"
    one = read(table, "x.csv")
    assert one.category_names == ("label",) and states(one) == [[N], [Y]]
    assert "one category, 'label'" in caplog.text and "--categories FILE" in caplog.text
    caplog.clear()
    two = read(table, "x.csv", categories=["gull", "buoy"], blank="unknown")
    assert two.category_names == ("gull", "buoy") and states(two) == [[Y, U], [U, Y]]
    rows = read(table + "b.png,0\n", "x.csv", categories=["gull", "buoy"], blank="absent")
    assert states(rows) == [[Y, N], [Y, Y]]
    assert states(read(table, "x.csv", categories=["label"])) == [[N], [Y]] and not caplog.text


def test_an_image_of_fiftyone_may_be_called_as_a_list_of_coco(tmp_path: Path) -> None:
    write_images(tmp_path, ["images.png", "b.png"])
    tree = {"classes": ["gull"], "labels": {"images": [{"label": "gull"}], "b": []}}
    write(tmp_path, {"labels.json": json.dumps(tree)})
    data = read_folder(tmp_path, tmp_path / "labels.json", blank="unknown")
    assert data.images == ("images.png", "b.png") and states(data) == [[Y], [U]]


def test_categories_that_fiftyone_declares_are_kept(read: Read) -> None:
    tree = {"classes": ["tern", "gull"], "labels": {"a": [{"label": "gull"}], "b": [1]}}
    data = read(json.dumps(tree), blank="absent")
    assert data.category_names == ("gull", "tern") and states(data) == [[Y, N], [Y, N]]


def test_numbers_of_categories_by_image(read: Read) -> None:
    for tree in ({"a.png": 1, "b.png": 0}, {"a.png": [1], "b.png": [0]}):
        data = read(json.dumps(tree), blank="absent", categories=["gull", "buoy"])
        assert states(data) == [[N, Y], [Y, N]]
    with pytest.raises(DataError, match=r"holds numbers alone, as .* Name the categories"):
        read(json.dumps({"a.png": 3, "b.png": [7, 1]}), blank="absent")


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"a.png": {"cat": 0.9}, "b.png": {"cat": 0}}, "'cat': 0.9 is not .* For a score, write 1"),
        ({"a.png": ["cat"], "b.png": 0.5}, "'b.png' has 0.5, which names no category. Write for"),
        ({"a.png": [0.5, 1], "b.png": []}, r"'a.png' has \[0.5, 1\], which names"),
        ({"a.png": None, "b.png": ["cat"]}, "'a.png' has None, which names"),
    ],
)
def test_values_that_are_no_labels(read: Read, tree: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(json.dumps(tree), blank="absent")


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ("image|label\na.png|gull\nb.png|buoy\n", [[N, Y], [Y, N]]),
        ("image|buoy|gull\na.png|1|0\nb.png|0|1\n", [[Y, N], [N, Y]]),
        (
            "image,xmin,ymin,xmax,ymax,label\na.png,0,0,1,1,gull\nb.png,0,0,1,1,buoy\n",
            [[N, Y], [Y, N]],
        ),
        (
            "image;Left;Top;Right;Bottom;class\na.png;0;0;1;1;gull\nb.png;1;1;5;5;buoy\n",
            [[N, Y], [Y, N]],
        ),
        ("image,labels,is_valid\na.png,gull,True\nb.png,buoy,False\n", [[N, Y], [Y, N]]),
    ],
)
def test_bars_and_boxes(read: Read, table: str, expected: Any) -> None:
    data = read(table, "x.csv", blank="absent")
    assert data.category_names == GULL_BUOY and states(data) == expected


NO_CATEGORIES = {
    "is_valid": ("image,cat,is_valid\na.png,1,True\nb.png,0,False\n", "column 'is_valid' seems to"),
    "fold": ("image;fold;cat\na.png;0;1\nb.png;1;0\n", "column 'fold' seems to say which images"),
    "none": ("image,label\na.png,cat\nb.png,None\n", r"lists 'None' \(1 times\), which may mean"),
    "nothing": ("image,labels\na.png,cat;?\nb.png,nothing\n", "which may mean that nothing"),
    "numbers": ("image,label\na.png,3\nb.png,7\n", "column 'label' holds numbers alone, as [37]"),
    "floats": ("image\tlabel\na.png\t3.0\nb.png\t7.0\n", "holds numbers alone, as [37].0"),
    "decimals": ('image,cat\na.png,"0,7"\nb.png,1\n', "'0,7' is not one of .* For a score"),
    "transposed": ("category,a.png,b.png\ncat,1,0\n", "has a column per image: .* Transpose it"),
    "office": (b"\xd0\xcf\x11\xe0\xa1", "a document of Office.*CSV UTF-8"),
    "xz": (b"\xfd7zXZ\x00", "packed by xz"),
    "image": (b"\x89PNG\r\n", "is an image, no file of labels"),
}


@pytest.mark.parametrize("name", NO_CATEGORIES)
def test_what_is_no_category_is_asked_about(read: Read, name: str) -> None:
    content, message = NO_CATEGORIES[name]
    with pytest.raises(DataError, match=message):
        read(content, "x.csv", blank="absent")


def test_names_that_are_given_are_categories_whatever_they_say(read: Read) -> None:
    for table, names in (
        ("image,label\na.png,cat\nb.png,None\n", ["cat", "None"]),
        ("image,label\na.png,3\nb.png,7\n", ["3", "7"]),
        ("image,split,is_train\na.png,1,0\nb.png,0,1\n", ["split", "is_train"]),
    ):
        data = read(table, "x.csv", blank="absent", categories=names)
        assert data.category_names == tuple(names) and states(data) == [[Y, N], [N, Y]]


def test_a_zip_file_is_told_with_what_it_holds(read: Read, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x", "w") as packed:
        packed.writestr("labels.csv", "image,cat")
    with pytest.raises(DataError, match=r"is a zip file.*it holds labels\.csv\. Unpack it"):
        read((tmp_path / "x").read_bytes(), "x.csv")
