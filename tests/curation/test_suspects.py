"""Suspects: two lists in their own orders, none of few labels, none that was asked."""

import torch

from trmml.curation.suspects import FEWEST, suspects
from trmml.labels.matrix import LabelMatrix


def test_present_labels_by_probability_alone() -> None:
    labels = torch.ones(10, 2).bool()
    logits = torch.full((10, 2), 2.0)
    logits[3, 0], logits[4, 1], logits[5, 1] = -1.0, -3.0, -0.1
    found = suspects(logits, LabelMatrix(labels, labels), given=True)
    assert found.pairs.tolist() == [[4, 1], [3, 0], [5, 1]]
    assert torch.allclose(found.quality, torch.tensor([-3.0, -1.0, -0.1]).sigmoid())


def test_absent_labels_less_their_category_s_mean() -> None:
    known = torch.ones(10, 2).bool()
    logits = torch.stack([torch.full((10,), -4.0), torch.full((10,), 0.3)], dim=1)
    logits[0, 0], logits[0, 1] = 0.8, 1.0  # the second is likelier, in a category that is common
    found = suspects(logits, LabelMatrix(~known, known), given=False)
    assert found.pairs[0].tolist() == [0, 0]
    assert [0, 1] in found.pairs.tolist()


def test_few_labels_have_no_suspects_and_are_named() -> None:
    labels = torch.zeros(10, 2).bool()
    labels[:FEWEST, 0] = labels[: FEWEST - 1, 1] = True
    found = suspects(torch.full((10, 2), -1.0), LabelMatrix(labels, labels), given=True)
    assert set(found.pairs[:, 1].tolist()) == {0}
    assert found.too_few.tolist() == [1]


def test_what_was_asked_is_not_asked_again() -> None:
    labels = torch.ones(10, 1).bool()
    asked = torch.zeros(10, 1).bool()
    asked[2:] = True
    found = suspects(
        torch.full((10, 1), -1.0), LabelMatrix(labels, labels), given=True, asked=asked
    )
    assert found.pairs[:, 0].tolist() == [0, 1]
