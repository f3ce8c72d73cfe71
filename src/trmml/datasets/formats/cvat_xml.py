"""What "CVAT for images 1.1" holds: https://docs.cvat.ai/docs/manual/advanced/xml_format/.

Tags, boxes and other shapes make a category present, whoever drew them, but for those that CVAT
marks `auto`: a model made them, and nobody has said that they are right.
"""

import logging
import xml.etree.ElementTree as Xml
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from trmml.datasets.base import Edges, ordered
from trmml.datasets.tables.names import clean_name
from trmml.errors import DataError

_log = logging.getLogger(__name__)

PRESENT = "present"


def cvat_rows(path: Path, tree: Xml.Element) -> tuple[list[dict[str, Any]], set[str]]:
    """Return an object per image, with its names under `present`; and the labels of the task."""
    images = tree.findall("image")
    rows = [{"image": image.get("name"),
             PRESENT: [label for shape in _by_people(image) if (label := shape.get("label"))]}
            for image in images]  # fmt: skip
    _warn(path, tree, sum(not row[PRESENT] for row in rows), images)
    labels = (
        label for label in tree.iterfind("meta//labels/label") if not label.findtext("parent")
    )
    return rows, {name for label in labels if (name := label.findtext("name"))}


def _by_people(image: Xml.Element) -> Iterator[Xml.Element]:
    return (shape for shape in image if shape.get("source") != "auto")


def _warn(path: Path, tree: Xml.Element, blank: int, images: Sequence[Xml.Element]) -> None:
    """Say what in a file of CVAT shows that nobody has looked at some of its images."""
    meant = "Where nobody has looked yet, choose --blank unknown; in Python blank='unknown'"
    places = ("meta//status", "meta//state")
    states = {state.text for place in places for state in tree.iterfind(place)} - {"completed"}
    auto = sum(shape.get("source") == "auto" for image in images for shape in image)
    if auto:
        _log.warning("%s: %d annotations are a model's (source auto) and do not count", path, auto)
    if blank:
        _log.warning("%s: %d of %d images have no annotation. %s", path, blank, len(images), meant)
    if states:
        _log.warning("%s: CVAT says %s, not 'completed'. %s", path, sorted(map(str, states)), meant)


def cvat_boxes(
    path: Path, tree: Xml.Element, columns: Mapping[str, int]
) -> Iterator[tuple[int, int, Edges]]:
    """Yield image, category and edges, in shares, of each upright box that a person drew.

    Raises:
        DataError: a box or its image lacks a number.
    """
    for row, image in enumerate(tree.findall("image")):
        for box in _by_people(image):
            column = columns.get(clean_name(box.get("label", "")))
            if box.tag != "box" or column is None:
                continue
            where = f"{path}, image {row + 1}"
            try:
                turned = float(box.get("rotation", 0))
                width, height = (float(image.attrib[side]) for side in ("width", "height"))
                left, top, right, bottom = (
                    float(box.attrib[edge]) for edge in ("xtl", "ytl", "xbr", "ybr")
                )
                shares = left / width, top / height, right / width, bottom / height
            except (KeyError, ValueError, ZeroDivisionError):
                raise DataError(
                    f"{where}: a box lacks xtl, ytl, xbr or ybr as numbers, or its image width or"
                    " height. Export it again."
                ) from None
            if not turned:
                yield row, column, ordered(shares, where)
