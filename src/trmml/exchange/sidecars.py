"""Sidecars that get words: each is old or new at any moment, and what was done can be undone."""

import errno
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from trmml.curation.answers import new_id, now
from trmml.errors import DataError
from trmml.exchange.embedded import Inside, embedded_keywords
from trmml.exchange.ledger import Entry, Ledger
from trmml.exchange.naming import place_of, resolved
from trmml.exchange.readers import Keywords, hidden, keywords_of
from trmml.exchange.splice import EMPTY, OWN, added, checked
from trmml.exchange.words import Additions, Word, additions, provenance, refuse_hidden, unsaid
from trmml.exchange.xmp import LARGEST, parse
from trmml.storage.atomic import FULL, whole_file

try:
    import fcntl
except ImportError:  # Windows; two writers at once are then told apart by the bytes alone
    fcntl: Any = None  # type: ignore[no-redef]

# So many sidecars are entered into the ledger, and forced to the disk, at once.
BATCH = 64
TRIES = 3
_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)


class Job(NamedTuple):
    """A sidecar to be written.

    Attributes:
        image: whose keywords are read; it is never written.
        sidecar: to be written.
        root: folder that no link may lead out of.
        words: that the image shows.
        base: sidecar to begin with, where `sidecar` is in another folder and not there yet.
    """

    image: Path
    sidecar: Path
    root: Path
    words: tuple[Word, ...]
    base: Path | None = None


@dataclass(frozen=True)
class Manner:
    """How words are written.

    Attributes:
        fields: of the programs that are to read them.
        under: place in a tree of keywords for new words.
        provenance: whether name, probability and run are kept in the sidecar, too.
        bare: leave out what the image itself says.
    """

    fields: tuple[str, ...]
    under: tuple[str, ...] = ()
    provenance: bool = False
    bare: bool = False


class Change(NamedTuple):
    """What would become of a sidecar.

    Attributes:
        path: links followed.
        old: its bytes; None where there is none yet.
        base: the bytes that words are put into.
        new: the bytes with them.
        entry: for the ledger.
        inside: what the image may hold that a new field would hide.
    """

    path: Path
    old: bytes | None
    base: bytes
    new: bytes
    entry: Entry
    inside: Inside


@dataclass
class Report:
    """What became of the sidecars.

    Attributes:
        written: those that got words.
        created: those of them that are new.
        unchanged: how many had all words before.
        hiding: images whose own keywords `bare` left out of a new sidecar.
        refused: those that stay as they are, with the reason.
        read_only: those in places that cannot be written.
    """

    written: list[Path] = field(default_factory=list)
    created: list[Path] = field(default_factory=list)
    unchanged: int = 0
    hiding: list[Path] = field(default_factory=list)
    refused: list[tuple[Path, str]] = field(default_factory=list)
    read_only: list[Path] = field(default_factory=list)

    def count(self, job: Job, change: Change, *, bare: bool) -> None:
        """Count what is written, or would be."""
        self.written.append(job.sidecar)
        if change.old is None:
            self.created.append(job.sidecar)
        if bare and any(change.inside):
            self.hiding.append(job.image)

    def take(self, sidecar: Path, error: Exception) -> None:
        """Take note of what cannot be written; a full disk is nothing to go on with.

        Raises:
            OSError: the disk is full.
        """
        if isinstance(error, OSError) and error.errno in FULL:
            raise error
        if isinstance(error, OSError) and error.errno in _READ_ONLY:
            self.read_only.append(sidecar)
        else:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            self.refused.append((sidecar, reason or type(error).__name__))


def change_of(job: Job, manner: Manner) -> Change | None:
    """What would become of a sidecar; None where nothing is to be added.

    Raises:
        DataError: it is in a form that is left alone. The message follows the file's name.
        OSError: it cannot be read.
    """
    path = resolved(job.sidecar, job.root)
    old = bytes_of(path)
    base = old if old is not None else (bytes_of(job.base) if job.base else None)
    packet = parse(EMPTY if base is None else base)
    inside, beside = embedded_keywords(job.image), keywords_of(packet)
    counted: Keywords = {} if manner.bare else inside.words
    found = additions(job.words, counted, beside, manner.fields, manner.under)
    texts = found.all
    if manner.provenance:  # a word that a person wrote comes from no run
        new_words = unsaid(job.words, inside.words, beside)
        texts |= {OWN: said} if (said := provenance(new_words, packet.words(OWN))) else {}
    if not any(texts.values()):
        return None
    if found.copied and inside.unread and not manner.bare:
        raise DataError(
            f"would hide keywords that {job.image.name} may hold: it {inside.unread}. Mend that, or"
            " write all the same with --bare"
        )
    edits = added(packet, texts, at := now())
    new = checked(packet, edits, texts)
    refuse_hidden(hidden(counted, beside, keywords_of(parse(new))))
    entry = Entry(
        new_id(), at, place_of(job.image), place_of(path), _hash(old), sha256(new),
        tuple((at, old.decode(), new.decode()) for at, old, new in edits),
        _filled(found, texts.get(OWN, [])), found.copied,
    )  # fmt: skip
    return Change(path, old, packet.data, new, entry, inside)


def _filled(found: Additions, said: list[str]) -> dict[str, list[str]]:
    """All fields that change, with what is ours in each."""
    return {**found.ours, **({OWN: said} if said else {})}


def bytes_of(path: Path) -> bytes | None:
    """The bytes of a sidecar, one more than is read at most; None where there is none."""
    try:
        with path.open("rb") as file:
            return file.read(LARGEST + 1)
    except FileNotFoundError:
        return None


def sha256(data: bytes) -> str:
    """Hash of bytes, in hex."""
    return hashlib.sha256(data).hexdigest()


def _hash(data: bytes | None) -> str | None:
    return None if data is None else sha256(data)


def write_sidecars(jobs: Iterable[Job], ledger: Path, manner: Manner) -> Report:
    """Write sidecars, whole or not at all; one that cannot be written stops no other.

    What is done is on the disk in the ledger before a sidecar changes. A sidecar that another
    program changes meanwhile is read again, three times at most.

    Args:
        jobs: one after the other; each is asked for when those before it are prepared.
        ledger: file to which entries are added.
        manner: how words are written.

    Raises:
        DataError: the ledger is another file.
        OSError: the ledger cannot be written, or the disk is full.
    """
    report, book, waiting = Report(), Ledger(ledger), iter(jobs)
    book.check()
    while batch := list(islice(waiting, BATCH)):
        changes = list[tuple[Job, Change]]()
        for job in batch:
            try:
                change = change_of(job, manner)
            except (DataError, OSError) as error:
                report.take(job.sidecar, error)
                continue
            if change is None:
                report.unchanged += 1
            else:
                changes.append((job, change))
        _write(changes, book, manner, report)
    return report


def _write(changes: list[tuple[Job, Change]], book: Ledger, manner: Manner, report: Report) -> None:
    """Enter changes into the ledger, then make them."""
    book.write([change.entry for _, change in changes])
    done = list[str]()
    try:
        for job, change in changes:
            try:
                made = _made(job, change, book, manner)
            except (DataError, OSError) as error:
                report.take(job.sidecar, error)
                continue
            if made is None:
                report.unchanged += 1
                continue
            done.append(made.entry.id)
            report.count(job, made, bare=manner.bare)
    finally:
        for folder in {change.path.parent for _, change in changes}:
            force(folder)
        book.mark("done", done)


def _made(job: Job, first: Change, book: Ledger, manner: Manner) -> Change | None:
    """The change that was made in the end; None where another writer made it."""
    change: Change | None = first
    for attempt in range(TRIES):
        if attempt:
            change = change_of(job, manner)
            book.write([change.entry] if change else [])
        if change is None:
            return None
        try:
            if replaced(change.path, change.old, change.new):
                return change
        except OSError:
            if bytes_of(change.path) != change.new:  # some networks tell of an error all the same
                book.mark("undone", [change.entry.id])
            raise
        # It was never made, so `undo` need not wonder about a sidecar that others edit later.
        book.mark("undone", [change.entry.id])
    raise DataError(f"changed {TRIES} times while it was written; close the program that does")


def replaced(path: Path, old: bytes | None, new: bytes) -> bool:
    """Whether a file got new bytes, with its mode and owner; not where it has changed meanwhile.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)  # of a parallel tree
    with alone(path.parent):
        if bytes_of(path) != old:
            return False
        try:
            with whole_file(path, len(new)) as part:
                with part.open("wb") as file:
                    file.write(new)
                    file.flush()
                    os.fsync(file.fileno())
                _like(path, part)
                if bytes_of(path) != old:  # writing may have taken long
                    raise _ChangedError
        except _ChangedError:
            return False
    return True


class _ChangedError(Exception):
    pass


def _like(path: Path, part: Path) -> None:
    """Give a part the mode and, where that is allowed, the owner of the file it will replace."""
    try:
        now_ = path.stat()
    except FileNotFoundError:
        return
    part.chmod(stat.S_IMODE(now_.st_mode))
    if hasattr(os, "chown"):
        with suppress(OSError):
            os.chown(part, now_.st_uid, now_.st_gid)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """No other trmml replaces a file of the folder within the block."""
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some file systems of networks have no locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def force(folder: Path) -> None:
    """Force the names in a folder to the disk, where the system can."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
