"""What the known labels of an image say of its open pairs, beyond what the image itself shows.

    s_ic = z_ic + sum_k ( y_ik P_kc + (1 - y_ik) A_kc + (y_ik - p_ik) W_kc ),  k known, k != c

P and A are level 1: how often categories occur together. W is level 2: what the model's errors on
known labels say of its errors elsewhere. p must come from a model that never saw the image, or
errors look like none; co-occurrence is counted on other images than those that are scored.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from trmml.labels.matrix import LabelMatrix
from trmml.labels.statistics import known_positive_share

# Images that a conditional share is drawn towards independence by.
PSEUDO_COUNTS = 10.0
BLOCK = 4096


@dataclass(frozen=True)
class Evidence:
    """Weights of known labels, all with a diagonal of zero; rows speak, columns are spoken of.

    Attributes:
        present: P, what a present label adds to the log-odds.
        absent: A, of an absent one.
        stack: W, of what a known label is more than expected.
    """

    present: Float[Tensor, "C C"]
    absent: Float[Tensor, "C C"]
    stack: Float[Tensor, "C C"]

    @classmethod
    def none(cls, categories: int) -> "Evidence":
        """Weights of zero."""
        zero = torch.zeros(categories, categories)
        return cls(zero, zero, zero)

    @property
    def speaks(self) -> bool:
        """Whether any weight differs from zero."""
        return any(bool(part.any()) for part in (self.present, self.absent, self.stack))

    def added(self, matrix: LabelMatrix, expected: Float[Tensor, "N C"]) -> Float[Tensor, "N C"]:
        """What the known labels add to each pair's log-odds, its own label left out.

        Args:
            matrix: what is known.
            expected: probabilities p of a model that never saw the images.
        """
        parts = torch.split(torch.arange(len(matrix)), BLOCK)
        return torch.cat([self._block(matrix.subset(part), expected[part]) for part in parts])

    def _block(self, rows: LabelMatrix, expected: Float[Tensor, "B C"]) -> Float[Tensor, "B C"]:
        labels, known = rows.labels.float(), rows.known.float()
        residual = known * (labels - expected)
        said = torch.zeros_like(expected)
        for state, weights in (
            (labels, self.present),
            (known - labels, self.absent),
            (residual, self.stack),
        ):
            said = torch.addmm(said, state, weights) if bool(weights.any()) else said
        return said

    def terms(
        self, rows: LabelMatrix, expected: Float[Tensor, "B C"], columns: Int[Tensor, " B"]
    ) -> Float[Tensor, "B C"]:
        """What each label of an image adds to one pair of it; the sums are those of `added`.

        Args:
            rows: an image for each pair; images may repeat.
            expected: of these images.
            columns: the category of each pair.
        """
        labels, known = rows.labels.float(), rows.known.float()
        by_state = labels * self.present.T[columns] + (known - labels) * self.absent.T[columns]
        return by_state + known * (labels - expected) * self.stack.T[columns]


def pair_evidence(matrix: LabelMatrix) -> tuple[Float[Tensor, "C C"], Float[Tensor, "C C"]]:
    """Log-odds that a present and an absent label k give category c, before any weight.

    log P(y_k | y_c = 1) - log P(y_k | y_c = 0), over images that know both, each share drawn
    towards that of k alone.
    """
    together, apart = torch.zeros(2, 2, *[matrix.labels.shape[1]] * 2)
    for part in torch.split(torch.arange(len(matrix)), BLOCK):
        rows = matrix.subset(part)
        present = rows.labels.float()
        states = (present, rows.known.float() - present)
        for number, state in enumerate(states):
            together[number] += present.T @ state  # k present, c present or absent
            apart[number] += states[1].T @ state  # k absent
    share = known_positive_share(matrix)[:, None]
    total = together + apart + PSEUDO_COUNTS
    yes = ((together + PSEUDO_COUNTS * share) / total).log()
    no = ((apart + PSEUDO_COUNTS * (1 - share)) / total).log()
    return (yes[0] - yes[1]).fill_diagonal_(0), (no[0] - no[1]).fill_diagonal_(0)


def stack_evidence(
    matrix: LabelMatrix, expected: Float[Tensor, "N C"], penalty: float
) -> Float[Tensor, "C C"]:
    """Weights of residuals: one Newton step of penalised logistic regression on known pairs.

    All categories share the residuals' second moments, so that one decomposition serves them
    all; a weight of a category on itself is held to zero.

    Args:
        matrix: what is known.
        expected: probabilities of a model that never saw the images.
        penalty: of squared weights; known labels count for 1 each.
    """
    categories = matrix.labels.shape[1]
    moments, curvature = torch.zeros(categories, categories), torch.zeros(categories)
    for part in torch.split(torch.arange(len(matrix)), BLOCK):
        rows, p = matrix.subset(part), expected[part]
        known = rows.known.float()
        residual = known * (rows.labels.float() - p)
        moments += residual.T @ residual
        curvature += (known * p * (1 - p)).sum(dim=0)
    values, vectors = torch.linalg.eigh(moments / max(len(matrix), 1))
    scale = 1 / (values.clamp(min=0)[:, None] * curvature + penalty)  # (C, C): direction, category
    gradient = moments.clone().fill_diagonal_(0)
    free = vectors @ (scale * (vectors.T @ gradient))
    own = vectors @ (scale * vectors.T)  # of each category, the inverse's column of its own
    weights: Tensor = free - own * (free.diagonal() / own.diagonal())
    return weights.fill_diagonal_(0)
