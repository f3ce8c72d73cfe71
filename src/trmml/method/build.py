"""TRM-ML made from settings: its parts for one encoder and one list of categories."""

from collections.abc import Sequence

import torch

from trmml.encoders.frozen import FrozenEncoder
from trmml.method.heads.joined import Heads
from trmml.method.matching import Matching
from trmml.method.prompts import PromptLearner, StoredPrompts, build_prompts
from trmml.method.prototypes import Prototypes
from trmml.method.regions import RegionAttention
from trmml.method.trmml import TRMML
from trmml.settings.sections import Settings


def build_trmml(
    frozen: FrozenEncoder,
    category_names: Sequence[str],
    settings: Settings,
) -> TRMML:
    """The method from its parts, for one encoder and one list of categories."""
    generator = torch.Generator().manual_seed(settings.training.seed)
    prompts, negative = build_prompts(frozen.encoder, category_names, settings.prompts, generator)
    with torch.random.fork_rng(devices=[]):  # random starts must not depend on what ran before
        torch.manual_seed(settings.training.seed)
        return join(frozen, prompts, negative, settings)


def join(
    frozen: FrozenEncoder,
    prompts: PromptLearner | StoredPrompts,
    negative_prompts: PromptLearner | None,
    settings: Settings,
) -> TRMML:
    """The method from its prompts, with all other parts as at the start of training."""
    identity, categories = frozen.identity, len(prompts.start_features)
    size = identity.feature_size
    return TRMML(
        project=frozen.encoder.project,
        prompts=prompts,
        negative_prompts=negative_prompts,
        regions=RegionAttention(
            categories=categories,
            feature_size=size,
            hidden_size=identity.hidden_size,
            settings=settings.regions,
        ),
        heads=Heads(categories=categories, hidden_size=identity.hidden_size, settings=settings),
        matching=Matching(categories=categories, settings=settings.matching),
        prototypes=Prototypes(
            categories=categories, feature_size=size, settings=settings.prototypes
        ),
        settings=settings,
    )
