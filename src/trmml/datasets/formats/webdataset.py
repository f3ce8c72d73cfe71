"""Read WebDataset shards: tar files in which an image and its labels share a name.

    train.tar or train-000000.tar ..., test-*.tar; also below train/ and test/
        0001.jpg    an image, by one of `image_search.SUFFIXES`
        0001.json   {"labels": ["cat"]}, {"present": [...], "absent": [...]} or {"cat": 1, "dog": 0}
        0001.txt    names, one per line or with ; between, where there is no .json
        0001.cls    one number, where there is neither; names by option categories=FILE

Files with one name up to the first dot of the last part belong together, wherever in the shard
they are. So `0001.left.jpg` is no image of its own but belongs to 0001; it is counted in the log,
as are images of other formats. An image without labels is unknown throughout.
`webdataset_labels.py` explains what a label file may hold. Images are unpacked once, named by their
content; see `unpack.py`. Links in a shard are ignored. A shard without the block of zeros that
closes a tar file is refused, because it may have been cut off.
"""

import logging
import lzma
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import polars as pl

from trmml.datasets.base import Dataset
from trmml.datasets.formats.packed import Pack, ShardOptions, find_shards, read_packs
from trmml.datasets.formats.webdataset_labels import LabelFile, label_frame, parse_labels
from trmml.datasets.options import Split
from trmml.errors import DataError
from trmml.image_search import SUFFIXES, passed_over

logger = logging.getLogger(__name__)

_LABELS = ("json", "txt", "cls")
_DAMAGED = (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError)


def read_webdataset(root: Path, split: Split, options: ShardOptions) -> Dataset:
    """Return a split's images, unpacked, with their labels; see the module.

    Raises:
        DataError: there are no such shards, one is damaged, or an option is required first.
    """
    files = find_shards(root, split, options, ".tar")
    shards = {path: list(_samples(path)) for paths in files.values() for path in paths}
    frame = label_frame(
        [s.labels for shard in shards.values() for s in shard], options.labels, options.separator
    )
    packs, start = {}, 0
    for path, shard in shards.items():
        packs[path] = _pack(path, shard, frame.slice(start, len(shard)))
        start += len(shard)
    parts = {part: [packs[path] for path in paths] for part, paths in files.items()}
    return read_packs(root, split, parts, options)


class _Sample(NamedTuple):
    """An image's name in its shard, and the label file beside it."""

    image: str
    labels: LabelFile


def _samples(path: Path) -> Iterator[_Sample]:
    """Yield the images of a shard with their labels, in the order of the images."""
    images: dict[str, str] = {}
    label_files: dict[str, tuple[int, LabelFile]] = {}
    others: list[str] = []
    for archive, member in _members(path):
        folder, slash, name = member.name.rpartition("/")
        stem, _, suffix = name.partition(".")
        key, suffix = f"{folder}{slash}{stem}", suffix.lower()
        if f".{suffix}" in SUFFIXES:
            if key in images:
                raise DataError(
                    f"{path}: {images[key]} and {member.name} share a name. Rename one."
                )
            images[key] = member.name
        elif suffix in _LABELS:
            rank = _LABELS.index(suffix)
            if key not in label_files or rank < label_files[key][0]:
                labels = parse_labels(_content(archive, member, path), f"{path}, {member.name}")
                label_files[key] = (rank, labels)
        else:
            others.append(member.name)
    _tell_others(path, others, len(images))
    none = (0, LabelFile(None, ""))
    yield from (_Sample(name, label_files.get(key, none)[1]) for key, name in images.items())


def _tell_others(path: Path, names: Sequence[str], images: int) -> None:
    """Log how many members look like images and are none; an error where there is no image."""
    dotted = [name for name in names if name.lower().endswith(SUFFIXES)]
    told = passed_over([name for name in names if name not in dotted])
    if dotted:
        told = (
            f"{len(dotted)} images have a further dot in their name and are passed over (first "
            f"{dotted[0]}). Rename them if they are images of their own. {told}"
        ).strip()
    if not images:
        raise DataError(f"{path} holds no image ({' '.join(SUFFIXES)}). {told}".strip())
    if told:
        logger.warning("%s holds %d images. %s", path, images, told)


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
    """Refuse a shard without a block of zeros after its last member.

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
    unlabelled = frozenset(row for row, s in enumerate(samples) if s.labels.content is None)
    names = [sample.image for sample in samples]
    return Pack(path, frame, partial(_images, path, names), unlabelled)


def _images(path: Path, names: Sequence[str]) -> Iterator[bytes]:
    """Yield the images of a shard in the order of their samples, which is that of the shard."""
    wanted = iter(names)
    name = next(wanted, None)
    for archive, member in _members(path):
        if member.name == name:
            yield _content(archive, member, path)
            name = next(wanted, None)
