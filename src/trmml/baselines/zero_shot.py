"""Zero-shot: the frozen encoder and a hand-written prompt, nothing learned."""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from trmml.encoders.base import Encoder
from trmml.features import Features
from trmml.model import MultiLabelModel, Output, Targets
from trmml.prompts import encode_prompts, fill
from trmml.regions import gather_regions

# 1 / temperature of the softmax over patches; DualCoOp's start is about 20.
DENSE_SCALE = 20.0
# A ranking needs no scale; CLIP's own, 100, would saturate the sigmoid where cosines are large.
LOGIT_SCALE = 20.0


class ZeroShot(MultiLabelModel):
    """Cosine of each category's prompt with the image, or with the patches that speak for it.

    Shapes: Features of B images -> Output with logits (B, C).
    Trains: nothing.

    Args:
        project: the encoder's projection of hidden patches into the joint space.
        text_features: unit length.
        look: "image" compares with the pooled image feature (Radford et al. 2021); "dense" gathers
            patches by softmaxed cosine first (training-free DualCoOp, Sun et al. 2022).
    """

    text_features: Tensor

    def __init__(
        self,
        *,
        project: Callable[[Tensor], Tensor],
        text_features: Float[Tensor, "C D"],
        look: Literal["image", "dense"],
    ) -> None:
        super().__init__()
        self._project, self._look = project, look
        self.register_buffer("text_features", text_features)

    def forward(self, features: Features) -> Output:
        """See `MultiLabelModel.forward`."""
        text = self.text_features
        if self._look == "image":
            return Output(LOGIT_SCALE * features.image_feature @ text.T)
        patches = self._project(features.hidden_patches)
        scale = torch.tensor(DENSE_SCALE, device=text.device)
        regions = gather_regions(text, patches, patches, scale)
        return Output(LOGIT_SCALE * regions.match(text), regions=regions)

    def loss_terms(self, output: Output, targets: Targets) -> dict[str, Tensor]:
        """None: there is nothing to train."""
        return {}

    def loss_weights(self) -> dict[str, float]:
        """None: there is nothing to train."""
        return {}


def build_zero_shot(
    encoder: Encoder,
    category_names: Sequence[str],
    *,
    look: Literal["image", "dense"] = "image",
    template: str = "a photo of a {}",
) -> ZeroShot:
    """Zero-shot classifier for the named categories."""
    text = encode_prompts(encoder, fill(template, category_names))
    return ZeroShot(project=encoder.project, text_features=text, look=look)
