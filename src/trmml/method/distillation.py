"""Distillation: the frozen encoder teaches the match what it knew without any label."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from trmml.features import ranks
from trmml.method.matching import match
from trmml.method.regions import gather_regions
from trmml.settings.sections import MatchingSettings, RegionSettings


class FrozenScores:
    """Logits of the frozen encoder, at the scales from which training starts.

    Trains: nothing.

    Args:
        regions: for the start of the attention's scale.
        matching: for the start of the logits' scale.
    """

    def __init__(self, regions: RegionSettings, matching: MatchingSettings) -> None:
        self._attention, self._scale = _start(regions.attention_scale), _start(matching.scale)

    @torch.no_grad()
    def dense(
        self,
        patches: Float[Tensor, "B P D"],
        text: Float[Tensor, "C D"],
        negative: Float[Tensor, "C D"] | float = 0.0,
    ) -> Float[Tensor, "B C"]:
        """Scaled cosines of each text with the region that it gathers by itself.

        Args:
            patches: projected, of B images.
            text: unit length.
            negative: the texts of negative prompts, whose cosines are taken off.
        """
        scale = torch.tensor(self._attention, device=text.device)
        regions = gather_regions(text, patches, patches, scale)
        return self._scale * match(regions, text - negative)

    @torch.no_grad()
    def teacher(
        self,
        dense: Float[Tensor, "B C"],
        image_feature: Float[Tensor, "B D"],
        text: Float[Tensor, "C D"],
    ) -> Float[Tensor, "B C"]:
        """The teacher's logits: the mean of image cosine and dense cosine, scaled.

        Args:
            dense: see there.
            image_feature: unit length.
            text: without those of negative prompts, where there are any.
        """
        return (dense + self._scale * image_feature @ text.T) / 2


def _start(scale: float) -> float:
    """What a learned scale is at step 0: it is kept as a logarithm in single precision."""
    return float(torch.tensor(math.log(scale)).exp())


def distillation(
    logits: Float[Tensor, "B C"], teacher: Float[Tensor, "B C"], temperature: float
) -> Float[Tensor, ""]:
    """How far the match has moved from the frozen model's: T^2 KL(teacher || student).

    Both are softmaxed over the categories at the temperature; the mean over images is taken, and
    the teacher gets no gradient.

    Source: method.md section 2.5 (Hinton et al. 2015); T = 4 from the author's sibling code.

    Example:
        >>> same = torch.tensor([[1.0, 2.0]])
        >>> distillation(same, same, 4.0)
        tensor(0.)
    """
    student = (logits / temperature).log_softmax(dim=-1)
    target = (teacher.detach() / temperature).log_softmax(dim=-1)
    divergence = F.kl_div(student, target, reduction="none", log_target=True)
    return temperature**2 * (divergence.sum() / ranks.images(len(logits)))
