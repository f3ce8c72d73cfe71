"""From logits to probabilities and thresholds, fitted on held-out known labels.

Each category's probability is sigmoid(slope * logit + offset), Platt's scaling (`platt.py`). Slopes
are positive: the ranking within a category never changes. Thresholds maximise F1 (`thresholds.py`).
A category with few known labels stays near the fit of all.
"""

import logging
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from trmml.errors import CheckpointError, DataError
from trmml.labels.matrix import LabelMatrix
from trmml.labels.statistics import pairs_that_count
from trmml.metrics.checks import check_pairs
from trmml.metrics.platt import KnownPairs, fit_lines
from trmml.metrics.thresholds import fit_thresholds

logger = logging.getLogger(__name__)

# Pairs that a fit of few numbers looks at.
MOST_PAIRS = 200_000


@dataclass(frozen=True, eq=False)
class Calibration:
    """One slope, offset and threshold per category.

    Args:
        slope: finite, above 0.
        offset: finite, in log-odds.
        thresholds: in [0, 1], for calibrated probabilities; reaching it means present.

    Raises:
        DataError: a value is out of range.

    Example:
        >>> Calibration.identity(2).probabilities(torch.tensor([[0.0, 100.0]]))
        tensor([[0.5000, 1.0000]])
    """

    slope: Float64[Tensor, "C"]
    offset: Float64[Tensor, "C"]
    thresholds: Float64[Tensor, "C"]

    def __post_init__(self) -> None:
        """Check lengths and ranges."""
        slope, offset, thresholds = self.slope, self.offset, self.thresholds
        if not slope.shape == offset.shape == thresholds.shape:
            raise DataError(
                "Slope, offset and thresholds of a calibration must have one length, got "
                f"{slope.numel()}, {offset.numel()} and {thresholds.numel()}."
            )
        for name, valid, rule in (
            ("slope", slope.isfinite() & (slope > 0), "finite and above 0"),
            ("offset", offset.isfinite(), "finite"),
            ("threshold", (thresholds >= 0) & (thresholds <= 1), "in [0, 1]"),
        ):
            if not bool(valid.all()):
                c = int((~valid).nonzero()[0])
                raise DataError(
                    f"Each {name} of a calibration must be {rule}; category {c} is not."
                )

    @classmethod
    def identity(cls, categories: int) -> "Calibration":
        """The plain sigmoid, with thresholds of 0.5."""
        one = torch.ones(categories, dtype=torch.float64)
        return cls(slope=one, offset=0 * one, thresholds=0.5 * one)

    def logits(self, logits: Float[Tensor, "N C"]) -> Float[Tensor, "N C"]:
        """Calibrated log-odds, in the logits' precision but at least float32."""
        dtype = torch.promote_types(logits.dtype, torch.float32)
        slope, offset = (part.to(dtype).to(logits.device) for part in (self.slope, self.offset))
        return logits.to(dtype) * slope + offset

    def probabilities(self, logits: Float[Tensor, "N C"]) -> Float[Tensor, "N C"]:
        """Calibrated probabilities in [0, 1], in the logits' precision but at least float32.

        Within a category no two images change places; they tie where the sigmoid saturates.
        """
        return torch.sigmoid(self.logits(logits))

    def to_dict(self) -> dict[str, list[float]]:
        """Lists of numbers, exact through JSON."""
        return {
            "slope": self.slope.tolist(),
            "offset": self.offset.tolist(),
            "thresholds": self.thresholds.tolist(),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Calibration":
        """The inverse of `to_dict`.

        Raises:
            CheckpointError: a list is missing, is no list of numbers or has a value out of range.
        """
        try:
            parts = [
                torch.tensor(values[name], dtype=torch.float64).reshape(-1)
                for name in ("slope", "offset", "thresholds")
            ]
            return cls(*parts)
        except (KeyError, TypeError, ValueError, DataError) as error:
            raise CheckpointError(
                "A stored calibration needs lists of numbers slope, offset and thresholds: "
                f"{error!r}. Fit it again."
            ) from error


def some_pairs(usable: Bool[Tensor, "N C"], most: int = MOST_PAIRS) -> Bool[Tensor, "N C"]:
    """At most so many of the pairs, drawn with seed 0: two numbers a category need no more."""
    places = usable.flatten().nonzero()[:, 0]
    if len(places) <= most:
        return usable
    drawn = torch.randperm(len(places), generator=torch.Generator().manual_seed(0))[:most]
    kept = torch.zeros(usable.numel(), dtype=torch.bool)
    kept[places.cpu()[drawn]] = True
    return kept.reshape(usable.shape).to(usable.device)


class SomeOfBoth(NamedTuple):
    """Known pairs, drawn so that rare positives are not lost among the negatives.

    Attributes:
        kept: which.
        positive: share of the positives that are kept, in (0, 1].
        negative: share of the negatives that are kept, in (0, 1].
    """

    kept: Bool[Tensor, "N C"]
    positive: float
    negative: float


def some_of_both(
    usable: Bool[Tensor, "N C"], labels: Bool[Tensor, "N C"], most: int = MOST_PAIRS
) -> SomeOfBoth:
    """At most so many of the pairs, up to half of them positive; see `some_pairs`."""
    if int(usable.sum()) <= most:
        return SomeOfBoth(usable, 1.0, 1.0)
    sides = usable & labels, usable & ~labels
    counts = [int(side.sum()) for side in sides]
    positives = min(counts[0], max(most // 2, most - counts[1]))
    taken = positives, min(counts[1], most - positives)
    kept = [some_pairs(side, count) for side, count in zip(sides, taken, strict=True)]
    shares = (n / max(count, 1) or 1.0 for n, count in zip(taken, counts, strict=True))
    return SomeOfBoth(kept[0] | kept[1], *shares)


def fit_calibration(
    logits: Float[Tensor, "N C"],
    labels: Bool[Tensor, "N C"],
    known: Bool[Tensor, "N C"],
    *,
    fitted: bool = False,
) -> Calibration:
    """Fit slopes, offsets and thresholds on held-out images.

    A category without both a known positive and a known negative takes the line and threshold of
    the others; without any category that has both, the result is the identity, with a warning in
    the log. A category's threshold is the mean of its own best and the pooled best, its own
    weighing n / (n + 30) with n known positives.

    Args:
        logits: unbounded, finite, of images the model was not trained on.
        labels: read only where `known` is True.
        known: True where an annotator answered.
        fitted: whether the logits are log-odds by a fit to these labels, see `platt.fit_lines`.

    Raises:
        DataError: a logit is not finite, or shapes or types disagree.

    Example:
        >>> logits = torch.tensor([[4.0], [3.0], [2.0], [1.0]])
        >>> labels = torch.tensor([[True], [True], [False], [False]])
        >>> calibration = fit_calibration(logits, labels, torch.ones_like(labels))
        >>> (calibration.probabilities(logits) >= calibration.thresholds).flatten().tolist()
        [True, True, False, False]
    """
    check_pairs(logits, labels, known)
    logits, labels, known = (part.detach().cpu() for part in (logits, labels, known))
    categories = logits.shape[1]
    # Where only one answer is ever given, its share says nothing: such a category takes the pooled.
    both = (known & labels).any(dim=0) & (known & ~labels).any(dim=0)
    known = known & both
    present = labels[known]
    if not both.any():
        logger.warning("no category with both answers known: probabilities stay uncalibrated")
        return Calibration.identity(categories)
    pairs = KnownPairs(logits[known].double(), present, known.nonzero()[:, 1])
    slope, offset = fit_lines(pairs, categories, fitted=fitted)
    calibration = Calibration(slope, offset, torch.full_like(slope, 0.5))
    probabilities = calibration.probabilities(logits)[known].double()
    thresholds = fit_thresholds(pairs._replace(values=probabilities), categories)
    return Calibration(slope, offset, thresholds)


def calibrate(
    logits: Float[Tensor, "N C"],
    held: LabelMatrix,
    by_blanks: Bool[Tensor, " C"],
    *,
    fitted: bool = False,
) -> Calibration:
    """`fit_calibration` on held-out images, also where hardly an absent label is known.

    A table that only lists what is present holds no negative to fit by. Then blanks stand in for
    them, as they do in training: a probability says how likely the image is to be labelled so,
    which is too low by what the blanks hide, but compares across categories and has thresholds.
    It is so category by category, and a stray absent label in one changes nothing in the others.

    Args:
        logits: unbounded, finite, of images the model was not trained on.
        held: their labels.
        by_blanks: `counted_by_blanks` of all training labels; those held out are too few to say.
        fitted: whether the logits are log-odds by a fit to these labels.
    """
    known = pairs_that_count(held, by_blanks)
    return fit_calibration(logits, held.labels, known, fitted=fitted)


def both_answers(held: LabelMatrix, by_blanks: Bool[Tensor, " C"] | None = None) -> bool:
    """Whether a category has a present and an absent label to calibrate by, and needs no blanks.

    Without, `calibrate` lets blanks stand in for negatives, or leaves logits as they are.

    Args:
        held: what is known of held-out images.
        by_blanks: see `calibrate`; none by default.
    """
    both = (held.positives > 0) & (held.negatives > 0)
    return bool((both if by_blanks is None else both & ~by_blanks).any())
