"""Text-region matching: category c's region against category c's text, one to one."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from trmml.settings.sections import MatchingSettings


def match(
    region_features: Float[Tensor, "B C D"], text_features: Float[Tensor, "C D"]
) -> Float[Tensor, "B C"]:
    """Cosine of every region with its own category's text; both unit length.

    Example:
        >>> regions = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
        >>> match(regions, torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
        tensor([[1., 0.]])
    """
    return (region_features * text_features).sum(dim=-1)


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
        """Unbounded logits; `biases` replaces the learned ones where new names were added."""
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
