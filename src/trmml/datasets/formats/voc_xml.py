"""The XML files of PASCAL VOC: what a list of them names, and the labels and boxes they hold."""

import xml.etree.ElementTree as Xml
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import torch

from trmml.datasets.base import Boxes, Dataset, Edges, ordered
from trmml.datasets.files import below, read_xml
from trmml.datasets.image_files import locate, stem_of
from trmml.datasets.tables.names import clean_name
from trmml.errors import DataError
from trmml.labels.matrix import LabelMatrix

Difficult = Literal["negative", "unknown", "positive"]


class ListLine(NamedTuple):
    """A line of a list: its number, its place for messages and what it names."""

    row: int
    where: str
    text: str


class AnnotatedObject(NamedTuple):
    """An object: its category, its flag `difficult`, and its box where the file has its scale."""

    name: str
    difficult: bool
    edges: Edges | None


class Annotation(NamedTuple):
    """An XML file: the line of the list that named it, its image and what is in it."""

    row: int
    path: Path
    stem: str
    image: str
    objects: list[AnnotatedObject]


def read_annotations(root: Path, lines: Sequence[ListLine], folder: str) -> list[Annotation]:
    """Return the content of the XML files, below `root/folder`, that the lines of a list name."""
    lines_of: dict[str, int] = {}
    annotations = []
    for row, where, text in lines:
        stem = stem_of(text)
        if stem in lines_of:
            raise DataError(f"{where}: {stem!r} is in line {lines_of[stem]} already. Remove one.")
        lines_of[stem] = row
        file = root / folder / f"{stem}.xml"
        if not file.is_file():
            raise DataError(
                f"{where}: there is no {file}. Unpack the annotations there, or take the line out "
                "of the list."
            )
        tree = read_xml(file)
        image = below(_text(tree, "filename") or stem, str(file))
        annotations.append(Annotation(row, file, stem, image, list(_objects(tree, file))))
    return annotations


def _text(element: Xml.Element, name: str) -> str:
    return (element.findtext(name) or "").strip()


def _objects(tree: Xml.Element, path: Path) -> Iterator[AnnotatedObject]:
    size = tree.find("size")
    width, height = (0.0 if size is None else _number(size, key, path) for key in _SIZE)
    for entry in tree.findall("object"):
        name = clean_name(_text(entry, "name"))
        if not name:
            raise DataError(f"{path} has an object without a name. Name it, or remove it.")
        box = entry.find("bndbox")
        edges = None
        if box is not None and width > 0 and height > 0:
            left, top, right, bottom = (_number(box, key, path) for key in _EDGES)
            ordered((left, top, right, bottom), str(path))
            # VOC counts pixels from 1 and includes the last one.
            edges = ((left - 1) / width, (top - 1) / height, right / width, bottom / height)
        yield AnnotatedObject(name, _text(entry, "difficult") == "1", edges)


_SIZE = ("width", "height")
_EDGES = ("xmin", "ymin", "xmax", "ymax")


def _number(element: Xml.Element, name: str, path: Path) -> float:
    text = _text(element, name)
    try:
        return float(text)
    except ValueError:
        raise DataError(f"{path}: {name} is {text!r}, not a number. Correct it.") from None


def as_dataset(
    root: Path,
    folders: Sequence[str],
    annotations: Sequence[Annotation],
    names: tuple[str, ...],
    difficult: Difficult,
    blank: str | None,
) -> Dataset:
    """Return a data set of annotated images; see the options for `difficult` and `blank`."""
    columns = {name: column for column, name in enumerate(names)}
    easy, hard = (torch.zeros(len(annotations), len(names), dtype=torch.bool) for _ in range(2))
    boxes: list[tuple[int, int, Edges]] = []
    for row, annotation in enumerate(annotations):
        for each in annotation.objects:
            if each.name not in columns:
                raise DataError(
                    f"{annotation.path}: object {each.name!r} is none of the {len(names)} "
                    f"categories ({', '.join(names[:8])} ...). Correct the name."
                )
            column = columns[each.name]
            (hard if each.difficult else easy)[row, column] = True
            if each.edges is not None and (difficult == "positive" or not each.difficult):
                boxes.append((row, column, each.edges))
    labels = easy | hard if difficult == "positive" else easy
    known = labels.clone() if blank == "unknown" else torch.ones_like(labels)
    if difficult != "positive":
        known[hard & ~easy] = difficult == "negative"
    images = locate(root, folders, [annotation.image for annotation in annotations])
    rows = tuple(annotation.row for annotation in annotations)
    matrix = LabelMatrix(labels, known)
    return Dataset(root, images, names, matrix, rows, Boxes.collect(boxes))
