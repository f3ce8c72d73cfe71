"""A table of labels with some answers changed: every other byte of a wide CSV stays as it was."""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

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


def with_cells(path: Path, cells: Mapping[tuple[int, str], str]) -> bytes:
    """The bytes of a wide CSV file with other texts in some cells; all others are as they were.

    Args:
        path: of the file.
        cells: by (line as an editor shows it, category).
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
    pieces, done = [], 0
    texts = np.array([text.encode() for text in cells.values()], dtype=object)
    order = np.argsort(starts, kind="stable")
    for start, end, text in zip(starts[order], ends[order], texts[order], strict=True):
        pieces += [raw[done:start], text]
        done = end
    return b"".join([*pieces, raw[done:]])


def _spans(
    path: Path, body: bytes, cells: Iterable[tuple[int, str]]
) -> tuple[np.ndarray, np.ndarray]:
    """Where the cells start and end in the bytes of a table."""
    starts, ends, lines = split_records(path, body)
    separator, header = read_header(path, body[starts[0] : ends[0]].decode())
    columns = {clean_name(name): place for place, name in enumerate(header)}
    places = [(line, columns[name]) for line, name in cells]
    line, column = np.array(places, dtype=np.int64).reshape(-1, 2).T
    record = np.searchsorted(lines, line)
    cuts = np.flatnonzero((np.frombuffer(body, np.uint8) == ord(separator)) & ~inside_quotes(body))
    before = np.searchsorted(cuts, starts[record]) + column  # the cut that ends each cell
    cuts = np.append(cuts, 0)  # so that the last cell has one too, which is not read
    begin = np.where(column == 0, starts[record], cuts[before - 1] + 1)
    return begin, np.where(column == len(header) - 1, ends[record], cuts[before])


def changed_cells(
    before: Dataset, after: Dataset, blank: Blank | None, minus_one: Blank | None
) -> dict[tuple[int, str], str]:
    """The cells that say something else afterwards, for `with_cells`.

    Args:
        before: as the table was read.
        after: the same images and categories.
        blank: what a blank cell means in the table.
        minus_one: what -1 means in it.

    Raises:
        DataError: a pair became unknown, which the table cannot say.
    """
    absent = "-1" if minus_one == "absent" else "0"
    unknown = {"absent": "0"}.get(minus_one or "", "-1" if minus_one else "")
    old, new = before.matrix, after.matrix
    different = (old.known != new.known) | (old.labels != new.labels)
    cells = {}
    for image, category in different.nonzero().tolist():
        known, label = bool(new.known[image, category]), bool(new.labels[image, category])
        if not known and blank == "absent" and minus_one is None:
            raise DataError(
                f"people disagree about {after.category_names[category]!r} in"
                f" {after.images[image]}, and a table whose blanks mean absent has no sign for"
                " unknown. Take --format long, or answer again."
            )
        text = ("1" if label else absent) if known else unknown
        cells[before.rows[image], after.category_names[category]] = text
    return cells


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
