"""Every method that a benchmark compares, by key: how it is built, set and searched.

Each entry says what a harness has to know: whether the method trains, which features it reads, and
over which settings a search may go. TRM-ML stands in the same list as its rivals, with a search
space of its own.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from pydantic import Field

from trmml.baselines import coop, dualcoop, linear_probe, neighbours, sarb, scpnet, two_layers
from trmml.baselines.linear_probe import PROBE_SPACE, ProbeSettings
from trmml.baselines.zero_shot import (
    ZeroShot,
    ZeroShotEnsembleSettings,
    ZeroShotSettings,
    build_zero_shot,
)
from trmml.encoders.frozen import FrozenEncoder
from trmml.features.base import FeatureSource
from trmml.labels.matrix import LabelMatrix
from trmml.method.build import build_trmml
from trmml.method.interface import MultiLabelModel
from trmml.settings.files import load_settings
from trmml.settings.search_space import FOCUS, OneOf, Range, Space
from trmml.settings.sections import (
    CSRAHeadSettings,
    ImageHeadSettings,
    LossSettings,
    RegionSettings,
    Settings,
    StackingSettings,
    TrainingSettings,
    WholeSettings,
)
from trmml.training.fabric import make_fabric
from trmml.training.schedule import enough_epochs
from trmml.training.trainer import Trainer

Build = Callable[[FrozenEncoder, Sequence[str], Any], MultiLabelModel]


@dataclass(frozen=True)
class Method:
    """A method as a benchmark sees it."""

    name: str  # as in tables
    key: str  # as in file names and on the command line
    settings: type[WholeSettings]  # frozen, with defaults and a field `training`
    build: Build  # the model of an encoder, category names and settings
    space: Space  # where a search may go, by `section.name`
    starts: tuple[Mapping[str, Any], ...] = ()  # changes to try after the defaults, before a draw
    cite: str = ""  # key of its source in references.bib; empty for none
    trains: bool = True  # whether there is anything to train in steps
    # whether it reads only the mean patch and the image feature, so that features with P = 1 serve
    pooled: bool = False
    baseline: bool = True  # whether TRM-ML is compared with it
    full_labels: bool = False  # whether it is given every label: an upper bound, not a rival

    def trainer(
        self,
        frozen: FrozenEncoder,
        category_names: Sequence[str],
        settings: Any,
        source: FeatureSource,
        matrix: LabelMatrix,
    ) -> Trainer:
        """A new model with all that trains it, on the encoder's device.

        Args:
            frozen: the encoder.
            category_names: C names.
            settings: of the method's own class.
            source: features of N images.
            matrix: what is known of them; everything, of a method with `full_labels`.
        """
        all_images = settings.learns_from_unanswered  # the others make no steps
        training = enough_epochs(settings.training, matrix, all_images=all_images)
        settings = settings.model_copy(update={"training": training})
        return Trainer(
            model=self.build(frozen, category_names, settings),
            source=source,
            matrix=matrix,
            truth=None,
            training=settings.training,
            fabric=make_fabric(frozen.device, settings.training.precision),
        )


@cache
def _paper() -> Settings:
    return load_settings("paper")


class PaperSettings(Settings):
    """TRM-ML with the preset `paper` as its defaults."""

    regions: RegionSettings = Field(default_factory=lambda: _paper().regions)
    image_head: ImageHeadSettings = Field(default_factory=lambda: _paper().image_head)
    csra_head: CSRAHeadSettings = Field(default_factory=lambda: _paper().csra_head)
    stacking: StackingSettings = Field(default_factory=lambda: _paper().stacking)
    losses: LossSettings = Field(default_factory=lambda: _paper().losses)
    training: TrainingSettings = Field(default_factory=lambda: _paper().training)


def _zero_shot(frozen: FrozenEncoder, names: Sequence[str], settings: ZeroShotSettings) -> ZeroShot:
    return build_zero_shot(frozen.encoder, names, templates=[settings.prompts.template])


def _dense(frozen: FrozenEncoder, names: Sequence[str], settings: ZeroShotSettings) -> ZeroShot:
    templates = [settings.prompts.template]
    return build_zero_shot(frozen.encoder, names, templates=templates, look="dense")


def _ensemble(
    frozen: FrozenEncoder, names: Sequence[str], settings: ZeroShotEnsembleSettings
) -> ZeroShot:
    return build_zero_shot(frozen.encoder, names, templates=settings.prompts.templates)


# Ranges that held-out training images of these data sets call for: narrow where they agree, for few
# trials find little in wide ones, and with a choice of two where they differ (docs/decisions.md).
_TRMML: Space = {
    "training.learning_rate": Range(7e-4, 4e-3, log=True),
    "training.least_steps": OneOf((500, 1000, 1500)),
    "image_head.learning_rate": Range(2e-4, 1.2e-3, log=True),
    "image_head.spectrum_power": OneOf((-0.25, 0.0, 0.25)),
    "image_head.epochs": OneOf((20, 40)),
    "image_head.dropout": OneOf((0.5, 0.65)),
    "csra_head.use": OneOf((False, True)),
    "neighbour_head.use": OneOf((False, True)),
    "losses.distillation": OneOf((0.0, 0.01)),
    "regions.dropout": OneOf((0.2, 0.8)),
}
# For hundreds of categories, found by hand on held-out training images of Corel5k: a match that
# nothing holds but dropout, a longer image head, and neighbours. No rival has such a start.
_LOOSE_MATCH = {
    "training.learning_rate": 2e-3, "losses.distillation": 0.0, "regions.dropout": 0.8,
    "image_head.learning_rate": 1e-3, "image_head.epochs": 40, "image_head.dropout": 0.65,
    "csra_head.use": True, "neighbour_head.use": True,
}  # fmt: skip

# The weights of the terms beside the classification: the preset's, powers of ten of it, and 0.
_PAPER: Space = {
    "training.learning_rate": Range(1e-3, 5e-3, log=True),
    "training.least_steps": OneOf((500, 1000, 1500)),
    "losses.distillation": OneOf((0.0, 0.01, 0.1, 1.0)),
    "losses.contrastive": OneOf((0.0, 0.02, 0.2)),
    "losses.pseudo": OneOf((0.0, 0.1, 1.0)),
    "regions.dropout": OneOf((0.2, 0.5, 0.8)),
    "regions.mlp_size": OneOf((0, 128)),
    "prompts.train_context": OneOf((False, True)),
}
# Where images have few of many labels, or texts say little of them, all that holds the match costs.
_MATCH_ALONE = {
    "training.learning_rate": 2e-3, "losses.distillation": 0.0, "losses.contrastive": 0.0,
    "losses.pseudo": 0.0, "regions.dropout": 0.8,
}  # fmt: skip

_MASKED = Method(
    "linear probe, masked BCE", "probe-masked", ProbeSettings, linear_probe.build_masked,
    PROBE_SPACE, cite="durand2019partial", pooled=True,
)  # fmt: skip
# Of no paper: what is beside the match is ours.
_OURS = Method(
    "trmml (default)", "trmml", Settings, build_trmml, _TRMML, (_LOOSE_MATCH,), baseline=False,
)  # fmt: skip
_ZERO_SHOT = Method(
    "zero-shot", "zero-shot", ZeroShotSettings, _zero_shot, space={}, cite="radford2021clip",
    trains=False, pooled=True,
)  # fmt: skip

_ALL = (
    _ZERO_SHOT,
    replace(
        _ZERO_SHOT, name="zero-shot dense", key="zero-shot-dense", build=_dense,
        cite="sun2022dualcoop", pooled=False,
    ),
    replace(
        _ZERO_SHOT, name="zero-shot, prompt ensemble", key="zero-shot-ensemble",
        settings=ZeroShotEnsembleSettings, build=_ensemble,
    ),
    replace(
        _MASKED, name="linear probe, assume negative", key="probe-an", cite="cole2021single",
        build=linear_probe.build_assume_negative,
    ),
    _MASKED,
    replace(
        _MASKED, name="linear probe, weak assume negative", key="probe-wan", cite="cole2021single",
        build=linear_probe.build_weak_assume_negative,
    ),
    replace(
        _MASKED, name="linear probe, asymmetric loss", key="probe-asl", cite="ridnik2021asl",
        settings=linear_probe.AsymmetricProbeSettings, build=linear_probe.build_asymmetric,
        space={**PROBE_SPACE, **FOCUS},
    ),
    replace(
        _MASKED, name="linear probe, large-loss rejection", key="probe-llr", cite="kim2022large",
        settings=linear_probe.RejectingProbeSettings, build=linear_probe.build_rejecting,
        space=linear_probe.REJECTING_SPACE,
    ),
    Method(
        "nearest neighbours", "neighbours", neighbours.NeighboursSettings,
        neighbours.build_neighbours, space={}, cite="guillaumin2009tagprop", trains=False,
        pooled=True,
    ),
    Method(
        "CoOp", "coop", coop.CoOpSettings, coop.build_coop, coop.SPACE, cite="zhou2022coop",
        pooled=True,
    ),
    Method(
        "DualCoOp", "dualcoop", dualcoop.DualCoOpSettings, dualcoop.build_dualcoop, dualcoop.SPACE,
        cite="sun2022dualcoop",
    ),
    Method(
        "SCPNet", "scpnet", scpnet.SCPNetSettings, scpnet.build_scpnet, scpnet.SPACE,
        cite="ding2023scpnet", pooled=True,
    ),
    Method("SARB", "sarb", sarb.SARBSettings, sarb.build_sarb, sarb.SPACE, cite="pu2022sarb"),
    replace(_MASKED, name="linear probe, all labels", key="probe-full", full_labels=True),
    replace(_OURS, name="trmml (default), all labels", key="trmml-full", full_labels=True),
    _OURS,
    replace(
        _OURS, name="TRM-ML (paper's parts)", key="trmml-paper", settings=PaperSettings,
        space=_PAPER, starts=(_MATCH_ALONE,), cite="ma2024trmml",
    ),
    Method(
        "trmml's two layers alone", "two-layers", two_layers.TwoLayersSettings,
        two_layers.build_two_layers, PROBE_SPACE, pooled=True,
    ),
)  # fmt: skip

METHODS: dict[str, Method] = {method.key: method for method in _ALL}
