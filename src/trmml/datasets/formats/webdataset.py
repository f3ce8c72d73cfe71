"""Read WebDataset shards: tar files in which an image and its labels share a name.

    train.tar or train-000000.tar ..., test-*.tar; also below train/ and test/
        0001.jpg    an image (.jpg, .jpeg, .png, .webp, .gif, .bmp, .tif, .tiff)
        0001.json   {"labels": ["cat"]}, {"present": [...], "absent": [...]} or {"cat": 1, "dog": 0}
        0001.txt    names, one per line or with ; between, where there is no .json
        0001.cls    one number, where there is neither; names by option categories=FILE

Files with one name up to the first dot of the last part belong together, wherever in the shard
they stand. An image without labels is unknown throughout. What a label file may hold, and that all
must be alike, stands in `webdataset_labels.py`. For lists without `absent` it must be said what a
category means that is not listed: option blank=absent or blank=unknown. Images are unpacked once,
named by their content; see `unpack.py`. Links in a shard are passed over. A shard without the block
of zeros that closes a tar file is refused, for it may have been cut off.
"""

import lzma
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import polars as pl
from pydantic import Field

from trmml.datasets.base import Dataset
from trmml.datasets.files import find_file
from trmml.datasets.formats.packed import Pack, PackedOptions, read_packs
from trmml.datasets.formats.parquet import find_parts
from trmml.datasets.formats.webdataset_labels import Told, label_frames, parse_labels
from trmml.datasets.options import Split
from trmml.errors import DataError
from trmml.images import SUFFIXES

_LABELS = ("json", "txt", "cls")
_DAMAGED = (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError)


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
    shards = {path: list(_samples(path)) for paths in files.values() for path in paths}
    told = {path: [each.told for each in samples] for path, samples in shards.items()}
    frames = label_frames(told, options.labels)
    packs = {part: [_pack(path, shards[path], frames[path]) for path in paths]
             for part, paths in files.items()}  # fmt: skip
    return read_packs(root, split, packs, options)


class _Sample(NamedTuple):
    """An image's name in its shard, and what the file beside it says."""

    image: str
    told: Told


def _samples(path: Path) -> Iterator[_Sample]:
    """Yield the images of a shard with their labels, in the order of the images."""
    images: dict[str, str] = {}
    said: dict[str, tuple[int, Told]] = {}
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
                where = f"{path}, {member.name}"
                labels = parse_labels(_content(archive, member, path), suffix.lower(), where)
                said[key] = (rank, Told(labels, where))
    if not images:
        raise DataError(f"{path} holds no image ({' '.join(SUFFIXES)}). Name the shards that do.")
    nothing = (0, Told(None, ""))
    yield from (_Sample(name, said.get(key, nothing)[1]) for key, name in images.items())


@contextmanager
def _guarded(path: Path) -> Iterator[None]:
    try:
        yield
    except _DAMAGED as error:
        raise DataError(f"{path} is no tar file, or cut off: {error}. Copy it again.") from error


def _members(path: Path) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """Yield the plain files of a shard; nothing is written, so a name may lead anywhere."""
    with _guarded(path), tarfile.open(path) as archive:
        for member in archive:
            if member.isfile():
                yield archive, member
        _check_end(archive, path)


def _check_end(archive: tarfile.TarFile, path: Path) -> None:
    """Refuse a shard after whose last member no block of zeros stands.

    Python reads a shard that was cut between two members, or that goes on with what is no member,
    as if it were complete.
    """
    assert archive.fileobj is not None
    archive.fileobj.seek(archive.offset)
    if archive.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise DataError(
            f"{path} is cut off or damaged: no block of zeros closes it at byte "
            f"{archive.offset:,}. Copy it again; if it was written so, pack it anew."
        )


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> bytes:
    with _guarded(path):
        file = archive.extractfile(member)
        return file.read() if file else b""


def _pack(path: Path, samples: Sequence[_Sample], frame: pl.DataFrame) -> Pack:
    silent = frozenset(row for row, each in enumerate(samples) if each.told.labels is None)
    names = [sample.image for sample in samples]
    return Pack(path, frame, partial(_images, path, names), silent)


def _images(path: Path, names: Sequence[str]) -> Iterator[bytes]:
    """Yield the images of a shard in the order of their samples, which is that of the shard."""
    wanted = iter(names)
    name = next(wanted, None)
    for archive, member in _members(path):
        if member.name == name:
            yield _content(archive, member, path)
            name = next(wanted, None)
