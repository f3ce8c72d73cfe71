"""What is known about each pair of image and category, and how to hide a share of it."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Int
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_safetensors
from torch import Tensor

from trmml.errors import CheckpointError, ConfigError, DataError
from trmml.storage.atomic import write_bytes

_FORMAT = "trmml.labels.1"
_PAIRS_PER_SUM = 1 << 20
_ROWS_PER_DRAW = 8192  # the random numbers of so many images lie in memory at once


@dataclass(frozen=True, eq=False)
class LabelMatrix:
    """One of three states for each of N images and C categories: present, absent, unknown.

    A pair is present where `labels` is True, absent where `known` is True and `labels` is False,
    and unknown where `known` is False. What `labels` holds at unknown pairs is dropped on
    construction, so nothing behind a hidden pair can reach a loss or a metric.

    Args:
        labels: True where the category is present; read only where `known` is True.
        known: True where somebody answered.

    Raises:
        DataError: the two are no bool matrices of one shape.

    Example:
        >>> import torch
        >>> matrix = LabelMatrix(torch.tensor([[True, True]]), torch.tensor([[True, False]]))
        >>> matrix.labels.tolist(), matrix.known_share
        ([[True, False]], 0.5)
    """

    labels: Bool[Tensor, "N C"]
    known: Bool[Tensor, "N C"]

    def __post_init__(self) -> None:
        """Check both tensors, copy them and drop what lies behind unknown pairs."""
        for name, value in (("labels", self.labels), ("known", self.known)):
            if not isinstance(value, Tensor) or value.dtype != torch.bool or value.ndim != 2:
                raise DataError(
                    f"{name} must be a bool tensor of images x categories, not {_describe(value)}. "
                    "Compare it with what means yes first, for example labels == 1."
                )
        if self.labels.shape != self.known.shape:
            raise DataError(
                f"labels and known must have one shape, but are {tuple(self.labels.shape)} and "
                f"{tuple(self.known.shape)}. Take both from the same images and categories."
            )
        known = self.known.detach()
        one = not any(known.stride())  # value for all pairs, which then takes a byte
        known = known[:1, :1].clone().expand_as(known) if one else known.clone()
        object.__setattr__(self, "known", known)
        object.__setattr__(self, "labels", self.labels.detach() & self.known)

    def __len__(self) -> int:
        """Return the number of images."""
        return self.known.shape[0]

    @property
    def answered(self) -> Int[Tensor, " M"]:
        """The images of which any label is known."""
        return self.known.any(dim=1).nonzero()[:, 0]

    @property
    def known_share(self) -> float:
        """Share of the pairs that are known, in [0, 1]; 0 when there is no pair at all."""
        return int(_count(self.known).sum()) / max(self.known.numel(), 1)

    @property
    def positives(self) -> Int[Tensor, "C"]:
        """Number of images per category in which it is known to be present."""
        return _count(self.labels)

    @property
    def negatives(self) -> Int[Tensor, "C"]:
        """Number of images per category in which it is known to be absent."""
        return _count(self.known) - self.positives

    def hide(self, known_share: float, seed: int = 0) -> "LabelMatrix":
        """Return a copy in which about `known_share` of the known pairs stays known.

        Present and absent pairs are kept with the same probability. With one seed, what is known
        at a small share is known at every larger one.

        Args:
            known_share: probability to stay known, in (0, 1].
            seed: of numpy's legacy generator, in [0, 2**32).

        Raises:
            ConfigError: the share or the seed is out of its range.

        Source: the field's protocol, first in the code of SST and SARB: a pair stays known where
            numpy.random.random((N, C)) < known_share after numpy.random.seed(seed). We draw the
            same numbers without touching numpy's global state.
        """
        if not 0 < known_share <= 1:
            raise ConfigError(
                f"known_share must be greater than 0 and at most 1, not {known_share}. "
                "To keep 10 percent, write 0.1."
            )
        draws = _random_rows(self.known.shape[0], self.known.shape[1], seed)
        kept = np.concatenate([block < known_share for block in draws])
        return LabelMatrix(self.labels, self.known & torch.from_numpy(kept).to(self.known.device))

    def keep_single_positive(self, seed: int = 0) -> "LabelMatrix":
        """Return a copy in which each image has one known present category and nothing else.

        The category is drawn uniformly from the image's known present ones; an image without any
        becomes wholly unknown.

        Args:
            seed: of numpy's legacy generator, in [0, 2**32).

        Raises:
            ConfigError: the seed is out of its range.
        """
        draws = torch.from_numpy(np.concatenate(list(_random_rows(len(self), 1, seed))))
        kept = torch.zeros_like(self.labels)
        for rows in _parts(self.labels):
            labels = self.labels[rows]
            order = labels.cumsum(1)  # the present categories of each image, counted from 1
            count = labels.sum(1, keepdim=True)
            chosen = (draws[rows].to(count.device) * count).long().clamp(max=count - 1) + 1
            kept[rows] = labels & (order == chosen)
        return LabelMatrix(kept, kept)

    def keep_quota(self, positives: int, negatives: int, seed: int = 0) -> "LabelMatrix":
        """Return a copy in which each category keeps a fixed number of known labels.

        A category with fewer keeps all it has. They are drawn uniformly, without replacement, for
        each category and sign by itself. With one seed, a larger quota contains a smaller one.

        Args:
            positives: known present labels to keep per category, at least 0.
            negatives: known absent labels to keep per category, at least 0.
            seed: of numpy's legacy generator, in [0, 2**32).

        Raises:
            ConfigError: a quota is negative, both are 0, or the seed is out of its range.

        Source: "fixed per class" in the code of CSL, which draws by numpy.random.choice without a
            seed of its own. We keep the labels with the smallest of `hide`'s numbers.

        Example:
            >>> import torch
            >>> labels = torch.tensor([[True], [True], [True], [False], [False]])
            >>> kept = LabelMatrix(labels, torch.ones_like(labels)).keep_quota(1, 9)
            >>> kept.positives.tolist(), kept.negatives.tolist()
            ([1], [2])
        """
        if min(positives, negatives) < 0 or positives == negatives == 0:
            raise ConfigError(
                "a quota is a number of present and a number of absent labels per category, at "
                f"least 0 and not both 0, but {positives} and {negatives} were given."
            )
        present, known = self.labels.cpu().numpy(), self.known.cpu().numpy()
        kept = np.zeros_like(known)
        quotas: list[tuple[int, bool, int]] = []  # that leave something out
        for answer, count, there in ((True, positives, self.positives),
                                     (False, negatives, self.negatives)):  # fmt: skip
            every = (there <= count).cpu().numpy()
            kept |= known & (present == answer) & every
            quotas += [(int(c), answer, count) for c in np.flatnonzero(~every)]
        # Of each quota the images with the smallest draws so far: all draws would fill the memory.
        rows = [np.empty(0, dtype=np.int64)] * len(quotas)
        least = [np.empty(0)] * len(quotas)
        start = 0
        for draws in _random_rows(len(self), known.shape[1], seed):
            part = slice(start, start + len(draws))
            for place, (c, answer, count) in enumerate(quotas):
                new = np.flatnonzero(known[part, c] & (present[part, c] == answer))
                both = np.concatenate([least[place], draws[new, c]])
                order = np.argsort(both, kind="stable")[:count]
                least[place] = both[order]
                rows[place] = np.concatenate([rows[place], new + start])[order]
            start += len(draws)
        for place, (c, _, _) in enumerate(quotas):
            kept[rows[place], c] = True
        return LabelMatrix(self.labels, torch.from_numpy(kept).to(self.known.device))

    def subset(self, indices: Sequence[int] | Int[Tensor, "K"]) -> "LabelMatrix":
        """Return the images at `indices`, in that order, each index in [0, N).

        Raises:
            DataError: an index is no whole number or lies outside.
        """
        index = _as_index(indices, self.known.shape[0], "image")
        return LabelMatrix(self.labels[index], self.known[index])

    def columns(self, indices: Sequence[int] | Int[Tensor, "K"]) -> "LabelMatrix":
        """Return the categories at `indices`, in that order, each index in [0, C).

        Raises:
            DataError: an index is no whole number or lies outside.
        """
        index = _as_index(indices, self.known.shape[1], "category")
        return LabelMatrix(self.labels[:, index], self.known[:, index])

    def checksum(self) -> str:
        """Return the SHA-256, in hex, of the shape, the known pairs and their labels."""
        digest = hashlib.sha256(np.array(self.known.shape, dtype="<i8").tobytes())
        digest.update(_pack(self.known).tobytes())
        digest.update(_pack(self.labels).tobytes())
        return digest.hexdigest()

    def save(self, path: Path | str) -> None:
        """Write the matrix as a safetensors file, one bit per entry; it appears whole or not.

        Raises:
            CheckpointError: the file cannot be written.
        """
        path = Path(path)
        shape = np.array(self.known.shape, dtype=np.int64)
        data = to_safetensors(
            {"shape": shape, "known": _pack(self.known), "labels": _pack(self.labels)},
            metadata={"format": _FORMAT, "checksum": self.checksum()},
        )
        try:
            write_bytes(path, data)
        except OSError as error:
            raise CheckpointError(
                f"cannot write the labels to {path}: {error.strerror}. "
                "Name a file in a folder that exists, may be written and has room."
            ) from error

    @classmethod
    def load(cls, path: Path | str) -> "LabelMatrix":
        """Read a matrix written by `save`.

        Raises:
            CheckpointError: the file is missing, damaged or something else.
        """
        try:
            with safe_open(path, framework="numpy") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != _FORMAT:
                    raise CheckpointError(
                        f"{path} does not hold labels: its format is "
                        f"{metadata.get('format')!r}, not {_FORMAT!r}. Name a file that "
                        "LabelMatrix.save wrote."
                    )
                count, width = (int(size) for size in file.get_tensor("shape"))
                packed = [file.get_tensor("labels"), file.get_tensor("known")]
            matrix = cls(*(_unpack(bits, count, width) for bits in packed))
            for bits, entries in zip(packed, (matrix.labels, matrix.known), strict=True):
                if not np.array_equal(bits, _pack(entries)):
                    raise ValueError("it holds bits that are never written")
        except (OSError, SafetensorError, ValueError) as error:
            raise CheckpointError(
                f"cannot read the labels in {path}: {error}. Restore the file or write it again."
            ) from error
        if matrix.checksum() != metadata.get("checksum"):
            raise CheckpointError(
                f"{path} is damaged: its labels do not fit its checksum. "
                "Restore the file or write it again."
            )
        return matrix


def _count(bits: Bool[Tensor, "N C"]) -> Int[Tensor, "C"]:
    """Return how many are True per category."""
    counts = bits.new_zeros(bits.shape[1], dtype=torch.int64)
    for rows in _parts(bits):
        counts += bits[rows].sum(0)
    return counts


def _parts(bits: Bool[Tensor, "N C"]) -> Iterator[slice]:
    """Yield the rows of each part that is summed at once: torch sums bits as numbers of 8 bytes."""
    rows = max(1, _PAIRS_PER_SUM // max(1, bits.shape[1]))
    for start in range(0, len(bits), rows):
        yield slice(start, start + rows)


def _describe(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{value.dtype} of shape {tuple(value.shape)}"
    return type(value).__name__


def _random_rows(count: int, width: int, seed: int) -> Iterator[np.ndarray]:
    """Yield uniform draws in [0, 1), count x width in all, a block of rows at a time."""
    if not 0 <= seed < 2**32:
        raise ConfigError(f"seed must be a whole number from 0 to 2**32 - 1, not {seed}.")
    state = np.random.RandomState(seed)
    for start in range(0, max(count, 1), _ROWS_PER_DRAW):
        yield state.random_sample((min(_ROWS_PER_DRAW, count - start), width))


def _as_index(indices: Sequence[int] | Tensor, size: int, what: str) -> Tensor:
    index = torch.as_tensor(indices)
    if index.numel() == 0:
        return torch.empty(0, dtype=torch.int64)
    if index.ndim != 1 or index.dtype not in (torch.int64, torch.int32, torch.uint8):
        raise DataError(
            f"{what} indices must be a list of whole numbers, not {_describe(index)}. "
            "From a bool mask, take mask.nonzero()[:, 0]."
        )
    wrong = index[(index < 0) | (index >= size)]
    if len(wrong):
        raise DataError(
            f"{what} index {int(wrong[0])} does not exist: there are {size}, counted from 0."
        )
    return index.long()


def _pack(bits: Tensor) -> np.ndarray:
    return np.packbits(bits.cpu().numpy().reshape(-1))


def _unpack(packed: np.ndarray, count: int, width: int) -> Tensor:
    if count < 0 or width < 0 or packed.size != (count * width + 7) // 8:
        raise ValueError(f"{packed.size} bytes cannot hold {count} x {width} entries")
    bits = np.unpackbits(packed, count=count * width).reshape(count, width)
    return torch.from_numpy(bits.astype(bool))
