"""The feature store: what a frozen encoder says of each picture, computed once, kept on disk.

    ROOT/files.json              content hash of each file, by path, size and time of change
    ROOT/<key>/store.json        what the key stands for, in words
    ROOT/<key>/<name>.safetensors    a shard: features of some hundred pictures, never changed

The key covers the encoder's image side, its input size and preprocessing, the precision of the
encoder and the form the features are kept in. Within a store a row is named by
the content of the picture and its view: renaming a file costs nothing, and a changed weight or
picture never meets an old feature. A shard appears whole, under a new name, or not at all, so that
several processes cannot damage it; a lock keeps them from doing the same work twice.
"""

import hashlib
import json
import logging
import os
import shutil
import time
import uuid
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from filelock import FileLock, Timeout
from jaxtyping import Int, Shaped
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from trmml.cache import cache_folder
from trmml.errors import DataError
from trmml.features import Features

logger = logging.getLogger(__name__)

FORMAT = 1
Form = Literal["fp16", "int8", "fp32"]
BYTES = {"fp16": 2, "int8": 1, "fp32": 4}
# A killed process loses at most one shard.
SHARD_BYTES = 128 * 2**20
# Free space that filling a store leaves on the disk.
SPARE_BYTES = 512 * 2**20
# A file changed this recently may change again within the same tick of the clock.
FRESH_SECONDS = 2.0
# What opening a damaged shard may raise.
UNREADABLE = (SafetensorError, OSError, KeyError, TypeError, ValueError)


def default_root() -> Path:
    """Where features are kept unless another folder is named."""
    return cache_folder() / "features"


@dataclass(frozen=True)
class StoreKey:
    """All that features depend on besides the picture.

    Attributes:
        encoder: its name, for people; no part of the key.
        image_checksum: of the encoder's image side.
        size: side of the input in pixels.
        preprocessing: in words, with the digest of what it makes of a test picture.
        precision: of the encoder.
        decoder: "pillow", or "card" where a card decodes JPEGs.
        form: "fp16", "int8" with a scale per patch, or "fp32".
        patches: P.
        hidden_size: W.
        feature_size: D.
    """

    encoder: str
    image_checksum: str
    size: int
    preprocessing: str
    precision: str
    decoder: str
    form: Form
    patches: int
    hidden_size: int
    feature_size: int

    @property
    def name(self) -> str:
        """The store's folder."""
        parts = {n: v for n, v in asdict(self).items() if n != "encoder"} | {"format": FORMAT}
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def row_bytes(self) -> int:
        """What one picture and view takes on disk."""
        scales = 4 * self.patches if self.form == "int8" else 0
        return self.patches * self.hidden_size * BYTES[self.form] + scales + 4 * self.feature_size


@dataclass(frozen=True)
class StoreInfo:
    """What `trmml store ls` tells of a store."""

    key: str
    encoder: str
    size: int
    form: str
    precision: str
    images: int
    rows: int
    shards: int
    bytes: int
    last_used: float


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
                _write_json(card, asdict(key) | {"format": FORMAT})
        except OSError as error:
            raise DataError(
                f"the feature store {self.folder} cannot be written ({error.strerror}); name "
                "another folder with --store, or use --live to compute features at each use"
            ) from error
        self._shards: dict[str, _Shard] = {}
        self._places: dict[str, tuple[str, int]] = {}

    def lacking(self, rows: Sequence[str]) -> list[str]:
        """Those of the rows that are not there or damaged, once each; shards in use are checked.

        A damaged shard is named in the log and removed.
        """
        self._scan()
        wanted = dict.fromkeys(rows)
        for name in sorted({self._places[row][0] for row in wanted if row in self._places}):
            if not self._shards[name].whole():
                self._drop(name)
        return [row for row in wanted if row not in self._places]

    @property
    def shortcut(self) -> bool | None:
        """Whether large JPEGs are decoded smaller for this store; None before one was met."""
        path = self.folder / "shortcut.json"
        if not path.is_file():
            return None
        return bool(json.loads(path.read_text("utf-8"))["holds"])

    def settle_shortcut(self, holds: bool) -> None:
        """Decide it, for all pictures that will come: features of one store are made alike."""
        _write_json(self.folder / "shortcut.json", {"holds": holds})

    def rows(self, names: Sequence[Sequence[str]]) -> "StoreFeatures":
        """Features to train on: V views of N rows that are all there."""
        os.utime(self.folder / "store.json")  # for `trmml store ls`
        shards = list(self._shards.values())
        number = {shard.path.name: n for n, shard in enumerate(shards)}
        places = [[(number[s], r) for s, r in (self._places[n] for n in view)] for view in names]
        return StoreFeatures(shards, torch.tensor(places, dtype=torch.long))

    @contextmanager
    def filling(self, count: int, say: Callable[[str], None] = logger.info) -> Iterator[None]:
        """Hold the store's lock while rows are added.

        Args:
            count: rows that will be added at most.
            say: told what is about to be written, and whom we wait for.

        Raises:
            DataError: the disk has not the room.
        """
        lock = FileLock(self.folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            say(f"another process fills the feature store {self.key.name}; waiting for it")
            lock.acquire()
        try:
            for left in self.folder.glob("*.part"):  # of a process that was killed
                left.unlink(missing_ok=True)
            self._refuse_if_full(count)
            yield
        finally:
            lock.release()

    def _refuse_if_full(self, count: int) -> None:
        needed, free = count * self.key.row_bytes, shutil.disk_usage(self.folder).free
        if needed + SPARE_BYTES > free:
            raise DataError(
                f"features of {count} pictures need {_gib(needed)} in {self.folder}, where "
                f"{_gib(free)} are free; make room, name another folder with --store, use "
                "--store-form int8 (half of fp16), or --live to compute features at each use"
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
        tensors = _packed(features, self.key.form)
        metadata = {"rows": json.dumps(list(rows)), "crc32": str(_crc(tensors))}
        path = self.folder / f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.safetensors"
        part = path.with_suffix(".part")
        try:
            save_file(tensors, part, metadata)
            with part.open("rb+") as file:
                os.fsync(file.fileno())
            os.replace(part, path)
        except (OSError, SafetensorError) as error:
            part.unlink(missing_ok=True)
            raise DataError(
                f"the feature store {self.folder} cannot be written ({error}); make room, name "
                "another folder with --store, or use --live"
            ) from error
        shard = _Shard(path)
        shard.checked = True  # its sum was taken a moment ago
        self._enter(shard)

    def verify(self) -> list[str]:
        """Names of the damaged shards, after all have been read."""
        return [path.name for path in sorted(self.folder.glob("*.safetensors")) if _damaged(path)]

    def repair(self) -> list[str]:
        """Remove the damaged shards and name them; their pictures are encoded again when needed."""
        damaged = self.verify()
        for name in damaged:
            (self.folder / name).unlink(missing_ok=True)
        return damaged

    def _scan(self) -> None:
        """Take notice of shards that were added, by us or by others."""
        for path in sorted(self.folder.glob("*.safetensors")):
            if path.name in self._shards:
                continue
            try:
                self._enter(_Shard(path))
            except UNREADABLE:
                self._drop(path.name)

    def _enter(self, shard: "_Shard") -> None:
        self._shards[shard.path.name] = shard
        self._places |= {row: (shard.path.name, place) for place, row in enumerate(shard.rows)}

    def _drop(self, name: str) -> None:
        """Remove a damaged shard, so that its rows are computed again."""
        logger.warning(
            "%s is damaged; it is removed and its pictures are encoded again", self.folder / name
        )
        self._shards.pop(name, None)
        self._places = {row: place for row, place in self._places.items() if place[0] != name}
        (self.folder / name).unlink(missing_ok=True)


class _Shard:
    """A shard, mapped into memory."""

    def __init__(self, path: Path) -> None:
        self.path, self.checked = path, False
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            self.rows: list[str] = json.loads(metadata["rows"])
            self._crc = int(metadata["crc32"])
            self.tensors: dict[str, Tensor] = {n: file.get_tensor(n) for n in file.keys()}
        if any(len(tensor) != len(self.rows) for tensor in self.tensors.values()):
            raise ValueError(f"{path} has not as many rows as it says")

    def whole(self) -> bool:
        """Whether the content is what was written; read once per process."""
        if not self.checked:
            self.checked = _crc(self.tensors) == self._crc
        return self.checked


def _damaged(path: Path) -> bool:
    try:
        return not _Shard(path).whole()
    except UNREADABLE:
        return True


class StoreFeatures:
    """A `FeatureSource` that reads from shards; any number of threads may.

    Args:
        shards: mapped into memory.
        places: shard and row of each view of each picture.
    """

    def __init__(self, shards: Sequence[_Shard], places: Int[Tensor, "V N 2"]) -> None:
        self._shards, self._places = shards, places
        self.views = len(places)

    def __len__(self) -> int:
        return self._places.shape[1]

    def batch(self, indices: Int[Tensor, " B"], views: Int[Tensor, " B"] | None = None) -> Features:
        """See `FeatureSource.batch`."""
        views = torch.zeros_like(indices) if views is None else views
        places = self._places[views, indices].tolist()
        if not places:
            first = self._shards[0].tensors
            return Features(first["hidden"][:0].float(), first["image"][:0].float())
        shape = self._shards[places[0][0]].tensors["hidden"].shape[1:]
        hidden = torch.empty(len(places), *shape)
        for out, (shard, row) in zip(hidden, places, strict=True):
            tensors = self._shards[shard].tensors
            out.copy_(tensors["hidden"][row])  # reads and converts in one pass
            if "scale" in tensors:
                out.mul_(tensors["scale"][row][:, None])
        image = torch.stack([self._shards[shard].tensors["image"][row] for shard, row in places])
        return Features(hidden, image)

    def rows(self, indices: Sequence[int]) -> "StoreFeatures":
        """Only some of the images, in the given order."""
        return StoreFeatures(self._shards, self._places[:, torch.as_tensor(indices).long()])


def _packed(features: Features, form: Form) -> dict[str, Tensor]:
    hidden = features.hidden_patches
    tensors = {"image": features.image_feature.float().contiguous()}
    if form != "int8":
        kind = torch.float16 if form == "fp16" else torch.float32
        limit = torch.finfo(kind).max  # an outlier becomes the largest number, not infinity
        return tensors | {"hidden": hidden.clamp(-limit, limit).to(kind).contiguous()}
    scale = (hidden.abs().amax(dim=-1) / 127).clamp(min=1e-12)  # (B, P)
    whole = (hidden / scale[..., None]).round().to(torch.int8)
    return tensors | {"hidden": whole.contiguous(), "scale": scale.float().contiguous()}


def _crc(tensors: Mapping[str, Shaped[Tensor, "..."]]) -> int:
    """A checksum that finds flipped and missing bytes; twice as fast to take as sha256."""
    total = 0
    for name in sorted(tensors):
        flat = tensors[name].reshape(-1).view(torch.uint8)
        total = zlib.crc32(flat.numpy().data, total)
    return total


# All stores of a root ---------------------------------------------------------------------------


def list_stores(root: Path) -> list[StoreInfo]:
    """Every store below a root, the one used last first."""
    found = []
    for card in sorted(root.glob("*/store.json")):
        try:
            tree = json.loads(card.read_text("utf-8"))
            shards = list(card.parent.glob("*.safetensors"))
            names = [row for shard in shards for row in _row_names(shard)]
            found.append(
                StoreInfo(
                    key=card.parent.name,
                    encoder=tree["encoder"],
                    size=tree["size"],
                    form=tree["form"],
                    precision=tree["precision"],
                    images=len({name.partition(".")[0] for name in names}),
                    rows=len(names),
                    shards=len(shards),
                    bytes=sum(shard.stat().st_size for shard in shards),
                    last_used=card.stat().st_mtime,
                )
            )
        except (OSError, ValueError, KeyError) as error:
            logger.warning("%s cannot be read (%s)", card, error)
    return sorted(found, key=lambda info: -info.last_used)


def _row_names(shard: Path) -> list[str]:
    try:
        with safe_open(shard, framework="pt") as file:
            names: list[str] = json.loads(file.metadata()["rows"])
            return names
    except UNREADABLE:
        return []  # `verify` names it


def open_store(root: Path, key: str) -> FeatureStore:
    """The store of a key, or of the beginning of one.

    Raises:
        DataError: there is none, or several begin so.
    """
    found = [card.parent.name for card in sorted(root.glob("*/store.json"))]
    matches = [name for name in found if name.startswith(key)]
    if len(matches) != 1 or not key:
        known = ", ".join(found) or "none"
        raise DataError(f"expected the key of one store below {root}, got {key!r}; known: {known}")
    tree: dict[str, Any] = json.loads((root / matches[0] / "store.json").read_text("utf-8"))
    tree.pop("format")
    store = FeatureStore(root, StoreKey(**tree))
    store.folder = root / matches[0]
    return store


def remove_store(root: Path, key: str) -> int:
    """Delete a store and give back its bytes.

    Raises:
        DataError: no such store, or a process is filling it.
    """
    folder = open_store(root, key).folder
    size = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    lock = FileLock(folder / ".lock")
    try:
        with lock.acquire(timeout=0):
            for path in folder.iterdir():
                if path.name != ".lock":
                    path.unlink()
    except Timeout:
        raise DataError(
            f"the store {folder.name} is being filled by another process; wait for it or stop it"
        ) from None
    shutil.rmtree(folder, ignore_errors=True)
    return size


# Content of files -------------------------------------------------------------------------------


class ContentHashes:
    """Hashes of files' contents; an unchanged file is read once, ever.

    Args:
        root: where they are remembered; None remembers nothing.
    """

    def __init__(self, root: Path | None) -> None:
        self._path = None if root is None else root / "files.json"
        self._known: dict[str, list[Any]] = {}
        self._new: dict[str, list[Any]] = {}
        if self._path is not None and self._path.is_file():
            try:
                self._known = json.loads(self._path.read_text("utf-8"))
            except ValueError:
                logger.warning("%s is damaged; files are read again", self._path)

    def of(self, path: Path) -> str:
        """Hash of a file's bytes.

        Raises:
            OSError: it cannot be read.
        """
        name, stat = str(path.absolute()), path.stat()
        now = [stat.st_size, stat.st_mtime_ns]
        known = self._known.get(name)
        if known is not None and known[:2] == now:
            return str(known[2])
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
        if time.time_ns() - stat.st_mtime_ns > FRESH_SECONDS * 1e9:
            self._new[name] = [*now, digest]
        return digest

    def save(self) -> None:
        """Remember what was read; of two processes that save at once, one has to read again."""
        if self._path is None or not self._new:
            return
        self._known |= self._new
        self._new = {}
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            _write_json(self._path, self._known)
        except OSError as error:  # the store says so where it matters
            logger.info("%s is not written: %s", self._path, error)


def _write_json(path: Path, tree: Mapping[str, Any]) -> None:
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    part.write_text(json.dumps(tree, indent=None if len(tree) > 99 else 1), encoding="utf-8")
    os.replace(part, path)


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"
