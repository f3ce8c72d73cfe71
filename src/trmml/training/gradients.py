"""What each loss term weighs: its share of the gradient on the parts that it shares with others."""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

from lightning_fabric import Fabric
from torch import Tensor, nn

from trmml.features import ranks
from trmml.training.record import EpochRecord

logger = logging.getLogger(__name__)

# A regulariser whose gradient is this many times that of the classification holds the model back.
HOLDS_BACK = 3.0


def gradient_shares(
    terms: Mapping[str, Tensor],
    weights: Mapping[str, float],
    parameters: Sequence[nn.Parameter],
    fabric: Fabric,
) -> dict[str, float]:
    """Each weighted term's share of the summed gradient norms; empty where one term is alone.

    Only parameters that the classification reaches are looked at: a head of its own neither holds
    the rest back nor is held back. The graph stays for the backward pass that follows, and so that
    this one starts from nothing, no parameter may have a gradient yet.

    Args:
        terms: by name, unweighted; one is "classification".
        weights: by name.
        parameters: all that are trained.
        fabric: goes backward, in its precision.
    """
    named = {name: weights[name] * value for name, value in terms.items() if value.requires_grad}
    if "classification" not in named or len(named) < 2:
        return {}
    norms = _norms(named.pop("classification"), parameters, fabric)
    reached = [p for p, norm in zip(parameters, norms, strict=True) if norm is not None]
    found = {"classification": norms}
    found |= {name: _norms(value, reached, fabric) for name, value in named.items()}
    wholes = {name: math.hypot(*(norm or 0.0 for norm in each)) for name, each in found.items()}
    total = sum(wholes.values())
    return {name: norm / total for name, norm in wholes.items()} if 0 < total < math.inf else {}


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


def _norms(value: Tensor, parameters: Sequence[nn.Parameter], fabric: Fabric) -> list[float | None]:
    """The norm of each parameter's gradient; None where the value does not depend on it."""
    fabric.backward(value, retain_graph=True, inputs=list(parameters))
    ranks.average_gradients(parameters)
    norms = [None if p.grad is None else float(p.grad.float().norm()) for p in parameters]
    for parameter in parameters:
        parameter.grad = None
    return norms
