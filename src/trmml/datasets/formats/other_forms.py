"""Recognise what a file of labels is that was given in place of a table: read it, or say what does.

Read into a table with a row per image:

    {"image": "a.jpg", "labels": ["cat"]}       a line each, or a list of them; in CreateML's export
                                                `annotations` instead, with a `label` each
    {"a.jpg": ["cat"], "b.jpg": []}             also FiftyOne's labels.json
    <annotations><image name="a.jpg">...        CVAT for images: its tags, boxes and other shapes
    a.jpg,1,0,1                                 a list without header, see `headerless.py`

COCO's form is `is_coco`. Any other form that is known is refused by its name.
"""

import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from trmml.datasets.files import read_json, read_plain, read_xml
from trmml.datasets.formats.cvat_xml import PRESENT, cvat_rows
from trmml.datasets.tables.headerless import is_headerless, read_headerless
from trmml.datasets.tables.name_lists import is_deep
from trmml.datasets.tables.names import clean_name
from trmml.datasets.tables.table import Table, as_table, image_columns
from trmml.errors import DataError
from trmml.image_search import SUFFIXES
from trmml.storage.json_text import parse_json

_HEAD = 1 << 16  # bytes that show what a file is
_COCO = re.compile(rb'"(images|annotations|categories)"\s*:\s*\[')
_FIFTY_ONE = re.compile(rb'\{\s*"classes"\s*:\s*\[[^\]]*\]\s*,\s*"labels"\s*:')
_JSON = re.compile(rb'\{|\[\s*[\[{"\]]')
_LINES = (".jsonl", ".ndjson")
_XML = re.compile(rb"<[?!A-Za-z]")
_LABELS = "annotations"  # CreateML's key
# How files begin that are no labels: what they are, and what to do.
_PAGE = "a web page", "Fetch the file again, by the address of the file itself."
_AS_CSV = "Save it as 'CSV UTF-8'."
_UNPACK = "Unpack it, and name the file within."
_SIDECAR = "an XMP sidecar", "Make a table of sidecars by `trmml sidecar read`."
_NO_LABELS = (
    (b"<?xpacket", *_SIDECAR),
    (b"<x:xmpmeta", *_SIDECAR),
    (b"<!doctype html", *_PAGE),
    (b"<html", *_PAGE),
    (b"version https://git-lfs", "a pointer of Git LFS", "Fetch the file with git lfs pull."),
    (b"\x1f\x8b", "packed by gzip", _UNPACK),
    (b"bzh", "packed by bzip2", _UNPACK),
    (b"\xfd7zxz", "packed by xz", _UNPACK),
    (b"7z\xbc\xaf", "packed by 7-Zip", _UNPACK),
    (b"rar!", "packed by RAR", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "packed by Zstandard", _UNPACK),
    (b"\xd0\xcf\x11\xe0", "a document of Office", _AS_CSV),
    (b"%pdf", "a PDF", "Name the table that it was made of."),
    (b"\x89hdf", "an HDF5 file", "Write it as CSV, with a column of images and a header."),
    (b"\x89png", "an image", "Name the folder of images by --images, and the labels here."),
    (b"\xff\xd8\xff", "an image", "Name the folder of images by --images, and the labels here."),
    (b"sqlite format 3", "an SQLite database", "Export the table of labels as CSV."),
    (b"\x93numpy", "a NumPy array", "Write it as CSV, with a column of images and a header."),
    (b"\x80\x04", "a pickle of Python", "Write it as CSV; trmml opens no pickles."),
)

# Keys or columns that a tool alone writes together, and the reader's name or the tool's.
_LABEL_STUDIO, _VIA = "label-studio", "VGG Image Annotator"
_TOOLS: tuple[tuple[frozenset[str], str], ...] = (
    (frozenset({"data", "annotations"}), _LABEL_STUDIO),
    (frozenset({"data", "completions"}), _LABEL_STUDIO),
    (frozenset({"data", "predictions"}), _LABEL_STUDIO),
    (frozenset({"annotation_id", "annotator"}), _LABEL_STUDIO),
    (frozenset({"_via_img_metadata"}), _VIA),
    (frozenset({"filename", "regions"}), _VIA),
    (frozenset({"region_shape_attributes"}), _VIA),
    (frozenset({"data_row"}), "Labelbox"),
    (frozenset({"imagePath", "shapes"}), "LabelMe"),
    (frozenset({"tags", "objects"}), "Supervisely"),
    (frozenset({"tags", "classes"}), "Supervisely"),
)
_BY_SUFFIX = {
    ".yaml": "yolo", ".yml": "yolo", ".tar": "webdataset", ".arrow": "huggingface",
}  # fmt: skip
_IN_FOLDER = {"*.xml": "voc-xml", "*.txt": "yolo", "*.parquet": "parquet", "*.arrow": "huggingface"}


def is_coco(path: Path) -> bool:
    """Return whether a file is JSON in COCO's form: an object with lists of images and others."""
    head = _start(path)
    if head[:1] != b"{" or path.suffix.lower() != ".json" or _FIFTY_ONE.match(head):
        return False
    if _COCO.search(head) or path.stat().st_size <= _HEAD:
        return bool(_COCO.search(head))
    whole = path.read_bytes()  # what describes the set may be long
    return b'"categories"' in whole and b'"annotations"' in whole and bool(_COCO.search(whole))


def read_other_form(path: Path, categories: Sequence[str] | None) -> Table | None:
    """Return what a file holds as a table, where it is no CSV or Parquet; None where it may be one.

    Args:
        path: of the file.
        categories: the names of the columns or numbers of a list without header.

    Raises:
        DataError: it is damaged, or of a form that is no table; the message says what reads it.
    """
    head = _start(path)
    line = head.partition(b"\n")[0].decode("utf-8", "replace").strip()
    tool = _BY_SUFFIX.get(path.suffix.lower()) or _tool(re.split(r"[,;\t]", line))
    if path.is_dir():
        kinds = (name for pattern, name in _IN_FOLDER.items() if any(path.glob(pattern)))
        tool = next(kinds, None)
    if tool is not None:
        raise _of_tool(path, tool)
    if head[:4] == b"PAR1":
        return None
    for start, kind, what_to_do in _NO_LABELS:
        if head[: len(start)].lower() == start:
            raise DataError(f"{path} is {kind}, no file of labels. {what_to_do}")
    if zipfile.is_zipfile(path):
        _refuse_zip(path)
    if _XML.match(head):
        return _from_xml(path)
    if _JSON.match(head) or path.suffix.lower() in (".json", *_LINES):
        return _from_json(path)
    return read_headerless(path, categories) if is_headerless(line) else None


def _start(path: Path) -> bytes:
    """Return the first bytes of a file, without byte order mark and space; none of a folder."""
    if not path.is_file():
        return b""
    with path.open("rb") as file:
        return file.read(_HEAD).removeprefix(b"\xef\xbb\xbf").lstrip()


def _tool(keys: Sequence[str] | Mapping[str, Any]) -> str | None:
    return next((name for needed, name in _TOOLS if needed <= set(keys)), None)


def _of_tool(path: Path, tool: str) -> DataError:
    """Return what to do with a file that is no table: the reader's command, or a way around."""
    if " " in tool or tool[0].isupper():
        return DataError(
            f"{path} is a file of {tool}, which trmml does not read. Export in COCO's form, which "
            "--labels takes, or write a table with the columns image and present, names with ; "
            "between; docs/data.md shows both."
        )
    root, option = (path if path.is_dir() else path.parent), ""
    if tool == _LABEL_STUDIO:
        option = f"train={path.name}"
    elif root.name in ("Annotations", "labels", "train", "data"):
        root = root.parent
    elif tool == "voc-xml":
        root, option = root.parent, f"annotations={root.name}"
    fit, check = (f" {flag} {option}" if option else "" for flag in ("--data-option", "--option"))
    return DataError(
        f"{path} is no table, but belongs to a data set of the kind {tool!r}. Name it instead of "
        f"images and labels: trmml fit --data {tool} {root}{fit}. Check it before: trmml data "
        f"check {tool} {root}{check} --split train; docs/data.md has its options."
    )


def _refuse_zip(path: Path) -> None:
    """Refuse a zip file by what it holds, but for a spreadsheet, which is refused as a table."""
    with zipfile.ZipFile(path) as packed:
        inside = packed.namelist()
    if not any(name.startswith("xl/") or name == "mimetype" for name in inside):
        shown = f"{', '.join(inside[:3]):.200}{' ...' * (len(inside) > 3)}" or "nothing"
        raise DataError(f"{path} is a zip file, no file of labels; it holds {shown}. {_UNPACK}")


def _from_xml(path: Path) -> Table:
    tree = read_xml(path)
    images = tree.findall("image")
    if tree.tag == "annotation":
        raise _of_tool(path, "voc-xml")
    if tree.tag != "annotations" or not images:
        raise DataError(
            f"{path} is XML with <{tree.tag}> outside, neither CVAT's <annotations> with <image> "
            "nor VOC's <annotation>. In CVAT, export as 'CVAT for images 1.1'."
        )
    rows, names = cvat_rows(path, tree)
    return replace(_table(path, rows), declared=_declared(names, rows))


def _declared(names: Iterable[Any], rows: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Return the names that a file declares and its images have; none if it declares none."""
    declared = {clean_name(name) for name in names if isinstance(name, str)} - {""}
    used = {clean_name(name) for row in rows for name in row.get(PRESENT, ())}
    return tuple(sorted(declared | used)) if declared else ()


def _from_json(path: Path) -> Table:
    tree = _read_tree(path)
    first = next(iter(tree.values() if isinstance(tree, dict) else tree), None)
    tool = next((name for keys in (tree, first) if isinstance(keys, dict)
                 and (name := _tool(keys))), None)  # fmt: skip
    if tool is not None:
        raise _of_tool(path, tool)
    if isinstance(first, dict) and first.keys() >= {"image_id", "category_id"}:
        raise DataError(
            f"{path} holds COCO's annotations or results alone, without images and categories. Name"
            " the whole file, as instances_train2014.json."
        )
    rows = _rows(tree)
    declared = tree.get("classes") if isinstance(tree, dict) else None
    if not rows:
        if isinstance(tree, dict):
            _refuse_values(path, tree)
        keys = next((each for each in (tree, first) if isinstance(each, dict)), ())
        shown = ", ".join(map(str, keys))
        raise DataError(
            f"{path} is JSON of no form that is known; it holds {shown or 'nothing'!s:.200}. "
            'Expected COCO\'s, objects as {"image": "a.jpg", "labels": ["cat"]} or one object as '
            '{"a.jpg": ["cat"]}. For a data set by name, --data NAME ROOT: see docs/data.md.'
        )
    names = _declared(declared, rows) if isinstance(declared, list) and "labels" in tree else ()
    return replace(_table(path, rows), declared=names)


def _refuse_values(path: Path, tree: Mapping[str, Any]) -> None:
    """Refuse an object of images by the first of its values that says no categories."""
    if not any(name.lower().endswith(SUFFIXES) for name in tree):
        return
    for name, value in tree.items():
        if not isinstance(value, str) and _names(value, (), numbers=True) is None:
            raise DataError(
                f"{path}: {name!r} has {value!r:.80}, which names no category. Write for each "
                'image a list of names, as ["cat"], or an answer for each category, as {"cat": 1}.'
            )


def _read_tree(path: Path) -> dict[str, Any] | list[Any]:
    """Return a JSON file's list or object; of JSON lines, and of one line of them, the list."""
    first, _, rest = read_plain(path).strip().partition("\n")
    if rest or path.suffix.lower() in _LINES:
        try:
            parse_json(first)
        except ValueError:
            pass  # a line of one large tree
        else:
            return read_json_lines(path)
    tree = read_json(path)
    return tree if isinstance(tree, dict | list) else []


def _rows(tree: dict[str, Any] | list[Any]) -> list[dict[str, Any]]:
    """Return an object per image, with names under `present` or as it is; none if unknown."""
    if isinstance(tree, list):
        objects = all(isinstance(row, dict) and image_columns([*row]) for row in tree)
        return [_with_names(row) for row in tree] if objects else []
    numbered: Any = ()
    if tree.keys() >= {"classes", "labels"} and isinstance(tree["labels"], dict):
        tree, numbered = tree["labels"], tree["classes"]
    if all(isinstance(value, str) for value in tree.values()):
        return [{"image": name, PRESENT: text} for name, text in tree.items()]
    if all(_is_answers(value) for value in tree.values()):
        return [{"image": name, **dict(value)} for name, value in tree.items()]
    images = any(name.lower().endswith(SUFFIXES) for name in tree)
    lists = {name: _names(value, numbered, images) for name, value in tree.items()}
    if None in lists.values():
        return []
    return [{"image": name, PRESENT: names} for name, names in lists.items()]


def _is_answers(value: Any) -> bool:
    """Whether it is an object of categories, each with an answer; its text is judged later."""
    answers = isinstance(value, dict) and bool(value) and "image" not in value
    return answers and not any(isinstance(each, list | dict) for each in value.values())


def _with_names(row: dict[str, Any]) -> dict[str, Any]:
    names = _names(row.get(_LABELS), ())
    if names is None:
        return row
    return {key: value for key, value in row.items() if key != _LABELS} | {PRESENT: names}


def _names(value: Any, numbered: Any, numbers: bool = False) -> list[str] | None:
    """Return the names in a list of names, of objects with `label`, or of numbers; else None."""
    entries = [each.get("label") if isinstance(each, dict) else each
               for each in (value if isinstance(value, list) else [value])]  # fmt: skip
    if isinstance(numbered, list):
        places = range(len(numbered))
        entries = [numbered[each] if type(each) is int and each in places else each
                   for each in entries]  # fmt: skip
    names = [str(each) for each in entries
             if isinstance(each, str) or (numbers and type(each) is int)]  # fmt: skip
    return names if len(names) == len(entries) else None


def _table(path: Path, rows: Sequence[dict[str, Any]]) -> Table:
    frame = objects_frame(path, rows)
    return as_table(path, frame.columns, frame, np.arange(1, frame.height + 1), "entry")


def objects_frame(path: Path, rows: Sequence[Any]) -> pl.DataFrame:
    """Return objects as the rows of a frame; polars itself does not come back from a deep one.

    Raises:
        DataError: one is no object of names, numbers and lists of these.
    """
    try:
        if not all(isinstance(row, dict) for row in rows) or is_deep(list(rows)):
            raise ValueError("each should be an object of names, numbers and lists of these")
        return pl.from_dicts(rows, infer_schema_length=None)
    except (pl.exceptions.PolarsError, ValueError, TypeError, OverflowError) as error:
        raise DataError(
            f"{path} holds no table of objects: {' '.join(str(error).split())}. Write it again."
        ) from error


def read_json_lines(path: Path) -> list[Any]:
    """Return the values of a file of JSON lines; blank lines are passed over.

    Raises:
        DataError: the file cannot be read, or a line is no JSON.
    """
    values = []
    for number, line in enumerate(read_plain(path).split("\n"), start=1):
        try:
            values += [parse_json(line)] if line.strip() else []
        except ValueError as error:
            raise DataError(
                f"{path} line {number} is no JSON: {error}. Write one object a line."
            ) from error
    return values
