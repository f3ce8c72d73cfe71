"""CoOp: learned context tokens before each category's name, against the whole image."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from trmml.baselines.supervision import SingleTermModel, focused
from trmml.encoders.frozen import FrozenEncoder
from trmml.features.base import Features
from trmml.labels.statistics import lacking_negatives
from trmml.method.interface import Output
from trmml.method.matching import Matching
from trmml.method.prompts import PromptLearner, build_prompts
from trmml.settings.search_space import FOCUS, RATES, OneOf, Range, Space
from trmml.settings.sections import (
    FocusSettings,
    MatchingSettings,
    PromptSettings,
    TrainingSettings,
    WholeSettings,
)

# Learned context in place of a text residual, from the template's tokens.
CONTEXT = PromptSettings(train_context=True, text_residual=False)
# Prompts learn slowly: DualCoOp needs some 900 steps. So all make 2,000 on small sets too. None
# ends before: until the rate has fallen, a stall says little of what is to come.
PROMPT_TRAINING = TrainingSettings(epochs=12, batch_size=64, learning_rate=1e-2, least_steps=2000)
PROMPT_SPACE: Space = {**RATES, "prompts.shared_context": OneOf((False, True))}
SPACE: Space = {**PROMPT_SPACE, **FOCUS, "matching.scale": Range(10.0, 100.0, log=True)}


class CoOpSettings(WholeSettings):
    """CoOp for several labels."""

    prompts: PromptSettings = CONTEXT
    matching: MatchingSettings = MatchingSettings()
    losses: FocusSettings = FocusSettings()
    training: TrainingSettings = PROMPT_TRAINING


class CoOp(SingleTermModel):
    """Cosine of the image with each category's text, whose context tokens are learned.

    logits_bc = scale <image_b, text_c> + bias_c,  text_c = unit(encode([context_tokens_c, name_c]))

    Shapes: Features of B images -> Output with logits (B, C).
    Trains: context_tokens (C or 1, T, E), log_scale (), bias (C); nothing of the encoder.
    Source: Zhou et al. 2022 (CoOp), equations 2 and 3. Ours: a sigmoid per category in place of the
        softmax, hence a bias per category and a learned scale that starts at 20; asymmetric loss
        on the known labels; by default a context per category, from "a photo of a" (4 tokens),
        where the paper has 16 random tokens. Blanks count where a category lacks known negatives.
    """

    def __init__(
        self, *, prompts: PromptLearner, matching: Matching, settings: CoOpSettings
    ) -> None:
        super().__init__(
            categories=len(prompts.start_features),
            epochs=settings.training.epochs,
            blanks=lacking_negatives,
            loss=focused(settings.losses),
        )
        self.prompts, self.matching = prompts, matching

    def forward(self, features: Features) -> Output:
        """See `MultiLabelModel.forward`."""
        return Output(self.matching(features.image_feature @ self.prompts().T))

    def fast_parameters(self) -> list[str]:
        """Scale and biases: few numbers that must travel far."""
        return ["matching.log_scale", "matching.bias"]

    def start_bias(self, features: Features, positive_share: Float[Tensor, " C"]) -> None:
        """See `SingleTermModel.start_bias`."""
        cosines = features.image_feature @ self.prompts().T
        self.matching.start_bias(cosines.mean(dim=0), positive_share.to(cosines))


def build_coop(
    frozen: FrozenEncoder, category_names: Sequence[str], settings: CoOpSettings
) -> CoOp:
    """CoOp for one encoder and one list of categories."""
    generator = torch.Generator().manual_seed(settings.training.seed)
    prompts, _ = build_prompts(frozen.encoder, category_names, settings.prompts, generator)
    matching = Matching(categories=len(category_names), settings=settings.matching)
    return CoOp(prompts=prompts, matching=matching, settings=settings)
