"""The journal of a review: what people answered, in an SQLite file to which rows are only added.

A commit is on the disk before `add` returns (WAL, synchronous=FULL), so an answer that was shown as
saved outlives `kill -9`. An id that is there already is ignored: to send an answer again is safe.
"""

import os
import sqlite3
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, NamedTuple

from trmml.errors import DataError, JournalError

Verdict = Literal["present", "absent", "unsure", "skip"]
State = Literal["present", "absent", "unknown"]
Reason = Literal["learn", "suspect", "complete", "gold", "typed"]

FORMAT = 1
# What a process waits for another that writes.
BUSY_SECONDS = 5.0
_LETTERS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_HEADER = b"SQLite format 3\0"
_SCHEMA = """
CREATE TABLE answers (
    id TEXT PRIMARY KEY, at TEXT NOT NULL, who TEXT NOT NULL, image TEXT NOT NULL,
    sha256 TEXT NOT NULL, category TEXT NOT NULL, answer TEXT, was TEXT NOT NULL,
    p REAL, why TEXT NOT NULL, run TEXT NOT NULL, ms INTEGER, undoes TEXT,
    CHECK ((answer IS NULL) = (undoes IS NOT NULL))
);
CREATE TRIGGER answers_stay BEFORE UPDATE ON answers
    BEGIN SELECT RAISE(ABORT, 'answers are only added'); END;
CREATE TRIGGER answers_remain BEFORE DELETE ON answers
    BEGIN SELECT RAISE(ABORT, 'answers are only added'); END;
"""
# By which an image is known, as `standing.identity` has it. The same expression in both, or SQLite
# reads the whole journal for the rows of one image.
_IDENTITY = "COALESCE(NULLIF(sha256, ''), image)"
_BY_IMAGE = f"CREATE INDEX IF NOT EXISTS answers_of_image ON answers ({_IDENTITY})"
_UNDONE = "CREATE INDEX IF NOT EXISTS answers_undone ON answers (undoes) WHERE undoes IS NOT NULL"


class Answer(NamedTuple):
    """One row.

    Attributes:
        id: from `new_id`, made once, by whoever asked.
        at: UTC, with seconds, as in 2026-11-29T06:45:34Z.
        who: a name, or "".
        image: name below the images' folder, with `/`.
        sha256: of the image file's bytes, in hex.
        category: name.
        answer: None where the row takes another back.
        was: what was known before.
        p: probability that was shown.
        why: what the question was for.
        run: first 12 digits of the SHA-256 of the run's model.json.
        ms: from shown to answered.
        undoes: id of the row that this one takes back.
    """

    id: str
    at: str
    who: str
    image: str
    sha256: str
    category: str
    answer: Verdict | None
    was: State
    p: float | None
    why: Reason
    run: str
    ms: int | None = None
    undoes: str | None = None


def new_id() -> str:
    """A ULID: 26 characters, of which the later sorts behind the earlier, also within a process."""
    with _last_lock:
        number = (time.time_ns() // 1_000_000 << 80) | int.from_bytes(os.urandom(10))
        _last[0] = number = max(number, _last[0] + 1)
    return _lettered(number)


def encoded_id(milliseconds: int, rest: bytes) -> str:
    """The ULID of a time, 48 bits, and ten bytes: for rows that may be made more than once."""
    return _lettered((milliseconds & (1 << 48) - 1) << 80 | int.from_bytes(rest))


def _lettered(number: int) -> str:
    return "".join(_LETTERS[number >> shift & 31] for shift in range(125, -1, -5))


_last, _last_lock = [0], threading.Lock()


def now(less_minutes: int = 0) -> str:
    """The time as a row holds it, or so many minutes before."""
    at = datetime.now(UTC) - timedelta(minutes=less_minutes)
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


class Answers:
    """A journal on disk; any number of processes may read and add at once.

    Args:
        path: of the file; made where it is not there. None: a journal in memory, which is lost.
        read_only: only to read what is there; the folder may be one that nothing is written to.

    Raises:
        DataError: the file is something else, damaged, of a later version, or cannot be written.
    """

    def __init__(self, path: Path | str | None, *, read_only: bool = False) -> None:
        self.path = Path(path or ":memory:")
        if path is None:
            self._base = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
            self._prepare()
            return
        if self.path.is_file() and self.path.stat().st_size:
            with self.path.open("rb") as file:
                if file.read(len(_HEADER)) != _HEADER:
                    raise DataError(
                        f"{self.path} is no journal of answers. Name a file that `trmml review ask`"
                        " wrote, or a new one; lines of JSON are read by `trmml review import`."
                    )
            self._refuse_others()
        place, how = self.path.absolute(), "rwc"
        if read_only:
            # A log beside the file may hold rows; without one, nobody is writing.
            beside = place.with_name(f"{place.name}-wal").exists()
            how = "ro" if beside or os.access(place.parent, os.W_OK) else "ro&immutable=1"
        with self._told():
            self._base = sqlite3.connect(
                f"{place.as_uri()}?mode={how}", uri=True, timeout=BUSY_SECONDS,
                isolation_level=None, check_same_thread=False,
            )  # fmt: skip
        if not read_only:
            with self._told():
                self._prepare()

    def _refuse_others(self) -> None:
        """Refuse another program's database, which opening it in our mode would change."""
        place = f"{self.path.absolute().as_uri()}?mode=ro&immutable=1"
        with self._told():
            base = sqlite3.connect(place, uri=True)
            try:
                version, tables = _version_and_tables(base)
            finally:
                base.close()
        ours, new = version == FORMAT and "answers" in tables, version == 0 and not tables
        if not (ours or new):
            raise DataError(self._other(version))

    def _other(self, version: int) -> str:
        return (
            f"{self.path} is a database of format {version}, and journals of answers have format"
            f" {FORMAT}. Name another file, or take the trmml that wrote it."
        )

    def _prepare(self) -> None:
        self._base.execute("PRAGMA journal_mode=WAL")
        self._base.execute("PRAGMA synchronous=FULL")
        self._base.execute("BEGIN IMMEDIATE")  # of two that open a new file, one makes the table
        version, tables = _version_and_tables(self._base)
        if version == 0 and not tables:
            for statement in _SCHEMA.replace("; END", "\0").split(";\n"):
                self._base.execute(statement.replace("\0", "; END"))
            self._base.execute(f"PRAGMA user_version={FORMAT}")
        elif version != FORMAT or "answers" not in tables:
            self._base.execute("ROLLBACK")
            raise DataError(self._other(version))
        self._base.execute(_BY_IMAGE)
        self._base.execute(_UNDONE)
        self._base.execute("COMMIT")

    def add(self, answers: Iterable[Answer]) -> int:
        """Number of rows that were new; they are on the disk, all or none.

        Raises:
            JournalError: another process wrote for longer than 5 s, or the disk is full.
        """
        marks = ", ".join("?" * len(Answer._fields))
        with self._told():
            self._base.execute("BEGIN IMMEDIATE")
            try:
                before = self._base.total_changes
                self._base.executemany(f"INSERT OR IGNORE INTO answers VALUES ({marks})", answers)
                added = self._base.total_changes - before
                self._base.execute("COMMIT")
            except BaseException:
                if self._base.in_transaction:
                    self._base.execute("ROLLBACK")
                raise
        return added

    def rows(self) -> list[Answer]:
        """All rows, in the order of their ids, which is that of time."""
        with self._told():
            return [*map(_answer, self._base.execute("SELECT * FROM answers ORDER BY id"))]

    def since(self, number: int) -> tuple[list[Answer], int]:
        """Rows that came after so many, whoever wrote them, first come first; and their number."""
        with self._told():
            rows = self._base.execute(
                "SELECT *, rowid FROM answers WHERE rowid > ? ORDER BY rowid", (number,)
            ).fetchall()
        return [_answer(row[:-1]) for row in rows], rows[-1][-1] if rows else number

    def about(self, image: str) -> list[Answer]:
        """Rows about one image, in the order of their ids.

        Args:
            image: its identity: the hash of its bytes, or its name where they were not read.
        """
        what = f"SELECT * FROM answers WHERE {_IDENTITY} = ? ORDER BY id"
        with self._told():
            return [*map(_answer, self._base.execute(what, (image,)))]

    def select(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """What a query of the table `answers` finds.

        Args:
            query: in SQL; it only reads.
            values: of its question marks.
        """
        with self._told():
            return self._base.execute(query, values).fetchall()

    def close(self) -> None:
        """Close the file."""
        self._base.close()

    def __enter__(self) -> "Answers":
        """Return itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the file."""
        self.close()

    @contextmanager
    def _told(self) -> Iterator[None]:
        """What SQLite says, in words."""
        try:
            yield
        except sqlite3.Error as error:
            reason = str(error)
            advice = "Name a file in a folder that exists, may be written and has room."
            if "locked" in reason or "busy" in reason:
                advice = (
                    f"Another process has been writing to it for {BUSY_SECONDS:.0f} seconds; let"
                    " it end, and repeat. What was answered before is safe."
                )
            elif "malformed" in reason or "not a database" in reason:
                advice = "Restore it from a backup, or from what `trmml review export` wrote."
            raise JournalError(
                f"cannot use the answers in {self.path}: {reason}. {advice}"
            ) from error


def _answer(row: Sequence[Any]) -> Answer:
    """A row of the file; words that rows share are held once."""
    words = [sys.intern(each) if isinstance(each, str) else each for each in row[1:-1]]
    return Answer._make([row[0], *words, row[-1]])


def _version_and_tables(base: sqlite3.Connection) -> tuple[int, list[str]]:
    """The format of a database, and the names of its tables."""
    (version,) = base.execute("PRAGMA user_version").fetchone()
    rows = base.execute("SELECT name FROM sqlite_master WHERE type='table'").fetchall()
    return version, [name for (name,) in rows]


def existing(path: Path | str) -> Answers:
    """A journal that must be there already, to be read.

    Raises:
        DataError: there is none.
    """
    place = Path(path)
    if not place.is_file() or not place.stat().st_size:
        what = "the file is empty:" if place.is_file() else "there is no file"
        raise DataError(f"{what} {path}. Name the answers that `trmml review ask` wrote.")
    return Answers(place, read_only=True)
