"""How far to trust evidence: weights chosen on known pairs of images that no count has seen."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from trmml.curation.evidence import Evidence, pair_evidence, stack_evidence
from trmml.curation.folds import FOLDS
from trmml.labels.matrix import LabelMatrix
from trmml.metrics.calibration import some_pairs
from trmml.settings.choices import EvidenceChoice

# What level 1 counts for at most: the image has told most of what labels tell. Penalties of level
# 2, and what its step counts for.
PAIR_WEIGHTS = (0.1, 0.2, 0.3, 0.5)
PENALTIES = (1.0, 3.0, 10.0, 30.0)
STACK_WEIGHTS = (0.3, 1.0)
# Images and known pairs that choose, at most.
MOST_IMAGES, MOST_PAIRS = 20_000, 1_000_000
# Added to a category's positives before its pairs weigh one over them: all categories count alike.
PRIOR_POSITIVES = 5.0


class Weights(NamedTuple):
    """What level 1 counts for, the penalty of level 2, and what that counts for; 0 is off."""

    pairs: float = 0.0
    penalty: float = PENALTIES[-1]
    stack: float = 0.0

    @property
    def level(self) -> str:
        """Its name: off, pairs, stack or both."""
        if self.pairs and self.stack:
            return "both"
        return "pairs" if self.pairs else "stack" if self.stack else "off"


@dataclass(frozen=True)
class Weighed:
    """Evidence with its weights in it, and what it is worth.

    Attributes:
        weights: chosen on all held-out pairs.
        evidence: counted on all images.
        gain: in log-loss per positive, categories alike, on images that did not choose.
        error: standard error of `gain`, over images.
    """

    weights: Weights
    evidence: Evidence
    gain: float
    error: float


class _Pairs(NamedTuple):
    """Known pairs U, each with what evidence says that was counted without its image."""

    logits: Float[Tensor, " U"]
    present: Float[Tensor, " U"]
    weight: Float[Tensor, " U"]
    image: Int[Tensor, " U"]
    pairs: Float[Tensor, " U"]
    stacks: dict[float, Float[Tensor, " U"]]

    def loss(self, weights: Weights) -> Float[Tensor, " U"]:
        """Weighted log-loss of each pair."""
        logits = self.logits + weights.pairs * self.pairs
        logits = logits + weights.stack * self.stacks[weights.penalty]
        entropy = F.binary_cross_entropy_with_logits(logits, self.present, reduction="none")
        return self.weight * entropy


def weigh_evidence(
    matrix: LabelMatrix,
    logits: Float[Tensor, "N C"],
    folds: Int[Tensor, " N"],
    choice: EvidenceChoice = "auto",
) -> Weighed:
    """The evidence that helps on held-out known pairs by more than a standard error, or none.

    Co-occurrence is counted without the images of a fold, then it speaks of their known pairs.

    Args:
        matrix: what is known.
        logits: calibrated, by heads that never saw the image.
        folds: of the images.
        choice: "auto", "off", or a level that is taken even where it does not help.
    """
    none = Weighed(Weights(), Evidence.none(matrix.labels.shape[1]), 0.0, 0.0)
    if choice == "off" or not bool(matrix.known.any()):
        return none
    some = torch.arange(len(matrix))[:: max(1, len(matrix) // MOST_IMAGES)]
    pairs = _held_out(matrix.subset(some), logits[some], folds[some])
    first = pairs.image % 2 == 0
    gains = [
        (pairs.loss(Weights()) - pairs.loss(_choose(pairs, chosen, choice))) * ~chosen
        for chosen in (first, ~first)
    ]
    gain, error = _gain(gains[0] + gains[1], pairs)
    if choice == "auto" and gain <= error:
        return Weighed(none.weights, none.evidence, gain, error)
    weights = _choose(pairs, first | ~first, choice)
    return Weighed(weights, counted(matrix, logits.sigmoid(), weights), gain, error)


def counted(matrix: LabelMatrix, expected: Float[Tensor, "N C"], weights: Weights) -> Evidence:
    """Evidence counted on some images, times its weights."""
    zero = torch.zeros(matrix.labels.shape[1], matrix.labels.shape[1])
    present, absent, stack = zero, zero, zero
    if weights.pairs:
        present, absent = (weights.pairs * part for part in pair_evidence(matrix))
    if weights.stack:
        stack = weights.stack * stack_evidence(matrix, expected, weights.penalty)
    return Evidence(present, absent, stack)


def _held_out(
    matrix: LabelMatrix, logits: Float[Tensor, "N C"], folds: Int[Tensor, " N"]
) -> _Pairs:
    """Known pairs with evidence that was counted on the other folds."""
    used, expected = some_pairs(matrix.known, MOST_PAIRS), logits.sigmoid()
    image, category = used.nonzero().unbind(1)
    levels = [Weights(pairs=1.0), *(Weights(0.0, penalty, 1.0) for penalty in PENALTIES)]
    said = torch.zeros(len(levels), len(image))
    for fold in range(FOLDS):
        seen, left = (folds != fold).nonzero()[:, 0], (folds == fold).nonzero()[:, 0]
        ours = folds[image] == fold
        for number, level in enumerate(levels):
            evidence = counted(matrix.subset(seen), expected[seen], level)
            added = evidence.added(matrix.subset(left), expected[left])
            said[number, ours] = added[used[left]]
    # Only differences within a category matter here; calibration takes care of the rest.
    said -= _category_means(said, category, matrix.labels.shape[1])[:, category]
    positives = (matrix.labels & used).sum(dim=0) + PRIOR_POSITIVES
    stacks = dict(zip(PENALTIES, said[1:], strict=True))
    present = matrix.labels[used].float()
    return _Pairs(logits[used], present, 1 / positives[category], image, said[0], stacks)


def _category_means(
    said: Float[Tensor, "L U"], category: Int[Tensor, " U"], categories: int
) -> Float[Tensor, "L C"]:
    sums = torch.zeros(len(said), categories).index_add_(1, category, said)
    return sums / category.bincount(minlength=categories).clamp(min=1)


def _candidates(level: str) -> Iterator[Weights]:
    """All weights of a level."""
    for pairs in PAIR_WEIGHTS if level != "stack" else (0.0,):
        if level == "pairs":
            yield Weights(pairs)
            continue
        for penalty in PENALTIES:
            yield from (Weights(pairs, penalty, stack) for stack in STACK_WEIGHTS)


def _choose(pairs: _Pairs, chosen: Tensor, choice: EvidenceChoice) -> Weights:
    """The best weights by some of the pairs; a later level must gain a standard error."""
    best = Weights()
    for level in ("pairs", "stack", "both") if choice == "auto" else (choice,):
        losses = {each: float((pairs.loss(each) * chosen).sum()) for each in _candidates(level)}
        leading = min(losses, key=lambda each: losses[each])
        gain, error = _gain((pairs.loss(best) - pairs.loss(leading)) * chosen, pairs)
        if choice != "auto" or gain > error:
            best = leading
    return best


def _gain(gains: Float[Tensor, " U"], pairs: _Pairs) -> tuple[float, float]:
    """Summed gain over the summed weight of positives, and its standard error over images."""
    whole = float((pairs.weight * pairs.present).sum().clamp(min=1e-9))
    each = torch.zeros(int(pairs.image.max()) + 1).index_add_(0, pairs.image, gains)
    return float(each.sum()) / whole, float(each.square().sum().sqrt()) / whole
