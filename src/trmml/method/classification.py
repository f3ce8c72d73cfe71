"""The loss terms: pure functions of logits, labels and what is known.

In all of them an unknown pair contributes exactly zero, and no known pair at all gives 0 with a
finite gradient.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

# More anchors than this are drawn down to it: the contrastive term's cost grows with the square.
MAX_ANCHORS = 1024


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
) -> Float[Tensor, ""]:
    """Asymmetric focal loss, averaged over the pairs with a weight.

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

    Source: Ridnik et al. 2021 (ASL), equations 4 to 7; partial form as in DualCoOp's code. We
    divide by the sum of weights instead of the batch, so that a share of known labels does not
    change the size of the step. With both gammas and the clip at 0 it is `weighted_bce`.

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
    return weighted_mean(cost, weights)


def distillation(
    logits: Float[Tensor, "B C"], teacher: Float[Tensor, "B C"], temperature: float
) -> Float[Tensor, ""]:
    """How far the match has moved from the frozen model's: T^2 KL(teacher || student).

    Both are softmaxed over the categories at the temperature; the mean over images is taken, and
    the teacher gets no gradient.

    Source: method.md section 2.5 (Hinton et al. 2015); T = 4 from the author's sibling code.

    Example:
        >>> same = torch.tensor([[1.0, 2.0]])
        >>> distillation(same, same, 4.0)
        tensor(0.)
    """
    student = (logits / temperature).log_softmax(dim=-1)
    target = (teacher.detach() / temperature).log_softmax(dim=-1)
    divergence = F.kl_div(student, target, reduction="none", log_target=True)
    return temperature**2 * divergence.sum(dim=-1).mean()


def draw_anchors(
    positive: Bool[Tensor, "B C"],
) -> tuple[Int[Tensor, " A"], Int[Tensor, " A"]]:
    """Image and category of the regions to contrast: all, or MAX_ANCHORS by torch's stream."""
    image, category = positive.nonzero(as_tuple=True)
    if len(image) <= MAX_ANCHORS:
        return image, category
    kept = torch.randperm(len(image))[:MAX_ANCHORS].to(image.device)
    return image[kept], category[kept]


def contrastive_loss(
    anchors: Float[Tensor, "A D"],
    category: Int[Tensor, " A"],
    text_features: Float[Tensor, "C D"],
    visual_prototypes: Float[Tensor, "C D"],
    *,
    temperature: float,
) -> Float[Tensor, ""]:
    """Multimodal contrastive loss over the regions of known and pseudo-positives.

    Pulled near each anchor: the other anchors of its category, its category's visual prototype
    and text feature. Pushed away: the same three of every other category. InfoNCE with several
    positives: the mean over them of -log softmax.

    Args:
        anchors: region features, unit length.
        category: of each anchor.
        text_features: unit length.
        visual_prototypes: unit length, or zero where a category has none yet; no gradient.
        temperature: in (0, 1].

    Returns:
        0, with a finite gradient, when there is no anchor.

    Source: method.md section 2.7; the averaging over positives is Khosla et al. 2020, equation 2.
    """
    if len(anchors) == 0:
        return anchors.sum() * 0
    has_prototype = visual_prototypes.norm(dim=-1) > 0
    candidates = torch.cat([anchors, text_features, visual_prototypes.detach()])
    similarity = anchors @ candidates.T / temperature  # (A, A + 2 C)
    names = torch.arange(len(text_features), device=category.device)
    same = category[:, None] == torch.cat([category, names, names])
    itself = torch.eye(len(anchors), dtype=torch.bool, device=same.device)
    absent = (~has_prototype).expand(len(anchors), -1)
    left_out = torch.cat([itself, torch.zeros_like(absent), absent], dim=1)
    log_share = similarity.masked_fill(left_out, float("-inf")).log_softmax(dim=-1)
    pulled = same & ~left_out  # never empty: an anchor's own text is always there
    return -(log_share.masked_fill(~pulled, 0).sum(dim=1) / pulled.sum(dim=1)).mean()


def weighted_mean(values: Float[Tensor, "B C"], weights: Float[Tensor, "B C"]) -> Float[Tensor, ""]:
    """Weighted mean; 0 when all weights are 0."""
    total = weights.sum()
    return (values * weights).sum() / total.clamp(min=torch.finfo(values.dtype).tiny)
