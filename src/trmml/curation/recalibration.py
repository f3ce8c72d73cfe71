"""Probabilities of log-odds to which evidence was added, by how much is known of the image.

Evidence widens log-odds, and the more so the more labels speak. So each category has a line, and
each amount of known labels has one for all categories on top of it: with lines of their own for
both, chance would change the order of images in small categories.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from trmml.labels.matrix import LabelMatrix
from trmml.labels.statistics import pairs_that_count
from trmml.metrics.calibration import (
    Calibration,
    both_answers,
    fit_calibration,
    some_pairs,
)

# Other known labels of an image from which the second and the third line apply; and the known
# positives that a line takes.
LEAST_KNOWN, LEAST_POSITIVES = (1, 6), 100


def plain_calibration(
    logits: Float[Tensor, "N C"], matrix: LabelMatrix, by_blanks: Bool[Tensor, " C"]
) -> Calibration:
    """A line and a threshold for each category, as `calibrate` has them, from some of the pairs."""
    known = pairs_that_count(matrix, by_blanks)
    if not both_answers(LabelMatrix(matrix.labels, known)):
        return Calibration.identity(logits.shape[1])
    return fit_calibration(logits, matrix.labels, some_pairs(known))


@dataclass(frozen=True)
class Recalibration:
    """A line for each category, then one for each amount of known labels: none, few and many.

    Attributes:
        each: of the categories; it has the thresholds too.
        kinds: lines of one category, in this order.
    """

    each: Calibration
    kinds: tuple[Calibration, ...]

    @classmethod
    def fit(
        cls, logits: Float[Tensor, "N C"], matrix: LabelMatrix, by_blanks: Bool[Tensor, " C"]
    ) -> "Recalibration":
        """Fit on known pairs that `logits` were made without.

        An amount of which too few present labels are known has no line of its own.

        Args:
            logits: unbounded, finite.
            matrix: what is known of the same images.
            by_blanks: `counted_by_blanks` of the whole collection. Such categories have a line of
                their own, and no say in the others.
        """
        each = plain_calibration(logits, matrix, by_blanks)
        other, kinds = _kind(matrix), list[Calibration]()
        lines = each.logits(logits)
        for kind in range(len(LEAST_KNOWN) + 1):
            used = matrix.known & (other == kind) & ~by_blanks
            pairs = LabelMatrix(matrix.labels[used][:, None], torch.ones_like(used[used])[:, None])
            enough = both_answers(pairs) and int(pairs.positives) >= LEAST_POSITIVES
            line = Calibration.identity(1)
            if enough:
                known = some_pairs(pairs.known)
                line = fit_calibration(lines[used][:, None], pairs.labels, known)
            kinds.append(line)
        return cls(each, tuple(kinds))

    def probabilities(
        self, logits: Float[Tensor, "N C"], matrix: LabelMatrix
    ) -> Float[Tensor, "N C"]:
        """Calibrated, by what is known of each image beside the pair itself."""
        lines, kind = self.each.logits(logits), _kind(matrix)
        for number, line in enumerate(self.kinds):
            lines = torch.where(kind == number, line.logits(lines), lines)
        return lines.sigmoid()


def _kind(matrix: LabelMatrix) -> UInt8[Tensor, "N C"]:
    """0, 1 or 2: how many labels of the image are known beside each pair's own."""
    count = matrix.known.sum(dim=1, dtype=torch.int32)[:, None]
    other = count - matrix.known.to(torch.int32)
    few, many = ((other >= least).to(torch.uint8) for least in LEAST_KNOWN)
    return few + many
