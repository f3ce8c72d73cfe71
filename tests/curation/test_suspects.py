"""Suspects: two lists, none of few labels, none that was asked, few where labels are right."""

import pytest
import torch

from trmml.curation.suspects import FEWEST, error_rate, suspects
from trmml.labels.matrix import LabelMatrix

IMAGES, CATEGORIES = 400, 5


def drawn(seed: int = 0, wrong: float = 0.0) -> tuple[torch.Tensor, LabelMatrix, torch.Tensor]:
    """Logits that are right of themselves, labels drawn by them, and which of them are wrong."""
    draw = torch.Generator().manual_seed(seed)
    logits = 6 * torch.randn(IMAGES, CATEGORIES, generator=draw) - 6
    truth = torch.rand(logits.shape, generator=draw) < logits.sigmoid()
    flipped = torch.rand(logits.shape, generator=draw) < wrong * truth.float()
    absent = torch.rand(logits.shape, generator=draw) < wrong * truth.float().mean()
    turned = flipped | (absent & ~truth)
    return logits, LabelMatrix(truth ^ turned, torch.ones_like(truth)), turned


def test_the_least_expected_come_first() -> None:
    labels = torch.ones(10, 2).bool()
    logits = torch.full((10, 2), 2.0)
    logits[3, 0], logits[4, 1], logits[5, 1] = -1.0, -3.0, -0.1
    found = suspects(logits, LabelMatrix(labels, labels), given=True)
    assert found.pairs[:3].tolist() == [[4, 1], [3, 0], [5, 1]]
    found = suspects(-logits, LabelMatrix(~labels, labels), given=False)
    assert len(found) == 0  # no label is present, so nothing tells how often one is missed


def test_quality_by_hand() -> None:
    """Of four pairs that are surely absent one is given present; what is sure is as expected."""
    logits = torch.tensor([-9.0] * 4 + [-1.0, 3.0, 3.0, 3.0]).repeat(FEWEST, 1).T
    labels = torch.zeros_like(logits).bool()
    labels[0], labels[4], labels[5:] = True, True, True
    matrix = LabelMatrix(labels, torch.ones_like(labels))
    assert error_rate(logits, matrix, given=True) == 0.25
    assert error_rate(logits, matrix, given=False) == 0.0
    wide = LabelMatrix(labels.T, torch.ones_like(labels.T))
    found = suspects(logits.T, wide, given=True)
    # Odds of being wrong: 1/3 x e for those expected with a log-odds of -1, so 0.906; e^9 / 3 is 1.
    assert found.quality[:FEWEST].tolist() == [0.0] * FEWEST
    assert found.quality[FEWEST:].tolist() == pytest.approx([1 - 2.71828 / 3] * FEWEST, abs=1e-4)


def test_wrong_labels_are_found_and_right_ones_left_alone() -> None:
    logits, matrix, wrong = drawn(wrong=0.1)
    for given in (True, False):
        state = matrix.labels if given else ~matrix.labels
        found = suspects(logits, matrix, given=given)
        hit = wrong[found.pairs[:, 0], found.pairs[:, 1]]
        # Half of what is listed is wrong at the least; chance would be one in ten at the most.
        assert hit.float().mean() > 0.5
        assert hit.sum() > 0.3 * (wrong & state).sum()
        logits_clean, clean, _ = drawn()
        assert len(suspects(logits_clean, clean, given=given)) < 0.02 * IMAGES * CATEGORIES


def test_few_labels_have_no_suspects_and_are_named() -> None:
    labels = torch.zeros(10, 2).bool()
    labels[:FEWEST, 0] = labels[: FEWEST - 1, 1] = True
    found = suspects(torch.full((10, 2), -1.0), LabelMatrix(labels, labels), given=True)
    assert set(found.pairs[:, 1].tolist()) == {0}
    assert found.too_few.tolist() == [1]


def test_labels_behind_unknown_pairs_change_nothing() -> None:
    logits, matrix, _ = drawn(wrong=0.1)
    known = torch.arange(IMAGES * CATEGORIES).reshape(IMAGES, CATEGORIES) % 3 > 0
    for given in (True, False):
        one, other = (
            suspects(logits, LabelMatrix(labels, known), given=given)
            for labels in (matrix.labels, matrix.labels ^ ~known)
        )
        assert torch.equal(one.pairs, other.pairs)
        assert torch.equal(one.quality, other.quality)
