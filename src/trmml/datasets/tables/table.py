"""Read a CSV or Parquet file into a table in which every row knows its place in the file."""

import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl

from trmml.datasets.tables.names import clean_name, refuse_too_many, unique_names
from trmml.errors import DataError
from trmml.image_search import SUFFIXES

IMAGE_COLUMNS = (
    *("image", "file", "filename", "path", "file_name", "filepath"),
    *("image_name", "image_path", "image_file"),
)
_LESS_USUAL = (
    "id",
    "image_id",
    "imageid",
    "img",
    "img_name",
    "img_path",
)  # taken for want of those
SEPARATORS = (",", ";", "\t", "|")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# The first line that tells Excel the separator.
EXCEL_LINE = re.compile(rb"sep=.\r?\n", re.IGNORECASE)
_MANY_COLUMNS = 100  # of answers; fewer may also be numbers or names
# Numbers that Polars would read as 1, 0 or -1.
_OTHER_SPELLING = re.compile(rb'(?<![^,;\t|\n" ])(?:[+]\d+|-?0\d+|-0)(?![^,;\t|\n" ])')


@dataclass(frozen=True)
class Table:
    """The rows of a file, without its header and without blank rows.

    Args:
        path: where it came from.
        names: the columns' names, as `clean_name` leaves them; no name occurs twice.
        frame: the columns in the order of `names`, themselves named by number.
        rows: per row its line as an editor shows it (CSV) or its number from 1 (Parquet).
        unit: what `rows` counts, "line" or "row".
        declared: the categories that the file itself names, whether an image has them or not.
    """

    path: Path
    names: tuple[str, ...]
    frame: pl.DataFrame
    rows: tuple[int, ...]
    unit: str
    declared: tuple[str, ...] = ()

    def place(self, index: int) -> str:
        """Return where row `index` stands, for example `labels.csv line 7`."""
        return f"{self.path} {self.unit} {self.rows[index]}"

    def column(self, name: str) -> pl.Series:
        """Return the column called `name`."""
        return self.frame.to_series(self._places[name])

    @cached_property
    def _places(self) -> dict[str, int]:
        return {name: place for place, name in enumerate(self.names)}


def image_columns(names: Iterable[str]) -> list[str]:
    """Return the columns that may hold the names of images, by what they are called."""
    cleaned = {name: clean_name(name).casefold() for name in names}
    usual = [name for name in cleaned if cleaned[name] in IMAGE_COLUMNS]
    return usual or [name for name in cleaned if cleaned[name] in _LESS_USUAL]


def read_table(path: Path) -> Table:
    """Return the table in a CSV or Parquet file; the content decides which it is.

    CSV: UTF-8, with or without byte order mark, fields separated by commas, semicolons, tabs
    or bars, quoted where they hold one of these or a line break, any line ends.

    Raises:
        DataError: the file is missing, empty, in another encoding or format, or a row has more or
            fewer fields than the header.
    """
    data = _read_bytes(path, "a CSV or Parquet file", "a header line and a line per image")
    if data[:4] == b"PAR1":
        return _read_parquet(path, data)
    if path.suffix.lower() in (".parquet", ".pq"):
        raise DataError(f"{path} is no Parquet file, or damaged. Write it again, or as CSV.")
    return _read_csv(path, data)


def read_text(path: Path, line: str) -> str:
    """Return the text of a UTF-8 file, without byte order mark, lines ended by one newline.

    Args:
        path: of the file.
        line: what each line should hold, for messages, as in "a category name".

    Raises:
        DataError: the file is missing, empty or in another encoding.
    """
    lines = f"{line} per line"
    text = as_utf8(path, _read_bytes(path, f"a text file with {lines}", lines)).decode()
    if not text.strip():  # other spaces than bytes know, as U+2028
        raise DataError(f"{path} is empty. It needs {lines}.")
    return text


def _read_bytes(path: Path, wanted: str, content: str) -> bytes:
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else str(error)
        if isinstance(error, IsADirectoryError):
            reason = "it is a folder, not a file"
        raise DataError(f"cannot read {path}: {reason}. Name {wanted}.") from error
    if not data.strip(_BYTE_ORDER_MARK + b" \r\n\t"):
        raise DataError(f"{path} is empty. It needs {content}.")
    return data


def _read_parquet(path: Path, data: bytes) -> Table:
    try:
        refuse_too_many(len(pl.read_parquet_schema(data)), f"{path} has", "columns")
        frame = pl.read_parquet(data)
    except (pl.exceptions.PolarsError, OSError, pl.exceptions.PanicException) as error:
        raise DataError(
            f"{path} is a damaged Parquet file: {_first_line(error)}. Write it again."
        ) from error
    return as_table(path, frame.columns, frame, np.arange(1, frame.height + 1), "row")


def _read_csv(path: Path, data: bytes) -> Table:
    data = as_utf8(path, data)
    if EXCEL_LINE.match(data):  # which then counts as blank
        data = data[data.find(b"\n") :]
    starts, ends, lines = split_records(path, data)
    if not len(starts):
        raise DataError(f"{path} has a line for Excel, and nothing else. Add the header and rows.")
    separator, header = read_header(path, data[starts[0] : ends[0]].decode())
    refuse_too_many(len(header), f"{path} has", "columns")
    _check_widths(path, data, separator, header, starts, ends, lines)
    body = data[starts[1] : ends[-1]] if len(starts) > 1 else b""
    if (starts[2:] != ends[1:-1] + 1).any():  # Polars would make rows of the blank lines
        body = b"\n".join(data[start:end] for start, end in zip(starts[1:], ends[1:], strict=True))
    texts = {str(index): pl.String for index in range(len(header))}
    if not body:
        return as_table(path, header, pl.DataFrame(schema=texts), lines[1:], "line")
    try:
        frame = _read_answers(body, separator, header)
        if frame is None:
            frame = pl.read_csv(body, has_header=False, separator=separator, schema=texts)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(
            f"{_place_of_bad_quote(path, data, separator)}: {_first_line(error)}. Put a field "
            'that holds a quote between quotes and double the quote inside: "5"" pipe".'
        ) from error
    if frame.height != len(lines) - 1:
        raise DataError(
            f"{path}: {len(lines) - 1} rows were expected and {frame.height} came. Look for a "
            "quote that opens inside a field, and double it."
        )
    return as_table(path, header, frame, lines[1:], "line")


def _read_answers(body: bytes, separator: str, header: Sequence[str]) -> pl.DataFrame | None:
    """Return 1, 0, -1 and blanks as numbers, which take a sixteenth of the memory of texts.

    None where there are few columns, or any other cell stands outside those of images.
    """
    if len(header) < _MANY_COLUMNS:
        return None
    images = image_columns(header)
    types = {str(index): pl.String if name in images else pl.Int8
             for index, name in enumerate(header)}  # fmt: skip
    try:
        frame = pl.read_csv(body, has_header=False, separator=separator, schema=types)
    except pl.exceptions.ComputeError:
        return None
    answers = frame.select(pl.col(pl.Int8).is_between(-1, 1).all())
    return frame if all(answers.row(0)) and not _OTHER_SPELLING.search(body) else None


def as_utf8(path: Path, data: bytes) -> bytes:
    """Return the bytes as plain UTF-8, without byte order mark, with newlines as line ends.

    Raises:
        DataError: they are in another encoding or no text.
    """
    advice = "Save it as UTF-8 (in a spreadsheet program: 'CSV UTF-8')."
    if data[:2] == b"PK":
        raise DataError(f"{path} is a spreadsheet or zip file, not CSV. {advice}")
    if data[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in data:
        raise DataError(f"{path} is UTF-16 or binary, not UTF-8 text. {advice}")
    data = data.removeprefix(_BYTE_ORDER_MARK)
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    try:
        data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path} line {line} is not UTF-8: byte 0x{data[error.start]:02x}. {advice}"
        ) from error
    return data


def split_records(path: Path, data: bytes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return where each record starts and ends, and its line; blank lines are left out."""
    raw = np.frombuffer(data, dtype=np.uint8)
    breaks = np.flatnonzero(raw == ord("\n"))
    ends = breaks[~inside_quotes(data)[breaks]]
    if not len(ends) or ends[-1] != len(data) - 1:
        ends = np.append(ends, len(data))
    starts = np.append(0, ends[:-1] + 1)
    lines = np.searchsorted(breaks, starts) + 1
    if data.count(b'"') % 2:
        raise DataError(
            f"{path}: a quote is opened and never closed, perhaps in the record that starts at "
            f"line {lines[-1]}. Close it, or double a quote that belongs to a name."
        )
    filled = ends > starts
    return starts[filled], ends[filled], lines[filled]


def inside_quotes(data: bytes) -> np.ndarray:
    """Return per byte whether it lies between quotes: an odd number of them stands before it."""
    raw = np.frombuffer(data, dtype=np.uint8)
    if b'"' not in data:
        return np.zeros(len(raw), dtype=bool)
    return (np.cumsum(raw == ord('"'), dtype=np.uint8) & 1).astype(bool)  # wraps, stays odd


def read_header(path: Path, record: str) -> tuple[str, list[str]]:
    """Return the separator, the one that yields an image column, and the columns' names."""
    for separator in SEPARATORS:
        try:
            fields = next(csv.reader(io.StringIO(record), delimiter=separator))
        except csv.Error:  # a field of over 131,072 letters, which another separator may cut
            continue
        # A name that begins with a comma must not make "image<tab>" a field, which cleans to one.
        whole = (field for field in fields if not any(each in field for each in SEPARATORS))
        if image_columns(whole):
            return separator, fields
    fields = [field.strip('" ').lower() for field in re.split(r"[,;\t|]", record)]
    if len(fields) > 2 and all(field.endswith(SUFFIXES) for field in fields[1:]):
        raise DataError(
            f"{path} has a column per image: {record[:80]!r}. Transpose it: a row per image, a "
            "column per category, and a column 'image'."
        )
    raise DataError(
        f"{path} line 1 names no image column: {record[:80]!r}. Call the column that holds the "
        f"images' names one of {', '.join(IMAGE_COLUMNS)}, and separate fields by commas, "
        "semicolons or tabs."
    )


def _check_widths(
    path: Path,
    data: bytes,
    separator: str,
    header: list[str],
    starts: np.ndarray,
    ends: np.ndarray,
    lines: np.ndarray,
) -> None:
    if b'"' in data:
        raw = np.frombuffer(data, dtype=np.uint8)
        data = np.where(inside_quotes(data), np.uint8(0), raw).tobytes()
    places = zip(starts.tolist(), ends.tolist(), strict=True)
    widths = np.array([data.count(separator.encode(), *place) + 1 for place in places])
    wrong = np.flatnonzero(widths != len(header))
    if len(wrong):
        name = {"\t": "a tab"}.get(separator, repr(separator))
        raise DataError(
            f"{path} line {lines[wrong[0]]} has {widths[wrong[0]]} fields and the header has "
            f"{len(header)} ({len(wrong)} such lines). Fields are separated by {name}; put a "
            "field that holds one between quotes, and write every field, also a blank one."
        )


def _place_of_bad_quote(path: Path, data: bytes, separator: str) -> str:
    reader = csv.reader(io.StringIO(data.decode(), newline=""), delimiter=separator, strict=True)
    try:
        for _ in reader:
            pass
    except csv.Error:
        return f"{path} line {reader.line_num}"
    return str(path)


def as_table(
    path: Path, names: Sequence[str], frame: pl.DataFrame, lines: np.ndarray, unit: str
) -> Table:
    """Return a frame as a table, without blank rows and nameless blank columns.

    Args:
        path: of the file.
        names: of the columns, as the file has them.
        frame: its columns may have any names.
        lines: of the rows, (N,).
        unit: what `lines` counts.

    Raises:
        DataError: two columns have one name, or no row is left.
    """
    kept = [index for index, name in enumerate(names)
            if clean_name(name) or frame.to_series(index).null_count() < frame.height]  # fmt: skip
    cleaned = unique_names([names[i] for i in kept], f"{path}: the header", blanks=True)
    frame = frame[:, kept]
    frame.columns = [str(index) for index in range(frame.width)]
    if frame.width and all(column.null_count() for column in frame):  # a row may be blank
        filled = frame.select(~pl.all_horizontal(pl.all().is_null())).to_series()
        frame, lines = frame.filter(filled), lines[filled.to_numpy()]
    if not frame.height:
        raise DataError(f"{path} has a header and no row. It needs a row per image.")
    return Table(path, cleaned, frame, tuple(lines.tolist()), unit)


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n", maxsplit=1)[0].rstrip(".")
