"""The two layers of TRM-ML's image head as a method of their own, trained like a probe.

No published rival: a part of TRM-ML, to tell what is owed to it and what to the rest. Source: ours,
`heads/image_head.py`; the loss is that of the masked probe.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from trmml.baselines.linear_probe import MapSettings, ProbeSettings
from trmml.baselines.supervision import SingleTermModel, cross_entropy
from trmml.encoders.frozen import FrozenEncoder
from trmml.features.base import Features
from trmml.labels.statistics import lacking_negatives
from trmml.method.interface import Output
from trmml.method.layers import Standardisation, TwoLayers, signed_root


class LayersSettings(MapSettings):
    """The two layers (`baselines/two_layers.py`)."""

    width: int = Field(1024, ge=1, description="of the hidden layer")


class TwoLayersSettings(ProbeSettings):
    """Two layers with cross-entropy; the schedule is that of the probes."""

    probe: LayersSettings = LayersSettings()


class TwoLayerProbe(SingleTermModel):
    """Two layers on the mean hidden patch.

    logits = W2 ReLU(W1 standard(root(mean_p h_p))) + b,  root(x) = sign(x) sqrt(|x|)

    Shapes: Features of B images -> Output with logits (B, C).
    Trains: W1 (M, W), W2 (C, M), b (C); W2 starts at zero.
    """

    def __init__(self, *, categories: int, hidden_size: int, settings: TwoLayersSettings) -> None:
        super().__init__(
            categories=categories,
            epochs=settings.training.epochs,
            blanks=lacking_negatives,
            loss=cross_entropy,
        )
        self.standard = Standardisation(hidden_size)
        probe = settings.probe
        self.layers = TwoLayers(hidden_size, probe.width, categories, probe.dropout)

    def forward(self, features: Features) -> Output:
        """See `MultiLabelModel.forward`."""
        rooted = self.standard(signed_root(features.hidden_patches.mean(dim=1)))
        return Output(self.layers(rooted))

    def fast_parameters(self) -> list[str]:
        """The bias, which must reach the log-odds of rare categories."""
        return ["layers.out.bias"]

    @torch.no_grad()
    def start_bias(self, features: Features, positive_share: Float[Tensor, " C"]) -> None:
        """Measure the standardisation too."""
        self.standard.measure([signed_root(features.hidden_patches.mean(dim=1))])
        bias = self.layers.out.bias
        bias.copy_(positive_share.to(bias).logit())


def build_two_layers(
    frozen: FrozenEncoder, category_names: Sequence[str], settings: TwoLayersSettings
) -> TwoLayerProbe:
    """Cross-entropy on known labels; blanks as for the masked probe."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.training.seed)
        return TwoLayerProbe(
            categories=len(category_names),
            hidden_size=frozen.identity.hidden_size,
            settings=settings,
        )
