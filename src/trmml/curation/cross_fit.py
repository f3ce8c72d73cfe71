"""Logits of images by heads that never saw them: one linear head for each fold, on the means.

A run's own logits of a known pair were trained on that pair, so what it expected there cannot be
told from them. These can: every image is scored by a head that was fitted on the other folds.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from trmml.curation.folds import FOLDS
from trmml.labels.matrix import LabelMatrix
from trmml.labels.statistics import known_positive_share, lacking_negatives
from trmml.method.classification import matrix_weights
from trmml.method.layers import principal_directions, signed_root

# Directions of most variance that a head reads, of the prepared means.
DIRECTIONS = 256
# Of the squared weights, where the inputs' whole variance is 1. Of 0.02, 0.1, 0.3 and 1 the first
# two are best on the scenes at 10, 50 and 90 % known, within 1 mAP of each other.
PENALTY = 0.1
# Of the descent, which is stopped early: 30 steps have up to 2 mAP less on Corel5k and the scenes.
STEPS, RATE, MOMENTUM = 6, 0.3, 0.8
# Images that a head learns from at most, and that are computed with at a time.
MOST_IMAGES, BLOCK = 20_000, 1024


class Head(NamedTuple):
    """A linear map from directions to logits."""

    weight: Float[Tensor, "K C"]
    bias: Float[Tensor, " C"]


def directions_of(
    means: Float[Tensor, "N W"], learned_from: Float[Tensor, "M W"] | None = None
) -> Float[Tensor, "N K"]:
    """What a head reads of mean hidden patches: the leading directions of their signed roots.

    Each channel is standardised first; the variance of all that is kept is 1. No label is read.

    Args:
        means: mean hidden patches.
        learned_from: those that the directions are learned from; `means` itself by default.
    """
    whole = means if learned_from is None else learned_from
    some = signed_root(whole[:: stride(len(whole))].float())
    mean, spread = some.mean(dim=0), some.std(dim=0, correction=0).clamp(min=1e-6)
    variance, directions = principal_directions([(some - mean) / spread])
    scale = variance[:DIRECTIONS].sum().clamp(min=1e-12).sqrt()
    kept = (directions[:, :DIRECTIONS] / scale).float()
    parts = torch.split(means, BLOCK)
    return torch.cat([(signed_root(part.float()) - mean) / spread @ kept for part in parts])


def cross_fitted(
    inputs: Float[Tensor, "N K"], matrix: LabelMatrix, folds: Int[Tensor, " N"]
) -> Float[Tensor, "N C"]:
    """Logits of every image by the head of the other folds.

    Args:
        inputs: from `directions_of`.
        matrix: what is known of the images.
        folds: from `image_folds`; images of one fold are left out together.
    """
    logits = torch.empty(matrix.labels.shape)
    for fold in range(FOLDS):
        rows = (folds != fold).nonzero()[:, 0]
        rows = rows[:: stride(len(rows))]
        head = fit_head(inputs[rows], matrix.subset(rows))
        logits[folds == fold] = inputs[folds == fold] @ head.weight + head.bias
    return logits


def fit_head(inputs: Float[Tensor, "N K"], matrix: LabelMatrix) -> Head:
    """A head fitted by penalised logistic regression on known pairs.

    Blanks count as negatives where a category lacks known ones, as in training. The inputs are
    uncorrelated, so one step size for each weight makes up for their different variances: the
    step is a Newton step with a diagonal curvature, damped by momentum. Without an image to learn
    from it says the log-odds of the known positive share, of which nothing is known either: 0.
    """
    blank = lacking_negatives(matrix)
    bias = known_positive_share(matrix).logit()
    weight = speed = torch.zeros(inputs.shape[1], len(bias))
    if not len(inputs):
        return Head(weight, bias)
    variance = inputs.square().mean(dim=0)[:, None]
    counts = matrix_weights(matrix, blank)
    parts = (torch.split(each, BLOCK) for each in (inputs, counts, counts * matrix.labels))
    blocks = list(zip(*parts, strict=True))
    for _ in range(STEPS):
        ahead = weight + MOMENTUM * speed
        gradient, slope, curvature = PENALTY * ahead, torch.zeros_like(bias), torch.zeros(len(bias))
        for rows, count, present in blocks:
            probability = torch.addmm(bias, rows, ahead).sigmoid_()
            weighed = count * probability
            excess = weighed - present
            gradient.addmm_(rows.T, excess)
            slope += excess.sum(dim=0)
            # Where a probability is far off, p (1 - p) says too little of the way to go.
            own = weighed.addcmul_(weighed, probability, value=-1).sum(dim=0)
            curvature += torch.maximum(own, excess.abs_().sum(dim=0) / 2)
        speed = MOMENTUM * speed - RATE * gradient / (curvature * variance + PENALTY)
        weight = weight + speed
        bias = bias - RATE * slope / (curvature + 0.1)
    return Head(weight, bias)


def stride(images: int) -> int:
    """The step that leaves at most `MOST_IMAGES` of so many images.

    Example:
        >>> stride(0), stride(20_000), stride(20_001)
        (1, 1, 2)
    """
    return max(1, math.ceil(images / MOST_IMAGES))
