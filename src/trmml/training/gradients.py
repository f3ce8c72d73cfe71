"""What each loss term weighs: its share of the gradient on the parts that it shares with others."""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trmml.training.record import EpochRecord

logger = logging.getLogger(__name__)

# A regulariser whose gradient is this many times that of the classification holds the model back.
HOLDS_BACK = 3.0


def gradient_shares(
    terms: Mapping[str, Tensor], weights: Mapping[str, float], parameters: Sequence[nn.Parameter]
) -> dict[str, float]:
    """Each weighted term's share of the summed gradient norms; empty where one term is alone.

    Only parameters that the classification reaches are looked at: a head of its own neither holds
    the rest back nor is held back. The graph stays for the backward pass that follows.

    Args:
        terms: by name, unweighted; one is "classification".
        weights: by name.
        parameters: all that are trained.
    """
    named = {name: weights[name] * value for name, value in terms.items() if value.requires_grad}
    if "classification" not in named or len(named) < 2:
        return {}
    gradients = _gradients(named.pop("classification"), parameters)
    reached = [p for p, g in zip(parameters, gradients, strict=True) if g is not None]
    norms = {"classification": _norm(gradients)}
    norms |= {name: _norm(_gradients(value, reached)) for name, value in named.items()}
    total = sum(norms.values())
    return {name: norm / total for name, norm in norms.items()} if 0 < total < math.inf else {}


def holding_back(shares: Mapping[str, float]) -> list[str]:
    """Names of the terms that outweigh the classification by more than `HOLDS_BACK` to 1."""
    limit = HOLDS_BACK * shares.get("classification", math.inf)
    return [name for name, share in shares.items() if share > limit]


def warn_of_outweighing(record: EpochRecord, before: Sequence[Mapping[str, Any]]) -> None:
    """Log which terms outweigh the classification, each once in a run."""
    old = {name for each in before for name in holding_back(each.get("gradient_shares", {}))}
    for name in sorted(set(holding_back(record.gradient_shares)) - old):
        logger.warning(
            "the loss term %s outweighs the classification: it has %.0f %% of the gradient in"
            " epoch %d; lower its weight, or training will hold the model where it began",
            name,
            100 * record.gradient_shares[name],
            record.epoch,
        )


def _gradients(value: Tensor, parameters: Sequence[nn.Parameter]) -> Sequence[Tensor | None]:
    return torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)


def _norm(gradients: Sequence[Tensor | None]) -> float:
    return math.sqrt(sum(float(g.float().square().sum()) for g in gradients if g is not None))
