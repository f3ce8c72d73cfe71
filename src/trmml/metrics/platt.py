"""Platt's scaling of each category with a prior around the pooled fit, by Newton's method.

Log-odds are exp(log_slope) * logit + offset. One pooled line is fitted on all known pairs, then
every category's own with a Gaussian prior around it, so that a category with few or no known labels
keeps the pooled one.

Source: Platt 1999 (smoothed targets); the prior is our choice.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

# Standard deviations of the Gaussian prior around the pooled fit. Offsets are log-odds: 1 lets a
# category be 2.7 times likelier than the logits say. Slopes differ less: 0.25 is a factor of 1.28.
OFFSET_SPREAD = 1.0
SLOPE_LOG_SPREAD = 0.25
# Those of the pooled line itself, per mean absolute deviation of the logits: a factor of e^10, only
# to stop a slope that would vanish (logits that rank the wrong way round) or grow for ever.
POOLED_SPREADS = (10.0, math.inf)
# The same of logits that are log-odds by a fit to the same labels already: two fits to a few labels
# are surer than both should be (`benchmarks/accuracy/few_held_out.py`).
FITTED_SPREADS = (0.17, 0.33)
# Damped Newton steps: 7 suffice on 3 million simulated pairs, the rest is for separable labels.
NEWTON_STEPS = 50


class KnownPairs(NamedTuple):
    """Logits or probabilities of the M known pairs; `category` is the column each comes from."""

    values: Float64[Tensor, "M"]
    present: Bool[Tensor, "M"]
    category: Int64[Tensor, "M"]

    def pooled(self) -> "KnownPairs":
        """The same pairs as if they were of one category."""
        return self._replace(category=torch.zeros_like(self.category))


class _LogOddsLine(NamedTuple):
    """Log-odds exp(log_slope) * logit + offset, for each category."""

    log_slope: Float64[Tensor, "C"]
    offset: Float64[Tensor, "C"]


def fit_lines(pairs: KnownPairs, categories: int, *, fitted: bool = False) -> tuple[Tensor, Tensor]:
    """Slope and offset per category, (C,) each.

    Args:
        pairs: what is known.
        categories: C.
        fitted: whether the logits are log-odds by a fit to these labels; then the pooled line is
            held to the identity.
    """
    centre = pairs.values.mean()
    scale = (pairs.values - centre).abs().mean()
    scale = scale if scale > 0 else torch.ones_like(scale)
    standard = pairs._replace(values=(pairs.values - centre) / scale)
    if fitted:
        start, spreads = _LogOddsLine(scale.log()[None], centre[None]), FITTED_SPREADS
    else:
        base_rate = torch.logit(pairs.present.double().mean())
        start, spreads = _LogOddsLine(0 * base_rate[None], base_rate[None]), POOLED_SPREADS
    pooled = _fit_around(start, standard.pooled(), *spreads)
    each = _LogOddsLine(*(part.expand(categories) for part in pooled))
    line = _fit_around(each, standard, SLOPE_LOG_SPREAD, OFFSET_SPREAD)
    slope = line.log_slope.exp() / scale
    return slope, line.offset - slope * centre


def _fit_around(
    prior: _LogOddsLine, pairs: KnownPairs, log_slope_spread: float, offset_spread: float
) -> _LogOddsLine:
    """Most likely lines under a Gaussian prior: Fisher scoring, damped per category."""
    precision = (log_slope_spread**-2, offset_spread**-2)
    targets = _smooth_targets(pairs.present)
    line, damping = prior, torch.full_like(prior.offset, 1e-3)
    loss = _penalised_loss(line, prior, precision, pairs, targets)
    for _ in range(NEWTON_STEPS):
        step = _fisher_step(line, prior, precision, pairs, targets, damping)
        moved = _LogOddsLine(line.log_slope - step.log_slope, line.offset - step.offset)
        new_loss = _penalised_loss(moved, prior, precision, pairs, targets)
        better = new_loss <= loss + 1e-12 * loss.abs()  # rounding must not stop the last step
        line = _LogOddsLine(
            *(torch.where(better, new, old) for new, old in zip(moved, line, strict=True))
        )
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


def _sum_each(
    values: Float64[Tensor, "M"], pairs: KnownPairs, like: Tensor
) -> Float64[Tensor, "C"]:
    return torch.bincount(pairs.category, weights=values, minlength=like.numel())


def _penalised_loss(
    line: _LogOddsLine,
    prior: _LogOddsLine,
    precision: tuple[float, float],
    pairs: KnownPairs,
    targets: Tensor,
) -> Float64[Tensor, "C"]:
    """Cross-entropy of each category's pairs plus the prior's squared distance."""
    log_odds = line.log_slope.exp()[pairs.category] * pairs.values + line.offset[pairs.category]
    entropy = F.softplus(log_odds) - targets * log_odds
    far = precision[0] * (line.log_slope - prior.log_slope) ** 2
    return (
        _sum_each(entropy, pairs, far)
        + (far + precision[1] * (line.offset - prior.offset) ** 2) / 2
    )


def _fisher_step(
    line: _LogOddsLine,
    prior: _LogOddsLine,
    precision: tuple[float, float],
    pairs: KnownPairs,
    targets: Tensor,
    damping: Tensor,
) -> _LogOddsLine:
    """Solve each category's damped 2 x 2 system for the step to subtract."""
    scaled = line.log_slope.exp()[pairs.category] * pairs.values
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
    return _LogOddsLine(
        (h_offset * g_slope - h_both * g_offset) / determinant,
        (h_slope * g_offset - h_both * g_slope) / determinant,
    )
