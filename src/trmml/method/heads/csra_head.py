"""CSRA (class-specific residual attention): regions of the hidden map; beyond the paper."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from trmml.features.base import Features
from trmml.method.layers import Standardisation, zero_linear
from trmml.settings.sections import CSRAHeadSettings


class CSRAHead(nn.Module):
    """Logits from the hidden map: of its mean patch, and of the patches that speak for a category.

    logits_c = w_c . mean_p h_p + share * sum_p softmax_P(u_c . h_p) (u_c . h_p)

    Text-region matching sees patches as they are projected into the joint space, which drops what
    the encoder's texts never needed. Here each category attends with what it classifies by, in the
    hidden space, and starts from nothing instead of its text.

    Shapes: Features of B images -> logits (B, C).
    Trains: w, u (C, W) and the bias (C); all start at zero, where attention is the mean.
    Source: class-specific residual attention (Zhu and Wu 2021, equations 1 to 4); there one
        classifier serves both terms.
    """

    def __init__(self, *, categories: int, hidden_size: int, settings: CSRAHeadSettings) -> None:
        super().__init__()
        self.share = settings.share
        self.standard = Standardisation(hidden_size)
        self.mean = zero_linear(hidden_size, categories)
        self.region = nn.Parameter(torch.zeros(categories, hidden_size))
        self.dropout = nn.Dropout(settings.dropout)

    def forward(self, features: Features) -> Float[Tensor, "B C"]:
        """Unbounded logits."""
        hidden = features.hidden_patches
        # Standardised and dropped in the weights: the map itself is by far the largest thing here.
        kept = self.dropout(torch.ones_like(self.standard.mean))  # one choice for the batch
        region = self.region * (kept / self.standard.spread)
        scores = F.linear(hidden, region, -region @ self.standard.mean)  # (B, P, C)
        gathered = (scores.softmax(dim=1) * scores).sum(dim=1)
        pooled = self.dropout(self.standard(hidden.mean(dim=1)))
        logits: Tensor = self.mean(pooled) + self.share * gathered
        return logits

    @torch.no_grad()
    def start(self, features: Features, positive_share: Float[Tensor, " C"]) -> None:
        """Measure the standardisation; start the biases at the known shares of positives."""
        self.standard.measure([features.hidden_patches.mean(dim=1)])
        self.mean.bias.copy_(positive_share.to(self.mean.bias).logit())
