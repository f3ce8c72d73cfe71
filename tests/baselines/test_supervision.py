import copy
import math

import pytest
import torch
from torch.autograd import gradcheck

from tests.toy_features import ENCODER, flipped, random_features, random_targets
from trmml.baselines.linear_probe import LinearProbe, ProbeSettings
from trmml.baselines.supervision import (
    cross_entropy,
    focused,
    full_negatives,
    rejecting,
    rejecting_bce,
    weak_negatives,
)
from trmml.baselines.two_layers import TwoLayersSettings, build_two_layers
from trmml.encoders.frozen import frozen_encoder
from trmml.labels.matrix import LabelMatrix
from trmml.labels.statistics import lacking_negatives, positive_share
from trmml.method.classification import pair_weights
from trmml.method.interface import Targets
from trmml.settings.sections import FocusSettings


def known(labels: list[list[int]], answered: list[list[int]]) -> Targets:
    truth, seen = torch.tensor(labels).bool(), torch.tensor(answered).bool()
    return Targets(truth, seen, torch.zeros_like(seen), torch.zeros_like(seen))


def random_logits(images: int = 6, categories: int = 5) -> torch.Tensor:
    return 2 * torch.randn(images, categories, generator=torch.Generator().manual_seed(7))


def pairs(logits: torch.Tensor, targets: Targets):
    """Probability, known positive, known, of every pair in turn."""
    for row, truth, answered in zip(logits, targets.labels, targets.known, strict=True):
        for z, y, k in zip(row.tolist(), truth.tolist(), answered.tolist(), strict=True):
            yield 1 / (1 + math.exp(-z)), y and k, k


# By hand ------------------------------------------------------------------------------------


def test_weights_of_blanks_by_hand():
    matrix = LabelMatrix(
        torch.tensor([[True, False, True]] * 2), torch.tensor([[True, True, False]] * 2)
    )
    assert full_negatives(matrix).tolist() == [1, 1, 1]
    assert weak_negatives(matrix).tolist() == [0.5, 0.5, 0.5]
    assert lacking_negatives(matrix).tolist() == [1, 0, 0]  # of the last one nothing is known
    assert weak_negatives(matrix.columns([0])).tolist() == [1]
    targets = known([[1, 0, 0]], [[1, 1, 0]])
    assert pair_weights(targets, weak_negatives(matrix)).tolist() == [[1, 1, 0.5]]
    share = positive_share(matrix, weak_negatives(matrix))
    assert torch.allclose(share, torch.tensor([2.5 / 3, 0.5 / 3, 0.5 / 2]))


def test_weak_assume_negative_by_hand():
    targets = known([[1, 0, 0]], [[1, 0, 0]])
    weights = pair_weights(targets, torch.full((3,), 0.5))
    loss = cross_entropy(torch.tensor([[0.0, math.log(3.0), 0.0]]), targets, weights)
    expected = (math.log(2) + 0.5 * math.log(4) + 0.5 * math.log(2)) / 2
    assert float(loss) == pytest.approx(expected, rel=1e-6)


def test_rejection_by_hand():
    targets = known([[1, 0, 0, 0]], [[1, 1, 0, 0]])  # the known negative is wrong by far
    logits = torch.tensor([[0.0, 9.0, 3.0, -3.0]])
    loss = rejecting_bce(logits, targets, torch.ones(1, 4), 0.25)
    expected = math.log(2) + math.log1p(math.exp(9)) + math.log1p(math.exp(-3))
    assert float(loss) == pytest.approx(expected / 4, rel=1e-6)


# Slow loops ---------------------------------------------------------------------------------


@pytest.mark.parametrize("blanks", [full_negatives, weak_negatives, lacking_negatives])
@pytest.mark.parametrize("unanswered", [False, True])
def test_cross_entropy_equals_a_loop(blanks, unanswered):
    logits, targets = random_logits(), random_targets(6, 5)
    looked_at = targets.known.any(dim=1)
    assert not looked_at.all()
    matrix = LabelMatrix(targets.labels, targets.known)
    blank = blanks(matrix)
    total = weight = 0.0
    for index, (p, y, k) in enumerate(pairs(logits, targets)):
        counts = unanswered or bool(looked_at[index // 5])
        w = 1.0 if k else counts * float(blank[index % 5])
        total += w * -(math.log(p) if y else math.log(1 - p))
        weight += w
    weights = pair_weights(targets, blank, unanswered=unanswered)
    loss = cross_entropy(logits, targets, weights)
    assert float(loss) == pytest.approx(total / weight, rel=1e-5)


def test_focused_equals_a_loop():
    logits, targets = random_logits(), random_targets(6, 5)
    costs = []
    for p, y, k in pairs(logits, targets):
        if k:
            low = max(p - 0.1, 0)
            costs.append(-((1 - p) ** 2) * math.log(p) if y else -(low**3) * math.log(1 - low))
    loss = focused(FocusSettings(gamma_negative=3, gamma_positive=2, clip=0.1))
    found = loss(logits, targets, targets.known.float(), done=0.3)
    assert float(found) == pytest.approx(sum(costs) / len(costs), rel=1e-5)


@pytest.mark.parametrize("done", [0.0, 0.5, 1.0])
def test_rejection_equals_a_loop(done: float):
    logits, targets = random_logits(), random_targets(6, 5)
    costs = [(-math.log(p) if y else -math.log(1 - p), k) for p, y, k in pairs(logits, targets)]
    dropped = sorted((c for c, k in costs if not k), reverse=True)[: round(done * 0.2 * 30)]
    kept = sum(c for c, _ in costs) - sum(dropped)
    assert len(dropped) == (0, 3, 6)[int(2 * done)]
    loss = rejecting(0.2)(logits, targets, torch.ones(6, 5), done=done)
    assert float(loss) == pytest.approx(kept / 30, rel=1e-5)


# Invariants ---------------------------------------------------------------------------------


LOSSES = {"bce": cross_entropy, "asl": focused(FocusSettings()), "ll-r": rejecting(0.3)}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_unknown_labels_change_nothing(loss):
    logits, targets = random_logits(), random_targets(6, 5)
    weights = pair_weights(targets, torch.rand(5))
    one = loss(logits, targets, weights, done=1.0)
    assert torch.equal(one, loss(logits, flipped(targets), weights, done=1.0))


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("blank", [0.0, 1.0])
def test_nothing_known_is_finite(loss, blank: float):
    logits = random_logits().requires_grad_()
    targets = known([[0] * 5] * 6, [[0] * 5] * 6)
    value = loss(logits, targets, torch.full((6, 5), blank), done=1.0)
    value.backward()
    assert value.isfinite() and logits.grad.isfinite().all() and (value > 0) == (blank > 0)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_permuting_categories_changes_no_loss(loss):
    logits, targets = random_logits(), random_targets(6, 5)
    order = torch.tensor([3, 1, 4, 0, 2])
    weights = pair_weights(targets, torch.rand(5))
    other = Targets(
        targets.labels[:, order], targets.known[:, order], *(targets.pseudo[:, order],) * 2
    )
    one = loss(logits, targets, weights, done=1.0)
    assert torch.allclose(one, loss(logits[:, order], other, weights[:, order], done=1.0))


def test_rejection_never_touches_what_is_known():
    targets = known([[1, 0, 0]], [[1, 1, 0]])
    logits = torch.tensor([[-9.0, 9.0, 0.0]], requires_grad=True)
    rejecting_bce(logits, targets, torch.ones(1, 3), 0.99).backward()
    assert (logits.grad != 0).tolist() == [[True, True, False]]


@torch.no_grad()
def test_two_layers_equal_their_formula():
    names = [f"c{number}" for number in range(4)]
    settings = TwoLayersSettings(probe={"width": 5})
    layers = build_two_layers(frozen_encoder(ENCODER), names, settings)
    batch, targets = random_features(8), random_targets(images=8)
    layers.init_from_labels(batch, LabelMatrix(targets.labels, targets.known))
    assert torch.equal(layers(batch).logits, layers.layers.out.bias.expand(8, 4))  # at step 0
    generator = torch.Generator().manual_seed(1)
    layers.layers.out.weight.copy_(torch.randn(layers.layers.out.weight.shape, generator=generator))
    found = layers.eval()(batch).logits  # no dropout
    means = batch.hidden_patches.mean(dim=1)
    roots = torch.where(means < 0, -1.0, 1.0) * means.abs() ** 0.5
    for image in range(8):
        scaled = [float((x[image] - x.mean()) / x.std()) for x in roots.T]
        inner = [max(0.0, sum(w * s for w, s in zip(row, scaled, strict=True)))
                 for row in layers.layers.into.weight.tolist()]  # fmt: skip
        for c, row in enumerate(layers.layers.out.weight.tolist()):
            total = float(layers.layers.out.bias[c])
            total += sum(w * value for w, value in zip(row, inner, strict=True))
            assert float(found[image, c]) == pytest.approx(total, abs=1e-4)


@torch.no_grad()
def test_a_linear_probe_equals_its_formula():
    settings = ProbeSettings(probe={"dropout": 0.5})
    probe = LinearProbe(
        categories=4,
        hidden_size=12,
        settings=settings,
        blanks=full_negatives,
        loss=cross_entropy,
    )
    batch, targets = random_features(8), random_targets(images=8)
    probe.init_from_labels(batch, LabelMatrix(targets.labels, targets.known))
    linear = probe.linear
    linear.weight.copy_(
        torch.randn(linear.weight.shape, generator=torch.Generator().manual_seed(1))
    )
    found = probe.eval()(batch).logits  # no dropout
    means = batch.hidden_patches.mean(dim=1)
    for image in range(8):
        for c in range(4):
            total = float(linear.bias[c])
            for channel in range(12):
                column = means[:, channel]
                scaled = (means[image, channel] - column.mean()) / column.std()
                total += float(linear.weight[c, channel] * scaled)
            assert float(found[image, c]) == pytest.approx(total, abs=1e-4)


def test_rejection_grows_with_the_epochs_and_survives_a_restart():
    def probe() -> LinearProbe:
        return LinearProbe(
            categories=4,
            hidden_size=12,
            settings=ProbeSettings(training={"epochs": 3}),
            blanks=full_negatives,
            loss=rejecting(0.4),
        )

    model, targets = probe(), random_targets(images=8)
    matrix = LabelMatrix(targets.labels, targets.known)
    model.init_from_labels(random_features(40), matrix)
    output, losses = model(random_features(8)), []
    for _ in range(3):
        model.begin_epoch()
        losses.append(model.loss_terms(output, targets)["classification"].item())
    assert losses[0] > losses[1] > losses[2]
    again = probe()
    again.load_state_dict(copy.deepcopy(model.state_dict()))
    assert again.loss_terms(output, targets)["classification"].item() == losses[2]


def test_gradcheck():
    logits, targets = random_logits(2, 3).double().requires_grad_(), random_targets(2, 3)
    weights = pair_weights(targets, torch.rand(3)).double()
    assert gradcheck(lambda z: cross_entropy(z, targets, weights), (logits,))
    assert gradcheck(lambda z: rejecting_bce(z, targets, weights, 0.3), (logits,))
