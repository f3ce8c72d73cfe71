"""The running average of the trained weights, which is what is scored and kept."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

# Steps over which the average grows from a plain mean: the first ones count fully, so that it never
# drags the start along.
GROWING_STEPS = 10


def trained_weights(model: nn.Module) -> dict[str, Tensor]:
    """A copy of all parameters that are trained, by name."""
    return {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}


def move_average(
    average: dict[str, Tensor], model: nn.Module, *, step: int, horizon: float
) -> None:
    """Move the average towards a model's weights, in place.

    Args:
        average: by name.
        model: whose weights enter.
        step: how many steps are made.
        horizon: of the running mean, in steps; 1 or less takes the weights as they are.
    """
    keep = min(1 - 1 / max(1.0, horizon), step / (step + GROWING_STEPS))
    for name, parameter in model.named_parameters():
        if name in average:
            average[name].lerp_(parameter.detach(), 1 - keep)


@contextlib.contextmanager
def averaged(model: nn.Module, average: dict[str, Tensor]) -> Iterator[None]:
    """The model with averaged weights inside the block, with its own ones after it."""
    own = {n: p.detach().clone() for n, p in model.named_parameters() if n in average}
    _copy_parameters(model, average)
    try:
        yield
    finally:
        _copy_parameters(model, own)


@torch.no_grad()
def _copy_parameters(model: nn.Module, values: dict[str, Tensor]) -> None:
    for name, parameter in model.named_parameters():
        if name in values:
            parameter.copy_(values[name])
