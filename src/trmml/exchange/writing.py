"""What writers of several forms share: JSON piece by piece, and names that a form cannot hold."""

import json
import os
import re
from collections.abc import Iterable, Sequence
from typing import TextIO

from trmml.datasets.base import Dataset, Edges
from trmml.errors import DataError

# What XML 1.0, section 2.2, allows in no document, and line ends, which it and YAML would change.
_UNFIT = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff]")


def stream(file: TextIO, opening: str, pieces: Iterable[str], closing: str) -> None:
    """Write texts with commas between, one a line, as they come."""
    file.write(opening)
    file.writelines(f"{',' if n else ''}\n{piece}" for n, piece in enumerate(pieces))
    file.write(f"\n{closing}")


def as_json(tree: object) -> str:
    """A tree on one line."""
    return json.dumps(tree, ensure_ascii=False)


def refuse_unfit(names: Sequence[str], what: str, form: str) -> None:
    """Refuse names with characters that the form's files cannot hold.

    Raises:
        DataError: one has them.
    """
    bad = next((name for name in names if _UNFIT.search(name)), None)
    if bad is not None:
        raise DataError(
            f"{what} {bad!r} holds a line break, a control character or bytes that are no UTF-8,"
            f" which {form} cannot hold. Rename it, or take parquet."
        )


def refuse_same_stems(images: Sequence[str], form: str) -> None:
    """Refuse images whose names differ by their suffix alone.

    Raises:
        DataError: two do.
    """
    seen: dict[str, str] = {}
    for image in images:
        other = seen.setdefault(stem(image), image)
        if other != image:
            raise DataError(
                f"{other!r} and {image!r} are one name without their suffix, and {form} knows"
                " images by that. Rename one."
            )


def stem(image: str) -> str:
    """A name without its suffix.

    Example:
        >>> stem("trip.1/a.b.jpg"), stem("trip.1/a")
        ('trip.1/a.b', 'trip.1/a')
    """
    return os.path.splitext(image)[0]


def boxes_by_image(data: Dataset) -> dict[int, dict[int, list[Edges]]]:
    """The boxes of pairs that are present, by image and category."""
    boxes: dict[int, dict[int, list[Edges]]] = {}
    for image, category, edges in data.boxes.rows() if data.boxes is not None else ():
        if data.matrix.labels[image, category]:
            boxes.setdefault(image, {}).setdefault(category, []).append(edges)
    return boxes


def refuse_without_box(data: Dataset, boxes: dict[int, dict[int, list[Edges]]], why: str) -> None:
    """Refuse present pairs of which no box is known.

    Raises:
        DataError: there are some.
    """
    pairs = data.matrix.labels.nonzero().tolist()
    without = [(row, c) for row, c in pairs if c not in boxes.get(row, {})]
    if without:
        row, c = without[0]
        raise DataError(
            f"{len(without)} of {len(pairs)} present pairs have no box, first"
            f" {data.category_names[c]!r} in {data.images[row]}. {why}"
        )
