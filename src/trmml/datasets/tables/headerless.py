r"""Read a list of images without header: `a.jpg,1,0,1`, `images\a.jpg<tab>1,0,1`, `a.jpg 0 3`.

After the name come an answer for each category in turn, or the numbers of present categories,
counted from 0. Which it is shows in the lines. The names come from the user.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from trmml.datasets.files import read_lines
from trmml.datasets.tables.table import Table, as_table, image_columns
from trmml.errors import DataError
from trmml.image_search import SUFFIXES

_SUFFIX = "|".join(re.escape(suffix) for suffix in SUFFIXES)
_LINE = re.compile(rf'"?(?P<name>[^\t,;|]+?(?:{_SUFFIX}))"?(?:$|[\s,;|]+(?P<rest>.*))', re.I)
_ANSWERS = {"0", "1", "-1"}


def is_headerless(line: str) -> bool:
    """Return whether the first line of a file names an image, and is no header.

    Example:
        >>> is_headerless("a b.jpg,1,0"), is_headerless("image,1,0")
        (True, False)
    """
    return bool(_LINE.fullmatch(line)) and not image_columns(re.split(r"[\t,;|]", line))


def read_headerless(path: Path, categories: Sequence[str] | None) -> Table:
    """Return the list as a table with a column per category, or with `present`.

    Raises:
        DataError: the names are needed, or a line has no image, no numbers or too many.
    """
    lines = read_lines(path)
    if categories is None:
        raise DataError(
            f"{path} line 1 names an image, so it has no header. Put one above it, as in "
            "'image,cat,dog' or 'image,labels'; or give the names of the columns or numbers, one "
            "per line: --categories FILE, in Python categories=[...]."
        )
    rows = [_fields(text, f"{path} line {row}") for row, text in lines]
    vectors = all(len(cells) == len(categories) and set(cells) <= _ANSWERS for _, cells in rows)
    indices = all(len(set(cells)) == len(cells) and _are_places(cells, len(categories))
                  for _, cells in rows)  # fmt: skip
    if vectors == indices:
        problem = "may be either" if vectors else "are neither"
        raise DataError(
            f"{path}: the numbers after the images {problem} answers of 1, 0 and -1 for the "
            f"{len(categories)} categories or numbers of those present, from 0 to "
            f"{len(categories) - 1}. Put a header above the first line, as in 'image,cat,dog'."
        )
    images = pl.Series([name for name, _ in rows])
    if vectors:
        columns = zip(*(cells for _, cells in rows), strict=True)
        frame = pl.DataFrame([images, *(pl.Series(str(n), c) for n, c in enumerate(columns))])
        names = ["image", *categories]
    else:
        listed = [[categories[int(cell)] for cell in cells] for _, cells in rows]
        frame = pl.DataFrame([images, pl.Series("present", listed, pl.List(pl.String))])
        names = ["image", "present"]
    return as_table(path, names, frame, np.array([row for row, _ in lines]), "line")


def _fields(line: str, where: str) -> tuple[str, list[str]]:
    match = _LINE.fullmatch(line)
    if match is None:
        raise DataError(f"{where}: expected an image and numbers, got {line!r:.80}. Correct it.")
    return match["name"], re.findall(r"[^\s,;|]+", match["rest"] or "")


def _are_places(cells: Sequence[str], count: int) -> bool:
    return all(cell.isdecimal() and len(cell) < 10 and int(cell) < count for cell in cells)
