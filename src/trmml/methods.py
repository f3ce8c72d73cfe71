"""Every method that the harness can run, by key: how it is built, set and tuned."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from lightning_fabric import Fabric
from pydantic import BaseModel, ConfigDict, Field

from trmml.baselines.linear_probe import LinearProbe
from trmml.baselines.zero_shot import build_zero_shot
from trmml.config import PromptSettings, Settings, TrainingSettings
from trmml.encoders.base import Encoder, EncoderIdentity
from trmml.features import FeatureSource
from trmml.labels import LabelMatrix
from trmml.method import build_trmml
from trmml.model import MultiLabelModel
from trmml.trainer import Trainer


@dataclass(frozen=True)
class Choice:
    """One of a few values."""

    values: tuple[Any, ...]


@dataclass(frozen=True)
class Range:
    """A number from `low` to `high`, drawn evenly or by its logarithm."""

    low: float
    high: float
    log: bool = False


@dataclass(frozen=True)
class Method:
    """A method as the harness sees it.

    Attributes:
        name: as in tables.
        key: as in file names.
        settings: a frozen pydantic class with a field `training`.
        build: from encoder, its identity, category names and settings to an untrained model.
        space: what tuning may change, by dotted setting name.
        trains: whether there is anything to train.
        pooled: whether it reads only the mean of the patches, or the image feature.
        baseline: whether it is a rival of TRM-ML rather than a form of it.
        full_labels: whether it is given every label, as an upper bound.
    """

    name: str
    key: str
    settings: type
    build: Callable[[Encoder, EncoderIdentity, Sequence[str], Any], MultiLabelModel]
    space: Mapping[str, Choice | Range] = field(default_factory=dict)
    trains: bool = True
    pooled: bool = False
    baseline: bool = True
    full_labels: bool = False


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ZeroShotSettings(_Settings):
    """Of zero-shot: the prompt; `training` only says which labels calibrate."""

    template: str = Field(PromptSettings().template, description="hand-written prompt")
    training: TrainingSettings = TrainingSettings()


class ProbeSettings(_Settings):
    """Of a linear probe."""

    dropout: float = Field(0.0, ge=0, lt=1, description="share of the pooled map that is dropped")
    training: TrainingSettings = TrainingSettings(epochs=60)


def _zero_shot(
    encoder: Encoder, identity: EncoderIdentity, names: Sequence[str], settings: ZeroShotSettings
) -> MultiLabelModel:
    return build_zero_shot(encoder, names, template=settings.template)


def _probe(
    encoder: Encoder, identity: EncoderIdentity, names: Sequence[str], settings: ProbeSettings
) -> MultiLabelModel:
    return LinearProbe(
        categories=len(names), hidden_size=identity.hidden_size, dropout=settings.dropout
    )


_RATE = {
    "training.learning_rate": Range(3e-4, 1e-2, log=True),
    "training.weight_decay": Range(1e-3, 1.0, log=True),
}

METHODS: Mapping[str, Method] = MappingProxyType(
    {
        method.key: method
        for method in (
            Method(
                name="zero-shot",
                key="zero-shot",
                settings=ZeroShotSettings,
                build=_zero_shot,
                trains=False,
                pooled=True,
            ),
            Method(
                name="linear probe, masked BCE",
                key="probe-masked",
                settings=ProbeSettings,
                build=_probe,
                space={**_RATE, "training.epochs": Choice((20, 60))},
                pooled=True,
            ),
            Method(
                name="TRM-ML",
                key="trmml",
                settings=Settings,
                build=build_trmml,
                space={**_RATE, "training.epochs": Choice((6, 12, 18))},
                baseline=False,
            ),
            Method(
                name="linear probe, all labels",
                key="probe-full",
                settings=ProbeSettings,
                build=_probe,
                space=_RATE,
                pooled=True,
                full_labels=True,
            ),
        )
    }
)


def make_trainer(
    method: Method,
    encoder: Encoder,
    identity: EncoderIdentity,
    category_names: Sequence[str],
    settings: Any,
    *,
    source: FeatureSource,
    matrix: LabelMatrix,
    truth: LabelMatrix | None = None,
    fabric: Fabric,
) -> Trainer:
    """A trainer of the method's model."""
    whole = settings if isinstance(settings, Settings) else Settings(training=settings.training)
    return Trainer(
        model=method.build(encoder, identity, category_names, settings),
        source=source,
        matrix=matrix,
        truth=truth,
        settings=whole,
        fabric=fabric,
    )
