"""Known labels that look wrong, in two lists that are never mixed.

*Probably not there*: given present, lowest probability first. *Probably missed*: given absent, by
the probability of being absent less its mean in the category, lowest first; there the category's
own level says more (confident learning's idea). docs/review.md has what each finds.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from trmml.labels.matrix import LabelMatrix

# Known labels of a state that a category needs, to have suspects of it.
FEWEST = 8


@dataclass(frozen=True, eq=False)
class Suspects:
    """One list.

    Attributes:
        pairs: image and category, the most suspect first.
        quality: probability that each given label is right.
        too_few: categories with known labels of this state, but fewer than 8.
    """

    pairs: Int[Tensor, "K 2"]
    quality: Float[Tensor, " K"]
    too_few: Int[Tensor, " M"]

    def __len__(self) -> int:
        """Return the number of suspects."""
        return len(self.pairs)


def suspects(
    logits: Float[Tensor, "N C"],
    matrix: LabelMatrix,
    *,
    given: bool,
    asked: Bool[Tensor, "N C"] | None = None,
) -> Suspects:
    """Known labels that contradict what is expected of them, the most suspect first.

    A label is suspect where its quality is below 1/2.

    Args:
        logits: out of sample, as `Collection.out_of_sample`.
        matrix: what is known.
        given: True: labels that are given present; False: absent.
        asked: pairs that people have answered about already; they are not asked again.
    """
    state = matrix.labels if given else matrix.known & ~matrix.labels
    count = state.sum(dim=0)
    quality = torch.sigmoid(logits if given else -logits)
    rank = quality if given else quality - (quality * state).sum(dim=0) / count.clamp(min=1)
    doubted = state & (quality < 0.5) & (count >= FEWEST)
    if asked is not None:
        doubted &= ~asked
    pairs = doubted.nonzero()
    order = rank[doubted].argsort(stable=True)
    too_few = ((count > 0) & (count < FEWEST)).nonzero()[:, 0]
    return Suspects(pairs[order], quality[doubted][order], too_few)
