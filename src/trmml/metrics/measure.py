"""How well scores agree with known labels; unknown labels are ignored everywhere.

Everything is a share in [0, 1]; only `Metrics.table` shows percent. Choices where the field
disagrees with itself:

- A category without a known positive is undefined: its figures are nan, it is left out of every
  mean over categories, and `undefined_categories` counts it.
- A category (or a set) for which nothing is predicted has precision 0, as in the field.
- Equal scores have no order in an average precision; see `average_precision.py`.
- An entry is predicted present where its score is at least the threshold. Where entries tie for the
  last of the top-k places, the categories that come first have it.
- CF1 is the harmonic mean of mean precision and mean recall; the mean of the categories' F1,
  which others call CF1, has a name of its own.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from trmml.errors import ConfigError, DataError
from trmml.metrics.average_precision import curve_mean, mean_defined, precision_curves
from trmml.metrics.checks import check_scores
from trmml.metrics.figures import CategoryMetrics, Metrics, PrecisionRecall


def measure(
    scores: Float[Tensor, "N C"],
    labels: Bool[Tensor, "N C"],
    known: Bool[Tensor, "N C"],
    category_names: Sequence[str],
    *,
    threshold: float | Float[Tensor, "C"] = 0.5,
    top_k: int = 3,
) -> Metrics:
    """Every figure of the field for one set of images.

    Args:
        scores: after the sigmoid, in [0, 1]; never logits.
        labels: read only where `known` is True.
        known: True where an annotator answered.
        category_names: one per column.
        threshold: one for all categories or one each, in [0, 1]; reaching it means present.
        top_k: predictions per image in `at_top_k`: the `top_k` highest known scores of the image,
            and of these only those that reach the threshold. Among equal scores at the last
            place, the categories that come first are taken.

    Raises:
        DataError: a score is not finite or outside [0, 1], or shapes, types or names disagree.
        ConfigError: `threshold` or `top_k` is out of range.

    Source: `overall_topk` of HCP-MLR-PL for the top-k rule. There a category that is never
    predicted adds one wrong prediction to OP; here it adds none.

    Example:
        >>> scores = torch.tensor([[0.9, 0.2], [0.6, 0.7]])
        >>> labels = torch.tensor([[True, False], [False, True]])
        >>> metrics = measure(scores, labels, torch.ones_like(labels), ["cat", "dog"])
        >>> metrics.mean_ap, round(metrics.at_threshold.overall_precision, 4)
        (1.0, 0.6667)
    """
    scores, labels, known = (part.detach().cpu() for part in (scores, labels, known))
    check_scores(scores, labels, known)
    thresholds = _thresholds(threshold, scores)
    _check_names(category_names, scores.shape[1])
    if top_k < 1:
        raise ConfigError(f"top_k must be at least 1, got {top_k}.")
    predicted = scores >= thresholds
    at_threshold = _count(predicted, labels, known)
    at_top_k = _count(predicted & _highest(scores, known, top_k), labels, known)
    rows = _category_rows(scores, labels, known, category_names, thresholds, at_threshold)
    ap, interpolated = torch.tensor(
        [(row.ap, row.ap_interpolated) for row in rows], dtype=torch.float64
    ).T
    return Metrics(
        mean_ap=mean_defined(ap),
        mean_ap_interpolated=mean_defined(interpolated),
        mean_ap_undefined_as_zero=mean_defined(ap.nan_to_num()),
        at_threshold=_summary(at_threshold),
        at_top_k=_summary(at_top_k),
        top_k=top_k,
        images=scores.shape[0],
        categories=scores.shape[1],
        undefined_categories=int(ap.isnan().sum()),
        known_share=known.double().mean().item(),
        per_category=rows,
    )


def _check_names(category_names: Sequence[str], categories: int) -> None:
    if len(category_names) != categories:
        raise DataError(
            f"Expected one name per column of the scores, {categories}, "
            f"got {len(category_names)} category names."
        )


def _thresholds(threshold: float | Tensor, scores: Tensor) -> Tensor:
    thresholds = torch.as_tensor(threshold, dtype=scores.dtype).detach().cpu()
    if thresholds.ndim > 0 and thresholds.shape != scores.shape[1:]:
        raise ConfigError(
            f"Expected one threshold or one per category, {scores.shape[1]}, "
            f"got {thresholds.numel()}."
        )
    if not bool(((thresholds >= 0) & (thresholds <= 1)).all()):
        raise ConfigError(f"Thresholds must lie in [0, 1], got {threshold}.")
    return thresholds.expand(scores.shape[1])


def _highest(
    scores: Float[Tensor, "N C"], known: Bool[Tensor, "N C"], top_k: int
) -> Bool[Tensor, "N C"]:
    """The `top_k` highest known scores of each image, from the left among those that tie."""
    candidates = scores.masked_fill(~known, -1.0)
    top_k = min(top_k, scores.shape[1])
    last = candidates.topk(top_k, dim=1).values[:, -1:]
    above, tied = candidates > last, candidates == last  # topk alone may take any of the tied
    return above | (tied & (tied.cumsum(1) <= top_k - above.sum(1, keepdim=True)))


class _Counts(NamedTuple):
    """Known pairs per category: predicted and present, predicted, present."""

    hits: Float64[Tensor, "C"]
    predicted: Float64[Tensor, "C"]
    positives: Float64[Tensor, "C"]

    def rates(self) -> tuple[Tensor, Tensor, Tensor]:
        """Precision, recall and F1 of each category, nan without a positive."""
        undefined = self.positives == 0
        precision = (self.hits / self.predicted.clamp(min=1)).masked_fill(undefined, math.nan)
        recall = self.hits / self.positives
        f1 = (2 * self.hits / (self.predicted + self.positives)).masked_fill(undefined, math.nan)
        return precision, recall, f1


def _count(
    predicted: Bool[Tensor, "N C"], labels: Bool[Tensor, "N C"], known: Bool[Tensor, "N C"]
) -> _Counts:
    predicted, positives = predicted & known, labels & known
    hits = predicted & positives
    return _Counts(*(part.sum(dim=0).double() for part in (hits, predicted, positives)))


def _summary(counts: _Counts) -> PrecisionRecall:
    total = _Counts(*(part.sum(dim=0, keepdim=True) for part in counts))
    overall = [rate.item() for rate in total.rates()]
    category = [rate.nanmean().item() for rate in counts.rates()]
    return PrecisionRecall(
        overall_precision=overall[0],
        overall_recall=overall[1],
        overall_f1=overall[2],
        category_precision=category[0],
        category_recall=category[1],
        category_f1=_harmonic_mean(category[0], category[1]),
        category_f1_mean_of_f1=category[2],
    )


def _harmonic_mean(first: float, second: float) -> float:
    total = first + second
    return 0.0 if total == 0 else 2 * first * second / total


def _category_rows(
    scores: Float[Tensor, "N C"],
    labels: Bool[Tensor, "N C"],
    known: Bool[Tensor, "N C"],
    category_names: Sequence[str],
    thresholds: Float[Tensor, "C"],
    counts: _Counts,
) -> tuple[CategoryMetrics, ...]:
    rows = []
    answered = known.sum(dim=0).tolist()
    rates = torch.stack(counts.rates(), dim=1).tolist()
    curves = precision_curves(scores, labels, known)
    for c, (name, curve) in enumerate(zip(category_names, curves, strict=True)):
        positives = int(counts.positives[c])
        precision, recall, f1 = rates[c]
        rows.append(
            CategoryMetrics(
                name=name,
                ap=curve_mean(curve, "non-interpolated"),
                ap_interpolated=curve_mean(curve, "interpolated"),
                positives=positives,
                negatives=answered[c] - positives,
                unknown=scores.shape[0] - answered[c],
                precision=precision,
                recall=recall,
                f1=f1,
                threshold=thresholds[c].item(),
            )
        )
    return tuple(rows)
