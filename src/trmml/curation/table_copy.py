"""A copy of a wide CSV table with some cells filled; all else is as it was, byte for byte."""

import csv
import io
import re
from collections.abc import Mapping
from pathlib import Path

from trmml.datasets.tables.cells import is_long
from trmml.datasets.tables.names import clean_name
from trmml.datasets.tables.table import EXCEL_LINE, SEPARATORS, image_columns, read_table
from trmml.errors import DataError

_MARK = "\ufeff"
_LINE_ENDS = re.compile(r"(\r\n|\r|\n)")


def filled_copy(path: Path, cells: Mapping[tuple[int, str], str]) -> bytes:
    """The bytes of a CSV table with other words in some cells.

    Args:
        path: of a table with a column for each category.
        cells: what to write, by the line of a row, as `Dataset.rows` has it, and the category.

    Raises:
        DataError: it is no CSV table with a column for each category.
    """
    data = path.read_bytes()
    if data[:4] == b"PAR1" or path.suffix.lower() not in (".csv", ".tsv", ".txt"):
        raise DataError(f"{path} is no CSV table, so it cannot be copied; {_OTHER}")
    if is_long(read_table(path)):  # also refuses whatever is no table
        raise DataError(f"{path} lists names and has no column for each category; {_OTHER}")
    records = _records(data.decode())
    header = next(line for line, (text, _) in records.items() if _is_header(text))
    separator = _separator(records[header][0])
    fields = next(csv.reader(io.StringIO(records[header][0].lstrip(_MARK)), delimiter=separator))
    places = {clean_name(name): place for place, name in enumerate(fields)}
    for line in {line for line, _ in cells}:
        text, end = records[line]
        row = _joined(text.split(separator), separator)
        for name, place in places.items():
            row[place] = cells.get((line, name), row[place])
        records[line] = (separator.join(row), end)
    return "".join(text + end for text, end in records.values()).encode()


_OTHER = "name another form of the result: --format long or --format jsonl"


def _records(text: str) -> dict[int, tuple[str, str]]:
    """Each record with the line end after it, by the line it starts on; quotes may hold breaks."""
    parts = [*_LINE_ENDS.split(text), ""]
    lines = list(zip(parts[::2], parts[1::2], strict=True))
    records: dict[int, tuple[str, str]] = {}
    start, held = 1, ""
    for number, (line, end) in enumerate(lines, start=1):
        held += line
        if held.count('"') % 2:
            held += end
            continue
        records[start] = (held, end)
        start, held = number + 1, ""
    return records


def _joined(pieces: list[str], separator: str) -> list[str]:
    """Fields as they stand: pieces of a quoted one that holds separators are one again."""
    fields: list[str] = []
    for piece in pieces:
        if fields and fields[-1].count('"') % 2:
            fields[-1] += separator + piece
        else:
            fields.append(piece)
    return fields


def _is_header(text: str) -> bool:
    """Whether a record is the first that is neither blank nor a line for Excel."""
    line = f"{text.lstrip(_MARK)}\n".encode()
    return bool(text.strip(_MARK + " \t")) and not EXCEL_LINE.match(line)


def _separator(header: str) -> str:
    """What parts the fields: the one that yields a column of images, as `read_table` finds it."""
    for separator in SEPARATORS:
        fields = next(csv.reader(io.StringIO(header.lstrip(_MARK)), delimiter=separator))
        if image_columns([field for field in fields if not set(field) & {*SEPARATORS}]):
            return separator
    raise DataError(f"no column of images in {header[:80]!r}; {_OTHER}")
