"""What the known labels of an image say of its open pairs, beyond what the image itself shows.

    s_ic = z_ic + sum_k ( y_ik P_kc + (1 - y_ik) A_kc + (y_ik - p_ik) W_kc ),  k known, k != c

P and A are level 1: how often categories occur together. W is level 2: what the model's errors on
known labels say of its errors elsewhere. p must come from a model that never saw the image, or
errors look like none; co-occurrence is counted on other images than those that are scored.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from trmml.labels.matrix import LabelMatrix
from trmml.labels.statistics import PRIOR_COUNT

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
        self,
        labels: Bool[Tensor, " C"],
        known: Bool[Tensor, " C"],
        expected: Float[Tensor, " C"],
    ) -> tuple[Int[Tensor, " K"], Float[Tensor, "K C"]]:
        """An image's known labels, and what each adds to each category; the sums are `added`'s.

        Args:
            labels: of the image.
            known: which of them count.
            expected: probabilities p of a model that never saw it.
        """
        rows = known.nonzero()[:, 0]
        by_state = torch.where(labels[rows, None], self.present[rows], self.absent[rows])
        return rows, by_state + (labels[rows].float() - expected[rows])[:, None] * self.stack[rows]


class Counts(NamedTuple):
    """What evidence is made of; those of several groups of images add up.

    Attributes:
        images: their number.
        present: known present labels of each category.
        known: known labels of each.
        both: images with both present, of those that know both.
        first: with the row present and the column absent.
        neither: with both absent.
        moments: products of residuals, summed.
        curvature: p (1 - p), summed over known labels.
    """

    images: Float[Tensor, ""]
    present: Float[Tensor, " C"]
    known: Float[Tensor, " C"]
    both: Float[Tensor, "C C"]
    first: Float[Tensor, "C C"]
    neither: Float[Tensor, "C C"]
    moments: Float[Tensor, "C C"]
    curvature: Float[Tensor, " C"]

    def plus(self, other: "Counts", sign: int = 1) -> "Counts":
        """Those of both groups; with a sign of -1 those of this one without the other."""
        return Counts(*(mine + sign * yours for mine, yours in zip(self, other, strict=True)))


def count_labels(matrix: LabelMatrix, expected: Float[Tensor, "N C"]) -> Counts:
    """Counts of some images.

    Args:
        matrix: what is known of them.
        expected: probabilities p of a model that never saw them.
    """
    categories = matrix.labels.shape[1]
    flat, square = torch.zeros(3, categories), torch.zeros(4, categories, categories)
    for part in torch.split(torch.arange(len(matrix)), BLOCK):
        rows, p = matrix.subset(part), expected[part]
        present, known = rows.labels.float(), rows.known.float()
        absent, residual = known - present, known * (present - p)
        flat += torch.stack([each.sum(dim=0) for each in (present, known, known * p * (1 - p))])
        for sums, left, right in zip(
            square,
            (present, present, absent, residual),
            (present, absent, absent, residual),
            strict=True,
        ):
            sums.addmm_(left.T, right)
    images = torch.tensor(float(len(matrix)))
    return Counts(images, flat[0], flat[1], square[0], square[1], square[2], square[3], flat[2])


def pair_evidence(counts: Counts) -> tuple[Float[Tensor, "C C"], Float[Tensor, "C C"]]:
    """Log-odds that a present and an absent label k give category c, before any weight.

    log P(y_k | y_c = 1) - log P(y_k | y_c = 0), over images that know both, each share drawn
    towards that of k alone.
    """
    share = ((counts.present + PRIOR_COUNT) / (counts.known + 2 * PRIOR_COUNT))[:, None]

    def log_shares(yes: Tensor, no: Tensor) -> tuple[Tensor, Tensor]:
        total = yes + no + PSEUDO_COUNTS
        drawn = yes + PSEUDO_COUNTS * share, no + PSEUDO_COUNTS * (1 - share)
        return (drawn[0] / total).log(), (drawn[1] / total).log()

    where_present = log_shares(counts.both, counts.first.T)
    where_absent = log_shares(counts.first, counts.neither)
    present, absent = (a - b for a, b in zip(where_present, where_absent, strict=True))
    return present.fill_diagonal_(0), absent.fill_diagonal_(0)


def stack_evidence(counts: Counts, penalties: Sequence[float]) -> list[Float[Tensor, "C C"]]:
    """Weights of residuals: one Newton step of penalised logistic regression on known pairs.

    All categories share the residuals' second moments, so that one decomposition serves them
    all; a weight of a category on itself is held to zero.

    Args:
        counts: of the images.
        penalties: of squared weights, one for each result; known labels count for 1 each.
    """
    values, vectors = torch.linalg.eigh(counts.moments / counts.images.clamp(min=1))
    gradient = vectors.T @ counts.moments.clone().fill_diagonal_(0)
    curved = values.clamp(min=0)[:, None] * counts.curvature  # (C, C): direction, category
    found = []
    for penalty in penalties:
        scale = 1 / (curved + penalty)
        free = vectors @ (scale * gradient)
        own = vectors @ (scale * vectors.T)  # of each category, the inverse's column of its own
        weights: Tensor = free - own * (free.diagonal() / own.diagonal())
        found.append(weights.fill_diagonal_(0))
    return found
