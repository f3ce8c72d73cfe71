"""What `trainer.train` trains and `evaluate` scores: the interface of TRM-ML and the baselines."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from trmml.features.base import Features, FeatureSource, Progress
from trmml.labels.matrix import LabelMatrix
from trmml.method.regions import Regions

# Added to positives and to negatives before a share is taken, so that none is 0 or 1.
PRIOR_COUNT = 0.5
# Known negatives per known positive from which blanks no longer stand in for negatives.
ENOUGH_NEGATIVES = 0.1


def lacking_negatives(matrix: LabelMatrix) -> Float[Tensor, " C"]:
    """How far each category lacks known negatives: 1 without any, 0 from a tenth of the positives.

    That is the weight of its blanks as negatives. Without them "everything is present" would be
    right; and a few stray negatives must not switch them off at once. It is 0 for a category of
    which nothing is known: there blanks would only say that it is absent everywhere.
    """
    enough = (ENOUGH_NEGATIVES * matrix.positives).clamp(min=1)
    return (1 - matrix.negatives / enough).clamp(min=0) * (matrix.positives > 0)


def known_positive_share(matrix: LabelMatrix) -> Float[Tensor, " C"]:
    """Share of positives among the known labels of each category, strictly between 0 and 1.

    Where negatives are lacking, blanks stand in for them.
    """
    return positive_share(matrix, lacking_negatives(matrix))


def positive_share(matrix: LabelMatrix, blank: Float[Tensor, " C"]) -> Float[Tensor, " C"]:
    """Share of positives in each category, strictly between 0 and 1.

    Of all categories together where nothing of one counts.

    Args:
        matrix: of the training images.
        blank: how much of a negative an unknown label counts for, in [0, 1].
    """
    positives = matrix.positives.float()
    total = positives + matrix.negatives + blank * (~matrix.known).sum(dim=0)
    share = (positives + PRIOR_COUNT) / (total + 2 * PRIOR_COUNT)
    pooled = (positives.sum() + PRIOR_COUNT) / (total.sum() + 2 * PRIOR_COUNT)
    return torch.where(total > 0, share, pooled)


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


def pair_weights(targets: Targets, blank: Float[Tensor, " C"]) -> Float[Tensor, "B C"]:
    """What each pair counts for: 1 where known, `blank` where nothing is known or guessed."""
    return targets.known.float() + blank * (~targets.known & ~targets.pseudo)


def matrix_weights(matrix: LabelMatrix, blank: Float[Tensor, " C"]) -> Float[Tensor, "N C"]:
    """What each pair counts for where nothing is guessed: 1 where known, elsewhere `blank`."""
    return matrix.known + blank * ~matrix.known


@dataclass  # not frozen: Fabric casts the fields of what leaves a model
class Output:
    """What a model says of a batch; `None` where the model has no such thing.

    Attributes:
        logits: unbounded; what is scored. Those of TRM-ML carry no gradient where other
            opinions than the match take part; what follows does.
        regions: one per category, with the attention over patches that made it.
        match_logits: of text-region matching alone.
        head_logits: what is combined into the logits, the match first; of trained categories only.
        text_features: unit length.
        teacher: the frozen model's logits.
        category_features: one vector per image and category, any length.
        strong_logits: of a strongly changed view of the same images.
    """

    logits: Float[Tensor, "B C"]
    regions: Regions | None = None
    match_logits: Float[Tensor, "B C"] | None = None
    head_logits: dict[str, Float[Tensor, "B trained"]] = field(default_factory=dict)
    text_features: Float[Tensor, "C D"] | None = None
    teacher: Float[Tensor, "B C"] | None = None
    category_features: Float[Tensor, "B C R"] | None = None
    strong_logits: Float[Tensor, "B C"] | None = None

    @property
    def attention(self) -> Float[Tensor, "B C P"]:
        """Over patches, rows sum to 1; of a model that has regions."""
        assert self.regions is not None
        return self.regions.attention


class MultiLabelModel(nn.Module, ABC):
    """Anything that `fit.train` can train and `evaluate` can score: TRM-ML and the baselines.

    Parameters with `requires_grad` are what the optimiser gets; `fast_parameters` names those
    that learn at the faster rate and without weight decay.
    """

    @property
    def learns_from_unanswered(self) -> bool:
        """Whether images of which no label is known take part in the epochs."""
        return True

    @abstractmethod
    def forward(self, features: Features) -> Output:
        """Logits of a batch of encoded images."""

    @abstractmethod
    def loss_terms(self, output: Output, targets: Targets) -> dict[str, Tensor]:
        """Every term by name, unweighted."""

    @abstractmethod
    def loss_weights(self) -> dict[str, float]:
        """The weight of every term."""

    def learn_first(
        self,
        means: Callable[[], Float[Tensor, "V N W"]],
        matrix: LabelMatrix,
        progress: Progress | None = None,
    ) -> None:
        """Before the first epoch: train what needs no more than the mean patch of each picture.

        Args:
            means: reads the mean hidden patches of all views of the images to learn from.
            matrix: their labels, on the CPU.
            progress: told (what, done, total).
        """

    def learn_again(
        self,
        means: Callable[[], Float[Tensor, "V N W"]],
        matrix: LabelMatrix,
        progress: Progress | None = None,
    ) -> None:
        """After training and `settle`: as `learn_first`, with the held-out images among them."""

    def fast_parameters(self) -> list[str]:
        """Names of the parameters that learn at the faster rate."""
        return []

    def rate_factors(self) -> dict[str, float]:
        """Learning-rate factors of parts, by the beginning of their parameters' names."""
        return {}

    def start(self, features: Features, matrix: LabelMatrix) -> None:
        """Look at a few hundred training images and the known labels before the first step."""

    def begin_epoch(self) -> None:
        """Before the first batch of each epoch: what is too dear to do at every step."""

    def observe(
        self, output: Output, targets: Targets, *, evidence: bool
    ) -> Float[Tensor, "B C"] | None:
        """After each step: update running state; return the evidence for pseudo-labels if asked."""
        return None

    def settle(self, outputs: Iterable[Output], matrix: LabelMatrix) -> None:
        """After training: look once at the held-out images, in eval mode.

        Args:
            outputs: of their batches, in order.
            matrix: their labels.
        """

    def bake(self) -> None:
        """After training: compute once what inference would compute again and again."""


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
