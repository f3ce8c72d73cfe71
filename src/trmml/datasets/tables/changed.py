"""A table of labels with some answers changed: every other byte of a wide CSV stays as it was."""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from trmml.datasets.base import Dataset
from trmml.datasets.tables.cells import is_long
from trmml.datasets.tables.names import clean_name
from trmml.datasets.tables.table import (
    EXCEL_LINE,
    as_utf8,
    inside_quotes,
    read_header,
    read_table,
    split_records,
)
from trmml.errors import DataError
from trmml.settings.choices import Blank

_LIST = ";"
_CELLS = ("", "0", "1")  # unknown, absent, present
_AT_ONCE = 1 << 16  # cells that are written at a time


def is_wide_csv(path: Path, data: Dataset, categories: Sequence[str] | None) -> bool:
    """Whether a file is a CSV table with a column per category and a row per image.

    Args:
        path: of the file.
        data: what was read of it.
        categories: those that were asked for.
    """
    try:
        with path.open("rb") as file:
            start = file.read(4)
        table = read_table(path)
    except DataError:  # JSON and other forms, which are read elsewhere
        return False
    # A table with a row per label has more rows than images.
    return start != b"PAR1" and not is_long(table, categories) and len(data) == len(table.rows)


class Cells(NamedTuple):
    """Cells of a wide table with new texts, a place for each in three arrays of one length.

    Attributes:
        lines: of each cell, as an editor shows it.
        columns: of each, its place in `names`.
        signs: of each, its place in `texts`.
        names: of categories; those that no cell is of may be missing in the table.
        texts: from `signs_of`.
    """

    lines: np.ndarray
    columns: np.ndarray
    signs: np.ndarray
    names: Sequence[str]
    texts: Sequence[str]


def signs_of(minus_one: Blank | None) -> tuple[str, str, str]:
    """What a table has for unknown, absent and present.

    Args:
        minus_one: what -1 means in it.
    """
    unknown = {"absent": "0"}.get(minus_one or "", "-1" if minus_one else "")
    return unknown, "-1" if minus_one == "absent" else "0", "1"


def with_cells(path: Path, *cells: Cells) -> bytes:
    """The bytes of a wide CSV file with other texts in some cells; all others are as they were.

    Args:
        path: of the file.
        cells: of a cell that comes twice the later text counts.
    """
    raw = path.read_bytes()
    data = as_utf8(path, raw)
    begin = data.find(b"\n") if EXCEL_LINE.match(data) else 0
    starts, ends = (begin + each for each in _spans(path, data[begin:], cells))
    # A mark before all and the first of two line ends are in the file, and not in the text.
    mark = 3 if raw.startswith(b"\xef\xbb\xbf") else 0
    places = [each.start() - mark for each in re.finditer(b"\r\n", raw)]
    double = np.array(places, dtype=np.int64) - np.arange(len(places))
    starts, ends = (each + mark + np.searchsorted(double, each) for each in (starts, ends))
    texts = [text.encode() for part in cells for text in part.texts]
    before = np.cumsum([0, *(len(part.texts) for part in cells)])
    signs = np.concatenate(
        [[], *(part.signs + n for part, n in zip(cells, before[:-1], strict=True))]
    ).astype(np.uint8)
    order = np.argsort(starts, kind="stable")
    order = order[np.diff(starts[order], append=-1) != 0]  # the last of each cell
    new, done, view = bytearray(), 0, memoryview(raw)
    for some in np.array_split(order, len(order) // _AT_ONCE + 1):  # no object for each cell
        parts = (each[some].tolist() for each in (starts, ends, signs))
        for start, end, sign in zip(*parts, strict=True):
            new += view[done:start]
            new += texts[sign]
            done = end
    new += view[done:]
    return bytes(new)


def _spans(path: Path, body: bytes, cells: Sequence[Cells]) -> tuple[np.ndarray, np.ndarray]:
    """Where the cells start and end in the bytes of a table."""
    starts, ends, lines = split_records(path, body)
    separator, header = read_header(path, body[starts[0] : ends[0]].decode())
    places = {clean_name(name): place for place, name in enumerate(header)}
    columns = [np.array([places.get(n, -1) for n in part.names])[part.columns] for part in cells]
    column = np.concatenate([[], *columns]).astype(np.int64)
    assert (column >= 0).all(), "a cell of a category without a column"
    line = np.concatenate([[], *(part.lines for part in cells)]).astype(np.int64)
    record = np.searchsorted(lines, line)
    cuts = np.flatnonzero((np.frombuffer(body, np.uint8) == ord(separator)) & ~inside_quotes(body))
    before = np.searchsorted(cuts, starts[record]) + column  # the cut that ends each cell
    cuts = np.append(cuts, 0)  # so that the last cell has one too, which is not read
    begin = np.where(column == 0, starts[record], cuts[before - 1] + 1)
    return begin, np.where(column == len(header) - 1, ends[record], cuts[before])


def changed_cells(
    before: Dataset, after: Dataset, blank: Blank | None, minus_one: Blank | None
) -> Cells:
    """The cells that say something else afterwards, for `with_cells`.

    Args:
        before: as the table was read.
        after: the same images and categories.
        blank: what a blank cell means in the table.
        minus_one: what -1 means in it.

    Raises:
        DataError: a pair became unknown, which the table cannot say.
    """
    old, new = before.matrix, after.matrix
    image, category = (
        (old.known != new.known) | (old.labels != new.labels)
    ).nonzero(as_tuple=True)  # fmt: skip
    known, labels = new.known[image, category], new.labels[image, category]
    if blank == "absent" and minus_one is None and not bool(known.all()):
        first = int((~known).nonzero()[0, 0])
        raise DataError(
            f"people disagree about {after.category_names[int(category[first])]!r} in"
            f" {after.images[int(image[first])]}, and a table whose blanks mean absent has no sign"
            " for unknown. Take --format long, or answer again."
        )
    signs = known.byte() * (1 + labels.byte())
    lines = np.array(before.rows, dtype=np.int64)[image.numpy()]
    names = after.category_names
    return Cells(lines, category.numpy(), signs.numpy(), names, signs_of(minus_one))


def as_table(data: Dataset, form: str) -> bytes:
    """A new table of a whole data set, as UTF-8; see `table_rows`."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(table_rows(data, form))
    return text.getvalue().encode()


def write_csv(path: Path, rows: Iterable[Iterable[object]]) -> None:
    """Write rows as CSV in UTF-8, one at a time."""
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def table_rows(data: Dataset, form: str) -> Iterator[list[str]]:
    """The header of a table of a whole data set, then a row for each image.

    Args:
        data: images and labels.
        form: "wide" has 1, 0 and blank; "long" has the columns image, present and absent.

    Raises:
        DataError: a name holds the `;` that stands between names.
    """
    names = data.category_names
    split = [name for name in names if _LIST in name]
    if form == "long" and split:
        raise DataError(f"category {split[0]!r} holds '{_LIST}', so no list holds it. Take wide.")
    yield ["image", *(names if form == "wide" else ("present", "absent"))]
    states = (data.matrix.labels.byte() + data.matrix.known.byte()).numpy()
    for image, row in zip(data.images, states, strict=True):  # 0 unknown, 1 absent, 2 present
        if form == "wide":
            yield [image, *(_CELLS[state] for state in row.tolist())]
        else:
            lists = ([names[c] for c in np.flatnonzero(row == state)] for state in (2, 1))
            yield [image, *map(_LIST.join, lists)]
