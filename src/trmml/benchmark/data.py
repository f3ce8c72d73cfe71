"""What a benchmark runs on: a train and a test set, encoded once, for one encoder."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from trmml.benchmark.records import CategoryFact
from trmml.datasets.base import Dataset, in_both
from trmml.encoders.base import Encoder
from trmml.encoders.frozen import FrozenEncoder, frozen_encoder
from trmml.errors import ConfigError, DataError
from trmml.features.base import Features, FeatureSource, MemoryFeatures, Progress, read_features
from trmml.features.extract import Encoding, encode_images
from trmml.features.views import joined
from trmml.settings.choices import OnBadImage
from trmml.storage.cache import free_memory

# Share of the free memory that the features of a set may take, of which there are two; the rest is
# for models and the store's cache.
MEMORY_SHARE = 0.25


class EncodedSplit:
    """Features of the training or the test images: whole, and as the mean over their patches.

    Args:
        source: of the store, or live.
        form: in which the store keeps them; memory keeps fp16 as it is, everything else as fp32.
        free_bytes: how much memory the whole features may take; more stay in the store.
    """

    def __init__(self, source: FeatureSource, *, form: str, free_bytes: float) -> None:
        self._source, self._exact, self._free = source, form != "fp16", free_bytes

    def features(self, *, pooled: bool, views: int = 1) -> FeatureSource:
        """Features for a method.

        Args:
            pooled: one "patch" per image, the mean of all, in fp32.
            views: how many views it may draw from.

        Raises:
            ConfigError: there are fewer views.
        """
        if views > self._source.views:
            raise ConfigError(
                f"training.views or training.scored_views is {views}, but {self._source.views} are"
                " encoded; lower the setting, or encode the data with more views"
            )
        source = self._pooled if pooled else self._whole
        return source if source.views == views else _FirstViews(source, views)

    def scored_features(self, *, pooled: bool, views: int) -> FeatureSource:
        """Features for a method that is to be scored: `views` of each image at once."""
        return joined(self.features(pooled=pooled, views=views), views)

    @cached_property
    def _whole(self) -> FeatureSource:
        """In memory where they fit, else as they are."""
        first = self._source.batch(torch.zeros(1, dtype=torch.long))
        width = 4 if self._exact else 2
        need = len(self._source) * self._source.views * first.hidden_patches.numel() * width
        if need > self._free:
            return self._source
        dtype = torch.float32 if self._exact else torch.float16
        return self._read(pooled=False, dtype=dtype)

    @cached_property
    def _pooled(self) -> MemoryFeatures:
        return self._read(pooled=True, dtype=torch.float32)

    def _read(self, *, pooled: bool, dtype: torch.dtype) -> MemoryFeatures:
        source = self._source
        return MemoryFeatures(
            *read_features(source, pooled=pooled, views=source.views, dtype=dtype)
        )


class _FirstViews:
    """A source that hides its later views."""

    def __init__(self, source: FeatureSource, views: int) -> None:
        self._source, self.views = source, views

    def __len__(self) -> int:
        return len(self._source)

    def batch(self, indices: Int[Tensor, " B"], views: Int[Tensor, " B"] | None = None) -> Features:
        return self._source.batch(indices, views)

    def subset(self, indices: Sequence[int]) -> "_FirstViews":
        return _FirstViews(self._source.subset(indices), self.views)


@dataclass(frozen=True, eq=False)
class BenchmarkData:
    """Encoded training and test images with all known labels; `encode_benchmark_data` makes it."""

    name: str  # for tables
    train: Dataset  # its labels are hidden by each cell
    test: Dataset  # never trained on
    frozen: FrozenEncoder  # the encoder, on the device where models are trained
    form: str  # in which features are kept
    precision: str  # in which the encoder made them
    encoded_train: EncodedSplit  # of `train`
    encoded_test: EncodedSplit  # of `test`

    @cached_property
    def fingerprint(self) -> dict[str, str]:
        """Checksums of names, categories and labels of both sets."""
        return {"train": data_checksum(self.train), "test": data_checksum(self.test)}

    @cached_property
    def encoder_card(self) -> dict[str, Any]:
        """The encoder, and how its features are made and kept."""
        return {**self.frozen.identity.to_dict(), "form": self.form, "precision": self.precision}

    @property
    def same(self) -> dict[str, Any]:
        """What figures depend on: names and labels, whatever folder and spec they came by.

        An image that is replaced under its name is not noticed.
        """
        return {
            "data": self.fingerprint,
            "encoder": self.frozen.identity.checksum,
            "size": self.frozen.identity.size,
            "form": self.form,
            "precision": self.precision,
        }

    def grid(self) -> dict[str, Any]:
        """What all cells on this data set share; `same` tells grids apart."""
        return {
            "same": self.same,
            "dataset": self.name,
            "encoder": self.encoder_card,
            "train_images": len(self.train),
            "test_images": len(self.test),
            "categories": category_facts(self.train, self.test),
        }


def encode_benchmark_data(
    name: str,
    train: Dataset,
    test: Dataset,
    encoder: Encoder,
    *,
    device: str = "cpu",
    encoding: Encoding | None = None,
    views: int = 1,
    scored_views: int = 1,
    encoder_spec: str | None = None,
    on_bad_image: OnBadImage = "error",
    progress: Progress | None = None,
) -> BenchmarkData:
    """Encode both sets, or find their features in the store.

    Args:
        name: of the data set, for tables.
        train: images to train on, with every label that is known.
        test: images to score on, with the same categories in the same order.
        encoder: see `load_encoder`; it stays frozen.
        device: "cpu", "cuda" or "cuda:1".
        encoding: how features are made and kept; by default in the user's store, in fp16.
        views: of each training image: 1 is the plain image.
        scored_views: of each test image; no more than of a training image.
        encoder_spec: what `load_encoder` took.
        on_bad_image: stop at an unreadable file, or leave it out.
        progress: told (what, done, total).

    Raises:
        DataError: the categories differ, or an image is in both sets.
    """
    _check_pair(train, test)
    frozen = frozen_encoder(encoder, device=device, spec=encoder_spec)
    encoding = encoding or Encoding()
    parts = []
    for data, count in ((train, views), (test, scored_views)):
        encoded = encode_images(
            data.paths,
            frozen,
            encoding=encoding,
            views=count,
            on_bad_image=on_bad_image,
            progress=progress,
        )
        free = free_memory() * MEMORY_SHARE
        features = EncodedSplit(encoded.source, form=encoded.form, free_bytes=free)
        parts.append((data.subset(encoded.kept), features))
    (train, encoded_train), (test, encoded_test) = parts
    return BenchmarkData(
        name=name,
        train=train,
        test=test,
        frozen=frozen,
        form=encoded.form,
        precision=encoded.precision,
        encoded_train=encoded_train,
        encoded_test=encoded_test,
    )


def data_checksum(data: Dataset) -> str:
    """SHA-256 of the names of images and categories and of the labels."""
    parts = ["\n".join(data.images), "\n".join(data.category_names), data.matrix.checksum()]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def category_facts(train: Dataset, test: Dataset) -> list[dict[str, Any]]:
    """A `CategoryFact` per category, as JSON values."""
    sizes = _median_sizes(test)
    counts = zip(train.matrix.positives.tolist(), test.matrix.positives.tolist(), strict=True)
    return [
        asdict(CategoryFact(name, *both, size))
        for name, both, size in zip(train.category_names, counts, sizes, strict=True)
    ]


def _median_sizes(data: Dataset) -> list[float | None]:
    boxes = data.boxes
    if boxes is None:
        return [None] * len(data.category_names)
    left, top, right, bottom = np.asarray(boxes.edges, dtype=float).T
    side = np.sqrt(((right - left) * (bottom - top)).clip(min=0))
    category = np.asarray(boxes.category)
    found = (side[category == c] for c in range(len(data.category_names)))
    return [round(float(np.median(part)), 4) if len(part) else None for part in found]


def _check_pair(train: Dataset, test: Dataset) -> None:
    if train.category_names != test.category_names:
        lack = [name for name in train.category_names if name not in test.category_names]
        more = [name for name in test.category_names if name not in train.category_names]
        said = f"; only in train: {', '.join(lack[:5]) or 'none'}"
        said += f"; only in test: {', '.join(more[:5]) or 'none'}"
        raise DataError(
            f"expected the same categories in the same order for training and test, got "
            f"{len(train.category_names)} and {len(test.category_names)}{said}. "
            "Read both with one list of categories."
        )
    both = in_both(train, test)
    if both:
        raise DataError(
            f"{len(both)} images are in the training and the test set, first {both[0]}; "
            "a test image must not be trained on. Take them out of one."
        )
