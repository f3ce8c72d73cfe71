"""Read WebDataset shards: tar files in which an image and its labels share a name.

    train.tar or train-000000.tar ..., test-*.tar; also below train/ and test/
        0001.jpg    an image (.jpg, .jpeg, .png, .webp, .gif, .bmp, .tif, .tiff)
        0001.json   {"labels": ["cat"]}, {"present": [...], "absent": [...]} or {"cat": 1, "dog": 0}
        0001.txt    names, one per line or with ; between, where there is no .json
        0001.cls    one number, where there is neither; names by option categories=FILE

Files with one name up to the first dot of the last part belong together, wherever in the shard
they stand. An image without labels is unknown throughout. For lists without `absent` it must be
said what a category means that is not listed: option blank=absent or blank=unknown. Images are
unpacked once, named by their content; see `unpack.py`. Links in a shard are passed over.
"""

import json
import re
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
from pydantic import Field

from trmml.datasets.base import Dataset
from trmml.datasets.files import find_file
from trmml.datasets.options import Split
from trmml.datasets.packed import LIST_COLUMNS, Pack, PackedOptions, read_packs
from trmml.datasets.parquet import find_parts
from trmml.datasets.tables import as_utf8
from trmml.errors import DataError
from trmml.images import SUFFIXES

_LABELS = ("json", "txt", "cls")


class WebDatasetOptions(PackedOptions):
    """Choices of `webdataset`."""

    train: str = Field("", description="pattern of the training shards; found when empty")
    test: str = Field("", description="pattern of the test shards; found when empty")


def read_webdataset(root: Path, split: Split, options: WebDatasetOptions) -> Dataset:
    """Return a split's images, unpacked, with their labels; see the module.

    Raises:
        DataError: there are no such shards, one is damaged, or something must be said first.
    """
    files = find_parts(root, {"train": options.train, "test": options.test}, ".tar")
    if split not in files:
        find_file(root, [f"{split}.tar", f"{split}-*.tar"], f"the {split} shards")
    samples = {part: [list(_samples(path)) for path in paths] for part, paths in files.items()}
    answers = [sample for shards in samples.values() for shard in shards for sample in shard]
    columns = _columns([sample.labels for sample in answers], options.labels)
    packs = {
        part: [
            _pack(path, shard, columns) for path, shard in zip(paths, samples[part], strict=True)
        ]
        for part, paths in files.items()
    }
    return read_packs(root, split, packs, options)


class _Sample(NamedTuple):
    """An image's place in its shard, and what its label file says; None without one."""

    image: str
    labels: dict[str, Any] | None


def _samples(path: Path) -> Iterator[_Sample]:
    """Yield the images of a shard with their labels, in the order of the images."""
    images: dict[str, str] = {}
    said: dict[str, tuple[int, dict[str, Any]]] = {}
    for archive, member in _members(path):
        folder, slash, name = member.name.rpartition("/")
        stem, _, suffix = name.partition(".")
        key = f"{folder}{slash}{stem}"
        if f".{suffix.lower()}" in SUFFIXES:
            if key in images:
                raise DataError(
                    f"{path}: {images[key]} and {member.name} share a name. Rename one."
                )
            images[key] = member.name
        elif suffix.lower() in _LABELS:
            rank = _LABELS.index(suffix.lower())
            if key not in said or rank < said[key][0]:
                file = archive.extractfile(member)
                said[key] = (rank, _parse(file.read() if file else b"", suffix.lower(), path, name))
    if not images:
        raise DataError(f"{path} holds no image ({' '.join(SUFFIXES)}). Name the shards that do.")
    yield from (_Sample(name, said.get(key, (0, None))[1]) for key, name in images.items())


def _members(path: Path) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """Yield the plain files of a shard; nothing is written, so a name may lead anywhere."""
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                if member.isfile():
                    yield archive, member
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise DataError(f"{path} is no tar file, or cut off: {error}. Copy it again.") from error


def _parse(data: bytes, suffix: str, path: Path, name: str) -> dict[str, Any]:
    where = f"{path}, {name}"
    text = as_utf8(Path(where), data).decode().strip()
    if suffix == "txt":
        return {"present": [word.strip() for word in re.split("[;\n]", text) if word.strip()]}
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{where} is no JSON: {error.msg}. Write it again.") from error
    if suffix == "cls" and isinstance(value, int):
        return {"label": [value]}
    if isinstance(value, list):
        return {"present": value}
    if isinstance(value, dict):
        return value
    raise DataError(f"{where}: expected an object or a list of names, got {text!r:.60}.")


def _columns(labels: Iterable[dict[str, Any] | None], chosen: str) -> list[str]:
    """Return the keys that hold labels: the chosen one, lists of names, or all keys."""
    keys = dict.fromkeys(key for said in labels if said is not None for key in said)
    if chosen:
        return [key for key in keys if key in (chosen.partition(".")[0], chosen, "absent")]
    lists = [key for key in keys if key in LIST_COLUMNS]
    return [key for key in keys if key in ("absent", *lists)] if lists else list(keys)


def _pack(path: Path, samples: Sequence[_Sample], columns: Sequence[str]) -> Pack:
    rows = [sample.labels or {} for sample in samples]
    data = {
        key: pl.Series(key, _alike([row.get(key) for row in rows], key, path)) for key in columns
    }
    silent = frozenset(row for row, sample in enumerate(samples) if sample.labels is None)
    names = [sample.image for sample in samples]
    return Pack(path, pl.DataFrame(data), partial(_images, path, names), silent)


def _alike(values: list[Any], key: str, path: Path) -> list[Any]:
    """Return the values of a key, checked to be of one kind; polars would make them one."""
    kinds = {_kind(value) for value in values if value is not None}
    if len(kinds - {"empty lists"}) > 1 or "mixed lists" in kinds:
        raise DataError(
            f"{path}: {key!r} holds {' and '.join(sorted(kinds))}. Write all alike, for example as "
            '{"present": ["cat"], "absent": ["dog"]}.'
        )
    return [int(value) if isinstance(value, bool) else value for value in values]


def _kind(value: Any) -> str:
    if isinstance(value, int | float):
        return "answers"
    if not isinstance(value, list):
        return type(value).__name__
    if all(isinstance(entry, str) for entry in value):
        return "names" if value else "empty lists"
    return "numbers" if all(type(entry) is int for entry in value) else "mixed lists"


def _images(path: Path, names: Sequence[str]) -> Iterator[bytes]:
    """Yield the images of a shard in the order of their samples, which is that of the shard."""
    wanted = iter(names)
    name = next(wanted, None)
    for archive, member in _members(path):
        if member.name == name:
            file = archive.extractfile(member)
            yield file.read() if file else b""
            name = next(wanted, None)
