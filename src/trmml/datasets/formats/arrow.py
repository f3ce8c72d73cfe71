"""Read Arrow files whose lengths were checked: polars ends the process where one is absurd.

https://arrow.apache.org/docs/format/Columnar.html, "Serialization and Interprocess Communication":
a stream is a row of messages, each a length, a table in Google's FlatBuffers form and a body. In a
file with a footer, that says where the messages are.
"""

import struct
from pathlib import Path

import polars as pl

from trmml.errors import DataError

_MAGIC = b"ARROW1"
_RECORD_BATCH, _DICTIONARY_BATCH = 3, 2  # of the union MessageHeader in Message.fbs
_MOST_UNPACKED = 1 << 31  # bytes of a compressed buffer


def read_arrow(path: Path) -> pl.DataFrame:
    """Return the table in an Arrow file, a stream as the library writes them or with a footer.

    Raises:
        DataError: it is none, or damaged.
    """
    try:
        data = path.read_bytes()
        if data[: len(_MAGIC)] == _MAGIC:
            _check_file(memoryview(data))
            return pl.read_ipc(data)
        place = 0
        while place < len(data):
            place = _check_message(memoryview(data), place)
        return pl.read_ipc_stream(data)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, ValueError,
            struct.error) as error:  # fmt: skip
        raise DataError(f"{path} is no Arrow file, or damaged: {error}. Copy it again.") from error


def _check_file(data: memoryview) -> None:
    """Refuse a file in whose blocks a length leads out of it.

    Raises:
        ValueError, struct.error: one does.
    """
    end = len(data) - len(_MAGIC) - 4
    (size,) = struct.unpack_from("<i", data, end)
    if not 0 < size <= end:
        raise ValueError("the length of its footer is wrong")
    footer = _Table(data[end - size : end])
    for field in (2, 3):  # dictionaries and record batches
        for offset, head, body in footer.structs("<qi4xq", field):
            if min(offset, head, body) < 0 or offset + head + body > len(data):
                raise ValueError("a block leads out of it")
            _check_message(data[: offset + head + body], offset)


def _check_message(data: memoryview, place: int) -> int:
    """Return where a stream's message ends; refuse it where a length leads out of it.

    Raises:
        ValueError, struct.error: one does.
    """
    if bytes(data[place : place + 4]) == b"\xff\xff\xff\xff":  # since Arrow 0.15
        place += 4
    size: int = struct.unpack_from("<i", data, place)[0]
    start = place + 4 + size
    if size == 0:
        return len(data)
    if not 0 < size <= len(data) - place - 4:
        raise ValueError("the length of a message is wrong")
    message = _Table(data[place + 4 : start])
    length = message.number("<q", 3)
    if not 0 <= length <= len(data) - start:
        raise ValueError("the length of a message's body is wrong")
    kind, body = message.number("<B", 1), data[start : start + length]
    if kind in (_RECORD_BATCH, _DICTIONARY_BATCH):
        batch = message.table(2)
        _check_batch(batch.table(1) if kind == _DICTIONARY_BATCH else batch, body)
    return start + length


def _check_batch(batch: "_Table", body: memoryview) -> None:
    lengths = [batch.number("<q", 0)]
    for length, nulls in batch.structs("<qq", 1):
        lengths.append(length)
        if not 0 <= nulls <= length:
            raise ValueError("a count of nulls is wrong")
    if not all(0 <= length <= 8 * len(body) for length in lengths):  # a bit each, at least
        raise ValueError("a count of rows is wrong")
    for offset, length in batch.structs("<qq", 2):
        if offset < 0 or length < 0 or offset + length > len(body):
            raise ValueError("a buffer leads out of its message")
        unpacked = batch.place(3) and length >= 8 and struct.unpack_from("<q", body, offset)[0]
        if unpacked > _MOST_UNPACKED:
            raise ValueError("a buffer is too large once it is unpacked")


class _Table:
    """A table of FlatBuffers: its fields are found through the list of their places before it.

    Args:
        data: the message.
        start: of the table; of the root when None.
    """

    def __init__(self, data: memoryview, start: int | None = None) -> None:
        self._data = data
        self._start = self._read("<I", 0) if start is None else start

    def place(self, field: int) -> int:
        """Return where a field lies; 0 where it has its default."""
        fields = self._start - self._read("<i", self._start)
        within = self._read("<H", fields) > 4 + 2 * field
        offset = self._read("<H", fields + 4 + 2 * field) if within else 0
        return self._start + offset if offset else 0

    def number(self, form: str, field: int) -> int:
        """Return a number, 0 by default."""
        place = self.place(field)
        return self._read(form, place) if place else 0

    def table(self, field: int) -> "_Table":
        """Return a table within this one."""
        place = self.place(field)
        return _Table(self._data, place + self._read("<I", place))

    def structs(self, form: str, field: int) -> list[tuple[int, ...]]:
        """Return a list of structs."""
        place = self.place(field)
        if not place:
            return []
        start = place + self._read("<I", place)
        end = start + 4 + self._read("<I", start) * struct.calcsize(form)
        return list(struct.iter_unpack(form, self._data[start + 4 : end]))

    def _read(self, form: str, place: int) -> int:
        if place < 0:  # which would count from the end
            raise ValueError("a message leads out of itself")
        number: int = struct.unpack_from(form, self._data, place)[0]
        return number
