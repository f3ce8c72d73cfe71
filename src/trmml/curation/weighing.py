"""How far to trust evidence: weights chosen on known pairs that neither counts nor model have seen.

A linear head knows less of an image than the run does, and finds news where the run has none. So
the run's own held-out images choose wherever the run tells them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from trmml.curation.evidence import (
    Counts,
    Evidence,
    count_labels,
    pair_evidence,
    stack_evidence,
)
from trmml.curation.folds import FOLDS
from trmml.labels.matrix import LabelMatrix
from trmml.metrics.calibration import some_pairs
from trmml.settings.choices import EvidenceChoice

# What level 1 counts for at most: the image has told most of what labels tell. Penalties of level
# 2, and what its step counts for.
PAIR_WEIGHTS = (0.1, 0.2, 0.3, 0.5)
PENALTIES = (1.0, 3.0, 10.0, 30.0)
STACK_WEIGHTS = (0.3, 1.0)
# Known pairs that choose, at most.
MOST_PAIRS = 1_000_000
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


class Unseen(NamedTuple):
    """Images H, and calibrated logits of a model that was trained without them.

    Attributes:
        images: their places in the collection.
        logits: of the run, or of a model that stands in for it.
        errors: standard errors that a gain on them must exceed; a stand-in finds news where the
            run has none.
    """

    images: Int[Tensor, " H"]
    logits: Float[Tensor, "H C"]
    errors: float = 1.0


@dataclass(frozen=True)
class Weighed:
    """Evidence with its weights in it, and what it is worth.

    Attributes:
        weights: chosen on all held-out pairs.
        evidence: counted on all images.
        apart: for each fold, counted on the other folds.
        gain: in log-loss per positive, categories alike, on images that did not choose.
        error: standard error of `gain`, over images.
    """

    weights: Weights
    evidence: Evidence
    apart: tuple[Evidence, ...]
    gain: float
    error: float

    def added_apart(
        self, matrix: LabelMatrix, expected: Float[Tensor, "N C"], folds: Int[Tensor, " N"]
    ) -> Float[Tensor, "N C"]:
        """What is added to images by evidence that was counted without their folds."""
        added = torch.zeros_like(expected)
        for fold, evidence in enumerate(self.apart if self.evidence.speaks else ()):
            rows = (folds == fold).nonzero()[:, 0]
            added[rows] = evidence.added(matrix.subset(rows), expected[rows])
        return added


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
    expected: Float[Tensor, "N C"],
    folds: Int[Tensor, " N"],
    unseen: Unseen,
    choice: EvidenceChoice = "auto",
) -> Weighed:
    """The evidence that helps on held-out known pairs by more than a standard error, or none.

    Co-occurrence is counted without the images of a fold, then it speaks of their known pairs.

    Args:
        matrix: what is known.
        expected: probabilities by heads that never saw the image; evidence compares with them.
        folds: of the images.
        unseen: whose known pairs choose.
        choice: "auto", "off", or a level that is taken even where it does not help.
    """
    known = matrix.known[unseen.images]
    if choice == "off" or not bool(known.any()):
        return _weighed(Weights(), [], 0.0, 0.0, len(matrix.known[0]))
    groups = [count_labels(matrix.subset(f), expected[f]) for f in _rows(folds)]
    pairs = _held_out(matrix, expected, folds, unseen, _without(groups))
    first = pairs.image % 2 == 0
    gains = [
        (pairs.loss(Weights()) - pairs.loss(_choose(pairs, chosen, choice))) * ~chosen
        for chosen in (first, ~first)
    ]
    gain, error = _gain(gains[0] + gains[1], pairs)
    helps = choice != "auto" or gain > unseen.errors * error
    weights = _choose(pairs, first | ~first, choice) if helps else Weights()
    return _weighed(weights, groups, gain, error, len(matrix.known[0]))


def _weighed(
    weights: Weights, groups: list[Counts], gain: float, error: float, categories: int
) -> Weighed:
    """Evidence with these weights of all groups, and of all but each."""
    if weights.level == "off":
        return Weighed(weights, Evidence.none(categories), (), gain, error)
    apart = tuple(weigh(counts, weights) for counts in _without(groups))
    return Weighed(weights, weigh(_sum(groups), weights), apart, gain, error)


def weigh(counts: Counts, weights: Weights) -> Evidence:
    """Evidence of counts, times its weights."""
    zero = torch.zeros_like(counts.both)
    present, absent, stack = zero, zero, zero
    if weights.pairs:
        present, absent = (weights.pairs * part for part in pair_evidence(counts))
    if weights.stack:
        stack = weights.stack * stack_evidence(counts, [weights.penalty])[0]
    return Evidence(present, absent, stack)


def _rows(folds: Int[Tensor, " N"]) -> list[Int[Tensor, " F"]]:
    """The images of each fold."""
    return [(folds == fold).nonzero()[:, 0] for fold in range(FOLDS)]


def _sum(groups: list[Counts]) -> Counts:
    return reduce(Counts.plus, groups)


def _without(groups: list[Counts]) -> list[Counts]:
    """Counts of all groups but each."""
    whole = _sum(groups)
    return [whole.plus(each, -1) for each in groups]


def _held_out(
    matrix: LabelMatrix,
    expected: Float[Tensor, "N C"],
    folds: Int[Tensor, " N"],
    unseen: Unseen,
    others: list[Counts],
) -> _Pairs:
    """Known pairs of unseen images, with evidence that was counted on the other folds."""
    rows, given = unseen.images, matrix.subset(unseen.images)
    used = some_pairs(given.known, MOST_PAIRS)
    image, category = used.nonzero().unbind(1)
    said = torch.zeros(1 + len(PENALTIES), len(image))
    for fold, counts in enumerate(others):
        left = (folds[rows] == fold).nonzero()[:, 0]
        ours, zero = folds[rows][image] == fold, torch.zeros_like(counts.both)
        forms = [Evidence(*pair_evidence(counts), zero)]
        forms += [Evidence(zero, zero, stack) for stack in stack_evidence(counts, PENALTIES)]
        for number, evidence in enumerate(forms):
            added = evidence.added(given.subset(left), expected[rows[left]])
            said[number, ours] = added[used[left]]
    # Only differences within a category matter here; calibration takes care of the rest.
    said -= _category_means(said, category, used.shape[1])[:, category]
    positives = (given.labels & used).sum(dim=0) + PRIOR_POSITIVES
    stacks = dict(zip(PENALTIES, said[1:], strict=True))
    weight, present = 1 / positives[category], given.labels[used].float()
    return _Pairs(unseen.logits[used], present, weight, image, said[0], stacks)


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
