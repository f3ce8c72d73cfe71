"""Rules that say which probabilities become labels."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from trmml.errors import ConfigError
from trmml.labels.matrix import LabelMatrix

RULES = "none, threshold, sure=P, precision=P or all"
# Of the 90 % interval: either side errs in 5 %.
BOUND = 1.6449
# Pairs of just the wanted precision that are added when cuts are checked: few pairs prove nothing.
PRIOR_PAIRS = 10.0
# From 0 and 1 that log-odds stop at.
EPS = 1e-6


@dataclass(frozen=True)
class Rule:
    """A rule by name, with its number where it has one; `parse` checks both."""

    name: str
    number: float = math.nan

    @classmethod
    def parse(cls, text: str) -> "Rule":
        """The rule that a text names.

        Raises:
            ConfigError: there is no such rule, or its number is out of range.

        Example:
            >>> Rule.parse("sure=0.95")
            Rule(name='sure', number=0.95)
        """
        name, equals, value = text.partition("=")
        if name in ("none", "threshold", "all") and not equals:
            return cls(name)
        if name not in ("sure", "precision"):
            raise ConfigError(f"there is no rule {text!r} to accept labels by; expected {RULES}")
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        least = 0.5 if name == "sure" else 0.0
        if not least < number < 1:
            raise ConfigError(
                f"the rule {text!r} needs a number above {least:g} and below 1, as in {name}=0.9;"
                " it is a probability, no percentage"
            )
        return cls(name, number)


def accepted(
    rule: Rule,
    probability: Float[Tensor, "N C"],
    thresholds: Float[Tensor, " C"],
    cuts: Float[Tensor, " C"],
) -> LabelMatrix:
    """What a rule decides of each pair; unknown where it decides nothing.

    Args:
        rule: from `Rule.parse`.
        probability: calibrated.
        thresholds: from which each category counts as present.
        cuts: from `precision_cuts`; read by that rule alone.
    """
    if rule.name == "sure":
        present, absent = probability >= rule.number, probability <= 1 - rule.number
        return LabelMatrix(present, present | absent)
    if rule.name == "none":
        present = torch.zeros_like(probability, dtype=torch.bool)
        return LabelMatrix(present, present)
    present = probability >= (cuts if rule.name == "precision" else thresholds)
    known = torch.ones_like(present) if rule.name == "all" else present
    return LabelMatrix(present, known)


def precision_cuts(
    precision: float,
    probability: Float[Tensor, "N C"],
    labels: Bool[Tensor, "N C"],
    known: Bool[Tensor, "N C"],
) -> Float[Tensor, " C"]:
    """The lowest probability of each category from which held-out precision reaches a number.

    It is reached where the lower end of its 90 % interval (Wilson) does. Infinite for a category
    that cannot show it, as where no absent label is known.

    Args:
        precision: above 0 and below 1.
        probability: of images that the model never saw. They may have chosen what evidence counts
            for, and fitted the `Recalibration`.
        labels: read only where `known` is True.
        known: the pairs that count.
    """
    cuts = torch.full((probability.shape[1],), math.inf, dtype=probability.dtype)
    for c in (known & ~labels).any(dim=0).nonzero()[:, 0].tolist():
        values, order = probability[known[:, c], c].sort(descending=True)
        hits = labels[known[:, c], c][order].cumsum(0).double()
        bound = wilson(hits, torch.arange(1, len(values) + 1, dtype=torch.float64))
        whole = torch.cat([values[:-1] > values[1:], torch.tensor([True])])  # no cut parts equals
        reached = (whole & (bound >= precision)).nonzero()[:, 0]
        if len(reached):
            cuts[c] = values[reached[-1]]
    return cuts


def raised_cuts(
    cuts: Float[Tensor, " C"],
    precision: float,
    probability: Float[Tensor, "H C"],
    labels: Bool[Tensor, "H C"],
    known: Bool[Tensor, "H C"],
) -> Float[Tensor, " C"]:
    """Cuts raised alike, in log-odds, until pairs that did not choose them reach the precision.

    The lowest of many cuts was sought, and that flatters.

    Args:
        cuts: from `precision_cuts`.
        precision: what was asked of them.
        probability: of other images that the model never saw, and that chose no cut. As in
            `precision_cuts`, weights and calibration may have been fitted on them.
        labels: read only where `known` is True.
        known: the pairs that count.
    """
    used = known & (probability >= cuts)
    over = (probability.logit(EPS) - cuts.logit(EPS))[used]
    over, order = over.sort(descending=True)
    hits = labels[used][order].cumsum(0) + precision * PRIOR_PAIRS
    if not len(over):
        return cuts
    whole = torch.cat([over[:-1] > over[1:], torch.tensor([True])])  # no cut parts equals
    reached = whole & (hits / (torch.arange(1, len(over) + 1) + PRIOR_PAIRS) >= precision)
    if bool(reached[-1]):
        return cuts
    if not bool(reached.any()):
        return torch.full_like(cuts, math.inf)  # a probability may round to 1
    rise = over[reached.nonzero()[-1]]
    return torch.where(cuts.isfinite(), (cuts.logit(EPS) + rise).sigmoid(), cuts)


def wilson(hits: Float[Tensor, " M"], of: Float[Tensor, " M"]) -> Float[Tensor, " M"]:
    """Lower end of the 90 % interval of a share.

    Source: Wilson 1927.

    Example:
        >>> round(wilson(torch.tensor([25.0]), torch.tensor([25.0])).item(), 3)
        0.902
    """
    share, square = hits / of, BOUND**2
    spread = BOUND * (share * (1 - share) / of + square / (4 * of**2)).sqrt()
    return (share + square / (2 * of) - spread) / (1 + square / of)
