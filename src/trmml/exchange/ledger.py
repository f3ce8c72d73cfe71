"""The ledger of all that was added to sidecars: JSON lines, on the disk before a sidecar changes.

A line says what will be done. A later line, `{"done": [ids]}`, says that it was. Where a process
was killed between the two, the hashes of the sidecar tell; see `undo.py`.
"""

import json
import os
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from trmml.errors import DataError
from trmml.exchange.naming import place_of
from trmml.exchange.splice import Edit
from trmml.storage.atomic import refuse_other

NAME = "sidecars.jsonl"
_BEGINS = b'{"id": "'
# Bytes of a ledger's first line that are read to know it.
LONGEST_LINE = 2**24


class Entry(NamedTuple):
    """What is added to one sidecar at once.

    Attributes:
        id: of the entry.
        at: when, in UTC.
        image: path, as `place_of` gives it.
        sidecar: path, the same; a link was followed.
        before: SHA-256 of the sidecar, in hex; None where there was none.
        after: the same with what is added.
        edits: the bytes that change, as text.
        ours: words by field that no person wrote.
        copied: words by field that a person wrote elsewhere, in fields that are new.
    """

    id: str
    at: str
    image: str
    sidecar: str
    before: str | None
    after: str
    edits: tuple[tuple[int, str, str], ...]
    ours: dict[str, list[str]]
    copied: dict[str, list[str]]

    @property
    def spliced(self) -> list[Edit]:
        """The edits as bytes."""
        return [Edit(at, old.encode(), new.encode()) for at, old, new in self.edits]


class Record(NamedTuple):
    """A ledger as it was read.

    Attributes:
        entries: in their order, without those taken back.
        done: ids of entries that are known to be written.
        sidecars: of all entries, also of those taken back.
    """

    entries: list[Entry]
    done: set[str]
    sidecars: set[str]


class Ledger:
    """A file to which lines are added; several processes may add at once.

    Args:
        path: of the file; made with the first line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def check(self) -> None:
        """Refuse to add to another file.

        Raises:
            DataError: it is there.
        """
        refuse_other(self.path, _is_ledger, "ledger of sidecars")

    def write(self, entries: Sequence[Entry]) -> None:
        """Add entries; they are on the disk when this returns.

        Raises:
            OSError: the ledger cannot be written; then no sidecar may be.
        """
        self._add([entry._asdict() for entry in entries], durable=True)

    def mark(self, what: str, ids: Iterable[str]) -> None:
        """Say that entries are "done", or "undone"."""
        if ids := list(ids):
            self._add([{what: ids}], durable=what == "undone")

    def _add(self, trees: Sequence[dict[str, Any]], *, durable: bool) -> None:
        """Add lines by one call of the system, so that those of two processes do not mix."""
        text = "".join(json.dumps(tree) + "\n" for tree in trees)
        file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            size = os.fstat(file).st_size
            # What a killed process left without an end stays a line of its own.
            torn = size and os.pread(file, 1, size - 1) != b"\n"
            waiting = (b"\n" if torn else b"") + text.encode()
            while waiting:
                waiting = waiting[os.write(file, waiting) :]
            if durable:
                os.fsync(file)
        finally:
            os.close(file)

    def read(self) -> Record:
        """All entries; a line that was cut off is of a sidecar that was not written.

        Raises:
            DataError: there is no such file, or it is no ledger.
        """
        try:
            lines = self.path.read_bytes().split(b"\n")
        except OSError as error:
            raise DataError(
                f"cannot read {self.path}: {error.strerror}. Name the ledger that"
                " `trmml sidecar write` wrote: --ledger FILE."
            ) from error
        entries, marks = dict[str, Entry](), {"done": set[str](), "undone": set[str]()}
        real = cache(os.path.realpath)  # of the few folders of many entries
        for number, line in enumerate(lines, 1):
            tree = _tree(line)
            if set(tree) == set(Entry._fields):
                # Older ledgers hold paths with "..", and links of folders.
                places = {key: place_of(tree[key], real) for key in ("image", "sidecar")}
                entries[tree["id"]] = Entry(**{**tree, **places})
            elif len(tree) == 1 and set(tree) < set(marks):
                for what, ids in tree.items():
                    marks[what].update(ids)
            elif tree:
                raise DataError(f"{self.path} line {number} is of no ledger; name another file")
        if not entries and any(line.strip() for line in lines):
            raise DataError(f"{self.path} is no ledger of sidecars; name another file")
        left = [entry for entry in entries.values() if entry.id not in marks["undone"]]
        return Record(left, marks["done"], {entry.sidecar for entry in entries.values()})


def _is_ledger(path: Path) -> bool:
    """By its first line, which may be cut off."""
    with path.open("rb") as file:
        line = file.readline(LONGEST_LINE)
    tree, torn = _tree(line), line.rstrip(b"\n")[: len(_BEGINS)]
    whole = set(tree) in ({*Entry._fields}, {"done"}, {"undone"})
    return whole or (not tree and torn != b"" and _BEGINS.startswith(torn))


def _tree(line: bytes) -> dict[str, Any]:
    """The object on a line; an empty one for a line that was cut off."""
    try:
        tree = json.loads(line)
    except ValueError:
        return {}
    return tree if isinstance(tree, dict) else {}
