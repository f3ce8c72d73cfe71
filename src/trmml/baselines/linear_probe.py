"""Linear probes: logistic regression on the pooled feature map, with the losses of the field.

Source of the probe: the usual linear evaluation of a frozen backbone (Radford et al. 2021, section
3.2). Ours: the map is the mean of the hidden patches, standardised, half of it dropped in training;
weights start at zero and biases at the share of positives.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from trmml.baselines.supervision import (
    Blanks,
    PairLoss,
    SingleTermModel,
    cross_entropy,
    focused,
    full_negatives,
    rejecting,
    weak_negatives,
)
from trmml.encoders.frozen import FrozenEncoder
from trmml.features.base import Features
from trmml.labels.statistics import lacking_negatives
from trmml.method.interface import Output
from trmml.method.layers import Standardisation, zero_linear
from trmml.settings.search_space import RATES, OneOf, Range, Space
from trmml.settings.sections import (
    FocusSettings,
    Section,
    Settings,
    TrainingSettings,
    WholeSettings,
)

# Rates above and below are behind on held-out training images of scenes and photographs.
PROBE_SPACE: Space = {
    **RATES,
    "training.learning_rate": Range(5e-5, 5e-3, log=True),
    "training.epochs": OneOf((6, 12, 24, 48)),
    "probe.dropout": OneOf((0.0, 0.2, 0.5, 0.8)),
}
REJECTING_SPACE: Space = {**PROBE_SPACE, "rejection.share": Range(0.002, 0.1, log=True)}
# Between what held-out training images of drawn scenes call for and those of photographs, where
# 3e-3 without dropout is up to 8 mAP behind.
PROBE_TRAINING = TrainingSettings(epochs=24, learning_rate=5e-4)
# Epochs for each epoch of TRM-ML on fewer images: so cheap a model is trained until it gains no
# more; and the rate that on held-out training images of the scenes gives most in so many.
PROBE_EPOCHS, PROBE_RATE = 5, 1e-3


class MapSettings(Section):
    """The linear map of a probe (`baselines/linear_probe.py`)."""

    dropout: float = Field(0.5, ge=0, lt=1, description="share of the pooled map that is dropped")


class RejectionSettings(Section):
    """Rejection of large losses (`baselines/linear_probe.py`)."""

    share: float = Field(
        0.02, ge=0, lt=1, description="share of all pairs that the last epoch drops"
    )


class ProbeSettings(WholeSettings):
    """A linear probe with cross-entropy."""

    probe: MapSettings = MapSettings()
    training: TrainingSettings = PROBE_TRAINING


class AsymmetricProbeSettings(ProbeSettings):
    """A linear probe with the asymmetric loss."""

    losses: FocusSettings = FocusSettings()


class RejectingProbeSettings(ProbeSettings):
    """A linear probe that rejects large losses."""

    rejection: RejectionSettings = RejectionSettings()


def probe_settings(settings: Settings) -> ProbeSettings:
    """The schedule of a run of TRM-ML, longer and slower: a linear probe that is a fair rival."""
    changes = {"epochs": PROBE_EPOCHS * settings.training.epochs, "learning_rate": PROBE_RATE}
    return ProbeSettings(training=settings.training.model_copy(update=changes))


class LinearProbe(SingleTermModel):
    """One linear map from the standardised mean of the hidden patches to the logits.

    Shapes: Features of B images -> Output with logits (B, C).
    Trains: weight (C, W), bias (C); the weight starts at zero.
    """

    def __init__(
        self,
        *,
        categories: int,
        hidden_size: int,
        settings: ProbeSettings,
        blanks: Blanks,
        loss: PairLoss,
    ) -> None:
        super().__init__(
            categories=categories, epochs=settings.training.epochs, blanks=blanks, loss=loss
        )
        self.linear = zero_linear(hidden_size, categories)
        self.dropout = nn.Dropout(settings.probe.dropout)
        self.standard = Standardisation(hidden_size)

    def forward(self, features: Features) -> Output:
        """See `MultiLabelModel.forward`."""
        mean = features.hidden_patches.mean(dim=1)
        return Output(self.linear(self.dropout(self.standard(mean))))

    def fast_parameters(self) -> list[str]:
        """The bias, which must reach the log-odds of rare categories."""
        return ["linear.bias"]

    @torch.no_grad()
    def start_bias(self, features: Features, positive_share: Float[Tensor, " C"]) -> None:
        """Measure the standardisation too."""
        self.standard.measure([features.hidden_patches.mean(dim=1)])
        self.linear.bias.copy_(positive_share.to(self.linear.bias).logit())


def build_masked(
    frozen: FrozenEncoder, category_names: Sequence[str], settings: ProbeSettings
) -> LinearProbe:
    """Cross-entropy on known labels; blanks count only where a category lacks known negatives.

    Source: partial binary cross-entropy (Durand et al. 2019, section 3.1), divided by the known
    pairs. Without negatives it would say yes to everything, hence the blanks.
    """
    return _probe(frozen, category_names, settings, lacking_negatives, cross_entropy)


def build_assume_negative(
    frozen: FrozenEncoder, category_names: Sequence[str], settings: ProbeSettings
) -> LinearProbe:
    """Cross-entropy in which every blank is a negative (Cole et al. 2021)."""
    return _probe(frozen, category_names, settings, full_negatives, cross_entropy)


def build_weak_assume_negative(
    frozen: FrozenEncoder, category_names: Sequence[str], settings: ProbeSettings
) -> LinearProbe:
    """Cross-entropy in which blanks are negatives of weight 1 / (C - 1) (Cole et al. 2021).

    We divide by the sum of the weights, not by the number of pairs: another step size.
    """
    return _probe(frozen, category_names, settings, weak_negatives, cross_entropy)


def build_asymmetric(
    frozen: FrozenEncoder, category_names: Sequence[str], settings: AsymmetricProbeSettings
) -> LinearProbe:
    """Asymmetric loss on known labels; blanks as in `build_masked` (Ridnik et al. 2021)."""
    loss = focused(settings.losses)
    return _probe(frozen, category_names, settings, lacking_negatives, loss)


def build_rejecting(
    frozen: FrozenEncoder, category_names: Sequence[str], settings: RejectingProbeSettings
) -> LinearProbe:
    """Every blank is a negative, but those of the largest losses are dropped, step by step.

    The dropped share grows linearly from nothing in the first epoch. The paper adds a fixed amount
    per epoch; we name the share of the last, which does not depend on their number.
    Source: Kim et al. 2022, LL-R.
    """
    loss = rejecting(settings.rejection.share)
    return _probe(frozen, category_names, settings, full_negatives, loss)


def _probe(
    frozen: FrozenEncoder,
    category_names: Sequence[str],
    settings: ProbeSettings,
    blanks: Blanks,
    loss: PairLoss,
) -> LinearProbe:
    return LinearProbe(
        categories=len(category_names),
        hidden_size=frozen.identity.hidden_size,
        settings=settings,
        blanks=blanks,
        loss=loss,
    )
