"""Evidence of known labels: counts by hand, sums and their terms, and what may not leak."""

import math

import pytest
import torch

from trmml.curation.evidence import (
    PSEUDO_COUNTS,
    Evidence,
    count_labels,
    pair_evidence,
    stack_evidence,
)
from trmml.curation.weighing import Unseen, Weighed, Weights, weigh, weigh_evidence
from trmml.labels.matrix import LabelMatrix
from trmml.labels.statistics import known_positive_share


def _random(images: int = 60, categories: int = 5, share: float = 0.7) -> LabelMatrix:
    shape = (images, categories)
    return LabelMatrix(torch.rand(shape) < 0.3, torch.rand(shape) < share)


def _coupled(images: int = 600) -> tuple[LabelMatrix, torch.Tensor, torch.Tensor]:
    """Labels of which the second mostly follows the first; logits that know neither; the truth."""
    truth = torch.rand(images, 4) < 0.4
    truth[:, 1] = truth[:, 0] ^ (torch.rand(images) < 0.1)
    matrix = LabelMatrix(truth, torch.rand(images, 4) < 0.6)
    return matrix, torch.full((images, 4), math.log(0.4 / 0.6)), truth


def _counted(matrix: LabelMatrix, expected: torch.Tensor, weights: Weights) -> Evidence:
    return weigh(count_labels(matrix, expected), weights)


def _weighed(matrix: LabelMatrix, logits: torch.Tensor, choice: str = "auto") -> Weighed:
    """By all images, as if `logits` came from a model that saw none."""
    images = torch.arange(len(matrix))
    return weigh_evidence(
        matrix,
        logits.sigmoid(),
        images % 5,
        Unseen(images, logits),
        choice,  # type: ignore[arg-type]
    )


def test_pairs_are_those_of_a_slow_count() -> None:
    matrix = _random()
    share = known_positive_share(matrix)
    present, absent = pair_evidence(count_labels(matrix, torch.rand(60, 5)))
    for k, c in ((0, 1), (3, 2), (4, 0)):
        both = matrix.known[:, k] & matrix.known[:, c]
        shares = []
        for state in (True, False):
            among = both & (matrix.labels[:, c] == state)
            yes = (among & matrix.labels[:, k]).sum() + PSEUDO_COUNTS * share[k]
            shares.append(yes / (among.sum() + PSEUDO_COUNTS))
        assert torch.isclose(present[k, c], (shares[0] / shares[1]).log(), atol=1e-5)
        assert torch.isclose(absent[k, c], ((1 - shares[0]) / (1 - shares[1])).log(), atol=1e-5)
    assert not present.diagonal().any() and not absent.diagonal().any()


def test_counts_of_groups_add_up() -> None:
    matrix, expected = _random(), torch.rand(60, 5)
    whole = count_labels(matrix, expected)
    parts = [count_labels(matrix.subset(r), expected[r]) for r in torch.arange(60).split(23)]
    for all_, sums in zip(whole, parts[0].plus(parts[1]).plus(parts[2]), strict=True):
        assert torch.allclose(all_, sums, atol=1e-4)
    for rest, sums in zip(whole.plus(parts[2], -1), parts[0].plus(parts[1]), strict=True):
        assert torch.allclose(rest, sums, atol=1e-4)


def test_the_stack_is_one_newton_step_with_its_own_weight_held_to_zero() -> None:
    matrix, expected = _random(), torch.rand(60, 5) * 0.8 + 0.1
    weights = stack_evidence(count_labels(matrix, expected), [3.0])[0]
    residual = matrix.known * (matrix.labels.float() - expected)
    moments = residual.T @ residual
    for c in range(5):
        others = [k for k in range(5) if k != c]
        curvature = (matrix.known * expected * (1 - expected))[:, c].sum() / 60
        system = curvature * moments[others][:, others] + 3.0 * torch.eye(4)
        slow = torch.linalg.solve(system, moments[others, c])
        assert torch.allclose(weights[others, c], slow, atol=1e-4)
        assert weights[c, c] == 0


def test_terms_sum_to_what_is_added_and_leave_the_pair_s_own_label_out() -> None:
    matrix, expected = _random(), torch.rand(60, 5)
    evidence = _counted(matrix, expected, Weights(0.3, 3.0, 1.0))
    added = evidence.added(matrix, expected)
    for row in range(60):
        known, terms = evidence.terms(matrix.labels[row], matrix.known[row], expected[row])
        assert torch.equal(known, matrix.known[row].nonzero()[:, 0])
        assert torch.allclose(terms.sum(dim=0), added[row], atol=1e-5)
        assert not terms[torch.arange(len(known)), known].any()
    labels = matrix.labels.clone()
    labels[0, 2] = ~labels[0, 2]
    other = evidence.added(LabelMatrix(labels, matrix.known), expected)
    assert other[0, 2] == added[0, 2]


def test_categories_in_another_order_say_the_same() -> None:
    matrix, expected, order = _random(), torch.rand(60, 5), torch.tensor([3, 1, 4, 0, 2])
    weights = Weights(0.3, 3.0, 1.0)
    first = _counted(matrix, expected, weights).added(matrix, expected)[:, order]
    moved = matrix.columns(order)
    second = _counted(moved, expected[:, order], weights).added(moved, expected[:, order])
    assert torch.allclose(first, second, atol=1e-4)


def test_nothing_is_read_where_nothing_is_known() -> None:
    matrix, expected = _random(), torch.rand(60, 5)
    behind = LabelMatrix(matrix.labels | ~matrix.known, matrix.known)
    weights = Weights(0.3, 3.0, 1.0)
    first, second = (_counted(m, expected, weights).added(m, expected) for m in (matrix, behind))
    assert torch.equal(first, second)
    empty = LabelMatrix(*torch.zeros(2, 9, 5, dtype=torch.bool))
    assert not Evidence.none(5).speaks
    assert _weighed(empty, torch.zeros(9, 5)).weights.level == "off"


def test_what_helps_is_taken_and_helps_on_unknown_pairs() -> None:
    matrix, logits, truth = _coupled()
    weighed = _weighed(matrix, logits)
    assert weighed.weights.level != "off" and weighed.gain > 5 * weighed.error
    added = weighed.evidence.added(matrix, logits.sigmoid())
    told = ~matrix.known[:, 1] & matrix.known[:, 0]
    right = (added[told, 1] > 0) == truth[told, 1]
    assert right.float().mean() > 0.85  # the tie holds in 90 %


@pytest.mark.parametrize("level", ["pairs", "stack"])
def test_chance_is_not_taken_for_evidence(level: str) -> None:
    """Leaks 3 and 6: counts that saw the scored pairs, or a gain by those that chose, find some."""
    matrix = _random(100, 30)
    logits = torch.full((100, 30), math.log(0.3 / 0.7))
    assert _weighed(matrix, logits).weights.level == "off"
    forced = _weighed(matrix, logits, level)
    assert forced.weights.level == level and forced.gain < 0

    def loss(values: torch.Tensor) -> torch.Tensor:
        target = matrix.labels[matrix.known].float()
        return torch.nn.functional.binary_cross_entropy_with_logits(values[matrix.known], target)

    seen = forced.evidence.added(matrix, logits.sigmoid())
    assert loss(logits + seen) < loss(logits) - 0.005  # the pairs that were counted look better
