"""What the known labels say of each category: shares of positives, and where negatives lack."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from trmml.labels.matrix import LabelMatrix

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


def counted_by_blanks(matrix: LabelMatrix) -> Bool[Tensor, " C"]:
    """Categories whose share is that of their blanks, for what takes a pair or leaves it.

    They have blanks, and lack negatives: an absent label or two make no share.
    """
    return (lacking_negatives(matrix) > 0) & ~matrix.known.all(dim=0)


def scorable(held: LabelMatrix, matrix: LabelMatrix) -> Bool[Tensor, " C"]:
    """Categories whose held-out AP says something of a model.

    Where no negative is known a category would score the same whatever the model says; and where
    hardly one is, that one by chance must not decide.

    Args:
        held: what is known of the held-out images.
        matrix: of all training images.
    """
    return (held.negatives > 0) & ~counted_by_blanks(matrix)


def pairs_that_count(matrix: LabelMatrix, by_blanks: Bool[Tensor, " C"]) -> Bool[Tensor, "N C"]:
    """Known pairs, and the blanks that stand in for negatives, in images that anybody looked at.

    Args:
        matrix: of any images.
        by_blanks: `counted_by_blanks` of all training labels.
    """
    return matrix.known | (by_blanks & matrix.known.any(dim=1, keepdim=True))


def known_positive_share(matrix: LabelMatrix) -> Float[Tensor, " C"]:
    """Share of positives among the known labels of each category, strictly between 0 and 1.

    Where negatives are lacking, blanks stand in for them, but for those of images of which nothing
    is known: nobody looked at these.
    """
    return positive_share(matrix, lacking_negatives(matrix))


def positive_share(
    matrix: LabelMatrix, blank: Float[Tensor, " C"], *, unanswered: bool = False
) -> Float[Tensor, " C"]:
    """Share of positives in each category, strictly between 0 and 1.

    Of all categories together where nothing of one counts.

    Args:
        matrix: of the training images.
        blank: how much of a negative an unknown label counts for, in [0, 1].
        unanswered: whether those of images of which nothing is known count, too.
    """
    positives = matrix.positives.float()
    images = len(matrix) if unanswered else len(matrix.answered)
    total = positives + matrix.negatives + blank * (images - matrix.known.sum(dim=0))
    share = (positives + PRIOR_COUNT) / (total + 2 * PRIOR_COUNT)
    pooled = (positives.sum() + PRIOR_COUNT) / (total.sum() + 2 * PRIOR_COUNT)
    return torch.where(total > 0, share, pooled)
