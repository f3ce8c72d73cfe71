"""Rules of acceptance: by hand, and what each refuses."""

import pytest
import torch

from trmml.curation.acceptance import Rule, accepted, precision_cuts, raised_cuts, wilson
from trmml.errors import ConfigError

PROBABILITY = torch.tensor([[0.02, 0.4, 0.6, 0.97]])


@pytest.mark.parametrize(
    ("rule", "present", "known"),
    [
        ("none", [0, 0, 0, 0], [0, 0, 0, 0]),
        ("threshold", [0, 0, 1, 1], [0, 0, 1, 1]),
        ("sure=0.95", [0, 0, 0, 1], [1, 0, 0, 1]),
        ("precision=0.9", [0, 1, 0, 1], [0, 1, 0, 1]),
        ("all", [0, 0, 1, 1], [1, 1, 1, 1]),
    ],
)
def test_each_rule(rule: str, present: list[int], known: list[int]) -> None:
    cuts = torch.tensor([0.1, 0.3, torch.inf, 0.9])
    found = accepted(Rule.parse(rule), PROBABILITY, torch.full((4,), 0.5), cuts)
    assert found.labels.int().tolist() == [present]
    assert found.known.int().tolist() == [known]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sure", "above 0.5 and below 1"),
        ("sure=0.5", "above 0.5 and below 1"),
        ("sure=95", "no percentage"),
        ("precision=1", "above 0 and below 1"),
        ("precision=nan", "above 0 and below 1"),
        ("precision=high", "as in precision=0.9"),
        ("none=1", "expected none, threshold, sure=P, precision=P or all"),
        ("", "expected none, threshold"),
    ],
)
def test_rules_that_are_none(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Rule.parse(text)


def test_cuts_are_the_lowest_that_show_the_precision() -> None:
    probability = torch.linspace(1, 0.01, 100)[:, None].repeat(1, 3)
    labels, known = torch.zeros(2, 100, 3, dtype=torch.bool)
    labels[:40, 0] = labels[:10, 1] = labels[:, 2] = known[:] = True
    cuts = precision_cuts(0.9, probability, labels, known)
    hits, of = torch.arange(1, 101).clamp(max=40).double(), torch.arange(1, 101).double()
    lowest = int((wilson(hits, of) >= 0.9).nonzero()[-1])
    assert cuts[0] == probability[lowest, 0] and lowest >= 39
    assert cuts[1:].isinf().all()  # too few; and no absent label, so that all would be right


def test_equal_probabilities_are_not_parted() -> None:
    labels = torch.arange(60)[:, None] < 40
    cuts = precision_cuts(0.9, torch.full((60, 1), 0.7), labels, torch.ones_like(labels))
    assert cuts.isinf().all()


@pytest.mark.parametrize("first", ["present", "absent"])
def test_raised_cuts_do_not_part_equal_probabilities(first: str) -> None:
    """Half of forty pairs that are all as sure as can be is right: no cut shows nine in ten."""
    labels = (torch.arange(40)[:, None] < 20) == (first == "present")
    cuts, known = torch.tensor([0.5]), torch.ones_like(labels)
    assert raised_cuts(cuts, 0.9, torch.ones(40, 1), labels, known).isinf()


def test_cuts_rise_until_other_pairs_reach_the_precision() -> None:
    """By hand: 20 right ones lie high, of 20 lower ones a half is right."""
    high, low = torch.linspace(0.9, 0.99, 20), torch.linspace(0.55, 0.75, 20)
    probability = torch.cat([low, high])[:, None]
    labels = (torch.arange(40)[:, None] % 2 == 0) | (probability > 0.8)
    known, cuts = torch.ones_like(labels), torch.tensor([0.5])
    raised = raised_cuts(cuts, 0.9, probability, labels, known)
    assert 0.6 < raised < 0.76  # (20 + 9 + right) / (20 + 10 + all) sinks to 0.9 there
    assert raised_cuts(cuts, 0.7, probability, labels, known) == cuts
    assert raised_cuts(cuts, 0.9, probability, torch.zeros_like(labels), known).isinf()
    assert raised_cuts(cuts, 0.9, probability, labels, ~known) == cuts  # nothing shows otherwise
    two = raised_cuts(
        torch.tensor([0.5, torch.inf]), 0.9, probability.repeat(1, 2), labels.repeat(1, 2),
        known.repeat(1, 2),
    )  # fmt: skip
    assert torch.allclose(two[0], raised) and two[1].isinf()
