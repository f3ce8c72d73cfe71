"""DualCoOp: a positive and a negative learned prompt per category, against every patch."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from trmml.baselines.coop import CONTEXT, PROMPT_SPACE, PROMPT_TRAINING
from trmml.baselines.supervision import SingleTermModel, focused
from trmml.encoders.frozen import FrozenEncoder
from trmml.errors import ConfigError
from trmml.features.base import Features
from trmml.labels.statistics import lacking_negatives
from trmml.method.interface import Output
from trmml.method.prompts import PromptLearner, build_prompts
from trmml.settings.search_space import FOCUS, OneOf, Space
from trmml.settings.sections import (
    FocusSettings,
    PromptSettings,
    Section,
    TrainingSettings,
    WholeSettings,
)

# Of the cosines before the softmax over patches, and of the sum after it: DualCoOp's own code.
PATCH_SCALE, SUM_SCALE = 20.0, 5.0
SPACE: Space = {**PROMPT_SPACE, **FOCUS, "dual.bias": OneOf((True, False))}


class DualSettings(Section):
    """What DualCoOp adds to its prompts (`baselines/dualcoop.py`)."""

    bias: bool = Field(True, description="learn a bias per category; the paper has none")
    positions: bool = Field(
        False,
        description="read the patches with their position embeddings, and their mean beside them,"
        " as the paper's code does; needs a ResNet of CLIP",
    )


class DualCoOpSettings(WholeSettings):
    """DualCoOp."""

    prompts: PromptSettings = CONTEXT.model_copy(
        update={"negative_template": "a photo without a {}"}
    )
    dual: DualSettings = DualSettings()
    losses: FocusSettings = FocusSettings()
    training: TrainingSettings = PROMPT_TRAINING


class DualCoOp(SingleTermModel):
    """Difference of what the patches say to a positive and to a negative prompt.

    s+-_bpc = 20 cos(patch_bp, text+-_c),  w_bpc = softmax_P(s+_bpc)
    logits_bc = 5 sum_P w_bpc s+_bpc - 5 sum_P w_bpc s-_bpc + bias_c

    The positive map weighs the patches for both, and the sigmoid of the difference is the softmax
    over (negative, positive). As both sums share w, one map of the difference of the texts serves.

    With `positions` P counts the mean of the patches too, and each has its position embedding.

    Shapes: Features of B images -> Output with logits (B, C).
    Trains: two sets of context_tokens (C or 1, T, E), bias (C); nothing of the encoder.
    Source: Sun et al. 2022 (DualCoOp), section 3, equations 1 to 5, and its code for the scales 20
        and 5. Ours: contexts start from "a photo of a" and "a photo without a", not from 16 random
        tokens; AdamW, and the loss divided by the known pairs. The bias is ours too and on by
        default: the difference of two prompts has to learn first how rare a category is, which a
        short budget does not allow, and without it DualCoOp would be a poor rival.
    """

    positions: Tensor | None

    def __init__(
        self,
        *,
        project: Callable[[Tensor], Tensor],
        positions: Float[Tensor, "N W"] | None,
        positive: PromptLearner,
        negative: PromptLearner,
        settings: DualCoOpSettings,
    ) -> None:
        categories = len(positive.start_features)
        super().__init__(
            categories=categories,
            epochs=settings.training.epochs,
            blanks=lacking_negatives,
            loss=focused(settings.losses),
        )
        self._project = project
        self.register_buffer("positions", positions, persistent=False)
        self.positive, self.negative = positive, negative
        self.bias = nn.Parameter(torch.zeros(categories), requires_grad=settings.dual.bias)

    def forward(self, features: Features) -> Output:
        """See `MultiLabelModel.forward`."""
        hidden = features.hidden_patches
        if self.positions is not None:
            hidden = torch.cat([hidden.mean(dim=1, keepdim=True), hidden], dim=1) + self.positions
        patches = F.normalize(self._project(hidden), dim=-1)
        positive, negative = self.positive(), self.negative()
        weights = F.linear(patches, PATCH_SCALE * positive).softmax(dim=1)  # (B, P, C)
        difference = F.linear(patches, PATCH_SCALE * (positive - negative))
        return Output(SUM_SCALE * (weights * difference).sum(dim=1) + self.bias)

    def fast_parameters(self) -> list[str]:
        """The biases."""
        return ["bias"]

    def start_bias(self, features: Features, positive_share: Float[Tensor, " C"]) -> None:
        """See `SingleTermModel.start_bias`; without a bias there is nothing to start."""
        if self.bias.requires_grad:
            mean = self(features).logits.mean(dim=0) - self.bias
            self.bias.copy_(positive_share.to(mean).logit() - mean)


def build_dualcoop(
    frozen: FrozenEncoder, category_names: Sequence[str], settings: DualCoOpSettings
) -> DualCoOp:
    """DualCoOp for one encoder and one list of categories.

    Raises:
        ConfigError: there is no template for the negative prompts, or position embeddings are asked
            for and the encoder has none, or images are scored in several views.
    """
    generator = torch.Generator().manual_seed(settings.training.seed)
    positive, negative = build_prompts(frozen.encoder, category_names, settings.prompts, generator)
    if negative is None:
        raise ConfigError(
            "DualCoOp compares two prompts, but prompts.negative_template is absent; set it, for"
            " example to 'a photo without a {}', or use CoOp"
        )
    positions = (
        getattr(frozen.encoder, "patch_positions", None) if settings.dual.positions else None
    )
    if settings.dual.positions and positions is None:
        raise ConfigError(
            f"dual.positions asks for position embeddings of the patches, but the encoder"
            f" {frozen.identity.name} has none; use a ResNet of CLIP, or leave it off"
        )
    if positions is not None and settings.training.scored_views > 1:
        raise ConfigError(
            "dual.positions has one embedding for each patch of an image, but"
            f" training.scored_views={settings.training.scored_views} joins the patches of as many"
            " views; score one view, or leave dual.positions off"
        )
    return DualCoOp(
        project=frozen.encoder.project,
        positions=positions,
        positive=positive,
        negative=negative,
        settings=settings,
    )
