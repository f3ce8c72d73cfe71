"""Images of which several views are scored at once: their views joined, to score and to tag by."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Int
from PIL import Image
from torch import Tensor

from trmml.encoders.frozen import FrozenEncoder
from trmml.errors import ConfigError
from trmml.features.base import Features, FeatureSource, encode_batch
from trmml.features.loader import Batch


class JoinedViews:
    """Features of images of which several views are scored at once: the patches of V views in turn.

    What gathers or averages patches then does so over all views; the image feature is the mean of
    theirs, in unit length. The patches of the plain image come first.

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

    def subset(self, indices: Sequence[int]) -> "JoinedViews":
        """Only some of the images, in the given order."""
        return JoinedViews(self._source.subset(indices), self._joined)


def join_views(features: Features, views: int) -> Features:
    """Make one of every V rows that follow each other; see `JoinedViews`."""
    hidden, image = features.hidden_patches, features.image_feature
    count = len(features) // views
    mean = image.view(count, views, -1).mean(dim=1)
    return Features(hidden.reshape(count, -1, hidden.shape[2]), F.normalize(mean, dim=-1))


def joined(source: FeatureSource, views: int) -> FeatureSource:
    """Features that images are scored by: the plain view of each, or several views joined."""
    return source if views == 1 else JoinedViews(source, views)


@dataclass(frozen=True)
class EncodedBatch:
    """Images that went through the encoder together.

    Attributes:
        numbers: positions of the readable images in what was asked for.
        features: of those; None where none is readable.
        bad: positions of the others, with the reason.
        images: the decoded images, where they were asked for.
    """

    numbers: list[int]
    features: Features | None
    bad: dict[int, str]
    images: list[Image.Image]


def encode_views(
    batches: Iterable[Batch], frozen: FrozenEncoder, views: int
) -> Iterator[EncodedBatch]:
    """Encode batches of views; each image comes out once, as soon as all its views are there.

    Args:
        batches: of V views of each image, the plain one first, one image after the other.
        frozen: the encoder, in some precision.
        views: V.
    """
    waiting: list[tuple[int, Features]] = []  # of the images of which a view is still to come
    images: dict[int, Image.Image] = {}
    reported: set[int] = set()  # unreadable images; their views may fall into two batches
    for batch in batches:
        encoded = encode_batch(frozen, batch.pixels) if batch.numbers else None
        if views == 1:
            yield EncodedBatch(batch.numbers, encoded, batch.bad, batch.images)
            continue
        for row, view in enumerate(batch.numbers):
            assert encoded is not None
            waiting.append((view // views, encoded.subset(torch.tensor([row]))))
        shown = zip(batch.numbers, batch.images, strict=False)
        images |= {view // views: image for view, image in shown if view % views == 0}
        bad = {view // views: reason for view, reason in batch.bad.items()}
        bad = {number: reason for number, reason in bad.items() if number not in reported}
        reported |= bad.keys()
        counts = Counter(number for number, _ in waiting)
        whole = [number for number, count in counts.items() if count == views]
        parts = [features for number, features in waiting if number in whole]
        done = reported | set(whole)
        waiting = [(number, features) for number, features in waiting if number not in done]
        yield EncodedBatch(
            numbers=whole,
            features=join_views(Features.cat(parts), views) if whole else None,
            bad=bad,
            images=[images.pop(number) for number in whole if number in images],
        )
