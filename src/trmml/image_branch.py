"""The whole picture as a second opinion beside the regions; beyond the paper, and an option."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from trmml.config import ImageBranchSettings
from trmml.features import Features

# A channel whose spread is a smaller share of the mean spread than this is as good as constant.
LEAST_CHANNEL = 1e-3


class Standardisation(nn.Module):
    """Channels with mean 0 and spread 1, as measured on training pictures before the first step.

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
    def measure(self, values: Float[Tensor, "N W"]) -> None:
        """Take mean and spread from these."""
        self.mean.copy_(values.mean(dim=0))
        spread = values.std(dim=0) if len(values) > 1 else torch.ones_like(self.spread)
        self.spread.copy_(spread.clamp(min=LEAST_CHANNEL * float(spread.mean()) + 1e-9))


class PooledLinear(nn.Module):
    """One linear map from the standardised mean of the hidden patches to the logits.

    Shapes: mean hidden patches (B, W) -> logits (B, C).
    Trains: weight (C, W), bias (C); the weight starts at zero.
    """

    def __init__(self, *, categories: int, hidden_size: int, dropout: float) -> None:
        super().__init__()
        self.linear = zero_linear(hidden_size, categories)
        self.dropout = nn.Dropout(dropout)
        self.standard = Standardisation(hidden_size)

    def forward(self, pooled: Float[Tensor, "B W"]) -> Float[Tensor, "B C"]:
        """Unbounded logits."""
        logits: Tensor = self.linear(self.dropout(self.standard(pooled)))
        return logits

    @torch.no_grad()
    def start(self, features: Features, positive_share: Float[Tensor, " C"]) -> None:
        """Measure the standardisation; start the biases at the known shares of positives."""
        self.standard.measure(features.hidden_patches.mean(dim=1))
        self.linear.bias.copy_(positive_share.to(self.linear.bias).logit())


class ImageBranch(nn.Module):
    """Opinions on the whole picture, of the mean hidden patch: two layers, and one linear map.

    image = W2 ReLU(W1 standard(root(mean_p h_p))),  root(x) = sign(x) sqrt(|x|)
    linear = W standard(mean_p h_p)

    The root keeps the few strongest channels of a map that is mostly zero from ruling the rest
    (Perronnin et al. 2010, section 3.1: power normalisation). The hidden layer is shared by all
    categories: what one of them learns of the pictures serves those with few known labels. The
    linear map errs elsewhere, so that both together beat either.

    Shapes: mean hidden patches (B, W) -> logits (B, C) by name of the opinion.
    Trains: W1 (W -> M), W2 (M -> C), W (W -> C) and the biases; W2 and W start at zero.
    """

    def __init__(self, *, categories: int, hidden_size: int, settings: ImageBranchSettings) -> None:
        super().__init__()
        self.standard = Standardisation(hidden_size)
        self.into = nn.Linear(hidden_size, settings.width, bias=False)
        self.out = zero_linear(settings.width, categories)
        self.dropout = nn.Dropout(settings.dropout)
        self.linear = None
        if settings.linear:
            self.linear = PooledLinear(
                categories=categories, hidden_size=hidden_size, dropout=settings.dropout
            )

    def forward(self, pooled: Float[Tensor, "B W"]) -> dict[str, Float[Tensor, "B C"]]:
        """Unbounded logits."""
        rooted = self.dropout(self.standard(_root(pooled)))
        found = {"image": self.out(self.dropout(F.relu(self.into(rooted))))}
        if self.linear is not None:
            found["linear"] = self.linear(pooled)
        return found

    @torch.no_grad()
    def start(self, features: Features, positive_share: Float[Tensor, " C"]) -> None:
        """Measure the standardisation; start the biases at the known shares of positives."""
        self.standard.measure(_root(features.hidden_patches.mean(dim=1)))
        self.out.bias.copy_(positive_share.to(self.out.bias).logit())
        if self.linear is not None:
            self.linear.start(features, positive_share)


def zero_linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear map with bias that starts at zero."""
    layer = nn.Linear(inputs, outputs)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _root(values: Float[Tensor, "B W"]) -> Float[Tensor, "B W"]:
    """Signed square root; without gradient, for the encoder is frozen."""
    return values.sign() * values.abs().sqrt()
