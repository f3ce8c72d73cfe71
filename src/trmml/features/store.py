"""The feature store: what a frozen encoder computes of each image, once, kept on disk.

    ROOT/files.json              content hash of each file, by path, size and time of change
    ROOT/<checksum>-<size>.json  what each version of an encoder of one's own made of a test image
    ROOT/<key>/store.json        what the key stands for, in words
    ROOT/<key>/whole.json        shards whose checksum was right, by size and time of change
    ROOT/<key>/<name>.safetensors    a shard: features of some hundred images, never changed

The key covers the encoder's image side, its input size and preprocessing, the precision of the
encoder, who decodes, and the form the features are kept in. Of an encoder of one's own it covers
the version of the code, which the checksum does not see. Within a store a row is named by the
content of the image and its view: renaming a file costs nothing, and a changed weight or image
never meets an old feature. A shard appears whole, under a new name, or not at all, so that several
processes cannot damage it; a lock keeps them from doing the same work twice.
"""

import hashlib
import json
import logging
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from trmml.errors import DataError
from trmml.features.base import Features
from trmml.features.shards import Shard, StoreFeatures, crc, open_shard, packed
from trmml.settings.choices import StoreForm
from trmml.storage.atomic import sweep, write_json
from trmml.storage.json_text import of_kind, parse_json, parse_object
from trmml.storage.tensors import save_tensors

logger = logging.getLogger(__name__)

FORMAT = 1
BYTES = {"fp16": 2, "int8": 1, "fp32": 4}
# A killed process loses at most one shard.
SHARD_BYTES = 128 * 2**20
# Free space that filling a store leaves on the disk.
SPARE_BYTES = 512 * 2**20
# From here on, what will be written is a warning, no longer a line of the log alone.
NOTICE_BYTES = 2**30
# Relative distance of outputs below which code is the same: a card's TF32 costs a tenth of it.
SAME_VERSION = 0.01


@dataclass(frozen=True)
class StoreKey:
    """All that features depend on besides the image.

    Attributes:
        encoder: its name, for people; no part of the key.
        image_checksum: of the encoder's image side.
        size: side of the input in pixels.
        preprocessing: in words, with the digest of what it makes of a test image.
        precision: of the encoder.
        decoder: "pillow", or "card" where a card decodes JPEGs.
        form: "fp16", "int8" with a scale per patch, or "fp32".
        patches: P.
        hidden_size: W.
        feature_size: D.
        version: of the code of an encoder of one's own; "" for those of trmml.
    """

    encoder: str
    image_checksum: str
    size: int
    preprocessing: str
    precision: str
    decoder: str
    form: StoreForm
    patches: int
    hidden_size: int
    feature_size: int
    version: str = ""

    @property
    def name(self) -> str:
        """The store's folder."""
        parts = {n: v for n, v in asdict(self).items() if n != "encoder"} | {"format": FORMAT}
        if not self.version:  # stores from before there were versions stay valid
            del parts["version"]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def row_bytes(self) -> int:
        """What one view of an image takes on disk."""
        scales = 4 * self.patches if self.form == "int8" else 0
        return self.patches * self.hidden_size * BYTES[self.form] + scales + 4 * self.feature_size


class FeatureStore:
    """Features of one encoder in one form.

    Args:
        root: of all stores.
        key: what these features depend on.

    Raises:
        DataError: the folder cannot be made or read.
    """

    def __init__(self, root: Path, key: StoreKey) -> None:
        self.key, self.folder = key, root / key.name
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            card = self.folder / "store.json"
            if not card.is_file():
                write_json(card, asdict(key) | {"format": FORMAT})
            sweep(self.folder)
        except OSError as error:
            raise self._unwritable(error.strerror) from error
        self._shards: dict[str, Shard] = {}
        self._places: dict[str, tuple[str, int]] = {}

    def lacking(self, rows: Sequence[str]) -> list[str]:
        """Those of the rows that are not there or damaged, once each.

        Shards in use are checked once after they were written or changed. A damaged one is named
        in the log and removed.

        Raises:
            DataError: a shard cannot be read, or a damaged one not removed.
        """
        self._scan()
        wanted = dict.fromkeys(rows)
        used = sorted({self._places[row][0] for row in wanted if row in self._places})
        known = self._known_whole()
        for name in used:
            self._shards[name].checked |= known.get(name) == _state(self.folder / name)
        new = any(not self._shards[name].checked for name in used)
        with ThreadPoolExecutor() as pool:  # a checksum lets other threads run
            whole = list(pool.map(lambda name: self._shards[name].whole(), used))
        if new:
            self._remember_whole(known)
        for name in (name for name, good in zip(used, whole, strict=True) if not good):
            self._drop(name)
        return [row for row in wanted if row not in self._places]

    def _known_whole(self) -> dict[str, list[int]]:
        """Size and time of change of each shard when its checksum was right."""
        try:
            tree = parse_json((self.folder / "whole.json").read_bytes())
            known: dict[str, list[int]] = of_kind(dict[str, list[int]], tree)
            return known
        except (OSError, ValueError):
            return {}

    def _remember_whole(self, known: dict[str, list[int]]) -> None:
        """So that the next process need not read them; of two at once, one reads again."""
        whole = [name for name, shard in self._shards.items() if shard.checked]
        with suppress(OSError):  # a store that may only be read
            now = {name: _state(self.folder / name) for name in whole}
            write_json(self.folder / "whole.json", known | now)

    def settle_shortcut(self, holds: bool) -> None:
        """Keep whether it holds, for all images to come: features of one store are made alike."""
        write_json(self.folder / "shortcut.json", {"holds": holds})

    def features(self, names: Sequence[Sequence[str]]) -> "StoreFeatures":
        """Features to train on: V views of N rows that are all there."""
        with suppress(OSError):  # a store that may only be read is as good
            os.utime(self.folder / "store.json")  # for `trmml store ls`
        shards = list(self._shards.values())
        number = {shard.path.name: n for n, shard in enumerate(shards)}
        places = [[(number[s], r) for s, r in (self._places[n] for n in view)] for view in names]
        return StoreFeatures(shards, torch.tensor(places, dtype=torch.long))

    @contextmanager
    def filling(self, rows: Sequence[str]) -> Iterator[list[str]]:
        """Hold the store's lock while rows are added; the log announces what will be written.

        Args:
            rows: that were lacking.

        Yields:
            Those that still lack: another process may have added them while we waited.

        Raises:
            DataError: the disk has not the room, or the folder may not be written.
        """
        lock = FileLock(self.folder / ".lock")
        try:
            try:
                lock.acquire(timeout=0)
            except Timeout:
                logger.warning("another process fills the store %s; waiting for it", self.folder)
                lock.acquire()
        except OSError as error:
            raise self._unwritable(error.strerror) from error
        try:
            for left in self.folder.glob("*.part"):  # shards of a process that was killed
                if ".json." not in left.name:  # those may be written without the lock
                    left.unlink(missing_ok=True)
            lacking = self.lacking(rows)
            if lacking:
                self._foretell(len(lacking))
            yield lacking
            self._remember_whole(self._known_whole())
        finally:
            lock.release()

    def _foretell(self, count: int) -> None:
        """Say how much will be written, or refuse where there is no room for it."""
        if not self.has_room(count):
            raise self.no_room(count)
        needed, free = count * self.key.row_bytes, shutil.disk_usage(self.folder).free
        logger.log(
            logging.WARNING if needed >= NOTICE_BYTES else logging.INFO,
            "features of %d views of images will take %s in %s, where %s are free",
            *(count, _gib(needed), self.folder, _gib(free)),
        )

    def has_room(self, count: int) -> bool:
        """Whether the disk has room for so many rows, and as much to spare as is left free."""
        return count * self.key.row_bytes + SPARE_BYTES <= shutil.disk_usage(self.folder).free

    def no_room(self, count: int) -> DataError:
        """What is said where so many rows find no room."""
        needed, free = count * self.key.row_bytes, shutil.disk_usage(self.folder).free
        return DataError(
            f"features of {count} images need {_gib(needed)} in {self.folder} and "
            f"{_gib(SPARE_BYTES)} to spare, where {_gib(free)} are free; make room, name "
            "another folder with --store, use --store-form int8 (half of fp16), or --live to "
            "compute features at each use"
        )

    def _unwritable(self, reason: object) -> DataError:
        return DataError(
            f"the feature store {self.folder} cannot be written ({reason}); make room, name "
            "another folder with --store, or use --live to compute features at each use"
        )

    @property
    def shard_rows(self) -> int:
        """Rows of a full shard."""
        return max(1, SHARD_BYTES // self.key.row_bytes)

    def add(self, rows: Sequence[str], features: Features) -> None:
        """Write one shard; the rows are there when this returns.

        Raises:
            DataError: the shard cannot be written.
        """
        tensors = packed(features, self.key.form)
        names = json.dumps(list(rows))
        metadata = {"rows": names, "crc32": str(crc(tensors, names))}
        path = self.folder / f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.safetensors"
        try:
            save_tensors(path, tensors, metadata)
        except OSError as error:
            raise self._unwritable(error.strerror) from error
        shard = Shard(path)
        shard.checked = True  # its sum was taken a moment ago
        self._enter(shard)

    def _scan(self) -> None:
        """Take notice of shards that were added, by us or by others."""
        for path in sorted(self.folder.glob("*.safetensors")):
            if path.name in self._shards:
                continue
            shard = open_shard(path)
            if shard is None:
                self._drop(path.name)
            else:
                self._enter(shard)

    def _enter(self, shard: "Shard") -> None:
        self._shards[shard.path.name] = shard
        self._places |= {row: (shard.path.name, place) for place, row in enumerate(shard.rows)}

    def _drop(self, name: str) -> None:
        """Remove a damaged shard, so that its rows are computed again."""
        logger.warning(
            "%s is damaged; it is removed and its images are encoded again", self.folder / name
        )
        self._shards.pop(name, None)
        self._places = {row: place for row, place in self._places.items() if place[0] != name}
        try:
            (self.folder / name).unlink(missing_ok=True)
        except OSError as error:
            raise self._unwritable(error.strerror) from error


def settled_shortcut(folder: Path) -> bool | None:
    """Whether a store's large JPEGs are decoded smaller; None before one was met."""
    path = folder / "shortcut.json"
    try:
        return bool(parse_object(path.read_bytes())["holds"])
    except (OSError, ValueError, KeyError):  # damaged: it is found out again
        return None


def code_version(root: Path, key: StoreKey, made: list[list[float]], *, keep: bool) -> str:
    """Which version of an encoder makes this of a test image: one that was met, or a new one.

    Processors and cards differ in the last digits. So a version is met again where its numbers are
    close, and is called by the digest of those that were kept.

    Args:
        root: of all stores.
        key: of the encoder.
        made: parts of what it makes of the test image.
        keep: whether to remember a new one.
    """
    path = root / f"{key.image_checksum[:16]}-{key.size}.json"
    try:
        known: list[list[list[float]]] = of_kind(
            list[list[list[float]]], parse_json(path.read_bytes())
        )
    except (OSError, ValueError):  # not there, or damaged: its images are encoded again
        known = []
    found = next((one for one in known if _is_close(one, made)), made)
    if found is made and keep:
        with suppress(OSError):  # a root that may only be read
            root.mkdir(parents=True, exist_ok=True)
            write_json(path, [*known, made])
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()[:16]


def _is_close(one: list[list[float]], other: list[list[float]]) -> bool:
    if [len(part) for part in one] != [len(part) for part in other]:
        return False
    pairs = ((torch.tensor(a), torch.tensor(b)) for a, b in zip(one, other, strict=True))
    return all(bool((a - b).norm() <= SAME_VERSION * b.norm()) for a, b in pairs)


def _state(path: Path) -> list[int]:
    """Size and time of change; nothing where the file is gone."""
    try:
        stat = path.stat()
    except OSError:
        return []
    return [stat.st_size, stat.st_mtime_ns]


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**28 else f"{size / 2**20:.2f} MiB"
