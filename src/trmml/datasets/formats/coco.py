"""Read MS-COCO 2014 and any other set in COCO's JSON form.

MS-COCO 2014 is at https://cocodataset.org/#download: train2014.zip, val2014.zip and
annotations_trainval2014.zip, unpacked into one folder:

    annotations/instances_train2014.json    images, annotations, categories; 80 categories
    annotations/instances_val2014.json      the field tests on val2014
    train2014/COCO_train2014_000000000009.jpg ...       also below images/
    val2014/COCO_val2014_000000000042.jpg ...

| | train | test | who |
|---|---|---|---|
| `images=all` | 82,783 | 40,504 | HCP-MLR-PL (SST, SARB), TaI-DPT, the first author's loaders |
| `images=annotated` | 82,081 | 40,137 | ASL, DualCoOp, SCPNet, ML-Decoder, Cole et al. |

Papers often print one number of each row. The 702 and 367 images between have no annotation; they
add negatives only. `crowd=drop` leaves out regions marked `iscrowd`, as TaI-DPT does; the others
count them. Which images count as annotated does not depend on `crowd`. The 82,081 images have
241,035 positives (README of xinyu1205/robust-loss-mlml).

A category's index is the rank of its id. Images keep the order of the JSON file: it is that of
HCP-MLR-PL, so a mask drawn by their rule falls on the same pairs. All 80 categories were checked in
every image, so what is not annotated is absent.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from trmml.datasets.base import Boxes, Dataset, Edges, ordered
from trmml.datasets.files import below, find_file, read_json
from trmml.datasets.image_files import locate
from trmml.datasets.options import ReaderOptions, Split
from trmml.datasets.tables.table import unique_names
from trmml.errors import DataError
from trmml.labels.matrix import LabelMatrix

_PARTS = {"train": "train2014", "test": "val2014"}


class Coco2014Options(ReaderOptions):
    """Choices of `coco2014`."""

    images: Literal["annotated", "all"] = Field(
        "all", description="those with at least one annotation, or all"
    )
    crowd: Literal["keep", "drop"] = Field(
        "keep", description="whether regions marked iscrowd make a category present"
    )


class CocoJsonOptions(ReaderOptions):
    """Choices of `coco`: any set in this form."""

    train: str = Field("train.json", description="the training set's JSON below the root")
    test: str = Field("test.json", description="the test set's JSON below the root")
    train_images: str = Field("images", description="the folder of its file_name entries")
    test_images: str = Field("images", description="the same for the test set")
    images: Literal["annotated", "all"] = Field(
        "all", description="those with at least one annotation, or all"
    )
    crowd: Literal["keep", "drop"] = Field(
        "keep", description="whether regions marked iscrowd make a category present"
    )
    blank: Literal["absent", "unknown"] = Field(
        "absent", description="what a category means that an image has no annotation of"
    )


class _Picture(NamedTuple):
    """An entry of `images`: its place in the file from 1, its name and its size in pixels."""

    row: int
    name: str
    width: float
    height: float
    entry: Mapping[str, Any]


def read_coco2014(root: Path, split: Split, options: Coco2014Options) -> Dataset:
    """Return train2014 or, as test set, val2014.

    Raises:
        DataError: the JSON file is missing, damaged or contradicts itself.
    """
    part = _PARTS[split]
    path = find_file(root, [f"annotations/instances_{part}.json", f"instances_{part}.json"],
                     f"the annotations of {part}")  # fmt: skip
    folders = [part, f"images/{part}", "images", ""]
    return _read(root, path, folders, options.images, options.crowd, "absent")


def read_coco_json(root: Path, split: Split, options: CocoJsonOptions) -> Dataset:
    """Return a set in COCO's JSON form, for example an export of an annotation tool.

    An image with `neg_category_ids` is labelled as in LVIS: these categories are absent, what is
    neither annotated nor named there is unknown, whatever `blank` says.

    Raises:
        DataError: the JSON file is missing, damaged or contradicts itself.
    """
    file, folder = (
        (options.train, options.train_images)
        if split == "train"
        else (options.test, options.test_images)
    )
    path = find_file(root, [file], f"the {split} set's COCO JSON (option {split}=FILE)")
    return _read(root, path, [folder], options.images, options.crowd, options.blank)


def _read(
    root: Path, path: Path, folders: Sequence[str], images: str, crowd: str, blank: str
) -> Dataset:
    tree = read_json(path)
    names, columns = _categories(tree, path)
    pictures = _pictures(tree, path)
    annotations = _annotations(tree, path, pictures, columns)
    if images == "annotated":
        annotated = {annotation["image_id"] for annotation in annotations}
        pictures = {key: picture for key, picture in pictures.items() if key in annotated}
    if not pictures:
        raise DataError(f"{path} has no image left. Check the file, or take option images=all.")
    if crowd == "drop":
        annotations = [entry for entry in annotations if not entry.get("iscrowd", 0)]
    rows = {key: row for row, key in enumerate(pictures)}
    labels = torch.zeros(len(pictures), len(names), dtype=torch.bool)
    for entry in annotations:
        labels[rows[entry["image_id"]], columns[entry["category_id"]]] = True
    known = _known(labels, pictures, columns, blank, path)
    found = locate(root, folders, [picture.name for picture in pictures.values()])
    boxes = Boxes.collect(_boxes(annotations, pictures, rows, columns, path))
    places = tuple(picture.row for picture in pictures.values())
    return Dataset(root, found, names, LabelMatrix(labels, known), places, boxes)


def _entries(tree: Any, name: str, path: Path) -> list[dict[str, Any]]:
    entries = tree.get(name) if isinstance(tree, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise DataError(
            f"{path} has no list of {name!r}. A COCO file has images, annotations and categories; "
            "take instances_*.json, not captions or predictions."
        )
    return entries


def _field(entry: Mapping[str, Any], name: str, where: str) -> Any:
    if name not in entry:
        raise DataError(f"{where} has no {name!r}; it has {', '.join(entry) or 'nothing'}.")
    return entry[name]


def _id(entry: Mapping[str, Any], name: str, where: str) -> Any:
    """Return an id, which is a number or, in some exports, text."""
    key = _field(entry, name, where)
    if isinstance(key, bool) or not isinstance(key, int | float | str):
        raise DataError(f"{where}: {name!r} is {key!r:.60}, not a number or text. Correct it.")
    return key


def _categories(tree: Any, path: Path) -> tuple[tuple[str, ...], dict[int, int]]:
    """Return the names and the column of each id, in the order of the ids."""
    entries = _entries(tree, "categories", path)
    named: dict[int, str] = {}
    for place, entry in enumerate(entries, start=1):
        where = f"{path}, category {place}"
        key, name = _id(entry, "id", where), _field(entry, "name", where)
        if not isinstance(key, int) or key in named:
            raise DataError(f"{where}: the id {key!r} is no number of its own. Give each one.")
        if not isinstance(name, str | int):
            raise DataError(f"{where}: the name is {name!r:.60}, not text. Correct it.")
        named[key] = str(name)
    if not named:
        raise DataError(f"{path} lists no category. Take the file that holds them.")
    order = sorted(named)
    names = unique_names([named[key] for key in order], f"{path}, categories")
    return names, {key: column for column, key in enumerate(order)}


def _pictures(tree: Any, path: Path) -> dict[Any, _Picture]:
    pictures: dict[Any, _Picture] = {}
    places: dict[str, int] = {}
    for place, entry in enumerate(_entries(tree, "images", path), start=1):
        where = f"{path}, image {place}"
        key = _id(entry, "id", where)
        if key in pictures:
            raise DataError(f"{where}: the id {key!r} is that of image {pictures[key].row} too.")
        name = below(_file_name(entry, where), where)
        if places.setdefault(name, place) != place:  # two answers to the same questions
            raise DataError(
                f"{where}: the file {name!r} is that of image {places[name]} too. Make one entry of"
                " the two, with the annotations of both."
            )
        width, height = (_pixels(entry, side, where) for side in ("width", "height"))
        pictures[key] = _Picture(place, name, width, height, entry)
    return pictures


def _pixels(entry: Mapping[str, Any], name: str, where: str) -> float:
    """Return a length in pixels; 0 where the entry tells none."""
    try:
        value = float(entry.get(name) or 0)
    except (TypeError, ValueError, OverflowError):
        value = math.nan
    if not math.isfinite(value):
        raise DataError(
            f"{where}: {name!r} is {entry[name]!r:.60}, not a number of pixels. Correct it."
        )
    return value


def _file_name(entry: Mapping[str, Any], where: str) -> str:
    """Return the file of an image; LVIS has only its URL, of which folder and file are taken."""
    if entry.get("file_name") is None and isinstance(entry.get("coco_url"), str):
        return "/".join(entry["coco_url"].split("/")[-2:])
    name = _field(entry, "file_name", where)
    if not isinstance(name, str):
        raise DataError(f"{where}: 'file_name' is {name!r:.60}, not text. Name the file.")
    return name


def _annotations(
    tree: Any, path: Path, pictures: Mapping[Any, _Picture], columns: Mapping[int, int]
) -> list[dict[str, Any]]:
    """Return the annotations, each of an image and a category that are there."""
    entries = _entries(tree, "annotations", path)
    for place, entry in enumerate(entries, start=1):
        where = f"{path}, annotation {place}"
        if _id(entry, "image_id", where) not in pictures:
            raise DataError(
                f"{where} is of image {entry['image_id']!r}, which the file does not list. "
                "Images and annotations come from different files, or one was cut."
            )
        if _id(entry, "category_id", where) not in columns:
            raise DataError(
                f"{where} is of category {entry['category_id']!r}, which is none of the "
                f"{len(columns)} ids listed ({', '.join(map(str, list(columns)[:8]))} ...). "
                "Correct the id, or add the category."
            )
        if entry.get("iscrowd") not in (0, 1, None):  # text would count as true, "0" as well
            raise DataError(
                f"{where}: 'iscrowd' is {entry['iscrowd']!r:.60}, not 0 or 1. Correct it."
            )
    return entries


def _known(
    labels: Tensor,
    pictures: Mapping[Any, _Picture],
    columns: Mapping[int, int],
    blank: str,
    path: Path,
) -> Tensor:
    known = torch.ones_like(labels) if blank == "absent" else labels.clone()
    for row, picture in enumerate(pictures.values()):
        absent = picture.entry.get("neg_category_ids")
        if absent is None:
            continue
        where = f"{path}, image {picture.row}: neg_category_ids"
        if not isinstance(absent, list):
            raise DataError(f"{where} is {absent!r:.60}, not a list of ids. Write one.")
        wrong = [key for key in absent if isinstance(key, list | dict) or key not in columns]
        if wrong:
            raise DataError(f"{where} names {wrong[0]!r:.60}, which is no category of the file.")
        known[row] = labels[row]
        known[row, [columns[key] for key in absent]] = True
    return known


def _boxes(
    annotations: Sequence[Mapping[str, Any]],
    pictures: Mapping[Any, _Picture],
    rows: Mapping[Any, int],
    columns: Mapping[int, int],
    path: Path,
) -> Iterator[tuple[int, int, Edges]]:
    """Yield the boxes, which COCO gives as left, top, width, height in pixels."""
    for entry in annotations:
        box, picture = entry.get("bbox"), pictures[entry["image_id"]]
        where = f"{path}, annotation {entry.get('id')}"
        if box is None or box == []:
            continue
        numbers = isinstance(box, list) and all(isinstance(edge, int | float) for edge in box)
        if not numbers or len(box) != 4:
            raise DataError(f"{where}: bbox {box!r:.60} is not left, top, width and height.")
        if picture.width <= 0 or picture.height <= 0:
            raise DataError(
                f"{path}, image {picture.row} has a box but no width and height. Add them."
            )
        left, top, width, height = map(float, box)
        left, top, right, bottom = ordered((left, top, left + width, top + height), where)
        edges = (left / picture.width, top / picture.height,
                 right / picture.width, bottom / picture.height)  # fmt: skip
        yield rows[entry["image_id"]], columns[entry["category_id"]], edges
