"""Check a data set: count it, compare with the published counts, find missing and broken files."""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trmml.datasets.base import Dataset, in_both
from trmml.datasets.catalog import (
    Counts,
    count_differences,
    expected_counts,
    find_reader,
    leave_out,
    read_unchecked,
)
from trmml.datasets.image_files import written_otherwise
from trmml.datasets.options import Split, parse_options
from trmml.errors import DataError, TrmmlError
from trmml.images import read_image
from trmml.storage.hashes import hash_file

Progress = Callable[[str, int, int], None]
_log = logging.getLogger(__name__)

SPLITS: tuple[Split, ...] = ("train", "test")
_AT_ONCE = 256  # images that threads decode between two reports of progress


@dataclass(frozen=True)
class Problem:
    """Something that is wrong, and what to do about it.

    Args:
        split: where; None for the whole set.
        what: in words.
        advice: what to do.
        files: the files concerned, all of them.
    """

    split: Split | None
    what: str
    advice: str
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class SplitCount:
    """What a split holds.

    Args:
        split: which.
        images: how many its files list, without those that missing=drop leaves out.
        categories: how many.
        known_share: of all pairs, in [0, 1].
        positives: pairs known to be present.
        negatives: pairs known to be absent.
        boxes: how many; None where the set has no boxes.
        expected: the published counts; None where there are none.
    """

    split: Split
    images: int
    categories: int
    known_share: float
    positives: int
    negatives: int
    boxes: int | None
    expected: Counts | None


@dataclass(frozen=True)
class Checked:
    """The outcome of a check.

    Args:
        name: of the data set.
        root: its folder.
        splits: those that could be read.
        problems: what makes the set unfit; none when `ok`.
        notes: what is worth knowing and no fault.
    """

    name: str
    root: Path
    splits: tuple[SplitCount, ...]
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON can hold it."""
        return {**asdict(self), "root": str(self.root), "ok": self.ok}


def check(
    name: str,
    root: Path,
    options: Mapping[str, str],
    *,
    splits: Sequence[Split] = SPLITS,
    decode: bool = False,
    progress: Progress | None = None,
) -> Checked:
    """Return what a data set holds and all that is wrong with it.

    Published counts are compared with what the files list. What missing=drop leaves out of that is
    a note, and counts and all other checks are of the rest.

    Args:
        name: one of `named.READERS`.
        root: its folder.
        options: the reader's choices.
        splits: which to check.
        decode: also decode every image, and compare files of one size byte for byte.
        progress: called with (what, done, total) while images are decoded.

    Raises:
        ConfigError: there is no such name or option.
    """
    reader = find_reader(name)
    chosen = parse_options(reader.options, options, name)
    counts: list[SplitCount] = []
    problems: list[Problem] = []
    notes: list[str] = []
    data: dict[Split, Dataset] = {}
    for split in splits:
        try:
            listed, missing = read_unchecked(reader, root, split, chosen)
        except DataError as error:
            problems.append(Problem(split, str(error), "Correct this, then check again."))
            continue
        except TrmmlError:  # in the arguments, not in the files
            raise
        except Exception as error:  # what a reader did not foresee must not end the check
            problems.append(_unforeseen(root, split, error))
            continue
        expected = expected_counts(reader, split, chosen)
        problems += _count_problems(listed, split, expected, name)
        data[split] = listed
        if chosen.missing == "drop" and 0 < len(missing) < len(listed):
            notes.append(_left_out(listed, split, missing))
            data[split], missing = leave_out(listed, missing), []
        counts.append(_count(data[split], split, expected))
        problems += _file_problems(data[split], split, missing, decode, progress)
        if reader.counts and expected is None:
            notes.append(f"{split}: no counts were published for these options to compare with")
        notes += _notes(data[split], split)
    problems += _pair_problems(data)
    if decode:
        notes += _copies(data)
    return Checked(name, root, tuple(counts), tuple(problems), tuple(notes))


def _unforeseen(root: Path, split: Split, error: Exception) -> Problem:
    _log.info("reading %s ended unexpectedly", root, exc_info=error)
    return Problem(
        split,
        f"reading {root} ended in an unexpected {type(error).__name__}: {error}",
        "Compare the files with docs/data.md. If they are as it says, please report this with what "
        "--verbose shows.",
    )


def _count(data: Dataset, split: Split, expected: Counts | None) -> SplitCount:
    matrix = data.matrix
    return SplitCount(
        split=split,
        images=len(data),
        categories=len(data.category_names),
        known_share=matrix.known_share,
        positives=int(matrix.positives.sum()),
        negatives=int(matrix.negatives.sum()),
        boxes=None if data.boxes is None else len(data.boxes),
        expected=expected,
    )


def _count_problems(
    data: Dataset, split: Split, expected: Counts | None, name: str
) -> list[Problem]:
    """Return each count that differs from the published one, and what no set has."""
    advice = (
        f"Another version of {name}, a cut list or another option. Compare the files with "
        "docs/data.md, and fetch again what differs."
    )
    problems = [Problem(split, what, advice) for what in count_differences(data, expected)]
    if len(data) and not data.matrix.labels.any():
        problems.append(Problem(split, "no label is present", "Fill in what the images show."))
    return problems


def _left_out(data: Dataset, split: Split, missing: Sequence[int]) -> str:
    return (
        f"{split}: {len(missing):,} of {len(data):,} images are not there and were left out "
        f"(missing=drop), first {data.images[missing[0]]}"
    )


def _file_problems(
    data: Dataset,
    split: Split,
    missing: Sequence[int],
    decode: bool,
    progress: Progress | None,
) -> Iterator[Problem]:
    if missing:
        some = ", or leave them out with option missing=drop" if len(missing) < len(data) else ""
        yield Problem(
            split,
            f"{len(missing):,} of {len(data):,} images are not there"
            + written_otherwise(data.root, data.images[missing[0]]),
            f"Copy them to {data.root}{some}.",
            tuple(data.images[index] for index in missing),
        )
    if not decode:
        return
    gone = set(missing)
    there = [name for index, name in enumerate(data.images) if index not in gone]
    broken = _broken(data.root, there, split, progress)
    if broken:
        yield Problem(
            split,
            f"{len(broken):,} images cannot be decoded, first: {next(iter(broken.values()))}",
            "Copy them again, or take them out of the list.",
            tuple(broken),
        )


def _broken(
    root: Path, images: Sequence[str], split: Split, progress: Progress | None
) -> dict[str, str]:
    """Return the images that cannot be decoded, each with the reason."""

    def reason(name: str) -> str | None:
        try:
            read_image(root / name)
        except DataError as error:
            return str(error)
        return None

    broken: dict[str, str] = {}
    with ThreadPoolExecutor() as threads:
        for start in range(0, len(images), _AT_ONCE):
            names = images[start : start + _AT_ONCE]
            reasons = zip(names, threads.map(reason, names), strict=True)
            broken |= {name: why for name, why in reasons if why is not None}
            if progress is not None:
                progress(f"decode {split}", start + len(names), len(images))
    return broken


def _notes(data: Dataset, split: Split) -> Iterator[str]:
    without = [
        name
        for name, count in zip(data.category_names, data.matrix.positives.tolist(), strict=True)
        if not count
    ]
    if without:
        yield f"{split}: {len(without)} categories have no positive, first {without[0]!r}"
    silent = len(data) - len(data.matrix.answered)
    if silent:
        yield f"{split}: {silent} images have no known label"
    repeats = len(data) - len(set(data.images))
    if repeats:
        yield f"{split}: {repeats} images are the same as another"


def _copies(data: Mapping[Split, Dataset]) -> Iterator[str]:
    """Files that are byte for byte the same and labelled otherwise, or in train and in test."""
    groups = [group for group in _same_files(data) if len(group) > 1]
    against = [found for group in groups if (found := _contradiction(data, group)) is not None]
    if against:
        yield (
            f"images that are byte for byte the same and labelled otherwise: {len(against)} groups,"
            f" first {against[0]}"
        )
    across = [group for group in groups if {"train", "test"} <= {split for split, _ in group}]
    if across:
        first = {split: data[split].images[number] for split, number in reversed(across[0])}
        tested = sum(split == "test" for group in across for split, _ in group)
        yield (
            f"test images that are byte for byte training images: {tested}, first {first['test']}"
            f" and {first['train']}; scores on them flatter"
        )


def _same_files(data: Mapping[Split, Dataset]) -> Iterator[list[tuple[Split, int]]]:
    """Images of other names with the same content; files of a size that no other has are not read.

    A file that cannot be read has no copy here; it is a problem of its own.
    """
    sizes: dict[int, dict[Path, list[tuple[Split, int]]]] = defaultdict(lambda: defaultdict(list))
    for split, own in data.items():
        for number, path in enumerate(own.paths):
            if path.is_file():
                sizes[path.stat().st_size][path].append((split, number))
    for size, files in sizes.items():
        same: dict[str, list[tuple[Split, int]]] = defaultdict(list)
        for path, places in files.items() if size and len(files) > 1 else ():
            try:
                same[hash_file(path)] += places
            except OSError:
                continue
        yield from same.values()


def _contradiction(data: Mapping[Split, Dataset], group: Sequence[tuple[Split, int]]) -> str | None:
    """The first category that two copies contradict each other in, after their names."""
    present, absent = dict[str, str](), dict[str, str]()  # the first copy that says so
    for split, number in group:
        own = data[split]
        for c in own.matrix.known[number].nonzero()[:, 0].tolist():
            said = present if own.matrix.labels[number, c] else absent
            said.setdefault(own.category_names[c], own.images[number])
    category = min(present.keys() & absent.keys(), default=None)
    if category is None:
        return None
    return f"{present[category]} and {absent[category]} ({category})"


def _pair_problems(data: Mapping[Split, Dataset]) -> Iterator[Problem]:
    """Yield what does not fit between training and test set."""
    if len(data) < 2:
        return
    train, test = data["train"], data["test"]
    if train.category_names != test.category_names:
        other = sorted(set(train.category_names) ^ set(test.category_names))
        difference = f"{other[0]!r} is in one only" if other else "their order differs"
        yield Problem(
            None,
            f"train and test have different categories: {difference}",
            "Give both the same list of categories.",
        )
    both = in_both(train, test)
    if both:
        yield Problem(
            None,
            f"{len(both):,} images are in train and in test",
            "Take them out of one: a score on training images means nothing.",
            tuple(both),
        )
