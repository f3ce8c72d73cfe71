"""Classification: the losses of logits against known labels, and what each pair counts for.

In all of them an unknown pair without a weight contributes exactly zero, and no known pair at all
gives 0 with a finite gradient.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from trmml.features import ranks
from trmml.labels.matrix import LabelMatrix
from trmml.method.interface import Targets
from trmml.settings.choices import Reduction
from trmml.settings.sections import FocusSettings


def weighted_bce(
    logits: Float[Tensor, "B C"], labels: Bool[Tensor, "B C"], weights: Float[Tensor, "B C"]
) -> Float[Tensor, ""]:
    """Mean binary cross-entropy over pairs with weights; 0 when all weights are 0.

    Args:
        logits: unbounded.
        labels: read only where the weight is positive.
        weights: 0 for pairs that say nothing.

    Example:
        >>> labels = torch.tensor([[True, False]])
        >>> weighted_bce(torch.zeros(1, 2), labels, torch.ones(1, 2))
        tensor(0.6931)
    """
    return soft_bce(logits, (labels & (weights > 0)).to(logits.dtype), weights)


def soft_bce(
    logits: Float[Tensor, "B C"], targets: Float[Tensor, "B C"], weights: Float[Tensor, "B C"]
) -> Float[Tensor, ""]:
    """Mean binary cross-entropy against probabilities; 0 when all weights are 0.

    Args:
        logits: unbounded.
        targets: in [0, 1], finite everywhere; those of weight 0 count for nothing.
        weights: 0 for pairs that say nothing.
    """
    loss = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return weighted_mean(loss, weights)


def asymmetric_loss(
    logits: Float[Tensor, "B C"],
    labels: Bool[Tensor, "B C"],
    weights: Float[Tensor, "B C"],
    *,
    gamma_negative: float,
    gamma_positive: float,
    clip: float,
    reduction: Reduction = "pairs",
    beside: Float[Tensor, "B C"] | None = None,
) -> Float[Tensor, ""]:
    """Asymmetric focal loss, averaged over the pairs with a weight or summed per image.

    A positive of probability p costs -(1 - p)^gamma_positive log p; a negative, with p shifted
    down by `clip` and not below 0, -p^gamma_negative log(1 - p). The focusing factors carry no
    gradient.

    Args:
        logits: unbounded.
        labels: read only where the weight is positive.
        weights: 0 for unknown pairs, usually 1 for known ones.
        gamma_negative: focusing of negatives, >= 0.
        gamma_positive: focusing of positives, >= 0.
        clip: probability below which a negative costs nothing, in [0, 1).
        reduction: "pairs" divides by the sum of weights, so that the number of categories
            and the known share change little of what the term weighs beside others; "images"
            divides by B.
        beside: weights of another term, of which "pairs" takes the sum where it is larger: so no
            pair counts for more here than there.

    Source: Ridnik et al. 2021 (ASL), equations 4 to 7; partial form as in DualCoOp's code, which
    divides by B. With both gammas and the clip at 0, over pairs, it is `weighted_bce`.

    Example:
        >>> labels = torch.tensor([[True, False]])
        >>> asymmetric_loss(torch.zeros(1, 2), labels, torch.ones(1, 2),
        ...                 gamma_negative=0.0, gamma_positive=0.0, clip=0.0)
        tensor(0.6931)
    """
    labels = labels & (weights > 0)
    score = logits.sigmoid()
    shifted = (score - clip).clamp(min=0)
    positive_cost = -F.logsigmoid(logits)
    # Without a clip log(1 - p) comes from the logit: it stays exact where 1 - p rounds to 0.
    negative_cost = F.softplus(logits) if clip == 0 else -torch.log1p(-shifted)
    positive_focus = (1 - score.detach()) ** gamma_positive
    negative_focus = shifted.detach() ** gamma_negative
    cost = torch.where(labels, positive_focus * positive_cost, negative_focus * negative_cost)
    if reduction == "images":
        return (cost * weights).sum() / ranks.images(len(cost))
    return weighted_mean(cost, weights, beside)


def focused_loss(
    logits: Float[Tensor, "B C"],
    labels: Bool[Tensor, "B C"],
    weights: Float[Tensor, "B C"],
    focus: FocusSettings,
    reduction: Reduction = "pairs",
    beside: Float[Tensor, "B C"] | None = None,
) -> Float[Tensor, ""]:
    """`asymmetric_loss` of the shape that settings give it."""
    return asymmetric_loss(
        logits,
        labels,
        weights,
        gamma_negative=focus.gamma_negative,
        gamma_positive=focus.gamma_positive,
        clip=focus.clip,
        reduction=reduction,
        beside=beside,
    )


def pair_weights(
    targets: Targets, blank: Float[Tensor, " C"], *, unanswered: bool = False
) -> Float[Tensor, "B C"]:
    """What each pair counts for: 1 where known, `blank` where nothing is known or guessed.

    Args:
        targets: of a batch.
        blank: how much of a negative an unknown label counts for, in [0, 1].
        unanswered: whether those of images of which nothing is known count, too; nobody looked at
            these, so they would say that nothing is there.
    """
    open_pairs = ~targets.known & ~targets.pseudo
    if not unanswered:
        open_pairs &= targets.known.any(dim=1, keepdim=True)
    return targets.known.float() + blank * open_pairs


def matrix_weights(matrix: LabelMatrix, blank: Float[Tensor, " C"]) -> Float[Tensor, "N C"]:
    """What each pair counts for where nothing is guessed: 1 where known, elsewhere `blank`.

    An image of which nothing is known counts for nothing.
    """
    return matrix.known + blank * (~matrix.known & matrix.known.any(dim=1, keepdim=True))


def weighted_mean(
    values: Float[Tensor, "B C"],
    weights: Float[Tensor, "B C"],
    beside: Float[Tensor, "B C"] | None = None,
) -> Float[Tensor, ""]:
    """Weighted mean; 0 when all weights are 0.

    It is divided by the sum of the weights, or of those beside them where that is larger; of
    several processes by the mean of theirs, for how many labels are known differs.
    """
    total = ranks.mean(weights.sum())
    if beside is not None:
        total = torch.maximum(total, ranks.mean(beside.sum()))
    return (values * weights).sum() / total.clamp(min=torch.finfo(values.dtype).tiny)
