"""Encoder features of images, as the training loop asks for them: by index and view.

The encoder is frozen, so an image's features need computing once per view; `encode.encode_images`
takes them from the store (`store.py`) or computes them live. View 0 is the picture as it is; view
v > 0 is a seeded random crop and flip.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from trmml.encoders.base import Encoder
from trmml.encoders.precision import EncodeImage
from trmml.errors import ConfigError
from trmml.inputs import Batch, prepared, view_of

# Called with (what, done, total) while something long runs.
Progress = Callable[[str, int, int], None]


@dataclass  # not frozen: Fabric casts the fields of what enters a model
class Features:
    """What the encoder says of a batch of images.

    Attributes:
        hidden_patches: the last feature map before the projection into the joint space.
        image_feature: the encoder's own pooled vector, unit length.
    """

    hidden_patches: Float[Tensor, "B P W"]
    image_feature: Float[Tensor, "B D"]

    def __len__(self) -> int:
        return len(self.image_feature)

    def rows(self, indices: Int[Tensor, " K"]) -> "Features":
        """Only some of the images."""
        return Features(self.hidden_patches[indices], self.image_feature[indices])

    @staticmethod
    def cat(parts: "Sequence[Features]") -> "Features":
        """Batches one after the other."""
        hidden = torch.cat([part.hidden_patches for part in parts])
        return Features(hidden, torch.cat([part.image_feature for part in parts]))

    def to(self, device: torch.device | str) -> "Features":
        """The same features on a device."""
        ahead = torch.device(device).type == "cuda"  # towards a card only: back, it would race
        return Features(
            self.hidden_patches.to(device, non_blocking=ahead),
            self.image_feature.to(device, non_blocking=ahead),
        )


@runtime_checkable
class FeatureSource(Protocol):
    """Where a loop takes features from, by index and view."""

    views: int

    def __len__(self) -> int: ...

    def batch(self, indices: Int[Tensor, " B"], views: Int[Tensor, " B"] | None = None) -> Features:
        """Features (fp32) of some images; `views` defaults to the plain picture."""
        ...

    def rows(self, indices: Sequence[int]) -> "FeatureSource":
        """Only some of the images, in the given order."""
        ...


class MemoryFeatures:
    """Features of N images and V views, held in memory.

    Args:
        hidden_patches: (V, N, P, W), fp32 or fp16.
        image_feature: (V, N, D).
    """

    def __init__(
        self, hidden_patches: Float[Tensor, "V N P W"], image_feature: Float[Tensor, "V N D"]
    ) -> None:
        self._hidden, self._image = hidden_patches, image_feature
        self._rows = torch.arange(image_feature.shape[1])
        self.views = len(hidden_patches)

    def __len__(self) -> int:
        return len(self._rows)

    def batch(self, indices: Int[Tensor, " B"], views: Int[Tensor, " B"] | None = None) -> Features:
        """See `FeatureSource.batch`."""
        views = torch.zeros_like(indices) if views is None else views
        rows = self._rows[indices]
        return Features(self._hidden[views, rows].float(), self._image[views, rows].float())

    def rows(self, indices: Sequence[int]) -> "MemoryFeatures":
        """Only some of the images, in the given order; the features are shared, not copied."""
        part = MemoryFeatures(self._hidden, self._image)
        part._rows = self._rows[torch.as_tensor(indices, dtype=torch.long)]
        return part


class JoinedViews:
    """Images looked at several times at once: the patches of the first V views, one after another.

    What gathers or averages patches then does so over all views; the image feature is the mean of
    theirs, in unit length. The patches of the plain picture come first.

    Args:
        source: with V views or more.
        views: V.

    Raises:
        ConfigError: the source has fewer.
    """

    views = 1

    def __init__(self, source: FeatureSource, views: int) -> None:
        if views > source.views:
            raise ConfigError(
                f"training.scored_views = {views}, but {source.views} are encoded; lower the"
                " setting, or encode more views"
            )
        self._source, self._joined = source, views

    def __len__(self) -> int:
        return len(self._source)

    def batch(self, indices: Int[Tensor, " B"], views: Int[Tensor, " B"] | None = None) -> Features:
        """See `FeatureSource.batch`; `views` can only be 0."""
        views = torch.arange(self._joined)
        batch = self._source.batch(
            indices.repeat_interleave(self._joined), views.repeat(len(indices))
        )
        return join_views(batch, self._joined)

    def rows(self, indices: Sequence[int]) -> "JoinedViews":
        """Only some of the images, in the given order."""
        return JoinedViews(self._source.rows(indices), self._joined)


def join_views(features: Features, views: int) -> Features:
    """Make one of every V rows that follow each other; see `JoinedViews`."""
    hidden, image = features.hidden_patches, features.image_feature
    count = len(features) // views
    mean = image.view(count, views, -1).mean(dim=1)
    return Features(hidden.reshape(count, -1, hidden.shape[2]), F.normalize(mean, dim=-1))


def joined(source: FeatureSource, views: int) -> FeatureSource:
    """What pictures are scored by: the plain one each, or several views joined."""
    return source if views == 1 else JoinedViews(source, views)


class LiveFeatures:
    """Features computed whenever a batch is asked for; nothing is kept.

    Args:
        items: path and content hash of each image; the hash seeds its views.
        encoder: frozen, on `device`.
        encode: its `encode_image`, in some precision.
        views: how many views there are.
        seed: of the views.
        device: where the encoder runs.
        reduced: whether large JPEGs are decoded smaller.
        on_card: whether the device decodes JPEGs.
    """

    def __init__(
        self,
        items: Sequence[tuple[Path, str]],
        encoder: Encoder,
        encode: EncodeImage,
        *,
        views: int,
        seed: int,
        device: str,
        reduced: bool,
        on_card: bool,
    ) -> None:
        self._items, self._encoder, self._encode = list(items), encoder, encode
        self._seed, self._device = seed, device
        self._reduced, self._on_card = reduced, on_card
        self.views = views

    def __len__(self) -> int:
        return len(self._items)

    def batch(self, indices: Int[Tensor, " B"], views: Int[Tensor, " B"] | None = None) -> Features:
        """See `FeatureSource.batch`."""
        views = torch.zeros_like(indices) if views is None else views
        pictures = [
            view_of(path, content, self._seed, view)
            for (path, content), view in zip(
                [self._items[i] for i in indices.tolist()], views.tolist(), strict=True
            )
        ]
        batches = prepared(
            pictures,
            self._encoder,
            device=self._device,
            reduced=self._reduced,
            on_card=self._on_card,
        )
        parts = [encode_batch(self._encode, batch.pixels, self._device) for batch in batches]
        return Features(
            torch.cat([part.hidden_patches for part in parts]),
            torch.cat([part.image_feature for part in parts]),
        )

    def rows(self, indices: Sequence[int]) -> "LiveFeatures":
        """Only some of the images, in the given order."""
        return LiveFeatures(
            [self._items[int(i)] for i in indices],
            self._encoder,
            self._encode,
            views=self.views,
            seed=self._seed,
            device=self._device,
            reduced=self._reduced,
            on_card=self._on_card,
        )


@torch.no_grad()
def encode_batch(encode: EncodeImage, pixels: Float[Tensor, "B 3 S S"], device: str) -> Features:
    """Features of preprocessed pictures, on the device."""
    hidden, image = encode(pixels.to(device, non_blocking=device.startswith("cuda")))
    return Features(hidden.float().contiguous(), image.float())


def encode_looks(
    batches: Iterable[Batch], encode: EncodeImage, views: int, device: str
) -> Iterator[tuple[Batch, Features | None]]:
    """Encode batches of views; each picture comes out once, as soon as all its views are there.

    Args:
        batches: of V views of each picture, the plain one first, one picture after the other.
        encode: the encoder in some precision.
        views: V.
        device: of the encoder.

    Returns:
        Batches numbered by picture, with their features; None where none of it is readable.
    """
    waiting: list[tuple[int, Features]] = []
    images: dict[int, Image.Image] = {}
    told: set[int] = set()  # unreadable pictures; their views may fall into two batches
    for batch in batches:
        if batch.numbers:
            made = encode_batch(encode, batch.pixels, device)
            if views == 1:
                yield batch, made
                continue
            rows = enumerate(batch.numbers)
            waiting += [(n, made.rows(torch.tensor([row]))) for row, n in rows]
            images |= {
                n // views: i
                for n, i in zip(batch.numbers, batch.images, strict=False)
                if n % views == 0
            }
        bad = {n // views: why for n, why in batch.bad.items() if n // views not in told}
        told |= bad.keys()
        found = Counter(n // views for n, _ in waiting)
        whole = [number for number, count in found.items() if count == views]
        parts = [features for n, features in waiting if n // views in whole]
        waiting = [(n, f) for n, f in waiting if n // views not in whole and n // views not in told]
        shown = [images.pop(number) for number in whole if number in images]
        done = Batch(whole, batch.pixels[:0], bad, shown)
        yield done, join_views(Features.cat(parts), views) if whole else None
