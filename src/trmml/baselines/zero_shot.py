"""Zero-shot: the frozen encoder and a hand-written prompt, nothing learned."""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from trmml.encoders.base import Encoder
from trmml.features.base import Features
from trmml.method.interface import MultiLabelModel, Output, Targets
from trmml.method.matching import match
from trmml.method.prompts import encode_templates
from trmml.method.regions import RegionOutput, gather_regions
from trmml.settings.sections import Section, TrainingSettings, WholeSettings

# 1 / temperature of the softmax over patches; DualCoOp's start is about 20.
DENSE_SCALE = 20.0
# A ranking needs no scale; CLIP's own, 100, would saturate the sigmoid where cosines are large.
LOGIT_SCALE = 20.0


# The seven templates that serve ImageNet best together, chosen by OpenAI by forward selection from
# their eighty: github.com/openai/CLIP, notebooks/Prompt_Engineering_for_ImageNet.ipynb.
SEVEN_TEMPLATES = (
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)


class TemplateSettings(Section):
    """The prompt (`baselines/zero_shot.py`)."""

    template: str = Field("a photo of a {}", description="hand-written prompt; {} is the name")


class EnsembleSettings(Section):
    """The prompts whose texts are averaged (`baselines/zero_shot.py`)."""

    templates: tuple[str, ...] = Field(
        SEVEN_TEMPLATES, min_length=1, description="hand-written prompts; {} is the name"
    )


class ZeroShotSettings(WholeSettings):
    """Zero-shot with one prompt."""

    prompts: TemplateSettings = TemplateSettings()
    training: TrainingSettings = TrainingSettings()  # nothing is trained, but labels are held out


class ZeroShotEnsembleSettings(WholeSettings):
    """Zero-shot with several prompts."""

    prompts: EnsembleSettings = EnsembleSettings()
    training: TrainingSettings = TrainingSettings()


class ZeroShot(MultiLabelModel):
    """Cosine of each category's prompt with the image, or with the patches that speak for it.

    Shapes: Features of B images -> Output with logits (B, C).
    Trains: nothing.

    Args:
        project: the encoder's projection of hidden patches into the joint space.
        text_features: unit length.
        look: "image" compares with the pooled image feature (Radford et al. 2021); "dense" gathers
            patches by softmaxed cosine first, after Sun et al. 2022, who gather their cosines.
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
        return RegionOutput(LOGIT_SCALE * match(regions, text), regions)

    def loss_terms(self, output: Output, targets: Targets) -> dict[str, Tensor]:
        """None: there is nothing to train."""
        return {}


def build_zero_shot(
    encoder: Encoder,
    category_names: Sequence[str],
    *,
    templates: Sequence[str] = ("a photo of a {}",),
    look: Literal["image", "dense"] = "image",
) -> ZeroShot:
    """Zero-shot classifier for the named categories, by the mean text of their prompts.

    Source: Radford et al. 2021, section 3.1.4: unit features are averaged and made unit again.
    """
    texts = encode_templates(encoder, templates, category_names)
    text = texts[0] if len(texts) == 1 else F.normalize(torch.stack(texts).mean(dim=0), dim=-1)
    return ZeroShot(project=encoder.project, text_features=text, look=look)
