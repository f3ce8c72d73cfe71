"""Read label folders as YOLO's training tools use them.

    images/train/a.jpg, images/test/b.jpg       or train/images/a.jpg, or images/a.jpg alone for a
                                                training set, or lists train.txt and test.txt
    labels/train/a.txt, labels/test/b.txt       "2 0.5 0.4 0.2 0.1": category, centre, width, height
    data.yaml                                   names: [cat, dog] or {0: cat, 1: dog}, perhaps with
                                                train, val and test: folders or lists below it,
                                                one or several, all of which must be there; or
    classes.txt                                 one name per line (also obj.names)

As shares of width and height, counted from the left and the top; pixels are refused. A sixth number
(a confidence) is ignored; a line with more is a polygon, whose box is taken. Where data.yaml gives
`kpt_shape`, what follows the box are key points, which are ignored. The test set may also be called
val or valid. CVAT's lists put `data/` before each name, which may be missing on disk.

An image **with an empty label file** was checked and shows nothing: every category is absent. An
image **without a label file** may mean the same, as it does for the training tools, or that nobody
checked it. `no_file=unknown` (the default), `absent` or `drop` decides.
"""

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field

from trmml.datasets.base import Boxes, Dataset, Edges, is_share
from trmml.datasets.files import below, find_file, read_lines, read_plain
from trmml.datasets.formats.yolo_card import category_names, key_point_numbers, read_card
from trmml.datasets.options import SPLIT_NAMES, ReaderOptions, Split
from trmml.errors import DataError
from trmml.image_search import find_images
from trmml.labels.matrix import LabelMatrix
from trmml.settings.choices import Blank

_log = logging.getLogger(__name__)


class YoloOptions(ReaderOptions):
    """Choices of `yolo`."""

    no_file: Literal["unknown", "absent", "drop"] = Field(
        "unknown", description="what all categories are in an image without a label file"
    )
    test: Literal["", "test", "val", "valid", "validation"] = Field(
        "", description="which folder or list is the test set; the first that is there when empty"
    )
    blank: Blank | None = Field(
        None,
        description="what a category means that an image's label file lacks; absent, but required"
        " where no label file holds an object",
    )


def read_yolo(root: Path, split: Split, options: YoloOptions) -> Dataset:
    """Return the images of a split with what their label files say; see the module.

    Raises:
        DataError: there are no such images or names, or a label file is damaged.
    """
    path = find_file(
        root, ["data.yaml", "data.yml", "dataset.yaml", "classes.txt", "obj.names"], "the names"
    )
    card = read_card(path)
    names, key_points = category_names(path, card), key_point_numbers(path, card)
    images = _images(root, _parts(split, options), card)
    labels = torch.zeros(len(images), len(names), dtype=torch.bool)
    known = torch.ones_like(labels)
    boxes: list[tuple[int, int, Edges]] = []
    labelled = []
    for index, (_, image) in enumerate(images):
        file = root / label_name(image)
        if file.is_file():
            labelled.append(index)
            for category, edges in _objects(file, len(names), key_points):
                labels[index, category] = True
                boxes.append((index, category, edges))
        else:
            known[index] = options.no_file == "absent"
    if not labelled:
        raise DataError(
            f"none of the {len(images)} images below {root} has a label file; the first was "
            f"expected at {label_name(images[0][1])}. Put the labels there."
        )
    if options.blank is None and not boxes:
        raise DataError(
            f"{root}: all {len(labelled)} label files of the {split} set are empty. Choose option "
            "blank=absent if every image was checked for every category, blank=unknown if not."
        )
    if options.blank == "unknown":
        known &= labels
    rows = tuple(row for row, _ in images)
    matrix = LabelMatrix(labels, known)
    listed = tuple(image for _, image in images)
    data = Dataset(root, listed, names, matrix, rows, Boxes.collect(boxes))
    return data.subset(labelled) if options.no_file == "drop" else data


def _parts(split: Split, options: YoloOptions) -> tuple[str, ...]:
    return (options.test,) if split == "test" and options.test else SPLIT_NAMES[split]


def _images(root: Path, parts: tuple[str, ...], card: dict[str, Any]) -> list[tuple[int, str]]:
    """Return the images of a split by name below `root`, with their lines or numbers."""
    lacking: list[str] = []
    for part in parts:
        named = _named(card, part)
        found = {place: _below(root, card, place) for place in named}
        there = [place for place in found.values() if place is not None]
        if there and len(there) < len(found):
            raise DataError(
                f"data.yaml names {len(found)} places for {part}, but below {root} there is no "
                f"{' and no '.join(place for place, is_at in found.items() if is_at is None)}. "
                "Correct them, or copy them there: a part of a set is not the set."
            )
        if there:
            break
        lacking += named
    else:
        there = [_usual(root, parts)]
    if lacking:
        _log.warning(
            "data.yaml names %s, which is not below %s; taken is %s",
            " and ".join(lacking),
            root,
            ", ".join(there),
        )
    if len(there) == 1:
        return _listed(root, there[0])
    names = dict.fromkeys(name for place in there for _, name in _listed(root, place))
    return list(enumerate(names, start=1))


def _usual(root: Path, parts: tuple[str, ...]) -> str:
    """Return the folder or list that holds a split where data.yaml names none that is there."""
    folders = [place for part in parts for place in (f"images/{part}", f"{part}/images")]
    lists = [f"{part}.txt" for part in parts]
    some = any((root / name).is_file() for name in lists)
    if not some and "train" in parts and (root / "images").is_dir():
        folders.append("images")
    folder = next((place for place in folders if (root / place).is_dir()), None)
    if folder is None:
        split: Split = "train" if "train" in parts else "test"
        path = find_file(root, lists, f"a list, or images in {folders[0]},", split)
        return path.relative_to(root).as_posix()
    inside = sorted(path.name for path in (root / folder).iterdir() if path.is_dir())
    if folder == "images" and inside:
        raise DataError(
            f"{root / 'images'} holds folders ({', '.join(inside)[:100]}), none of which is"
            f" called {' or '.join(parts)}. Say in data.yaml which is which, for example"
            f" train: images/{inside[0]}."
        )
    return folder


def _listed(root: Path, place: str) -> list[tuple[int, str]]:
    """Return the images in a folder, numbered from 1, or those of a list with their lines."""
    path = root / place
    if place.endswith(".txt"):
        return [(row, _listed_name(root, line, f"{path} line {row}"))
                for row, line in read_lines(path)]  # fmt: skip
    paths = find_images([path])
    return list(enumerate((image.relative_to(root).as_posix() for image in paths), start=1))


def _listed_name(root: Path, line: str, where: str) -> str:
    name = below(line, where, root)
    short = name.removeprefix("data/")
    return name if (root / name).is_file() or not (root / short).is_file() else short


def _named(card: dict[str, Any], part: str) -> list[str]:
    """Return the folders and lists that data.yaml names for a part."""
    named = card.get(part) or []
    places = [named] if isinstance(named, str) else named
    return [str(place) for place in places] if isinstance(places, list) else []


def _below(root: Path, card: dict[str, Any], place: str) -> str | None:
    """Return what data.yaml names as a place below `root`; None where nothing is there.

    Its `path` is where its writer had the set: it counts only where it leads below `root`. A link
    within `root` counts wherever it leads.
    """
    for top in (str(card.get("path") or ""), ""):
        whole = Path(os.path.abspath(root / top / place))
        for base, path in ((Path(os.path.abspath(root)), whole), (root.resolve(), whole.resolve())):
            if path.exists() and path.is_relative_to(base):
                return path.relative_to(base).as_posix()
    return None


def label_name(image: str) -> str:
    """Return where an image's labels lie: `labels` for the last `images` in its path, or beside it.

    Example:
        >>> label_name("images/train/a.b.jpg"), label_name("trip/a.jpg")
        ('labels/train/a.b.txt', 'trip/a.txt')
    """
    *folders, name = image.split("/")
    if "images" in folders:
        last = len(folders) - 1 - folders[::-1].index("images")
        folders[last] = "labels"
    return "/".join([*folders, name.rpartition(".")[0] + ".txt"])


def _objects(path: Path, count: int, key_points: int) -> Iterator[tuple[int, Edges]]:
    """Yield the objects of a label file, which may be empty; `key_points` numbers end each line."""
    for row, line in enumerate(read_plain(path).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path} line {row}"
        try:
            category, *numbers = (float(field) for field in line.split())
        except ValueError:
            raise DataError(f"{where}: expected numbers, got {line!r:.60}. Correct it.") from None
        if category not in range(count):
            raise DataError(
                f"{where}: category {category:g} is none of the {count} names, counted from 0. "
                "Correct the line, or the list of names."
            )
        if key_points and len(numbers) not in (4, 4 + key_points):
            raise DataError(
                f"{where}: expected a category, 4 numbers and {key_points} of key points (by "
                f"kpt_shape in data.yaml), got {len(numbers)} after the category. Correct one."
            )
        numbers = numbers[:4] if key_points else numbers
        yield int(category), _edges(numbers, where)


def _edges(numbers: list[float], where: str) -> Edges:
    box = numbers[:4] if len(numbers) in (4, 5) else numbers
    if not all(map(is_share, box)):
        raise DataError(
            f"{where}: expected shares of width and height in [0, 1], got {box!r:.80}. Divide "
            "pixels by the image's width and height."
        )
    if len(box) == 4:
        x, y, width, height = box
        return x - width / 2, y - height / 2, x + width / 2, y + height / 2
    if len(numbers) < 6 or len(numbers) % 2:
        raise DataError(
            f"{where}: expected a category and 4 numbers (or 5, or a polygon's pairs), got "
            f"{len(numbers)} numbers. Correct the line."
        )
    return min(numbers[::2]), min(numbers[1::2]), max(numbers[::2]), max(numbers[1::2])
