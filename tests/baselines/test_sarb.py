import math

import pytest
import torch
from torch.autograd import gradcheck

from tests.toy_features import ENCODER, NAMES, flipped, random_features, random_targets
from trmml.baselines.sarb import SARB, SARBSettings, build_sarb, contrast, nearest
from trmml.encoders.frozen import frozen_encoder
from trmml.method.interface import Targets

FEATURES = {"size": 5, "dropout": 0.0}


def sarb(warm: bool = True, **blending) -> SARB:
    """With weights that say something, after its warm-up or in it."""
    settings = SARBSettings(features=FEATURES, blending=blending, training={"epochs": 4})
    model = build_sarb(frozen_encoder(ENCODER), NAMES, settings)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5 * torch.randn(parameter.shape, generator=generator))
    model.epoch.fill_(4 if warm else 1)
    return model


def bce(z: float, goal: float) -> float:
    p = 1 / (1 + math.exp(-z))
    return -goal * math.log(p) - (1 - goal) * math.log(1 - p)


def logit(model: SARB, vector: torch.Tensor, c: int) -> float:
    return (vector.tanh() @ model.weight[c] + model.bias[c]).item()


def layer_norm(row: torch.Tensor) -> torch.Tensor:
    return (row - row.mean()) / (row.var(unbiased=False) + 1e-5).sqrt()


# Forward ------------------------------------------------------------------------------------


def test_forward_equals_its_formula():
    model, batch = sarb().eval(), random_features()
    output, part = model(batch), model.features
    for b in range(5):
        reduced = [part.down.weight @ layer_norm(row) for row in batch.hidden_patches[b]]
        for c in range(4):
            query = part.query.weight @ part.text_features[c]
            powers = [math.exp((x @ query).item()) for x in reduced]
            vector = torch.zeros(5)
            for power, x in zip(powers, reduced, strict=True):
                vector = vector + power / sum(powers) * (part.out.weight @ x + part.out.bias)
            assert torch.allclose(output.category_features[b, c], vector, atol=1e-5)
            assert output.logits[b, c].item() == pytest.approx(logit(model, vector, c), abs=1e-4)


# Losses -------------------------------------------------------------------------------------


def test_instance_blending_equals_a_loop():
    model, targets = sarb(prototype=0.0, contrast=0.0), random_targets(16, seed=5)
    model.weak.copy_(torch.tensor([0.0, 1.0, 0.5, 0.0]))
    output = model(random_features(16))
    own = model.blends[0].sigmoid().item()
    costs, weights, blended = [], [], 0
    for b in range(16):
        partner = 15 - b
        for c in range(4):
            vector, weight, goal = output.category_features[b, c], 1.0, 0.0
            if targets.known[b, c]:
                goal = float(targets.labels[b, c])
            elif targets.known[partner, c] and targets.labels[partner, c]:
                blended += 1
                vector = own * vector + (1 - own) * output.category_features[partner, c]
                goal = 1 - own
            else:
                weight = float(model.weak[c])
            costs.append(weight * bce(logit(model, vector, c), goal))
            weights.append(weight)
    term = model.loss_terms(output, targets)["instance"].item()
    assert blended > 2
    assert term == pytest.approx(sum(costs) / sum(weights), rel=1e-4)


def test_prototype_blending_completes_one_unknown_label_an_image():
    model, targets = sarb(instance=0.0, contrast=0.0, prototypes=1), random_targets(6)
    model.prototypes.copy_(torch.randn(4, 1, 5, generator=torch.Generator().manual_seed(5)))
    model.filled[:3] = True  # the last category has no prototype yet
    output, share = model(random_features(6)), model.blends[1].sigmoid().item()
    torch.manual_seed(11)
    term = model.loss_terms(output, targets)["prototype"].item()
    torch.manual_seed(11)
    image, category = model._draw(~targets.known)
    drawn = dict(zip(image.tolist(), category.tolist(), strict=True))
    unknown = (~targets.known)[:, :3]
    assert set(drawn) == set(unknown.any(dim=1).nonzero()[:, 0].tolist())
    costs = []
    for b in range(6):
        for c in range(4):
            vector = output.category_features[b, c]
            if targets.known[b, c]:
                costs.append(bce(logit(model, vector, c), float(targets.labels[b, c])))
            elif drawn.get(b) == c:
                assert c < 3
                mixed = share * vector + (1 - share) * model.prototypes[c, 0]
                costs.append(bce(logit(model, mixed, c), 1 - share))
    assert term == pytest.approx(sum(costs) / len(costs), rel=1e-4)


def test_contrast_equals_a_loop():
    generator = torch.Generator().manual_seed(0)
    vectors, targets = torch.randn(7, 4, 5, generator=generator), random_targets(7)
    labels = targets.labels & targets.known
    costs = []
    for c in range(4):
        for a in range(7):
            for b in range(a):
                if not (targets.known[a, c] and targets.known[b, c]):
                    continue
                one, two = bool(labels[a, c]), bool(labels[b, c])
                cosine = torch.cosine_similarity(vectors[a, c], vectors[b, c], dim=0).item()
                if one or two:
                    costs.append(1 - cosine if one and two else 1 + cosine)
    found = contrast(vectors, labels, targets.known)
    assert found.item() == pytest.approx(sum(costs) / len(costs), rel=1e-4)


def test_contrast_by_hand():
    vectors = torch.tensor([[[2.0, 0.0]], [[0.0, 3.0]], [[-1.0, 0.0]]])
    labels, known = torch.tensor([[True], [True], [False]]), torch.ones(3, 1, dtype=torch.bool)
    # Positives at a right angle cost 1; the negative opposes one, 0, and is square to the other, 1.
    assert contrast(vectors, labels, known).item() == pytest.approx(2 / 3)
    assert contrast(vectors, labels, torch.zeros_like(known)).item() == 0


def test_contrast_gradient():
    vectors = torch.randn(4, 2, 3, dtype=torch.float64, requires_grad=True)
    targets = random_targets(4, 2)
    labels = targets.labels & targets.known
    assert gradcheck(lambda v: contrast(v, labels, targets.known), (vectors,), atol=1e-4)


# Prototypes ---------------------------------------------------------------------------------


def test_a_vector_goes_to_the_first_empty_prototype_then_to_the_nearest():
    prototypes = torch.tensor([[[1.0], [5.0]]] * 3)
    vectors = torch.tensor([[4.0], [4.0], [1.5]])
    filled = torch.tensor([[True, False], [True, True], [True, True]])
    assert nearest(vectors, prototypes, filled).tolist() == [1, 1, 0]
    assert nearest(vectors, prototypes, torch.zeros_like(filled)).tolist() == [0, 0, 0]


def test_prototypes_equal_a_loop():
    model, mean = sarb(prototypes=1, momentum=0.5), {}
    for seed in range(3):
        targets, output = random_targets(6, seed=seed), model(random_features(6, seed=seed))
        model.after_step(output, targets, evidence=False)
        for c in range(4):
            mine = [
                output.category_features[b, c].detach()
                for b in range(6)
                if targets.known[b, c] and targets.labels[b, c]
            ]
            if mine:
                new = torch.stack(mine).mean(dim=0)
                keep = 0.5 ** len(mine) if c in mean else 0.0
                mean[c] = keep * mean.get(c, new) + (1 - keep) * new
    assert model.filled[:, 0].nonzero()[:, 0].tolist() == sorted(mean)
    for c, expected in mean.items():
        assert torch.allclose(model.prototypes[c, 0], expected, atol=1e-5)


# Invariants ---------------------------------------------------------------------------------


def test_unknown_labels_change_no_prototype():
    one, two = sarb(), sarb()
    output, targets = one(random_features()), random_targets()
    one.after_step(output, targets, evidence=False)
    two.after_step(output, flipped(targets), evidence=False)
    assert one.filled.any() and torch.equal(one.prototypes, two.prototypes)


def test_blending_waits_for_the_warm_up():
    output = sarb()(random_features())
    assert set(sarb(warm=False).loss_terms(output, random_targets())) == {
        "classification",
        "contrast",
    }


def test_nothing_to_blend_is_the_plain_loss():
    model = sarb()
    everything = torch.ones(5, 4, dtype=torch.bool)
    blank = ~everything
    targets = Targets(torch.rand(5, 4) < 0.5, everything, blank, blank)
    terms = model.loss_terms(model(random_features()), targets)
    assert torch.equal(terms["instance"], terms["classification"])
    assert torch.equal(terms["prototype"], terms["classification"])
