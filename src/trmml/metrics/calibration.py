"""From logits to probabilities and thresholds, fitted on held-out known labels.

Each category's probability is sigmoid(slope * logit + offset), Platt's scaling. One pooled pair is
fitted on all known labels, then every category's own pair with a Gaussian prior around it, so that
a category with few or no known labels keeps the pooled one. Slopes are positive: the ranking within
a category never changes. Thresholds maximise F1 and are shrunk towards a pooled one.

Source: Platt 1999 (smoothed targets); the prior and the shrinking are our choice.
"""

import logging
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from trmml.errors import CheckpointError, DataError
from trmml.labels.matrix import LabelMatrix
from trmml.metrics.checks import check_pairs, check_scores

logger = logging.getLogger(__name__)

# Standard deviations of the Gaussian prior around the pooled fit. Offsets are log-odds: 1 lets a
# category be 2.7 times likelier than the logits say. Slopes differ less: 0.25 is a factor of 1.28.
OFFSET_SPREAD = 1.0
SLOPE_LOG_SPREAD = 0.25
# The pooled slope per mean absolute deviation of the logits: a factor of e^10, there only to stop a
# slope that would vanish (logits that rank the wrong way round) or grow for ever.
POOLED_SLOPE_LOG_SPREAD = 10.0
# Known positives at which a category's own best threshold weighs as much as the pooled one. Among
# 0.01, 3, 10, 30 and 1000 it gave the best mean F1 on simulated data (60 rare categories, 90 known
# labels each), by less than 0.003 over 10.
THRESHOLD_POSITIVES = 30.0
# Damped Newton steps: 7 suffice on 3 million simulated pairs, the rest is for separable labels.
NEWTON_STEPS = 50
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

    def probabilities(self, logits: Float[Tensor, "N C"]) -> Float[Tensor, "N C"]:
        """Calibrated probabilities in [0, 1], in the logits' precision but at least float32.

        Within a category no two images change places; they tie where the sigmoid saturates.
        """
        dtype = torch.promote_types(logits.dtype, torch.float32)
        slope, offset = (part.to(dtype).to(logits.device) for part in (self.slope, self.offset))
        return torch.sigmoid(logits.to(dtype) * slope + offset)

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


class ReliabilityBin(NamedTuple):
    """Known pairs whose probabilities fall into one bin."""

    mean_probability: float
    share_positive: float
    pairs: int


class _Pairs(NamedTuple):
    """The known pairs M in one list; `category` is the column each comes from."""

    logits: Float64[Tensor, "M"]
    present: Bool[Tensor, "M"]
    category: Int64[Tensor, "M"]

    def pooled(self) -> "_Pairs":
        return self._replace(category=torch.zeros_like(self.category))


class _Line(NamedTuple):
    """Log-odds exp(log_slope) * logit + offset, for each category."""

    log_slope: Float64[Tensor, "C"]
    offset: Float64[Tensor, "C"]


def some_pairs(usable: Bool[Tensor, "N C"], most: int = MOST_PAIRS) -> Bool[Tensor, "N C"]:
    """At most so many of the pairs, drawn with seed 0: two numbers a category need no more."""
    places = usable.flatten().nonzero()[:, 0]
    if len(places) <= most:
        return usable
    drawn = torch.randperm(len(places), generator=torch.Generator().manual_seed(0))[:most]
    kept = torch.zeros(usable.numel(), dtype=torch.bool)
    kept[places.cpu()[drawn]] = True
    return kept.reshape(usable.shape).to(usable.device)


def fit_calibration(
    logits: Float[Tensor, "N C"], labels: Bool[Tensor, "N C"], known: Bool[Tensor, "N C"]
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
    pairs = _Pairs(logits[known].double(), present, known.nonzero()[:, 1])
    slope, offset = _fit_lines(pairs, categories)
    calibration = Calibration(slope, offset, torch.full_like(slope, 0.5))
    probabilities = calibration.probabilities(logits)[known].double()
    thresholds = _fit_thresholds(pairs._replace(logits=probabilities), categories)
    return Calibration(slope, offset, thresholds)


def calibrate(logits: Float[Tensor, "N C"], held: LabelMatrix) -> Calibration:
    """`fit_calibration` on held-out images, also where no absent label is known.

    Tables that only list what is present hold no negative to fit by. Then blanks stand in for them,
    as they do in training: a probability says how likely the image is to be labelled so, which is
    too low by what the blanks hide, but compares across categories and has thresholds.

    Args:
        logits: unbounded, finite, of images the model was not trained on.
        held: their labels.
    """
    known, present_only = held.known, torch.equal(held.known, held.labels)
    if present_only and bool(held.labels.any()):
        known = torch.ones_like(known)
    return fit_calibration(logits, held.labels, known)


def both_answers(held: LabelMatrix) -> bool:
    """Whether some category has a present and an absent label to calibrate by.

    Without, `calibrate` lets blanks stand in for negatives, or leaves logits as they are.
    """
    return bool(((held.positives > 0) & (held.negatives > 0)).any())


def expected_calibration_error(
    probabilities: Float[Tensor, "N C"],
    labels: Bool[Tensor, "N C"],
    known: Bool[Tensor, "N C"],
    bins: int = 15,
) -> float:
    """Mean gap between probability and share of positives over known pairs; nan without any.

    Args:
        probabilities: in [0, 1].
        labels: read only where `known` is True.
        known: True where an annotator answered.
        bins: number of equally wide bins.

    Raises:
        DataError: a probability is outside [0, 1], or shapes or types disagree.

    Source: Guo et al. 2017, section 2, over pairs instead of images.

    Example:
        >>> labels = torch.tensor([[True, False]])
        >>> expected_calibration_error(torch.full((1, 2), 0.75), labels, labels | True)
        0.25
    """
    found = reliability_bins(probabilities, labels, known, bins)
    count = sum(part.pairs for part in found)
    gaps = (part.pairs * abs(part.mean_probability - part.share_positive) for part in found)
    return sum(gaps) / count if count else math.nan


def reliability_bins(
    probabilities: Float[Tensor, "N C"],
    labels: Bool[Tensor, "N C"],
    known: Bool[Tensor, "N C"],
    bins: int = 15,
) -> list[ReliabilityBin]:
    """The points of a reliability diagram, lowest bin first; empty bins are left out.

    Arguments and errors as for `expected_calibration_error`.
    """
    check_scores(probabilities, labels, known)
    values, present = probabilities[known].double().cpu(), labels[known].double().cpu()
    place = (values * bins).long().clamp(max=bins - 1)
    count = torch.bincount(place, minlength=bins)
    total = torch.bincount(place, weights=values, minlength=bins)
    positives = torch.bincount(place, weights=present, minlength=bins)
    return [
        ReliabilityBin(p / n, y / n, n)
        for p, y, n in zip(total.tolist(), positives.tolist(), count.tolist(), strict=True)
        if n
    ]


def _fit_lines(pairs: _Pairs, categories: int) -> tuple[Tensor, Tensor]:
    """Slope and offset per category, (C,) each."""
    centre = pairs.logits.mean()
    scale = (pairs.logits - centre).abs().mean()
    scale = scale if scale > 0 else torch.ones_like(scale)
    standard = pairs._replace(logits=(pairs.logits - centre) / scale)
    base_rate = pairs.present.double().mean()
    start = _Line(torch.zeros_like(base_rate)[None], torch.logit(base_rate)[None])
    pooled = _fit_around(start, standard.pooled(), POOLED_SLOPE_LOG_SPREAD, math.inf)
    each = _Line(*(part.expand(categories) for part in pooled))
    fitted = _fit_around(each, standard, SLOPE_LOG_SPREAD, OFFSET_SPREAD)
    slope = fitted.log_slope.exp() / scale
    return slope, fitted.offset - slope * centre


def _fit_around(
    prior: _Line, pairs: _Pairs, log_slope_spread: float, offset_spread: float
) -> _Line:
    """Most likely lines under a Gaussian prior: Fisher scoring, damped per category."""
    precision = (log_slope_spread**-2, offset_spread**-2)
    targets = _smooth_targets(pairs.present)
    line, damping = prior, torch.full_like(prior.offset, 1e-3)
    loss = _penalised_loss(line, prior, precision, pairs, targets)
    for _ in range(NEWTON_STEPS):
        step = _fisher_step(line, prior, precision, pairs, targets, damping)
        moved = _Line(line.log_slope - step.log_slope, line.offset - step.offset)
        new_loss = _penalised_loss(moved, prior, precision, pairs, targets)
        better = new_loss <= loss + 1e-12 * loss.abs()  # rounding must not stop the last step
        line = _Line(*(torch.where(better, new, old) for new, old in zip(moved, line, strict=True)))
        loss = torch.where(better, new_loss, loss)
        damping = torch.where(better, damping / 10, damping * 10).clamp(1e-9, 1e9)
        if max(step.log_slope.abs().max(), step.offset.abs().max()) < 1e-6:
            break
    return line


def _smooth_targets(present: Bool[Tensor, "M"]) -> Float64[Tensor, "M"]:
    """Platt's targets, just inside (0, 1), so that separable labels keep a finite fit."""
    positives = int(present.sum())
    negatives = present.numel() - positives
    return torch.where(
        present,
        torch.tensor((positives + 1) / (positives + 2), dtype=torch.float64),
        torch.tensor(1 / (negatives + 2), dtype=torch.float64),
    )


def _sum_each(values: Float64[Tensor, "M"], pairs: _Pairs, like: Tensor) -> Float64[Tensor, "C"]:
    return torch.bincount(pairs.category, weights=values, minlength=like.numel())


def _penalised_loss(
    line: _Line, prior: _Line, precision: tuple[float, float], pairs: _Pairs, targets: Tensor
) -> Float64[Tensor, "C"]:
    """Cross-entropy of each category's pairs plus the prior's squared distance."""
    log_odds = line.log_slope.exp()[pairs.category] * pairs.logits + line.offset[pairs.category]
    entropy = F.softplus(log_odds) - targets * log_odds
    far = precision[0] * (line.log_slope - prior.log_slope) ** 2
    return (
        _sum_each(entropy, pairs, far)
        + (far + precision[1] * (line.offset - prior.offset) ** 2) / 2
    )


def _fisher_step(
    line: _Line,
    prior: _Line,
    precision: tuple[float, float],
    pairs: _Pairs,
    targets: Tensor,
    damping: Tensor,
) -> _Line:
    """Solve each category's damped 2 x 2 system for the step to subtract."""
    scaled = line.log_slope.exp()[pairs.category] * pairs.logits
    probability = torch.sigmoid(scaled + line.offset[pairs.category])
    residual, weight = probability - targets, probability * (1 - probability)
    g_slope, g_offset, h_slope, h_offset, h_both = (
        _sum_each(part, pairs, line.offset)
        for part in (residual * scaled, residual, weight * scaled**2, weight, weight * scaled)
    )
    g_slope = g_slope + precision[0] * (line.log_slope - prior.log_slope)
    g_offset = g_offset + precision[1] * (line.offset - prior.offset)
    h_slope = (h_slope + precision[0]) * (1 + damping)
    h_offset = (h_offset + precision[1]) * (1 + damping)
    determinant = h_slope * h_offset - h_both**2
    return _Line(
        (h_offset * g_slope - h_both * g_offset) / determinant,
        (h_slope * g_offset - h_both * g_slope) / determinant,
    )


def _fit_thresholds(pairs: _Pairs, categories: int) -> Float64[Tensor, "C"]:
    """Each category's best threshold, shrunk towards the pooled one; logits are probabilities."""
    positives = torch.bincount(pairs.category, pairs.present.double(), minlength=categories)
    weight = positives / (positives + THRESHOLD_POSITIVES)
    own = _best_thresholds(pairs, categories)
    return weight * own + (1 - weight) * _best_thresholds(pairs.pooled(), 1)


def _best_thresholds(pairs: _Pairs, categories: int) -> Float64[Tensor, "C"]:
    """The threshold with the highest F1, midway to the next lower value; 0.5 without pairs."""
    order = pairs.logits.argsort(descending=True)
    order = order[pairs.category[order].argsort(stable=True)]
    values, present, category = (part[order] for part in pairs)
    # Counts within each category, after each pair
    sizes = torch.bincount(category, minlength=categories)
    starts = sizes.cumsum(0) - sizes
    hits = torch.cat([torch.zeros(1), present.cumsum(0)]).double()  # (M + 1,)
    positives = hits[starts + sizes] - hits[starts]
    place = torch.arange(values.numel())
    seen = place + 1 - starts[category]
    f1 = 2 * (hits[1:] - hits[starts[category]]) / (seen + positives[category])
    # No threshold parts equal values
    last = seen == sizes[category]
    lower = torch.where(last, 0, values.roll(-1))
    f1 = torch.where(~last & (lower == values), -1, f1)
    # First place of each category's maximum
    best = torch.full_like(positives, -1).scatter_reduce_(0, category, f1, "amax")
    place = torch.where(f1 == best[category], place, values.numel())
    first = torch.full_like(sizes, values.numel()).scatter_reduce_(0, category, place, "amin")
    midway = torch.cat([(values + lower) / 2, values.new_tensor([0.5])])
    return midway[first]
