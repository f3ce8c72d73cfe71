"""Small layers that the heads and the baselines share."""

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

# A channel whose spread is a smaller share of the mean spread than this is as good as constant, and
# reads 0.
LEAST_CHANNEL = 1e-3


class Standardisation(nn.Module):
    """Channels with mean 0 and spread 1, as measured on training images before the first step.

    A constant channel has an infinite spread and reads 0.

    Shapes: (..., W) -> (..., W).
    """

    mean: Tensor
    spread: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("spread", torch.ones(size))

    def forward(self, values: Float[Tensor, "... W"]) -> Float[Tensor, "... W"]:
        """Standardised values."""
        return (values - self.mean) / self.spread

    @torch.no_grad()
    def measure(self, parts: Iterable[Float[Tensor, "_ W"]]) -> None:
        """Take mean and spread from the rows of all parts."""
        count, total = 0, torch.zeros(len(self.mean), dtype=torch.float64)
        squares = torch.zeros_like(total)
        for part in parts:
            values = part.cpu().double()  # not every device has double precision
            count += len(values)
            total += values.sum(dim=0)
            squares += values.square().sum(dim=0)
        mean = total / count
        variance = (squares - count * mean.square()).clamp(min=0) / max(1, count - 1)
        spread = variance.sqrt() if count > 1 else torch.ones_like(total)
        self.mean.copy_(mean)
        # Divided by a tiny number, a new image that it is not constant in would rule all else.
        constant = spread <= LEAST_CHANNEL * spread.mean() + 1e-9
        self.spread.copy_(torch.where(constant, math.inf, spread))


class Dropout(nn.Dropout):
    """The same as torch's, in a third of its time on a processor, which draws number by number.

    Four numbers of 16 bits come of each draw, so the share is off by 2 ** -17 at most.

    Shapes: any -> the same.
    """

    def forward(self, input: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Some values set to zero, the others larger, so that the mean stays."""
        if not self.training or self.p in (0, 1) or input.device.type != "cpu":
            return super().forward(input)
        drawn = torch.empty(-(-input.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        numbers = drawn.view(torch.int16)[: input.numel()].view(input.shape)
        kept = numbers >= round(self.p * 2**16) - 2**15
        return input * kept / (1 - self.p)


class TwoLayers(nn.Module):
    """Two layers for all categories: W2 ReLU(W1 x) + b.

    Shapes: (B, W) -> (B, C).
    Trains: W1 (M, W), W2 (C, M), b (C); W2 starts at zero.
    """

    def __init__(self, inputs: int, width: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.into = nn.Linear(inputs, width, bias=False)
        self.out = zero_linear(width, outputs)
        self.dropout = nn.Dropout(dropout)

    def forward(self, values: Float[Tensor, "B W"]) -> Float[Tensor, "B C"]:
        """Unbounded logits."""
        hidden = F.relu(self.into(self.dropout(values)))
        logits: Tensor = self.out(self.dropout(hidden))
        return logits


def zero_linear(inputs: int, outputs: int, *, bias: bool = True) -> nn.Linear:
    """A linear map that starts at zero."""
    layer = nn.Linear(inputs, outputs, bias=bias)
    nn.init.zeros_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def signed_root(values: Float[Tensor, "B W"]) -> Float[Tensor, "B W"]:
    """Signed square root; without gradient, for the encoder is frozen."""
    return values.sign() * values.abs().sqrt()


def principal_directions(
    parts: Iterable[Float[Tensor, "_ W"]],
) -> tuple[Float[Tensor, " W"], Float[Tensor, "W W"]]:
    """Mean square along each principal direction, the largest first, and the directions as columns.

    In double precision on the CPU, which not every device has.

    Args:
        parts: rows in batches; centred, where variances are wanted.
    """
    count, total = 0, torch.zeros(())
    for part in parts:
        count += len(part)
        total = total + (part.T @ part).cpu().double()
    squares, directions = torch.linalg.eigh(total / count)
    return squares.flip(0), directions.flip(1)
