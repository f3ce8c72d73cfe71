"""Images with their tags, and which categories become tags: by rules on numpy, without torch."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from trmml.errors import ConfigError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tag:
    """One category that an image shows.

    Attributes:
        category: its name.
        probability: calibrated, in [0, 1].
        threshold: the probability from which it counts as present.
    """

    category: str
    probability: float
    threshold: float


@dataclass(frozen=True)
class TaggedImage:
    """An image and its tags, the most probable first.

    Attributes:
        path: as it was given.
        tags: those chosen.
        error: why the image could not be read, or None.
        maps: files of the region maps, where asked for.
    """

    path: Path
    tags: tuple[Tag, ...] = ()
    error: str | None = None
    maps: tuple[Path, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe form; `maps` and `error` are there only where there are any."""
        tags = [
            {
                "category": tag.category,
                "probability": round(tag.probability, 6),
                "threshold": round(tag.threshold, 6),
            }
            for tag in self.tags
        ]
        tree: dict[str, Any] = {"image": str(self.path), "tags": tags}
        if self.maps:
            tree["maps"] = [str(path) for path in self.maps]
        return tree if self.error is None else {**tree, "error": self.error}


@dataclass(frozen=True)
class Choice:
    """Which categories become tags.

    Args:
        top: at most so many an image, whatever their probability; with a threshold, only those
            above it.
        threshold: one probability for all categories; by default each category has its own.

    Raises:
        ConfigError: a value is out of range.

    Example:
        >>> tags = Choice(top=1).tags(np.array([[0.2, 0.4]]), np.array([0.5, 0.5]), ["cat", "dog"])
        >>> tags[0][0].category
        'dog'
    """

    top: int | None = None
    threshold: float | None = None

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.top is not None and self.top < 1:
            raise ConfigError(f"expected at least 1 tag an image, got top {self.top}")
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise ConfigError(
                f"expected a threshold from 0 to 1, got {self.threshold:g}; it is a probability, no"
                " percentage"
            )

    def tags(
        self,
        probabilities: Float[np.ndarray, "B K"],
        thresholds: Float[np.ndarray, " K"],
        names: Sequence[str],
    ) -> list[tuple[Tag, ...]]:
        """Tags of each image, the most probable first; `thresholds` are the categories' own."""
        if self.threshold is not None:
            thresholds = np.full_like(thresholds, self.threshold)
        order = np.argsort(-probabilities, axis=1, kind="stable")
        values = np.take_along_axis(probabilities, order, axis=1)
        keep = np.ones_like(order, dtype=bool)
        if self.top is None or self.threshold is not None:
            keep = values >= thresholds[order]
        if self.top is not None:
            keep[:, self.top :] = False
        limits = thresholds.tolist()
        return [
            tuple(
                Tag(names[c], p, limits[c])
                for c, p in zip(row[kept].tolist(), some[kept].tolist(), strict=True)
            )
            for row, some, kept in zip(order, values, keep, strict=True)
        ]


def warn_left_out(unreadable: int, images: int) -> None:
    """Log how many images could not be read, if any."""
    if unreadable:
        logger.warning("%d of %d images cannot be read and were left out", unreadable, images)


def warn_uncalibrated(calibrated: bool) -> None:
    """Log what probabilities are worth where nothing was there to calibrate them on."""
    if not calibrated:
        logger.warning(
            "this run held out too few absent labels to calibrate on: its probabilities order the"
            " categories, but may be far too low; train it again with some absent labels"
        )
