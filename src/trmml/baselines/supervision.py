"""What known labels and blanks say to a baseline: how much a blank counts for, and the losses.

A blank counts for `blank` negatives: 0 where a loss is masked, 1 where unknown is taken for absent.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from trmml.features.base import Features
from trmml.labels.matrix import LabelMatrix
from trmml.labels.statistics import lacking_negatives, positive_share
from trmml.method.classification import focused_loss, pair_weights, weighted_bce
from trmml.method.interface import MultiLabelModel, Output, Targets
from trmml.settings.sections import FocusSettings

# How much of a negative a blank is, in each category.
Blanks = Callable[[LabelMatrix], Float[Tensor, " C"]]


@runtime_checkable
class PairLoss(Protocol):
    """A loss of logits that may change in the course of training."""

    def __call__(self, logits: Tensor, targets: Targets, weights: Tensor, *, done: float) -> Tensor:
        """Mean over the pairs, weighed; `done` is the share of the epochs that are over."""
        ...


class SingleTermModel(MultiLabelModel, ABC):
    """A model that learns by one loss of its logits, in which blanks count as much as it is given.

    Args:
        categories: C.
        epochs: of the whole training.
        blanks: how much of a negative a blank is.
        loss: of logits and what is known.
    """

    blank: Tensor  # (C), weight of blanks as negatives
    epoch: Tensor  # (), counted from 1 in training; part of the state, so that a run continues

    def __init__(self, *, categories: int, epochs: int, blanks: Blanks, loss: PairLoss) -> None:
        super().__init__()
        self._epochs, self._blanks, self._loss = epochs, blanks, loss
        self.register_buffer("blank", torch.zeros(categories))
        self.register_buffer("epoch", torch.tensor(0))

    @property
    def _assumes_negative(self) -> bool:
        """Whether any blank is a negative, also of images of which nothing is known."""
        return self._blanks is not lacking_negatives

    def loss_terms(self, output: Output, targets: Targets) -> dict[str, Tensor]:
        """The loss that the model was made with."""
        weights = pair_weights(targets, self.blank, unanswered=self._assumes_negative)
        done = max(0, int(self.epoch) - 1) / max(1, self._epochs - 1)
        return {"classification": self._loss(output.logits, targets, weights, done=done)}

    @torch.no_grad()
    def init_from_labels(self, features: Features, matrix: LabelMatrix) -> None:
        """Set what blanks count for, and start the biases where the loss will draw them."""
        self.blank.copy_(self._blanks(matrix))
        blank, unanswered = self.blank.to(matrix.known.device), self._assumes_negative
        self.start_bias(features, positive_share(matrix, blank, unanswered=unanswered))

    @abstractmethod
    def start_bias(self, features: Features, positive_share: Float[Tensor, " C"]) -> None:
        """Set the biases so that the mean logit answers to the share of positives; no gradient."""

    def begin_epoch(self) -> None:
        """Count the epochs."""
        self.epoch += 1


def full_negatives(matrix: LabelMatrix) -> Float[Tensor, " C"]:
    """Every blank is a negative: "assume negative" (Cole et al. 2021, section 3.2)."""
    return torch.ones(matrix.labels.shape[1])


def weak_negatives(matrix: LabelMatrix) -> Float[Tensor, " C"]:
    """All blanks of an image weigh as much as one label: 1 / (C - 1) each.

    Source: "weak assume negative", Cole et al. 2021, section 3.2, where one positive stands against
    C - 1 blanks.
    """
    categories = matrix.labels.shape[1]
    return torch.full((categories,), 1 / max(1, categories - 1))


def known_positives(targets: Targets) -> Bool[Tensor, "B C"]:
    """True where a category is known to be present."""
    return targets.labels & targets.known


def cross_entropy(
    logits: Float[Tensor, "B C"],
    targets: Targets,
    weights: Float[Tensor, "B C"],
    *,
    done: float = 0.0,
) -> Float[Tensor, ""]:
    """Binary cross-entropy over pairs with weights; what is not known positive is negative."""
    return weighted_bce(logits, known_positives(targets), weights)


def focused(focus: FocusSettings) -> PairLoss:
    """The asymmetric loss of some shape; what is not known positive is negative."""

    def loss(logits: Tensor, targets: Targets, weights: Tensor, *, done: float = 0.0) -> Tensor:
        return focused_loss(logits, known_positives(targets), weights, focus)

    return loss


def rejecting(last_share: float) -> PairLoss:
    """Cross-entropy that drops the blanks of largest loss, more of them from epoch to epoch.

    Args:
        last_share: of all pairs, dropped in the last epoch, in [0, 1); none is in the first.
    """

    def loss(logits: Tensor, targets: Targets, weights: Tensor, *, done: float = 0.0) -> Tensor:
        return rejecting_bce(logits, targets, weights, done * last_share)

    return loss


def rejecting_bce(
    logits: Float[Tensor, "B C"], targets: Targets, weights: Float[Tensor, "B C"], share: float
) -> Float[Tensor, ""]:
    """Cross-entropy in which the blanks of largest loss count for nothing.

    Args:
        logits: unbounded.
        targets: what is known.
        weights: of all pairs.
        share: of all pairs that are dropped, in [0, 1); never more than there are blanks.

    Source: Kim et al. 2022 (LL-R), section 3.3. As there, the sum is divided by all pairs, the
    dropped ones too. Their code drops ties together and, where few pairs are unknown, known ones
    with them; we drop exactly the share, and blanks only.
    """
    labels = known_positives(targets).to(logits.dtype)
    loss = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    count = min(round(share * loss.numel()), int((~targets.known).sum()))
    unknown = loss.detach().masked_fill(targets.known, float("-inf")).flatten()
    kept = torch.ones_like(unknown).index_fill(0, unknown.topk(count).indices, 0.0)
    total = weights.sum().clamp(min=torch.finfo(loss.dtype).tiny)
    return (loss * weights * kept.view_as(loss)).sum() / total
