"""The parts of a file in COCO's JSON form, each checked: categories, images, annotations, boxes."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trmml.datasets.base import Edges, ordered
from trmml.datasets.files import below
from trmml.datasets.image_files import ImageFiles
from trmml.datasets.tables.names import unique_names
from trmml.errors import DataError


class ImageEntry(NamedTuple):
    """An entry of `images`: its place in the file from 1, its name and its size in pixels."""

    row: int
    name: str
    width: float
    height: float
    entry: Mapping[str, Any]


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
    """Return an id, a number or, in some exports, text; text of digits is the number."""
    key = _field(entry, name, where)
    if isinstance(key, str) and key.isdecimal():
        return int(key)
    if isinstance(key, bool) or not isinstance(key, int | float | str):
        raise DataError(f"{where}: {name!r} is {key!r:.60}, not a number or text. Correct it.")
    return key


def category_columns(tree: Any, path: Path) -> tuple[tuple[str, ...], dict[Any, int]]:
    """Return the category names and the column of each id, in the order of the ids."""
    entries = _entries(tree, "categories", path)
    named: dict[Any, str] = {}
    for place, entry in enumerate(entries, start=1):
        where = f"{path}, category {place}"
        key, name = _id(entry, "id", where), _field(entry, "name", where)
        if key in named:
            raise DataError(f"{where}: the id {key!r} is that of another. Give each its own.")
        if not isinstance(name, str | int):
            raise DataError(f"{where}: the name is {name!r:.60}, not text. Correct it.")
        named[key] = str(name)
    if not named:
        raise DataError(f"{path} lists no category. Take the file that holds them.")
    order = sorted(named, key=lambda key: (isinstance(key, str), key))
    names = unique_names([named[key] for key in order], f"{path}, categories")
    return names, {key: column for column, key in enumerate(order)}


def unused_roots(trees: Mapping[Path, Any], path: Path) -> list[dict[str, Any]]:
    """Return the categories of a file that only stand above others, as Roboflow adds one.

    They are the supercategory of others, have none of the others above them, and no annotation.

    Args:
        trees: of the files of all splits.
        path: of the one whose categories are asked for.
    """
    entries = _entries(trees[path], "categories", path)
    names = [entry.get("name") for entry in entries]
    above = [entry.get("supercategory") for entry in entries]
    roots = [entry for entry, over in zip(entries, above, strict=True)
             if entry.get("name") in above and over not in names]  # fmt: skip
    if not roots:
        return []
    used = {
        _id(entry, "category_id", f"{file}, annotation {place}")
        for file, tree in trees.items()
        for place, entry in enumerate(_entries(tree, "annotations", file), start=1)
    }
    return [entry for entry in roots if _id(entry, "id", f"{path}, categories") not in used]


def image_entries(
    tree: Any, path: Path, root: Path, folders: Sequence[str]
) -> dict[Any, ImageEntry]:
    """Return the images by id, in the order of the file.

    Args:
        tree: of the file.
        path: of the file, for messages.
        root: the data set's folder.
        folders: below `root`, in which the images may lie; "" for `root` itself.
    """
    files = ImageFiles(root)
    listed: dict[Any, ImageEntry] = {}
    places: dict[str, int] = {}
    for place, entry in enumerate(_entries(tree, "images", path), start=1):
        where = f"{path}, image {place}"
        key = _id(entry, "id", where)
        if key in listed:
            raise DataError(f"{where}: the id {key!r} is that of image {listed[key].row} too.")
        name = below(_as_uploaded(_file_name(entry, where), files, folders), where)
        if places.setdefault(name, place) != place:  # two answers to the same questions
            raise DataError(
                f"{where}: the file {name!r} is that of image {places[name]} too. Make one entry of"
                " the two, with the annotations of both."
            )
        width, height = (_pixels(entry, side, where) for side in ("width", "height"))
        listed[key] = ImageEntry(place, name, width, height, entry)
    return listed


def _pixels(entry: Mapping[str, Any], name: str, where: str) -> float:
    """Return a length in pixels; 0 where the entry has none."""
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


def _as_uploaded(name: str, files: ImageFiles, folders: Sequence[str]) -> str:
    """Return a name without Label Studio's place of uploads, where no file has it as it stands."""
    plain = re.sub(r"^.*/upload/(\d+/)?", "", name)
    if plain == name or name.startswith("/"):
        return plain
    places = (f"{folder}/{name}" if folder else name for folder in folders)
    return name if any(map(files.find, places)) else plain


def annotation_entries(
    tree: Any, path: Path, listed: Mapping[Any, ImageEntry], columns: Mapping[Any, int]
) -> list[dict[str, Any]]:
    """Return the annotations, each of an image and a category that are listed."""
    entries = _entries(tree, "annotations", path)
    for place, entry in enumerate(entries, start=1):
        where = f"{path}, annotation {place}"
        for name in ("image_id", "category_id"):
            entry[name] = _id(entry, name, where)
        if entry["image_id"] not in listed:
            raise DataError(
                f"{where} is of image {entry['image_id']!r}, which the file does not list. "
                "Images and annotations come from different files, or one was cut."
            )
        if entry["category_id"] not in columns:
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


def known_pairs(
    labels: Tensor,
    listed: Mapping[Any, ImageEntry],
    columns: Mapping[Any, int],
    blank: str,
    path: Path,
) -> Tensor:
    """Return which pairs are known: all if `blank` is absent; in LVIS, what an image asks for."""
    known = torch.ones_like(labels) if blank == "absent" else labels.clone()
    for row, image in enumerate(listed.values()):
        absent = image.entry.get("neg_category_ids")
        if absent is None:
            continue
        where = f"{path}, image {image.row}: neg_category_ids"
        if not isinstance(absent, list):
            raise DataError(f"{where} is {absent!r:.60}, not a list of ids. Write one.")
        wrong = [key for key in absent if isinstance(key, list | dict) or key not in columns]
        if wrong:
            raise DataError(f"{where} names {wrong[0]!r:.60}, which is no category of the file.")
        known[row] = labels[row]
        known[row, [columns[key] for key in absent]] = True
    return known


def box_rows(
    annotations: Sequence[Mapping[str, Any]],
    listed: Mapping[Any, ImageEntry],
    rows: Mapping[Any, int],
    columns: Mapping[Any, int],
    path: Path,
) -> Iterator[tuple[int, int, Edges]]:
    """Yield image, category and edges of each box; `bbox` is left, top, width, height in pixels."""
    for entry in annotations:
        box, image = entry.get("bbox"), listed[entry["image_id"]]
        where = f"{path}, annotation {entry.get('id')}"
        noted = entry.get("attributes")
        whole = isinstance(noted, dict) and noted.get("image_level") is True
        if box is None or box == [] or whole:  # a box for tools that want one for each annotation
            continue
        numbers = isinstance(box, list) and all(isinstance(edge, int | float) for edge in box)
        if not numbers or len(box) != 4:
            raise DataError(f"{where}: bbox {box!r:.60} is not left, top, width and height.")
        if image.width <= 0 or image.height <= 0:
            raise DataError(
                f"{path}, image {image.row} has a box but no width and height. Add them."
            )
        left, top, width, height = map(float, box)
        left, top, right, bottom = ordered((left, top, left + width, top + height), where)
        edges = (left / image.width, top / image.height,
                 right / image.width, bottom / image.height)  # fmt: skip
        yield rows[entry["image_id"]], columns[entry["category_id"]], edges
