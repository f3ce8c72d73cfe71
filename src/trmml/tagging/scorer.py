"""A loaded run that scores images in memory: by its ONNX file without torch, or by torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from trmml.errors import DataError


@dataclass(frozen=True)
class Scored:
    """What is known of a batch of images.

    Attributes:
        probabilities: calibrated.
        features: the encoder's image features, unit length; None by ONNX Runtime.
        maps: of regions, over the patches row by row; each sums to 1.
    """

    probabilities: Float[np.ndarray, "B K"]
    features: Float[np.ndarray, "B D"] | None
    maps: Float[np.ndarray, "B K P"]


@runtime_checkable
class Scorer(Protocol):
    """A loaded run.

    Attributes:
        by: "onnxruntime" or "torch"; their numbers differ in the last digits.
        ahead: whether images are prepared while others are scored: only a card leaves cores free.
        category_names, thresholds, grid, feature_size: of the run.
    """

    by: str
    ahead: bool
    category_names: list[str]
    thresholds: Float[np.ndarray, " K"]
    grid: tuple[int, int]
    feature_size: int

    def prepare(self, source: Path | bytes, name: str = "the image") -> Any:
        """One image as `score` takes it, as `trmml tag` sees it; `name` of a content, in messages.

        Raises:
            DataError: it cannot be read.
        """
        ...

    def score(self, prepared: Sequence[Any]) -> Scored:
        """Scores of some images."""
        ...


def prepared(scorer: Scorer, source: Path | bytes) -> Any | DataError:
    """An image as the scorer takes it, or why it cannot be read."""
    try:
        return scorer.prepare(source)
    except DataError as error:
        return error
