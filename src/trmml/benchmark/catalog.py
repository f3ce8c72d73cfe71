"""Every method that a benchmark compares, by key: how it is built, set and searched.

Each entry says what a harness has to know: whether the method trains, which features it reads, and
over which settings a search may go. TRM-ML stands in the same list as its rivals, with a search
space of its own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lightning_fabric import Fabric

from trmml.baselines import coop, dualcoop, sarb, scpnet, two_layers
from trmml.baselines.linear_probe import (
    PROBE_SPACE,
    REJECTING_SPACE,
    AsymmetricProbeSettings,
    ProbeSettings,
    RejectingProbeSettings,
    build_assume_negative,
    build_asymmetric,
    build_masked,
    build_rejecting,
    build_weak_assume_negative,
)
from trmml.baselines.zero_shot import (
    ZeroShot,
    ZeroShotEnsembleSettings,
    ZeroShotSettings,
    build_zero_shot,
    build_zero_shot_ensemble,
)
from trmml.encoders.frozen import FrozenEncoder
from trmml.features.base import FeatureSource
from trmml.labels.matrix import LabelMatrix
from trmml.method.build import build_trmml
from trmml.method.interface import MultiLabelModel
from trmml.settings.files import load_settings
from trmml.settings.search_space import FOCUS, RATES
from trmml.settings.search_space import Choice as Choice
from trmml.settings.search_space import Range as Range
from trmml.settings.search_space import Space as Space
from trmml.settings.sections import (
    CSRAHeadSettings,
    ImageHeadSettings,
    LossSettings,
    PromptSettings,
    RegionSettings,
    Section,
    Settings,
    StackingSettings,
    TrainingSettings,
)
from trmml.training.trainer import Trainer

Build = Callable[[FrozenEncoder, Sequence[str], Any], MultiLabelModel]


@dataclass(frozen=True)
class Method:
    """A method as a benchmark sees it.

    Attributes:
        name: as in tables.
        key: as in file names and on the command line.
        cite: key of its source in references.bib; empty for none.
        settings: frozen, with defaults and a field `training`.
        build: the model of an encoder, category names and settings.
        space: where a search may go, by `section.name`.
        trains: whether there is anything to train.
        pooled: whether it reads only the mean patch and the image feature, so that features with
            P = 1 serve.
        baseline: whether TRM-ML is compared with it.
        full_labels: whether it is given every label: an upper bound, not a rival.
    """

    name: str
    key: str
    settings: type[Section]
    build: Build
    space: Space
    cite: str = ""
    trains: bool = True
    pooled: bool = False
    baseline: bool = True
    full_labels: bool = False


_PUBLISHED = load_settings("as-published")


class PublishedSettings(Settings):
    """TRM-ML with the preset `as-published` as its defaults, and a schedule for learned prompts."""

    prompts: PromptSettings = _PUBLISHED.prompts
    regions: RegionSettings = _PUBLISHED.regions
    image_head: ImageHeadSettings = _PUBLISHED.image_head
    csra_head: CSRAHeadSettings = _PUBLISHED.csra_head
    stacking: StackingSettings = _PUBLISHED.stacking
    losses: LossSettings = _PUBLISHED.losses
    training: TrainingSettings = coop.PROMPT_TRAINING


def _zero_shot(
    frozen: FrozenEncoder,
    category_names: Sequence[str],
    settings: ZeroShotSettings,
) -> ZeroShot:
    return build_zero_shot(frozen.encoder, category_names, template=settings.prompts.template)


def _zero_shot_dense(
    frozen: FrozenEncoder,
    category_names: Sequence[str],
    settings: ZeroShotSettings,
) -> ZeroShot:
    template = settings.prompts.template
    return build_zero_shot(frozen.encoder, category_names, look="dense", template=template)


def _zero_shot_ensemble(
    frozen: FrozenEncoder,
    category_names: Sequence[str],
    settings: ZeroShotEnsembleSettings,
) -> ZeroShot:
    templates = settings.prompts.templates
    return build_zero_shot_ensemble(frozen.encoder, category_names, templates=templates)


# Ranges that held-out training images of two data sets call for. Few trials find little in wide
# ranges, and two layers that are trained too long or too hard cost a point (docs/decisions.md).
_TRMML: Space = {
    "training.learning_rate": Range(7e-4, 4e-3, log=True),
    "training.epochs": Choice((4, 8, 12)),
    "image_head.learning_rate": Range(2e-4, 1.2e-3, log=True),
    "image_head.spectrum_power": Choice((-0.25, 0.0, 0.25)),
    "csra_head.use": Choice((False, True)),
}

_MASKED = Method(
    name="linear probe, masked BCE",
    key="probe-masked",
    cite="durand2019partial",
    settings=ProbeSettings,
    build=build_masked,
    space=PROBE_SPACE,
    pooled=True,
)
_OURS = Method(
    name="trmml (default)",
    key="trmml",
    cite="ma2024trmml",
    settings=Settings,
    build=build_trmml,
    space=_TRMML,
    baseline=False,
)

_ALL = (
    Method(
        name="zero-shot",
        key="zero-shot",
        cite="radford2021clip",
        settings=ZeroShotSettings,
        build=_zero_shot,
        space={},
        trains=False,
        pooled=True,
    ),
    Method(
        name="zero-shot dense",
        key="zero-shot-dense",
        cite="sun2022dualcoop",
        settings=ZeroShotSettings,
        build=_zero_shot_dense,
        space={},
        trains=False,
    ),
    Method(
        name="zero-shot, prompt ensemble",
        key="zero-shot-ensemble",
        cite="radford2021clip",
        settings=ZeroShotEnsembleSettings,
        build=_zero_shot_ensemble,
        space={},
        trains=False,
        pooled=True,
    ),
    Method(
        name="linear probe, assume negative",
        key="probe-an",
        cite="cole2021single",
        settings=ProbeSettings,
        build=build_assume_negative,
        space=PROBE_SPACE,
        pooled=True,
    ),
    _MASKED,
    Method(
        name="linear probe, weak assume negative",
        key="probe-wan",
        cite="cole2021single",
        settings=ProbeSettings,
        build=build_weak_assume_negative,
        space=PROBE_SPACE,
        pooled=True,
    ),
    Method(
        name="linear probe, asymmetric loss",
        key="probe-asl",
        cite="ridnik2021asl",
        settings=AsymmetricProbeSettings,
        build=build_asymmetric,
        space={**PROBE_SPACE, **FOCUS},
        pooled=True,
    ),
    Method(
        name="linear probe, large-loss rejection",
        key="probe-llr",
        cite="kim2022large",
        settings=RejectingProbeSettings,
        build=build_rejecting,
        space=REJECTING_SPACE,
        pooled=True,
    ),
    Method(
        name="CoOp",
        key="coop",
        cite="zhou2022coop",
        settings=coop.CoOpSettings,
        build=coop.build_coop,
        space=coop.SPACE,
        pooled=True,
    ),
    Method(
        name="DualCoOp",
        key="dualcoop",
        cite="sun2022dualcoop",
        settings=dualcoop.DualCoOpSettings,
        build=dualcoop.build_dualcoop,
        space=dualcoop.SPACE,
    ),
    Method(
        name="SCPNet",
        key="scpnet",
        cite="ding2023scpnet",
        settings=scpnet.SCPNetSettings,
        build=scpnet.build_scpnet,
        space=scpnet.SPACE,
        pooled=True,
    ),
    Method(
        name="SARB",
        key="sarb",
        cite="pu2022sarb",
        settings=sarb.SARBSettings,
        build=sarb.build_sarb,
        space=sarb.SPACE,
    ),
    replace(_MASKED, name="linear probe, all labels", key="probe-full", full_labels=True),
    replace(_OURS, name="trmml (default), all labels", key="trmml-full", full_labels=True),
    _OURS,
    replace(
        _OURS,
        name="TRM-ML (paper's parts)",
        key="trmml-as-published",
        settings=PublishedSettings,
        space={**RATES, **FOCUS},
    ),
    Method(
        name="trmml's two layers alone",
        key="two-layers",
        settings=two_layers.TwoLayersSettings,
        build=two_layers.build_two_layers,
        space=PROBE_SPACE,
        pooled=True,
        baseline=False,
    ),
)

METHODS: dict[str, Method] = {method.key: method for method in _ALL}


def make_trainer(
    method: Method,
    frozen: FrozenEncoder,
    category_names: Sequence[str],
    settings: Any,
    *,
    source: FeatureSource,
    matrix: LabelMatrix,
    truth: LabelMatrix | None = None,
    fabric: Fabric,
) -> Trainer:
    """A trainer of the method's model.

    Args:
        method: one that trains.
        frozen: the encoder.
        category_names: C names.
        settings: of the method's own class.
        source: features of all N images.
        matrix: what is known of them; everything, of a method with `full_labels`.
        truth: see `Trainer`.
        fabric: device and precision.
    """
    return Trainer(
        model=method.build(frozen, category_names, settings),
        source=source,
        matrix=matrix,
        truth=truth,
        training=settings.training,
        fabric=fabric,
    )
