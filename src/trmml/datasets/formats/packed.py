"""Sets whose files hold the images themselves: find the files, unpack images, read labels."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
from pydantic import Field

from trmml.datasets.base import Dataset
from trmml.datasets.files import find_file
from trmml.datasets.formats.label_columns import LabelColumnOptions, read_label_columns
from trmml.datasets.formats.unpack import unpack, unpack_folder
from trmml.datasets.options import SPLIT_NAMES, Split
from trmml.errors import DataError
from trmml.labels.matrix import LabelMatrix


class PackedOptions(LabelColumnOptions):
    """What packed labels mean, and where images go."""

    unpack: str = Field(
        "", description="folder that images are unpacked into; in the user's cache when empty"
    )


class ShardOptions(PackedOptions):
    """Choices of `webdataset`, and of `parquet` beside the image column."""

    train: str = Field("", description="pattern of the training files; found when empty")
    test: str = Field("", description="pattern of the test files; found when empty")


@dataclass(frozen=True)
class Pack:
    """A file with images and labels.

    Args:
        path: the file.
        labels: its columns without the images, a row per image.
        images: reads the images' bytes in the order of the rows; called only when needed.
        unlabelled: rows without any label; they are unknown throughout.
    """

    path: Path
    labels: pl.DataFrame
    images: Callable[[], Iterable[bytes]]
    unlabelled: frozenset[int] = frozenset()


def find_shards(
    root: Path, split: Split, options: ShardOptions, suffix: str
) -> dict[Split, list[Path]]:
    """Return the files of each split that is there: by its pattern, or by the names in use.

    Raises:
        DataError: `split` is not there, or a pattern that was given matches nothing.
    """
    shards = find_usual_shards(root, suffix)
    patterns: dict[Split, str] = {"train": options.train, "test": options.test}
    for part, pattern in patterns.items():
        if pattern:
            shards[part] = _matches(root, pattern)
            if not shards[part]:
                raise DataError(f"no file in {root} matches {pattern!r} (option {part}=PATTERN).")
    if split not in shards:
        find_file(root, [f"{split}{suffix}", f"{split}-*{suffix}"], f"the {split} set", split)
    return shards


def find_usual_shards(root: Path, suffix: str) -> dict[Split, list[Path]]:
    """Return the files of each split that is there, as train-*.SUFFIX, also in data/ or train/."""
    shards: dict[Split, list[Path]] = {}
    for split, names in SPLIT_NAMES.items():
        patterns = (f"{folder}{name}{rest}{suffix}" for name in names for folder in ("", "data/")
                    for rest in ("", "[-_.]*", "/*"))  # fmt: skip
        files = next(filter(None, (_matches(root, pattern) for pattern in patterns)), None)
        if files:
            shards[split] = files
    return shards


def _matches(root: Path, pattern: str) -> list[Path]:
    return sorted(path for path in root.glob(pattern) if path.is_file())


def read_packs(
    root: Path,
    split: Split,
    packs: Mapping[Split, Sequence[Pack]],
    options: PackedOptions,
    *,
    numbered: Sequence[str] = (),
) -> Dataset:
    """Return the images of a split, unpacked, with categories that all splits share.

    Args:
        root: where `options.categories` lies.
        split: to be read; one of the keys of `packs`.
        packs: the files of each split that is there.
        options: what the labels mean.
        numbered: the names of categories that are numbers, where the files give them.

    Raises:
        DataError: labels or images cannot be read, or an option is required first.
    """
    where = packs[split][0].path
    frames = {part: [pack.labels for pack in files] for part, files in packs.items()}
    names, matrix = read_label_columns(where, split, frames, root, options, numbered=numbered)
    known, start = matrix.known.clone(), 0
    for pack in packs[split]:
        known[[start + row for row in pack.unlabelled]] = False
        start += pack.labels.height
    folder = unpack_folder(options.unpack)
    images = [name for pack in packs[split] for name in unpack(pack.path, pack.images, folder)]
    rows = tuple(range(1, len(images) + 1))
    return Dataset(folder, tuple(images), names, LabelMatrix(matrix.labels, known), rows)
