"""Known labels that look wrong, in two lists that are never mixed, the most suspect first.

*Probably not there*: given present, though the image and its other labels speak against it.
*Probably missed*: given absent, though they speak for it. docs/review.md has what each finds.

How often labels are wrong is read off where the model is surest. Of the pairs that are most surely
absent, those given present show how often people put in what is not there; likewise what is missed.
At a rate e, a label that was expected with probability p is wrong with e (1 - p) / ((1 - e) p).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from trmml.curation.collection import Collection
from trmml.curation.weighing import Unseen, weigh_evidence
from trmml.labels.matrix import LabelMatrix
from trmml.labels.statistics import counted_by_blanks, pairs_that_count

# Known labels of a state that a category needs, to have suspects of it.
FEWEST = 8


@dataclass(frozen=True, eq=False)
class Suspects:
    """One list.

    Attributes:
        pairs: image and category, the most suspect first.
        quality: probability that each given label is right, below 1/2.
        too_few: categories with known labels of this state, but fewer than 8.
    """

    pairs: Int[Tensor, "K 2"]
    quality: Float[Tensor, " K"]
    too_few: Int[Tensor, " M"]

    def __len__(self) -> int:
        """Return the number of suspects."""
        return len(self.pairs)


def label_logits(collection: Collection) -> Float[Tensor, "N C"]:
    """Log-odds of each pair by its image and the image's other labels, none learned from it."""
    matrix, expected = collection.matrix, collection.expected.sigmoid()
    everyone = Unseen(torch.arange(len(matrix)), collection.expected)
    weighed = weigh_evidence(matrix, expected, collection.folds, everyone)
    return collection.expected + weighed.added_apart(matrix, expected, collection.folds)


def suspects(
    logits: Float[Tensor, "N C"],
    matrix: LabelMatrix,
    *,
    given: bool,
) -> Suspects:
    """Known labels that are more probably wrong than right, the most suspect first.

    Args:
        logits: from `label_logits`.
        matrix: what is known.
        given: True: labels that are given present; False: absent.
    """
    state = matrix.labels if given else matrix.known & ~matrix.labels
    count = state.sum(dim=0)
    against = -logits if given else logits
    rate = error_rate(logits, matrix, given=given)
    quality = 1 - (rate / max(1 - rate, 1e-6) * against.exp()).clamp(max=1)
    doubted = state & (quality < 0.5) & (count >= FEWEST)
    pairs = doubted.nonzero()
    order = against[doubted].argsort(descending=True, stable=True)
    too_few = ((count > 0) & (count < FEWEST)).nonzero()[:, 0]
    return Suspects(pairs[order], quality[doubted][order], too_few)


def error_rate(logits: Float[Tensor, "N C"], matrix: LabelMatrix, *, given: bool) -> float:
    """How often a label is given although the contrary holds, in [0, 1]; 0 where nothing tells.

    Read off the half of all pairs that is most surely absent, and off the likeliest pairs, half as
    many as there are present labels. Blanks count as absent where a category lacks known ones.

    Args:
        logits: see `suspects`.
        matrix: see `suspects`.
        given: how often given present though absent, or given absent though present.
    """
    used = matrix.known
    if given:
        used = pairs_that_count(matrix, counted_by_blanks(matrix))
    sure, present = logits[used], matrix.labels[used]
    count = len(sure) // 2 if given else int(present.sum()) // 2
    if not count:
        return 0.0
    surest = (-sure if given else sure).topk(count).indices
    return float((present[surest] == given).float().mean())
