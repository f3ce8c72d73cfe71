"""Shards of the feature store: files of features that are mapped into memory, and their reader."""

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Int, Shaped
from safetensors import safe_open
from torch import Tensor

from trmml.errors import DataError
from trmml.features.admin import DAMAGED
from trmml.features.base import Features
from trmml.settings.choices import StoreForm
from trmml.storage.json_text import of_kind


class Shard:
    """A shard, mapped into memory.

    Attributes:
        rows: name of each row.
        tensors: "hidden" (R, P, W), "image" (R, D), and "scale" (R, P) in the int8 form.
        checked: whether the checksum was right.

    Raises:
        One of `DAMAGED`: the file is damaged.
        OSError: it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.checked = path, False
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            self._rows, self._crc = metadata["rows"], int(metadata["crc32"])
            self.tensors: dict[str, Tensor] = {n: file.get_tensor(n) for n in file.keys()}
        self.rows: list[str] = of_kind(list[str], json.loads(self._rows))
        if any(len(tensor) != len(self.rows) for tensor in self.tensors.values()):
            raise ValueError(f"{path} has not as many rows as it says")

    def whole(self) -> bool:
        """Whether the content is what was written; read once, then remembered."""
        if not self.checked:
            self.checked = crc(self.tensors, self._rows) == self._crc
        return self.checked


def open_shard(path: Path) -> Shard | None:
    """A shard; None where its file is damaged or gone.

    Raises:
        DataError: it may be whole, but cannot be read.
    """
    try:
        return Shard(path) if path.stat().st_size else None
    except (FileNotFoundError, *DAMAGED):  # another process may just have removed it
        return None
    except OSError as error:
        raise DataError(
            f"the features in {path} cannot be read ({error.strerror or error}); allow reading the "
            "file, name another folder with --store, or use --live to compute features at each use"
        ) from error


def damaged_shards(folder: Path) -> list[Path]:
    """The damaged shards of a store, after all have been read.

    Raises:
        DataError: one may be whole, but cannot be read.
    """
    opened = [(path, open_shard(path)) for path in sorted(folder.glob("*.safetensors"))]
    return [path for path, shard in opened if shard is None or not shard.whole()]


class StoreFeatures:
    """A `FeatureSource` that reads from shards; any number of threads may.

    Args:
        shards: mapped into memory.
        places: shard and row of each view of each image.
    """

    def __init__(self, shards: Sequence[Shard], places: Int[Tensor, "V N 2"]) -> None:
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
            if "scale" in tensors:  # either way, read and converted in one pass
                torch.mul(tensors["hidden"][row], tensors["scale"][row][:, None], out=out)
            else:
                out.copy_(tensors["hidden"][row])
        image = torch.stack([self._shards[shard].tensors["image"][row] for shard, row in places])
        return Features(hidden, image)

    def subset(self, indices: Sequence[int]) -> "StoreFeatures":
        """Only some of the images, in the given order."""
        return StoreFeatures(self._shards, self._places[:, torch.as_tensor(indices).long()])


def packed(features: Features, form: StoreForm) -> dict[str, Shaped[Tensor, "..."]]:
    """Features in the form they are kept in; the image feature in fp32 whatever the form."""
    hidden = features.hidden_patches
    tensors = {"image": features.image_feature.float().contiguous()}
    if form != "int8":
        kind = torch.float16 if form == "fp16" else torch.float32
        limit = torch.finfo(kind).max  # an outlier becomes the largest number, not infinity
        return tensors | {"hidden": hidden.clamp(-limit, limit).to(kind).contiguous()}
    scale = (hidden.abs().amax(dim=-1) / 127).clamp(min=1e-12)  # (B, P)
    whole = (hidden / scale[..., None]).round().to(torch.int8)
    return tensors | {"hidden": whole.contiguous(), "scale": scale.float().contiguous()}


def crc(tensors: Mapping[str, Shaped[Tensor, "..."]], rows: str) -> int:
    """A checksum over rows and features that finds flipped and missing bytes.

    CRC-32 and not sha256, which takes several times as long: a shard must be safe from a bad disk,
    not from a forger.
    """
    total = zlib.crc32(rows.encode())
    for name, tensor in sorted(tensors.items()):
        total = zlib.crc32(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}".encode(), total)
        total = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, total)
    return total
