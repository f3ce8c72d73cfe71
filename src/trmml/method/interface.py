"""What every model is: the interface of TRM-ML and the baselines to training and scoring."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Generic

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from typing_extensions import TypeVar

from trmml.features.base import Features, FeatureSource
from trmml.labels.matrix import LabelMatrix
from trmml.method.heads.image_head import ImageHead
from trmml.method.heads.neighbour_head import NeighbourHead
from trmml.method.pseudo_labels import PseudoLabeller


@dataclass(frozen=True)
class Targets:
    """What is known, and guessed, about the images of a batch.

    Attributes:
        labels: read only where `known` is True.
        known: True where an annotator answered.
        pseudo_labels: read only where `pseudo` is True.
        pseudo: True where a pseudo-label stands in; never where `known` is True.
    """

    labels: Bool[Tensor, "B C"]
    known: Bool[Tensor, "B C"]
    pseudo_labels: Bool[Tensor, "B C"]
    pseudo: Bool[Tensor, "B C"]


@dataclass  # not frozen: Fabric casts the fields of what leaves a model
class Output:
    """What every model gives for a batch; a model with more to give has its own subclass.

    Attributes:
        logits: unbounded; they are scored.
    """

    logits: Float[Tensor, "B C"]


# The output of a model; what works with any model leaves it out.
Made = TypeVar("Made", bound=Output, default=Any)


class MultiLabelModel(nn.Module, ABC, Generic[Made]):
    """What `training.loop.train` trains and `evaluate` scores: TRM-ML and the baselines.

    Parameters with `requires_grad` are what the optimiser gets; `fast_parameters` names those
    that learn at the faster rate and without weight decay.
    """

    @property
    def learns_from_unanswered(self) -> bool:
        """Whether images of which no label is known take part; the method's settings say it too."""
        return True

    @abstractmethod
    def forward(self, features: Features) -> Made:
        """Logits of a batch of encoded images."""

    @abstractmethod
    def loss_terms(self, output: Made, targets: Targets) -> dict[str, Tensor]:
        """Every term by name, unweighted."""

    def loss_weights(self) -> dict[str, float]:
        """The weight of every term; by default there is one term."""
        return {"classification": 1.0}

    def pseudo_labeller(
        self, matrix: LabelMatrix, held: Int[Tensor, " H"], epochs: int
    ) -> PseudoLabeller | None:
        """What turns the model's evidence into pseudo-labels; None where it trains without."""
        return None

    def separate_head(self) -> ImageHead | None:
        """A head that is trained by itself before the first epoch, on mean patches; or None."""
        return None

    def neighbour_head(self) -> NeighbourHead | None:
        """A head that remembers mean patches and labels before the first epoch; or None."""
        return None

    def fast_parameters(self) -> list[str]:
        """Names of the parameters that learn at the faster rate."""
        return []

    def rate_factors(self) -> dict[str, float]:
        """Learning-rate factors of parts, by the beginning of their parameters' names."""
        return {}

    def init_from_labels(self, features: Features, matrix: LabelMatrix) -> None:
        """Before the first step: biases and the like, from a few hundred images and all labels."""

    def begin_epoch(self) -> None:
        """Before the first batch of each epoch: what costs too much to do at every step."""

    def after_step(
        self, output: Made, targets: Targets, *, evidence: bool
    ) -> Float[Tensor, "B C"] | None:
        """Update running state; return the evidence for pseudo-labels if asked for."""
        return None

    def freeze_text_features(self) -> None:
        """After training: compute once what inference would compute again and again."""

    def fit_on_held_out(self, outputs: Iterable[Made], matrix: LabelMatrix) -> None:
        """After training: fit what needs images that were not trained on.

        Args:
            outputs: of the held-out images' batches, in order, in eval mode.
            matrix: their labels.
        """

    @property
    def gives_log_odds(self) -> bool:
        """Whether `fit_on_held_out` made log-odds of the logits."""
        return False

    def held_out_fit(self, features: Features) -> dict[str, Tensor]:
        """What `fit_on_held_out` found, beside what the model makes of some images now.

        The features may lie on another device than the model.
        """
        return {}

    def keep_held_out_fit(self, fit: dict[str, Tensor], features: Features) -> None:
        """After training again: keep what `held_out_fit` gave, by what the same images are now."""

    def restart(self, start: dict[str, Tensor]) -> None:
        """Go back to the state before training."""
        self.load_state_dict(start)


@torch.no_grad()
def predict(
    model: MultiLabelModel,
    source: FeatureSource,
    indices: Int[Tensor, " N"] | None = None,
    *,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
) -> Float[Tensor, "N C"]:
    """Logits of the images of a source, on the CPU; the model is in eval mode meanwhile."""
    indices = torch.arange(len(source)) if indices is None else indices
    training = model.training
    model.eval()
    parts = torch.split(indices, batch_size)
    logits = [model(source.batch(part).to(device)).logits.float().cpu() for part in parts]
    model.train(training)
    return torch.cat(logits)
