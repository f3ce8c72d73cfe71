"""Text-region matching: category c's region against category c's text, one to one."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from trmml.method.regions import Regions
from trmml.settings.sections import MatchingSettings


def match(regions: Regions, text_features: Float[Tensor, "K D"]) -> Float[Tensor, "B K"]:
    """Inner product of every region with its own category's vector; the cosine where that is unit.

    It is a ratio of sums over patches, so no (B, K, D) tensor of regions is made.

    Args:
        regions: of K categories; unit length by construction.
        text_features: one vector per category, any length.
    """
    # One product for all images: (B, K, P).
    dots = F.linear(regions.value, text_features).transpose(1, 2)
    products = (dots * regions.attention).sum(dim=-1) / regions.gathered_length
    if regions.hidden is not None and regions.out is not None:
        products = products + (regions.hidden * (text_features @ regions.out)).sum(dim=-1)
    return products / regions.length


class Matching(nn.Module):
    """Logits from cosines: logits_bc = scale * cosine_bc + bias_c.

    Trains: log_scale (), bias (C). Both start so that the ranking is frozen CLIP's; `start_bias`
        then moves the biases to where the known labels say, which changes no ranking within a
        category.
    """

    def __init__(self, *, categories: int, settings: MatchingSettings) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(math.log(settings.scale)))
        self.bias = nn.Parameter(torch.zeros(categories), requires_grad=settings.bias)

    def forward(
        self, cosines: Float[Tensor, "B K"], biases: Float[Tensor, " K"] | None = None
    ) -> Float[Tensor, "B K"]:
        """Unbounded logits; `biases` replaces the learned ones where categories were added."""
        return self.log_scale.exp() * cosines + (self.bias if biases is None else biases)

    @torch.no_grad()
    def start_bias(
        self, mean_cosine: Float[Tensor, " C"], positive_share: Float[Tensor, " C"]
    ) -> None:
        """Start where the mean logit of each category answers to its share of positives.

        Args:
            mean_cosine: over training images, at step 0.
            positive_share: strictly between 0 and 1, from the known labels.
        """
        self.bias.copy_(positive_share.logit() - self.log_scale.exp() * mean_cosine)
