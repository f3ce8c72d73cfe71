"""What a journal's rows say of each pair: the last word of each person, and where they disagree."""

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from trmml.curation.answers import Answer, State
from trmml.curation.tally import taken_back
from trmml.datasets.base import Dataset
from trmml.datasets.tables.names import clean_name
from trmml.labels.matrix import LabelMatrix
from trmml.storage.cache import cache_folder
from trmml.storage.hashes import ContentHashes, hash_file

# A pair that somebody was unsure of is left alone for so long.
UNSURE_DAYS = 30
# Identity of the image, or its place where places are given; name of the category.
Pair = tuple[str | int, str]
Places = Mapping[str, Sequence[int]]  # the images of an identity: copies have one


@dataclass
class Standing:
    """What is settled, and what is not to be asked.

    Attributes:
        last: the last row of each pair that answers present or absent, with its state now;
            "unknown" where people disagree.
        resting: pairs that somebody was unsure of within the last 30 days.
        skipped: pairs that somebody passed over.
        taken: ids of rows that were taken back.
    """

    last: dict[Pair, tuple[Answer, State]] = field(default_factory=dict)
    resting: set[Pair] = field(default_factory=set)
    skipped: set[Pair] = field(default_factory=set)
    taken: set[str] = field(default_factory=set)


def identity(row: Answer) -> str:
    """By what an image is known: the hash of its bytes, or its name where that was not read."""
    return row.sha256 or row.image


def standing(
    rows: Sequence[Answer], at: datetime | None = None, places: Places | None = None
) -> Standing:
    """What rows say together.

    The last answer of each person on each pair counts; what was undone does not, and an undo may
    itself be undone. A skip says nothing, so the answer before it counts.

    Args:
        rows: in the order of their ids.
        at: the present; by default now.
        places: of images by their identity. Rows of several identities may be about one place, as
            where a hash was not read; they count together. Rows of others stay by themselves.
    """
    undos = ((row.id, row.undoes) for row in reversed(rows) if row.undoes is not None)
    found = Standing(taken=taken_back(undos))
    rested = (at or datetime.now(UTC)) - timedelta(days=UNSURE_DAYS)
    earliest = rested.strftime("%Y-%m-%dT%H:%M:%SZ")
    spoken: set[tuple[Pair, str]] = set()
    named = functools.cache(clean_name)
    for row in reversed(rows):
        if row.id in found.taken or row.undoes is not None:
            continue
        image, category = identity(row), named(row.category)
        for pair in ((each, category) for each in (places or {}).get(image) or (image,)):
            if row.answer == "skip":
                found.skipped.add(pair)
            elif (pair, row.who) not in spoken:
                spoken.add((pair, row.who))
                _count(found, pair, row, earliest)
    return found


def _count(found: Standing, pair: Pair, row: Answer, earliest: str) -> None:
    """Take one person's word on a pair."""
    if row.answer == "unsure":
        if row.at >= earliest:
            found.resting.add(pair)
    elif row.answer is not None and row.answer != "skip":
        before = found.last.setdefault(pair, (row, row.answer))
        if before[1] != row.answer:
            found.last[pair] = (before[0], "unknown")


@dataclass(frozen=True)
class Applied:
    """A data set with its answers.

    Attributes:
        data: with answers in the place of labels.
        pairs: of each (image index, category index) that was answered, its state now.
        changed: answers that found another label than the one the person saw; the answer counts.
        disagreed: pairs that people disagree about, which became unknown.
        other_images: rows about images that are not in the data; they stay in the journal.
        other_categories: rows of each category that the data lacks; they stay too.
    """

    data: Dataset
    pairs: dict[tuple[int, int], State]
    changed: list[Answer]
    disagreed: list[Answer]
    other_images: int
    other_categories: dict[str, int]

    def lines(self) -> list[str]:
        """What people should know of it."""
        count = len(self.pairs)
        lines = [f"{count} answered {'pair' if count == 1 else 'pairs'} taken"]
        for what, rows in (
            ("found another label than the person saw; the answer counts", self.changed),
            ("are unknown, as people disagree", self.disagreed),
        ):
            first = "; ".join(f"{row.image}: {row.category}" for row in rows[:5])
            if rows:
                lines.append(f"{len(rows)} {what}: {first}{' ...' if len(rows) > 5 else ''}")
        if self.other_images:
            lines.append(
                f"{self.other_images} answers are about images that are not here; they stay in the"
                " journal"
            )
        for name, count in self.other_categories.items():
            lines.append(f"{count} answers are about {name!r}, no category here; they stay, too")
        return lines


def apply_answers(data: Dataset, rows: Sequence[Answer], places: Places | None = None) -> Applied:
    """The data with what people answered.

    Args:
        data: images and labels.
        rows: in the order of their ids.
        places: of images by their identity; by default by the contents of their files.
    """
    places = places_by_content(data, rows) if places is None else places
    settled = standing(rows, places=places).last
    columns = {clean_name(name): place for place, name in enumerate(data.category_names)}
    labels, known = data.matrix.labels.clone(), data.matrix.known.clone()
    found = Applied(data, {}, [], [], 0, {})
    other_images, disagreed = 0, dict[str, Answer]()

    def seen(row: Answer, place: int) -> bool:
        """Whether it is the copy that the person saw: that of the name, or else the first."""
        return place == min(places[identity(row)], key=lambda each: data.images[each] != row.image)

    for (place, category), (row, state) in settled.items():
        if isinstance(place, str):
            other_images += 1
            continue
        if category not in columns:
            count = found.other_categories.get(category, 0)
            found.other_categories[category] = count + seen(row, place)
            continue
        pair = place, columns[category]
        here = ("absent", "present")[int(labels[pair])] if bool(known[pair]) else "unknown"
        if here not in (row.was, state) and seen(row, place):
            found.changed.append(row)
        labels[pair], known[pair] = state == "present", state != "unknown"
        found.pairs[pair] = state
        if state == "unknown":
            disagreed[row.id] = row  # once, however many copies
    data = replace(data, matrix=LabelMatrix(labels, known))
    return Applied(
        data, found.pairs, found.changed, [*disagreed.values()], other_images,
        found.other_categories,
    )  # fmt: skip


def places_by_name(data: Dataset, rows: Sequence[Answer]) -> dict[str, list[int]]:
    """The images of each identity in a journal by their names alone, where no file is at hand."""
    places = {name: place for place, name in enumerate(data.images)}
    named = dict.fromkeys((identity(row), row.image) for row in rows if row.image in places)
    found = dict[str, list[int]]()
    for image, name in named:
        found.setdefault(image, []).append(places[name])
    return found


def places_by_content(data: Dataset, rows: Sequence[Answer]) -> dict[str, list[int]]:
    """The images of each identity in a journal: those named in it, else the first of that content.

    Files that are named are read first, none twice; all are read only where one was renamed. What
    was read is remembered.
    """
    names = {name: place for place, name in enumerate(data.images)}
    named = dict.fromkeys((identity(row), row.sha256, row.image) for row in rows)
    missing, found = {row.sha256 for row in rows} - {""}, dict[str, list[int]]()
    hashes = ContentHashes(cache_folder() / "answers", hashlib.sha256)
    contents = dict[int, str]()

    def content(place: int) -> str:
        if place not in contents:
            try:
                contents[place] = hashes.look_up(data.root / data.images[place])
            except OSError:  # whoever reads the image says why
                contents[place] = ""
        return contents[place]

    for image, sha256, name in named:
        if name in names and sha256 in ("", content(names[name])):
            found.setdefault(image, []).append(names[name])
            missing.discard(sha256)
    for place in range(len(data)):
        if not missing:
            break
        if (sha256 := content(place)) in missing:
            found[sha256] = [place]
            missing.discard(sha256)
    hashes.save()
    return found


def sha256_of(path: Path) -> str:
    """The hash by which a journal knows an image; "" where it cannot be read."""
    try:
        return hash_file(path)
    except OSError:
        return ""
