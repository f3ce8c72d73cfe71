"""Encoder features of images, as the training loop asks for them: by index and view.

The encoder is frozen, so an image's features need computing once per view; `extract.encode_images`
takes them from the store (`store.py`) or computes them live. View 0 is the image as it is; view
v > 0 is a seeded random crop and flip.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from trmml.encoders.frozen import FrozenEncoder
from trmml.errors import EncoderError
from trmml.features.decoding import Decoding, view_of
from trmml.features.loader import load_batches

# Called with (what, done, total) while something long runs.
Progress = Callable[[str, int, int], None]
# Images that are read at a time where all are read.
READ_BATCH = 256


@dataclass  # not frozen: Fabric casts the fields of what enters a model
class Features:
    """What the encoder computes of a batch of images.

    Attributes:
        hidden_patches: the last feature map before the projection into the joint space.
        image_feature: the encoder's own pooled vector, unit length.
    """

    hidden_patches: Float[Tensor, "B P W"]
    image_feature: Float[Tensor, "B D"]

    def __len__(self) -> int:
        return len(self.image_feature)

    def subset(self, indices: Int[Tensor, " K"]) -> "Features":
        """Only some of the images."""
        return Features(self.hidden_patches[indices], self.image_feature[indices])

    def split(self, size: int) -> "Iterator[Features]":
        """Batches of at most `size` images, in order."""
        for rows in torch.split(torch.arange(len(self)), size):
            yield self.subset(rows)

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
        """Features (fp32) of some images; `views` defaults to the plain image."""
        ...

    def subset(self, indices: Sequence[int]) -> "FeatureSource":
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

    def subset(self, indices: Sequence[int]) -> "MemoryFeatures":
        """Only some of the images, in the given order; the features are shared, not copied."""
        part = MemoryFeatures(self._hidden, self._image)
        part._rows = self._rows[torch.as_tensor(indices, dtype=torch.long)]
        return part


class LiveFeatures:
    """Features computed whenever a batch is asked for; nothing is kept.

    Args:
        items: path and content hash of each image; the hash seeds its views.
        frozen: the encoder.
        views: how many views there are.
        seed: of the views.
        decoding: the shortcuts from files to pixels.
    """

    def __init__(
        self,
        items: Sequence[tuple[Path, str]],
        frozen: FrozenEncoder,
        *,
        views: int,
        seed: int,
        decoding: Decoding,
    ) -> None:
        self._items, self._frozen = list(items), frozen
        self._seed, self._decoding = seed, decoding
        self.views = views

    def __len__(self) -> int:
        return len(self._items)

    def batch(self, indices: Int[Tensor, " B"], views: Int[Tensor, " B"] | None = None) -> Features:
        """See `FeatureSource.batch`."""
        if not len(indices):  # a process's share of a small batch
            return self._none()
        views = torch.zeros_like(indices) if views is None else views
        chosen = [
            view_of(path, content, self._seed, view)
            for (path, content), view in zip(
                [self._items[i] for i in indices.tolist()], views.tolist(), strict=True
            )
        ]
        batches = load_batches(chosen, self._frozen, self._decoding)
        named = ((batch, [chosen[n].path for n in batch.numbers]) for batch in batches)
        return Features.cat([encode_batch(self._frozen, b.pixels, paths) for b, paths in named])

    def _none(self) -> Features:
        """Features of no image, in the encoder's shape."""
        identity, device = self._frozen.identity, self._frozen.device
        hidden = torch.empty(0, identity.patches, identity.hidden_size, device=device)
        return Features(hidden, torch.empty(0, identity.feature_size, device=device))

    def subset(self, indices: Sequence[int]) -> "LiveFeatures":
        """Only some of the images, in the given order."""
        return LiveFeatures(
            [self._items[int(i)] for i in indices],
            self._frozen,
            views=self.views,
            seed=self._seed,
            decoding=self._decoding,
        )


@torch.no_grad()
def encode_batch(
    frozen: FrozenEncoder, pixels: Float[Tensor, "B 3 S S"], paths: Sequence[Path] = ()
) -> Features:
    """Features of preprocessed images, on the encoder's device.

    Args:
        frozen: the encoder.
        pixels: of B images.
        paths: of the same; where they are given, nan is refused.

    Raises:
        EncoderError: a feature is nan. Infinities are cut where features are kept.
    """
    ahead = frozen.device.startswith("cuda")
    hidden, image = frozen.encode(pixels.to(frozen.device, non_blocking=ahead))
    features = Features(hidden.float().contiguous(), image.float())
    if paths:
        _refuse_nan(features, paths)
    return features


def _refuse_nan(features: Features, paths: Sequence[Path]) -> None:
    odd = features.hidden_patches.flatten(1).isnan().any(dim=1)
    odd |= features.image_feature.isnan().any(dim=1)
    if odd.any():
        raise EncoderError(
            f"the encoder gives nan for {int(odd.sum())} of {len(paths)} images of a batch, first"
            f" {paths[int(odd.nonzero()[0])]}; encode with --encoder-precision fp32, or check the"
            " encoder's weights"
        )


def read_features(
    source: FeatureSource,
    *,
    pooled: bool,
    views: int,
    dtype: torch.dtype,
    progress: Progress | None = None,
) -> tuple[Float[Tensor, "V N P W"], Float[Tensor, "V N D"]]:
    """All features of the first V views, on the CPU.

    Args:
        source: of N images and V views or more.
        pooled: one "patch" per image, the mean of all.
        views: V.
        dtype: of the patches, cut to its range as in the store; what is made of them is made in
            fp32.
        progress: called with ("reading", done, total), in views of images.
    """
    done, total = 0, views * len(source)
    hidden, image = torch.empty(0), torch.empty(0)
    limit = torch.finfo(dtype).max
    for view in range(views):
        for part in torch.split(torch.arange(len(source)), READ_BATCH):
            made = source.batch(part, torch.full_like(part, view))
            patches = made.hidden_patches
            patches = patches.mean(dim=1, keepdim=True) if pooled else patches
            if not done:
                shape = (views, len(source))
                hidden = torch.empty(*shape, *patches.shape[1:], dtype=dtype)
                image = torch.empty(*shape, made.image_feature.shape[1])
            hidden[view, part] = patches.clamp(-limit, limit).to(hidden)
            image[view, part] = made.image_feature.cpu()
            done += len(part)
            if progress is not None:
                progress("reading", done, total)
    return hidden, image
