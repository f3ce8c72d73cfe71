from functools import partial

import pytest
import torch
import torch.nn.functional as F

from trmml.labels.matrix import LabelMatrix
from trmml.method import prototypes as module
from trmml.method.prototypes import Prototypes
from trmml.method.pseudo_labels import PseudoLabels, choose_pseudo_labels, evidence_of
from trmml.metrics.calibration import some_of_both
from trmml.settings.sections import PrototypeSettings

B, C, D = 6, 4, 8


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return F.normalize(values, dim=-1)


def fresh(**changes) -> Prototypes:
    return Prototypes(categories=C, feature_size=D, settings=PrototypeSettings(**changes))


EVERY = torch.arange(C)


def some_labels(seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(B, C, generator=generator) < 0.5, torch.rand(B, C, generator=generator) < 0.6


def test_first_update_is_the_plain_mean():
    part, regions = fresh(), unit(B, C, D)
    labels, known = some_labels()
    part.update(regions, labels, known, EVERY)
    for c in range(C):
        rows = [regions[b, c] for b in range(B) if known[b, c] and labels[b, c]]
        expected = torch.stack(rows).mean(0) if rows else torch.zeros(D)
        assert torch.allclose(part.visual_positive[c], expected, atol=1e-6)
        assert int(part.seen_positive[c]) == len(rows)


def test_later_updates_run_with_the_momentum():
    part = fresh(momentum=0.5)
    one, two = unit(B, C, D), unit(1, C, D, seed=1)
    everything = torch.ones(B, C, dtype=torch.bool)
    part.update(one, everything, everything, EVERY)
    before = part.visual_positive.clone()
    part.update(two, everything[:1], everything[:1], EVERY)
    assert torch.allclose(part.visual_positive, 0.5 * before + 0.5 * two[0], atol=1e-6)


def test_unknown_labels_change_no_prototype():
    one, two, regions = fresh(), fresh(), unit(B, C, D)
    labels, known = some_labels()
    one.update(regions, labels, known, EVERY)
    two.update(regions, torch.where(known, labels, ~labels), known, EVERY)
    assert torch.equal(one.visual_positive, two.visual_positive)
    assert torch.equal(one.visual_negative, two.visual_negative)


def test_nothing_known_changes_nothing():
    part = fresh()
    nothing = torch.zeros(B, C, dtype=torch.bool)
    part.update(unit(B, C, D), nothing, nothing, EVERY)
    assert not part.visual_positive.any() and not part.seen_positive.any()
    assert evidence_of(unit(B, C, D), unit(C, D, seed=1), part, EVERY).isfinite().all()


@pytest.mark.parametrize("neighbours", [0, 2, 99])
def test_evidence_equals_a_loop(neighbours: int):
    part = fresh(neighbours=neighbours)
    regions, text = unit(B, C, D), unit(C, D, seed=1)
    everything = torch.ones(B, C, dtype=torch.bool)
    part.update(unit(B, C, D, seed=2), some_labels()[0], everything, EVERY)
    part.choose_rivals(text)
    evidence = evidence_of(regions, text, part, EVERY)
    positive, negative = (
        F.normalize(v, dim=-1) for v in (part.visual_positive, part.visual_negative)
    )
    for b in range(B):
        for c in range(C):
            own = regions[b, c] @ positive[c] + regions[b, c] @ text[c]
            expected = own - regions[b, c] @ negative[c]
            likeness = [
                (float(positive[c] @ positive[k] + text[c] @ text[k]), k)
                for k in range(C)
                if k != c
            ]
            rivals = [k for _, k in sorted(likeness, reverse=True)[:neighbours]]
            if rivals:
                others = [regions[b, c] @ (positive[k] + text[k]) for k in rivals]
                expected = expected + own - torch.stack(others).max()
            assert torch.allclose(evidence[b, c], expected, atol=1e-5)


def test_one_category_has_no_rival():
    part = Prototypes(categories=1, feature_size=D, settings=PrototypeSettings())
    part.choose_rivals(unit(1, D))
    weighed = evidence_of(unit(B, 1, D), unit(1, D), part, torch.tensor([0]))
    assert weighed.shape == (B, 1)


def test_categories_in_parts_give_what_all_at_once_give(monkeypatch: pytest.MonkeyPatch):
    whole, parts, regions = fresh(), fresh(), unit(B, C, D)
    labels, known = some_labels()
    whole.update(regions, labels, known, EVERY)
    for part in (torch.tensor([3, 0]), torch.tensor([1]), torch.tensor([2])):
        parts.update(regions[:, part], labels[:, part], known[:, part], part)
    assert torch.allclose(whole.visual_positive, parts.visual_positive, atol=1e-6)
    assert torch.equal(whole.seen_negative, parts.seen_negative)
    whole.choose_rivals(unit(C, D, seed=1))
    monkeypatch.setattr(module, "RIVAL_ROWS", 3)
    parts.choose_rivals(unit(C, D, seed=1))
    assert torch.equal(whole.rivals, parts.rivals)
    some, text = torch.tensor([2, 0]), unit(C, D, seed=1)
    expected = evidence_of(regions, text, whole, EVERY)[:, some]
    assert torch.allclose(evidence_of(regions[:, some], text, whole, some), expected, atol=1e-6)


def simulated(seed: int = 0):
    """Evidence that is worth something: positives lie higher."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.rand(400, 5, generator=generator) < 0.3
    evidence = torch.randn(400, 5, generator=generator) + 3 * truth
    known = torch.rand(400, 5, generator=generator) < 0.3
    return evidence, LabelMatrix(truth, torch.ones_like(known)), LabelMatrix(truth, known)


def test_pseudo_labels_are_right_and_only_where_nothing_is_known():
    evidence, truth, matrix = simulated()
    pseudo = choose_pseudo_labels(evidence, matrix, PrototypeSettings())
    assert not (pseudo.chosen & matrix.known).any()
    row = pseudo.right_share(truth)
    assert row["pseudo_positive"] > 50 and row["pseudo_positive_right"] > 0.85
    assert row["pseudo_negative"] > 50 and row["pseudo_negative_right"] > 0.97


def test_thresholds_adapt_to_the_category():
    evidence, truth, matrix = simulated()
    shifted = evidence.clone()
    shifted[:, 0] += 10  # one category's evidence lies elsewhere altogether
    row = choose_pseudo_labels(shifted, matrix, PrototypeSettings()).right_share(truth)
    assert row["pseudo_positive_right"] > 0.85


def test_labels_behind_unknown_pairs_change_no_pseudo_label():
    evidence, truth, matrix = simulated()
    other = LabelMatrix(torch.where(matrix.known, truth.labels, ~truth.labels), matrix.known)
    one = choose_pseudo_labels(evidence, matrix, PrototypeSettings())
    two = choose_pseudo_labels(evidence, other, PrototypeSettings())
    assert torch.equal(one.chosen, two.chosen) and torch.equal(one.labels, two.labels)


def test_a_category_without_known_negatives_gets_none():
    evidence, truth, matrix = simulated()
    one_sided = torch.arange(matrix.known.shape[1]) == 0
    known = matrix.known & ~(one_sided & ~truth.labels)
    pseudo = choose_pseudo_labels(evidence, LabelMatrix(truth.labels, known), PrototypeSettings())
    assert not pseudo.chosen[:, 0].any() and pseudo.chosen[:, 1:].any(dim=0).all()
    positives = LabelMatrix(truth.labels, truth.labels & (torch.arange(400)[:, None] % 2 == 0))
    assert not choose_pseudo_labels(evidence, positives, PrototypeSettings()).chosen.any()


def test_a_category_without_known_positives_gets_none():
    evidence, truth, matrix = simulated()
    absent = torch.arange(5) == 0  # truly absent everywhere: its own highest evidence says nothing
    labels = LabelMatrix(truth.labels & ~absent, matrix.known)
    evidence[:, 0] = torch.randn(400, generator=torch.Generator().manual_seed(1))
    pseudo = choose_pseudo_labels(evidence, labels, PrototypeSettings())
    assert not pseudo.chosen[:, 0].any() and pseudo.chosen[:, 1:].any(dim=0).all()


def test_a_sample_of_the_known_pairs_chooses_much_the_same(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(20_000, 3, generator=generator) < 0.02
    evidence = torch.randn(20_000, 3, generator=generator) + 5 * truth
    known = torch.rand(20_000, 3, generator=generator) < 0.5
    found = []
    for most in (10**6, 1000):
        some = partial(some_of_both, most=most)
        monkeypatch.setattr("trmml.method.pseudo_labels.some_of_both", some)
        pseudo = choose_pseudo_labels(evidence, LabelMatrix(truth, known), PrototypeSettings())
        found.append(pseudo.chosen & pseudo.labels)
    both, either = (found[0] & found[1]).sum(), (found[0] | found[1]).sum()
    assert either > 300 and both / either > 0.7


def test_unseen_and_unknown_give_no_pseudo_label():
    matrix = LabelMatrix(torch.zeros(4, 2).bool(), torch.zeros(4, 2).bool())
    nothing = choose_pseudo_labels(torch.full((4, 2), torch.nan), matrix, PrototypeSettings())
    assert not nothing.chosen.any()
    assert not choose_pseudo_labels(torch.randn(4, 2), matrix, PrototypeSettings()).chosen.any()


def test_right_share_counts_only_what_can_be_checked():
    chosen = torch.tensor([[True, True, True]])
    pseudo = PseudoLabels(labels=torch.tensor([[True, False, True]]), chosen=chosen)
    truth = LabelMatrix(torch.tensor([[True, True, True]]), torch.tensor([[True, True, False]]))
    row = pseudo.right_share(truth)
    assert row["pseudo_positive"] == 2 and row["pseudo_positive_right"] == 1
    assert row["pseudo_negative"] == 1 and row["pseudo_negative_right"] == 0
