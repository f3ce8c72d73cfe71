"""Pictures looked at several times at once: their views joined, to score and to tag by."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Int
from PIL import Image
from torch import Tensor

from trmml.encoders.speed.precision import EncodeImage
from trmml.errors import ConfigError
from trmml.features.base import Features, FeatureSource, encode_batch
from trmml.features.loader import Batch


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
