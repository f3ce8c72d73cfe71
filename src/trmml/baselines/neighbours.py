"""Nearest neighbours: the known labels of the training images most alike, and nothing trained.

Source: TagProp (Guillaumin et al. 2009), with one distance; `heads/neighbour_head.py` has what
differs. It is a part of TRM-ML too, where that head is switched on.
"""

from collections.abc import Sequence

from pydantic import Field
from torch import Tensor

from trmml.encoders.frozen import FrozenEncoder
from trmml.features.base import Features
from trmml.method.heads.neighbour_head import NeighbourHead
from trmml.method.interface import MultiLabelModel, Output, Targets
from trmml.settings.sections import NeighbourHeadSettings, TrainingSettings, WholeSettings


class NeighboursSettings(WholeSettings):
    """Nearest neighbours."""

    neighbour_head: NeighbourHeadSettings = Field(
        default_factory=lambda: NeighbourHeadSettings(use=True)
    )
    training: TrainingSettings = TrainingSettings()  # nothing is trained, but labels are held out


class NearestNeighbours(MultiLabelModel):
    """The neighbour head alone.

    Shapes: Features of B images -> Output with logits (B, C).
    Trains: nothing; `NeighbourHead.remember` is given the labels.
    """

    def __init__(self, head: NeighbourHead) -> None:
        super().__init__()
        self.head = head

    def forward(self, features: Features) -> Output:
        """See `MultiLabelModel.forward`."""
        return Output(self.head(features.hidden_patches.mean(dim=1)))

    def neighbour_head(self) -> NeighbourHead:
        """All there is."""
        return self.head

    def loss_terms(self, output: Output, targets: Targets) -> dict[str, Tensor]:
        """None: there is nothing to train."""
        return {}


def build_neighbours(
    frozen: FrozenEncoder, category_names: Sequence[str], settings: NeighboursSettings
) -> NearestNeighbours:
    """Without a memory yet."""
    head = NeighbourHead(
        categories=len(category_names),
        hidden_size=frozen.identity.hidden_size,
        settings=settings.neighbour_head,
    )
    return NearestNeighbours(head)
