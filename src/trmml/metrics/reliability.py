"""How far probabilities are from the share of positives: calibration error and its diagram."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from trmml.metrics.checks import check_scores


class ReliabilityBin(NamedTuple):
    """Known pairs whose probabilities fall into one bin."""

    mean_probability: float
    share_positive: float
    pairs: int


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
    points = reliability_bins(probabilities, labels, known, bins)
    count = sum(point.pairs for point in points)
    gaps = (point.pairs * abs(point.mean_probability - point.share_positive) for point in points)
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
