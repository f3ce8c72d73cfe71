import math
from functools import partial

import pytest
import torch
from torch.autograd import gradcheck

from trmml.method.classification import asymmetric_loss, weighted_bce
from trmml.method.contrastive import MAX_ANCHORS, contrastive_loss, draw_anchors
from trmml.method.distillation import distillation

ASL = {"gamma_negative": 2.0, "gamma_positive": 1.0, "clip": 0.05}


def contrast(regions, text, prototypes, positive, *, temperature):
    """The contrastive loss of the regions that are marked."""
    image, category = draw_anchors(positive)
    anchors = regions[image, category]
    return contrastive_loss(anchors, category, text, prototypes, temperature=temperature)


def random_case(seed: int = 0, images: int = 6, categories: int = 5):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(images, categories, generator=generator)
    labels = torch.rand(images, categories, generator=generator) < 0.4
    known = torch.rand(images, categories, generator=generator) < 0.6
    return logits, labels, known


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(values, dim=-1)


# By hand ------------------------------------------------------------------------------------


def test_asymmetric_by_hand():
    logits = torch.tensor([[0.0, math.log(3.0)]])  # probabilities 1/2 and 3/4
    labels = torch.tensor([[True, False]])
    loss = asymmetric_loss(logits, labels, torch.ones(1, 2), **ASL)
    positive = 0.5 * math.log(2)
    negative = 0.7**2 * -math.log(1 - 0.7)
    assert float(loss) == pytest.approx((positive + negative) / 2, rel=1e-5)


def test_asymmetric_over_images_by_hand():
    logits = torch.tensor([[0.0, math.log(3.0)], [0.0, 0.0]])  # probabilities 1/2, 3/4, 1/2, 1/2
    labels = torch.tensor([[True, False], [True, True]])
    known = torch.tensor([[1.0, 1.0], [1.0, 0.0]])
    loss = asymmetric_loss(logits, labels, known, **ASL, reduction="images")
    positive = 0.5 * math.log(2)
    negative = 0.7**2 * -math.log(1 - 0.7)
    assert float(loss) == pytest.approx((2 * positive + negative) / 2, rel=1e-5)  # 2 images
    pairs = asymmetric_loss(logits, labels, known, **ASL)
    assert float(pairs) == pytest.approx((2 * positive + negative) / 3, rel=1e-5)  # 3 known pairs


def test_a_pair_never_counts_for_more_than_those_beside_it():
    logits, labels = torch.zeros(2, 2), torch.ones(2, 2, dtype=torch.bool)
    one, three = torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.tensor([[0.0, 1.0], [1.0, 1.0]])
    alone = float(asymmetric_loss(logits, labels, one, **ASL))
    among = partial(asymmetric_loss, logits, labels, **ASL)
    assert float(among(one, beside=three)) == pytest.approx(alone / 3)
    assert float(among(three, beside=one)) == pytest.approx(alone)  # three of one cost, in the mean
    assert float(among(one, beside=0 * one)) == pytest.approx(alone)
    assert float(among(0 * one, beside=0 * one)) == 0


def test_distillation_by_hand():
    loss = distillation(torch.tensor([[0.0, 0.0]]), torch.tensor([[math.log(3.0), 0.0]]), 1.0)
    expected = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_contrastive_by_hand():
    regions = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    text = torch.eye(2)
    positive = torch.tensor([[True, False]])
    loss = contrast(regions, text, torch.zeros(2, 2), positive, temperature=1.0)
    assert float(loss) == pytest.approx(-math.log(math.e / (math.e + 1)), rel=1e-5)


# Slow loops ---------------------------------------------------------------------------------


def test_asymmetric_equals_a_loop():
    logits, labels, known = random_case()
    total, count = 0.0, 0
    for row, truth, answered in zip(logits, labels, known, strict=True):
        for z, y, k in zip(row.tolist(), truth.tolist(), answered.tolist(), strict=True):
            if not k:
                continue
            p = 1 / (1 + math.exp(-z))
            shifted = max(p - 0.05, 0)
            total += -(1 - p) * math.log(p) if y else -(shifted**2) * math.log(1 - shifted)
            count += 1
    loss = asymmetric_loss(logits, labels, known.float(), **ASL)
    assert float(loss) == pytest.approx(total / count, rel=1e-5)


def test_contrastive_equals_a_loop():
    regions, text, prototypes = unit(4, 3, 6), unit(3, 6, seed=1), unit(3, 6, seed=2)
    prototypes[1] = 0  # a category without a prototype yet
    positive = torch.tensor([[1, 0, 1], [1, 1, 0], [0, 0, 0], [0, 1, 1]]).bool()
    anchors = [(b, c) for b in range(4) for c in range(3) if positive[b, c]]
    losses = []
    for b, c in anchors:
        pool = [(regions[i, j], j) for i, j in anchors if (i, j) != (b, c)]
        pool += [(text[j], j) for j in range(3)] + [(prototypes[j], j) for j in (0, 2)]
        shares = torch.stack([regions[b, c] @ v / 0.1 for v, _ in pool]).log_softmax(0)
        mine = [s for s, (_, j) in zip(shares, pool, strict=True) if j == c]
        losses.append(-torch.stack(mine).mean())
    loss = contrast(regions, text, prototypes, positive, temperature=0.1)
    assert torch.allclose(loss, torch.stack(losses).mean(), atol=1e-5)


# Invariants ---------------------------------------------------------------------------------


def test_unknown_labels_change_nothing():
    logits, labels, known = random_case()
    flipped = torch.where(known, labels, ~labels)
    assert weighted_bce(logits, labels, known.float()) == weighted_bce(
        logits, flipped, known.float()
    )
    one = asymmetric_loss(logits, labels, known.float(), **ASL)
    assert one == asymmetric_loss(logits, flipped, known.float(), **ASL)


def test_unknown_logits_get_exactly_no_gradient():
    logits, labels, known = random_case()
    logits.requires_grad_()
    asymmetric_loss(logits, labels, known.float(), **ASL).backward()
    assert torch.equal(logits.grad[~known], torch.zeros_like(logits.grad[~known]))
    assert (logits.grad[known & labels] != 0).all()


def test_asymmetric_without_focus_is_bce():
    logits, labels, known = random_case()
    flat = asymmetric_loss(
        logits, labels, known.float(), gamma_negative=0.0, gamma_positive=0.0, clip=0.0
    )
    assert torch.allclose(flat, weighted_bce(logits, labels, known.float()), atol=1e-6)


@pytest.mark.parametrize("logit", [-1e4, -50.0, 0.0, 50.0, 1e4])
@pytest.mark.parametrize("label", [True, False])
def test_extreme_logits_stay_finite(logit: float, label: bool):
    logits = torch.tensor([[logit]], requires_grad=True)
    labels, known = torch.tensor([[label]]), torch.ones(1, 1)
    loss = asymmetric_loss(logits, labels, known, **ASL)
    loss.backward()
    assert loss.isfinite() and logits.grad.isfinite().all()


def test_nothing_known_is_zero_with_finite_gradient():
    logits, labels, known = random_case()
    nothing = torch.zeros_like(known)
    logits.requires_grad_()
    regions = unit(6, 5, 3).requires_grad_()
    loss = (
        weighted_bce(logits, labels, nothing.float())
        + asymmetric_loss(logits, labels, nothing.float(), **ASL)
        + contrast(regions, unit(5, 3), unit(5, 3), nothing, temperature=0.1)
    )
    loss.backward()
    assert float(loss.detach()) == 0
    assert logits.grad.isfinite().all() and regions.grad.isfinite().all()


def test_gradients_stay_off_when_they_were_off():
    logits, labels, known = random_case()
    with torch.no_grad():
        asymmetric_loss(logits, labels, known.float(), **ASL)
        assert not torch.is_grad_enabled()


def test_permuting_categories_changes_no_loss():
    logits, labels, known = random_case()
    regions, text, prototypes = unit(6, 5, 4), unit(5, 4, seed=1), unit(5, 4, seed=2)
    order = torch.tensor([3, 1, 4, 0, 2])
    one = asymmetric_loss(logits, labels, known.float(), **ASL)
    two = asymmetric_loss(logits[:, order], labels[:, order], known[:, order].float(), **ASL)
    assert torch.allclose(one, two)
    one = contrast(regions, text, prototypes, labels, temperature=0.1)
    two = contrast(
        regions[:, order], text[order], prototypes[order], labels[:, order], temperature=0.1
    )
    assert torch.allclose(one, two, atol=1e-6)


def test_many_anchors_are_drawn_down():
    regions = unit(MAX_ANCHORS + 10, 1, 2)
    positive = torch.ones(MAX_ANCHORS + 10, 1, dtype=torch.bool)
    assert len(draw_anchors(positive)[0]) == MAX_ANCHORS
    loss = contrast(regions, unit(1, 2), unit(1, 2), positive, temperature=0.1)
    assert loss.isfinite()


# Gradients ----------------------------------------------------------------------------------


def test_gradcheck():
    logits, labels, known = random_case(images=2, categories=3)
    flat = {"gamma_negative": 0.0, "gamma_positive": 0.0, "clip": 0.0}  # the focus has no gradient
    double = logits.double().requires_grad_()
    weights = known.double()
    assert gradcheck(lambda z: asymmetric_loss(z, labels, weights, **flat), (double,))
    teacher = torch.randn(2, 3, dtype=torch.float64)
    assert gradcheck(lambda z: distillation(z, teacher, 4.0), (double,))
    regions = unit(2, 3, 4).double().requires_grad_()
    text = unit(3, 4, seed=1).double().requires_grad_()
    prototypes = unit(3, 4, seed=2).double()
    positive = torch.tensor([[True, False, True], [True, True, False]])
    assert gradcheck(
        lambda r, t: contrast(r, t, prototypes, positive, temperature=0.5), (regions, text)
    )
