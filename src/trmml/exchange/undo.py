"""Take words back out of sidecars: exactly, where nobody touched them since, else word by word."""

import glob
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from trmml.errors import DataError
from trmml.exchange.ledger import Entry, Ledger
from trmml.exchange.naming import is_raw, place_of
from trmml.exchange.sidecars import Report, alone, bytes_of, force, replaced, sha256
from trmml.exchange.splice import DATE, Edit, label, spliced, unspliced
from trmml.exchange.xmp import ABOUT, Element, Packet, list_of, parse


@dataclass
class Undone(Report):
    """What became of the sidecars; `written` are those without our words now.

    Attributes:
        removed: sidecars that were ours alone, and are gone.
        moved: sidecars that others edited since, with what of ours is no longer there.
        doubtful: sidecars of which nobody knows whether they were written; they are left alone.
        nothing: names of which the ledger holds nothing, or nothing more.
    """

    removed: list[Path] = field(default_factory=list)
    moved: list[tuple[Path, str]] = field(default_factory=list)
    doubtful: list[Path] = field(default_factory=list)
    nothing: list[str] = field(default_factory=list)


def undo(ledger: Path, named: Sequence[str | Path] | None = None) -> Undone:
    """Undo what a ledger holds, the last first; to repeat it does no harm.

    Args:
        ledger: that `write_sidecars` wrote.
        named: images whose sidecars are meant, folders of them and patterns, there or not; None for
            all. Raw files of the same name go with an image.

    Raises:
        DataError: there is no such ledger, or a name is neither there nor in the ledger.
    """
    book, report = Ledger(ledger), Undone()
    entries, done, _ = book.read()
    if named is not None:
        entries = _of(entries, named, report)
    undone = list[str]()
    for entry in reversed(entries):
        try:
            if _taken_back(entry, entry.id in done, report):
                undone.append(entry.id)
        except (DataError, OSError) as error:
            report.take(Path(entry.sidecar), error)
    for folder in {Path(entry.sidecar).parent for entry in entries}:
        if folder.is_dir():
            force(folder)
    book.mark("undone", undone)
    return report


def _of(entries: list[Entry], named: Sequence[str | Path], report: Undone) -> list[Entry]:
    """The entries of what is named, by their paths alone: an image may be gone since.

    Raises:
        DataError: a name is neither there nor in the ledger.
    """
    found = defaultdict[str, set[str]](set)
    for entry in entries:
        for key in _keys(Path(entry.image)):
            found[key].add(entry.id)
    wanted = set[str]()
    for name in map(str, named):
        matched = glob.glob(name, recursive=True)
        paths = [name] if os.path.lexists(name) or not matched else matched
        ids = set[str]().union(*(found.get(key, ()) for path in paths for key in _asked(path)))
        if not (ids or matched or os.path.lexists(name)):
            raise DataError(
                f"{name} does not exist, and the ledger holds nothing of it. Name images, folders"
                " or patterns that `trmml sidecar write` was given."
            )
        report.nothing += [] if ids else [name]
        wanted |= ids
    return [entry for entry in entries if entry.id in wanted]


def _keys(image: Path) -> list[str]:
    """What an image of the ledger is found by: itself, and its folders with a slash behind."""
    beside = [_any_raw(str(image))] if is_raw(image) else []
    return [str(image), *beside, *(os.path.join(folder, "") for folder in image.parents)]


def _asked(path: str) -> list[str]:
    """The keys of what is named: a folder, or an image with the raw files of its name."""
    if os.path.isdir(path):
        return [os.path.join(os.path.realpath(path), "")]
    place = place_of(path)
    return [place] if is_raw(Path(place)) else [place, _any_raw(place)]


def _any_raw(image: str) -> str:
    return f"{os.path.splitext(image)[0]}.*"


def _taken_back(entry: Entry, written: bool, report: Undone) -> bool:
    """Whether an entry is settled: its words are gone, or never came."""
    path = Path(entry.sidecar)
    now = bytes_of(path)
    if now is None and not path.parent.is_dir():
        raise DataError(
            "its folder is not there; bring it back, or connect its drive, and undo again"
        )
    if now is None and not os.path.lexists(entry.image):
        # Both may have been moved: the words are still ours where they are now.
        report.moved.append((path, "the image is gone, and the sidecar with it"))
        return False
    hashed = None if now is None else sha256(now)
    if hashed == entry.before:
        return True
    if now is None:
        report.moved.append((path, "the sidecar is gone"))
        return True
    if hashed == entry.after:
        return _put_back(path, now, entry, report)
    if not written:
        report.doubtful.append(path)
        return False
    new, missing = _without(parse(now), entry)
    if missing:
        report.moved.append((path, ", ".join(missing)))
    if entry.before is None and _is_bare(parse(new)):
        return _removed(path, now, report)
    if new != now and not replaced(path, now, new):
        raise DataError("changed while it was written; try again")
    report.written.append(path)
    return True


def _put_back(path: Path, now: bytes, entry: Entry, report: Undone) -> bool:
    """The bytes of before, to the last one; a sidecar that we made goes."""
    if entry.before is None:
        return _removed(path, now, report)
    old = unspliced(now, entry.spliced)
    if sha256(old) != entry.before:
        raise DataError("does not fit its entry in the ledger, which is damaged")
    if not replaced(path, now, old):
        raise DataError("changed while it was written; try again")
    report.written.append(path)
    return True


def _removed(path: Path, now: bytes, report: Undone) -> bool:
    with alone(path.parent):
        if bytes_of(path) != now:
            raise DataError("changed while it was removed; try again")
        path.unlink()
    report.removed.append(path)
    return True


def _without(packet: Packet, entry: Entry) -> tuple[bytes, list[str]]:
    """The bytes of an edited sidecar without our words; and which of them were not found.

    Copied words go with the field that we made for them, where nobody changed it.
    """
    edits, missing = list[Edit](), list[str]()
    for name, ours in entry.ours.items():
        if packet.words(name) == [*entry.copied.get(name, []), *ours] and name in entry.copied:
            edits += [_gone(packet.data, each) for each in packet.properties(name)]
            continue
        left = list(ours)
        lists = [list_of(each) for each in packet.properties(name)]
        for item in reversed([item for each in lists if each for item in each.children]):
            if (text := item.text.strip()) in left:
                left.remove(text)
                edits.append(_gone(packet.data, item))
        missing += [f"{label(name)} {text!r}" for text in left]
    return spliced(packet.data, sorted(edits)), missing


def _gone(data: bytes, element: Element) -> Edit:
    """An element taken out, with the space before it."""
    start = element.start
    while data[start - 1 : start].isspace():
        start -= 1
    return Edit(start, data[start : element.end], b"")


def _is_bare(packet: Packet) -> bool:
    """Whether nothing but a date is left in a sidecar."""
    return all(
        set(each.attributes) <= {ABOUT, DATE}
        and all(p.name == DATE or (not packet.words(p.name) and not p.attributes
                and not (p.children and list_of(p) is None)) for p in each.children)
        for each in packet.descriptions
    )  # fmt: skip
