"""Settings: frozen, validated, written beside every checkpoint.

`files.py` reads them from presets, TOML files and `--set`. `docs/method.md` gives the source of
every default and the verdict of its ablation.
"""

import difflib
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    ValidationError,
    model_validator,
)

from trmml.errors import ConfigError
from trmml.settings.changes import as_named, merged, nested
from trmml.settings.choices import EpochRule, Precision, Reduction
from trmml.settings.old_names import current_name


class Section(BaseModel):
    """A frozen group of settings in which an unknown name, nan or an infinity is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class PromptSettings(Section):
    """The prompt learner (`prompts.py`)."""

    template: str = Field("a photo of a {}", description="hand-written prompt; {} is the name")
    train_context: bool = Field(
        False, description="learn the context tokens, with gradients through the text encoder"
    )
    context_start: Literal["template", "random"] = Field(
        "template", description="the template's tokens, or random vectors of std 0.02"
    )
    context_tokens: int = Field(16, ge=1, le=64, description="T, read for a random start only")
    shared_context: bool = Field(False, description="one context for all categories")
    text_residual: bool = Field(
        True, description="learn a vector per category that is added to its text feature"
    )
    negative_template: str | None = Field(
        None, description="a second, negative prompt per category; off when absent"
    )


class RegionSettings(Section):
    """Category-aware region attention (`regions.py`)."""

    learn: bool = Field(True, description="train the module; false gathers as frozen CLIP does")
    hidden_rank: Literal["full"] | NonNegativeInt = Field(
        "full",
        description="how keys and values read the hidden patches: by one map of full width, or"
        " each through a bottleneck of so many channels; 0 = not",
    )
    mlp_size: int = Field(0, ge=0, description="hidden width of the residual MLP; 0 = none")
    dropout: float = Field(
        0.2, ge=0, lt=1, description="share dropped of the hidden reading and within the MLP"
    )
    attention_scale: float = Field(
        20.0, gt=0, description="1 / temperature of the attention at the start"
    )


class MatchingSettings(Section):
    """Text-region matching (`matching.py`)."""

    scale: float = Field(20.0, gt=0, description="1 / temperature of the logits at the start")
    bias: bool = Field(True, description="learn a bias per category")


class ImageHeadSettings(Section):
    """A head on the whole image, beside the match (`image_head.py`); beyond the paper."""

    use: bool = Field(True, description="add the head; false is the method as published")
    width: int = Field(1024, ge=1, description="of the hidden layer")
    dropout: float = Field(0.5, ge=0, lt=1, description="share dropped before each layer")
    linear: bool = Field(True, description="one head more: a linear map of the whole image")
    spectrum_power: float = Field(
        0.0, ge=-0.5, le=0.5, description="variance to this power scales each principal direction"
    )
    epochs: int = Field(
        20, ge=1, description="passes over the mean patches, before the first epoch"
    )
    batch_size: int = Field(256, ge=1, description="images a batch of those passes")
    learning_rate: float = Field(6e-4, gt=0, description="highest, of the two layers")
    linear_rate: float = Field(3e-4, gt=0, description="highest, of the linear map")


class CSRAHeadSettings(Section):
    """A head on regions of the hidden map (`csra_head.py`); beyond the paper."""

    use: bool = Field(False, description="add the head; false is the method as published")
    share: float = Field(0.5, ge=0, description="weight of the gathered patches beside the mean")
    dropout: float = Field(0.5, ge=0, lt=1, description="share of the channels that is dropped")
    rate_factor: float = Field(0.5, gt=0, description="learning-rate factor of the head")


class NeighbourHeadSettings(Section):
    """A head on the training images most alike (`neighbour_head.py`); beyond the paper."""

    use: bool = Field(
        False, description="add the head: for series of much the same image; needs `fit_weights`"
    )
    directions: int = Field(256, ge=1, description="principal directions in which images compare")
    images: int = Field(20_000, ge=1, description="images that are remembered at most")


class StackingSettings(Section):
    """How the logits of all heads become one (`stacking.py`); beyond the paper."""

    zero_shot: bool = Field(
        True, description="add the frozen encoder's dense scores as a head; needs `fit_weights`"
    )
    fit_weights: bool = Field(
        True, description="fit the heads' weights on held-out labels; false: all the same"
    )


class PrototypeSettings(Section):
    """Multimodal category prototypes and the pseudo-labels they give (`prototypes.py`)."""

    momentum: float = Field(
        0.99, ge=0, lt=1, description="of the running means, for each region that enters one"
    )
    warm_up_share: float = Field(
        0.3, ge=0, le=1, description="share of the epochs without pseudo-labels"
    )
    neighbours: int = Field(
        8, ge=0, description="other categories that the inter-category evidence compares with"
    )
    positive_above: float = Field(0.9, gt=0, lt=1, description="probability of a pseudo-positive")
    negative_below: float = Field(0.01, gt=0, lt=1, description="probability of a pseudo-negative")


class FocusSettings(Section):
    """Shape of the asymmetric loss (`classification.py`); all 0 is binary cross-entropy."""

    gamma_negative: float = Field(2.0, ge=0, description="focusing of negatives; 0 = none")
    gamma_positive: float = Field(1.0, ge=0, description="focusing of positives; 0 = none")
    clip: float = Field(
        0.05, ge=0, lt=1, description="probability below which a negative costs nothing"
    )


class LossSettings(FocusSettings):
    """Weights and shapes of the loss terms (`trmml.py`)."""

    weak_negative: float = Field(
        1.0,
        ge=0,
        description="weight of blanks as negatives in the match, for categories without any known"
        " negative; the other heads give them 1",
    )
    reduction: Reduction = Field(
        "pairs",
        description="what classification and pseudo-labels are divided by: the pairs that count,"
        " or the images, as in the sibling code, where the other weights then count less",
    )
    pseudo: float = Field(0.0, ge=0, description="weight of the pseudo-label term; 0 = off")
    distillation: float = Field(0.01, ge=0, description="weight of the distillation term; 0 = off")
    distillation_temperature: float = Field(
        4.0, gt=0, description="of both softmaxes over the categories"
    )
    contrastive: float = Field(0.0, ge=0, description="weight of the contrastive term; 0 = off")
    contrastive_temperature: float = Field(0.1, gt=0, description="of the similarities")


class TrainingSettings(Section):
    """The loop (`trainer.py`)."""

    epochs: int = Field(
        12,
        ge=1,
        description="passes over the training images; just as many, if named without `least_steps`",
    )
    batch_size: int = Field(64, ge=1, description="images a batch")
    accumulate: int = Field(1, ge=1, description="batches per optimiser step")
    learning_rate: float = Field(3e-3, gt=0, description="highest of the one-cycle schedule")
    fast_factor: float = Field(5.0, gt=0, description="learning-rate factor of scales and biases")
    weight_decay: float = Field(
        0.05, ge=0, description="of AdamW; scales and the logits' biases have none"
    )
    warm_up_share: float = Field(0.15, ge=0, lt=1, description="share of the steps that warm up")
    clip_norm: float = Field(
        10.0, gt=0, description="largest norm of the gradient; 1e9 lets any through"
    )
    average_share: float = Field(
        0.1, ge=0, lt=1, description="horizon of the weight average, as a share of the steps; 0=off"
    )
    held_out_share: float = Field(
        0.1, gt=0, lt=1, description="share of the images whose known labels choose the epoch"
    )
    least_steps: int = Field(
        1000,
        ge=0,
        description="optimiser steps that are made at least: epochs are added for them, up to 200",
    )
    patience: int = Field(
        0,
        ge=0,
        description="epochs without a higher held-out mAP after which training ends; 0 = never",
    )
    refit: bool = Field(
        True,
        description="at the end train again on all images, held out or not, up to the chosen epoch",
    )
    choose_epoch: EpochRule = Field(
        "held-out",
        description="the latest that the best does not beat by more than chance, or the last",
    )
    views: int = Field(1, ge=1, le=16, description="seeded augmented views per training image")
    scored_views: int = Field(
        1, ge=1, le=16, description="views whose patches are joined in each image that is scored"
    )
    precision: Precision = Field("32-true", description="as Lightning Fabric names it")
    seed: int = Field(
        0, ge=0, description="of start, order, views, what is held out and what --known hides"
    )

    @model_validator(mode="before")
    @classmethod
    def _as_named(cls, given: Any) -> Any:
        return as_named(given) if isinstance(given, Mapping) else given

    @property
    def encoded_views(self) -> int:
        """Views of each training image that must be encoded."""
        return max(self.views, self.scored_views)


class WholeSettings(Section):
    """All settings of one method: a field per section, of which one is `training`."""

    @property
    def learns_from_unanswered(self) -> bool:
        """Whether images of which no label is known take part in the epochs."""
        return True


class Settings(WholeSettings):
    """Everything that shapes a run, in one validated value.

    Example:
        >>> settings = Settings(training={"epochs": 3})
        >>> settings.training.epochs, settings.prompts.train_context
        (3, False)
    """

    prompts: PromptSettings = PromptSettings()
    regions: RegionSettings = RegionSettings()
    matching: MatchingSettings = MatchingSettings()
    image_head: ImageHeadSettings = ImageHeadSettings()
    csra_head: CSRAHeadSettings = CSRAHeadSettings()
    neighbour_head: NeighbourHeadSettings = NeighbourHeadSettings()
    stacking: StackingSettings = StackingSettings()
    prototypes: PrototypeSettings = PrototypeSettings()
    losses: LossSettings = LossSettings()
    training: TrainingSettings = TrainingSettings()

    @property
    def learns_from_unanswered(self) -> bool:
        """Only pseudo-labels use them; without, they would be most of a large set for nothing."""
        return self.losses.pseudo > 0


Kind = TypeVar("Kind", bound=Section)


def parse_settings(tree: Mapping[str, Any], where: str) -> Settings:
    """Validate a nested dictionary of settings; `where` names its origin in errors."""
    return validate(Settings, tree, where)


def changed(settings: Kind, values: Mapping[str, Any]) -> Kind:
    """The settings of any method with some values replaced by `section.name`, the others kept.

    Raises:
        ConfigError: a name is unknown, or a value is out of range.

    Example:
        >>> changed(Settings(training={"epochs": 3}), {"training.seed": 1}).training.epochs
        3
    """
    tree = merged(settings.model_dump(), nested(values))
    return validate(type(settings), tree, "changed settings")


def validate(kind: type[Kind], tree: Mapping[str, Any], where: str) -> Kind:
    """Settings of any method from a nested dictionary.

    Raises:
        ConfigError: a name is unknown, or a value is out of range; `where` names the origin.
    """
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        first, *others = error.errors()
        place = first["loc"][:2]  # section and name; further down are the kinds of a value
        same = [each["msg"] for each in others if each["loc"][:2] == place]
        name = ".".join(map(str, place))
        more = f" (and {count} more)" if (count := len(others) - len(same)) else ""
        if first["type"] == "extra_forbidden":
            given = first["input"]  # of a wrong section its settings
            inner = next(iter(given), "") if isinstance(given, Mapping) else ""
            wrong = f"{name}.{inner}" if inner else name
            hint = _renamed(name, given) or suggest(wrong, kind)
            raise ConfigError(f"{where}: there is no setting {name!r}{hint}{more}") from None
        said = "; or: ".join((first["msg"], *same))
        message = f"{where}: setting {name} = {first['input']!r}: {said}{more}"
        if first["type"] == "model_type":
            message = (
                f"{where}: {name} = {first['input']!r:.80}, but is a section: [{name}] in TOML"
            )
        raise ConfigError(message) from None


def setting_names(kind: type[Section] = Settings) -> list[str]:
    """All settings of a method as `section.name`."""
    fields = kind.model_fields
    return [f"{s}.{n}" for s, f in fields.items() for n in f.annotation.model_fields]  # type: ignore[union-attr]


def _renamed(name: str, value: Any) -> str:
    """What an old setting, or each one given in an old section, is called now; else nothing."""
    if current_name(name) == name:
        return ""
    names = [f"{name}.{key}" for key in value] if isinstance(value, Mapping) and value else [name]
    return "; " + ", ".join(f"{old} is now {current_name(old)}" for old in names)


def suggest(name: str, kind: type[Section] = Settings) -> str:
    """What a wrong name may have meant, as the end of an error message."""
    names = setting_names(kind)
    close = difflib.get_close_matches(name, [*names, *kind.model_fields], n=3)
    close = close or [full for full in names if full.endswith(f".{name}")]
    return f"; did you mean {' or '.join(close)}?" if close else "; `trmml settings` lists them all"
