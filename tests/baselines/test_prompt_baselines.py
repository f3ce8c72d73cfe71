"""CoOp, DualCoOp and SCPNet against explicit loops of their formulas."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck

from tests.toy import ToyEncoder
from tests.toy_features import (
    ENCODER,
    NAMES,
    encoded,
    flipped,
    random_features,
    random_targets,
)
from trmml.baselines.coop import CoOp, CoOpSettings, build_coop
from trmml.baselines.dualcoop import DualCoOp, DualCoOpSettings, build_dualcoop
from trmml.baselines.scpnet import SCPNet, SCPNetSettings, build_scpnet, corrected_loss
from trmml.baselines.text_graph import GraphSettings, category_graph, smoothing
from trmml.encoders.frozen import frozen_encoder
from trmml.errors import ConfigError
from trmml.labels.matrix import LabelMatrix
from trmml.labels.statistics import known_positive_share
from trmml.method.interface import Targets

FROZEN = frozen_encoder(ENCODER)


def moved(model, seed: int = 3):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


def coop(**sections) -> CoOp:
    return build_coop(FROZEN, NAMES, CoOpSettings(**sections))


def dualcoop(**sections) -> DualCoOp:
    return build_dualcoop(FROZEN, NAMES, DualCoOpSettings(**sections))


def scpnet(names=NAMES, **sections) -> SCPNet:
    return build_scpnet(FROZEN, names, SCPNetSettings(**sections))


def prompt_text(learner, index: int, name: str) -> torch.Tensor:
    """One text feature: start token, context, name, end token through the encoder, unit length."""
    embeddings, mask = ENCODER.token_embeddings([name])
    context = learner.context_tokens.expand(len(NAMES), -1, -1)[index : index + 1]
    whole = torch.cat([embeddings[:, :1], context, embeddings[:, 1:]], dim=1)
    ones = torch.ones(1, context.shape[1], dtype=mask.dtype)
    return F.normalize(ENCODER.encode_text(whole, torch.cat([ones, mask], dim=1)), dim=-1)[0]


# CoOp ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("shared", [False, True])
def test_coop_equals_its_formula(shared: bool):
    prompts = CoOpSettings().prompts.model_copy(update={"shared_context": shared})
    model, batch = moved(coop(prompts=prompts)).eval(), random_features()
    scale = model.matching.log_scale.exp().item()
    logits = model(batch).logits
    assert model.prompts.context_tokens.shape == (1 if shared else 4, 4, 6)
    for b in range(5):
        for c, name in enumerate(NAMES):
            text = prompt_text(model.prompts, c, name)
            cosine = sum(batch.image_feature[b, d] * text[d] for d in range(8))
            expected = scale * cosine.item() + model.matching.bias[c].item()
            assert logits[b, c].item() == pytest.approx(expected, abs=1e-4)


def test_coop_starts_as_zero_shot_with_the_known_shares():
    model, batch, shown = coop(), random_features(40), torch.rand(40, 4) < 0.3
    matrix = LabelMatrix(shown, torch.rand(40, 4) < 0.7)
    before = model.eval()(batch).logits
    model.init_from_labels(batch, matrix)
    logits = model(batch).logits
    assert torch.allclose(logits.mean(0), known_positive_share(matrix).logit(), atol=1e-4)
    shift = logits - before
    assert torch.allclose(shift, shift[:1].expand_as(shift), atol=1e-5)


# DualCoOp -----------------------------------------------------------------------------------


def test_dualcoop_equals_its_formula():
    model, batch = moved(dualcoop()).eval(), random_features()
    logits = model(batch).logits
    patches = ENCODER.project(batch.hidden_patches)
    for b in range(5):
        for c, name in enumerate(NAMES):
            maps = {}
            for sign, learner in (("+", model.positive), ("-", model.negative)):
                text = prompt_text(learner, c, name)
                cosines = [(v @ text / v.norm() / text.norm()).item() for v in patches[b]]
                maps[sign] = [20 * cosine for cosine in cosines]
            powers = [math.exp(s) for s in maps["+"]]
            weights = [power / sum(powers) for power in powers]
            sums = {
                sign: 5 * sum(w * s for w, s in zip(weights, values, strict=True))
                for sign, values in maps.items()
            }
            # Softmax over (negative, positive), the bias beside the positive.
            positive = sums["+"] + model.bias[c].item()
            probability = 1 / (1 + math.exp(sums["-"] - positive))
            assert logits[b, c].sigmoid().item() == pytest.approx(probability, abs=1e-5)
            assert logits[b, c].item() == pytest.approx(positive - sums["-"], abs=1e-3)


def test_dualcoop_reads_positions_and_the_mean_as_its_own_code_does():
    encoder = ToyEncoder()
    encoder.patch_positions = torch.randn(10, 12, generator=torch.Generator().manual_seed(5))
    settings = DualCoOpSettings(dual={"positions": True})
    model = moved(build_dualcoop(frozen_encoder(encoder), NAMES, settings)).eval()
    plain = moved(dualcoop()).eval()
    batch = random_features()
    hidden = [*batch.hidden_patches[0]]
    tokens = [sum(hidden) / len(hidden), *hidden]
    moved_tokens = [h + p for h, p in zip(tokens, encoder.patch_positions, strict=True)]
    shown = encoded(torch.stack(moved_tokens)[None])
    assert torch.allclose(model(batch).logits[:1], plain(shown).logits, atol=1e-4)


def test_dualcoop_says_that_positions_are_of_one_view():
    encoder = ToyEncoder()
    encoder.patch_positions = torch.zeros(10, 12)
    settings = DualCoOpSettings(dual={"positions": True}, training={"scored_views": 2})
    with pytest.raises(ConfigError, match=r"training\.scored_views=2 joins the patches"):
        build_dualcoop(frozen_encoder(encoder), NAMES, settings)


def test_dualcoop_says_that_an_encoder_has_no_positions():
    with pytest.raises(ConfigError, match=r"dual\.positions .* encoder ToyEncoder has none"):
        dualcoop(dual={"positions": True})


def test_dualcoop_without_a_bias_has_none_to_start():
    model, batch = dualcoop(dual={"bias": False}), random_features(20)
    before = model.eval()(batch).logits
    shown = torch.rand(20, 4) < 0.5
    model.init_from_labels(batch, LabelMatrix(shown, torch.ones_like(shown)))
    assert torch.equal(model(batch).logits, before)
    assert "bias" not in [n for n, p in model.named_parameters() if p.requires_grad]


def test_dualcoop_start_answers_to_the_known_shares():
    model, batch, shown = dualcoop().eval(), random_features(20), torch.rand(20, 4) < 0.3
    matrix = LabelMatrix(shown, torch.ones_like(shown))
    model.init_from_labels(batch, matrix)
    mean = model(batch).logits.mean(dim=0)
    assert torch.allclose(mean, known_positive_share(matrix).logit(), atol=1e-4)


def test_dualcoop_needs_a_negative_template():
    prompts = DualCoOpSettings().prompts.model_copy(update={"negative_template": None})
    with pytest.raises(ConfigError, match=r"prompts\.negative_template is absent; set it"):
        dualcoop(prompts=prompts)


# SCPNet -------------------------------------------------------------------------------------


def test_category_graph_equals_a_loop():
    text = F.normalize(torch.randn(6, 4, generator=torch.Generator().manual_seed(1)), dim=-1)
    settings = GraphSettings(neighbours=2, share=0.3, temperature=0.5)
    graph = category_graph(text, settings)
    for a in range(6):
        cosines = {b: float(text[a] @ text[b]) for b in range(6) if b != a}
        near = sorted(cosines, key=lambda b: -cosines[b])[:2]
        total = sum(math.exp(cosines[b] / 0.5) for b in near)
        for b in range(6):
            expected = 0.7 if a == b else 0.3 * math.exp(cosines[b] / 0.5) / total * (b in near)
            if b != a and b not in near:
                expected = 0.0
            assert float(graph[a, b]) == pytest.approx(expected, abs=1e-6)
    smooth = smoothing(graph, 0.2)
    assert torch.allclose(smooth.sum(dim=1), torch.ones(6))
    assert ((smooth > 0) == (graph > 0)).all()
    powers = [math.exp(float(g) / 0.2) for g in graph[0] if g > 0]
    assert float(smooth[0, 0]) == pytest.approx(math.exp(0.7 / 0.2) / sum(powers), rel=1e-5)


@pytest.mark.parametrize(("categories", "neighbours"), [(1, 16), (4, 0), (4, 99)])
def test_a_graph_of_any_size_is_a_graph(categories: int, neighbours: int):
    text = F.normalize(torch.randn(categories, 4), dim=-1)
    graph = category_graph(text, GraphSettings(neighbours=neighbours))
    assert torch.allclose(graph.sum(dim=1), torch.ones(categories))
    assert smoothing(graph, 0.2).isfinite().all()


def test_scpnet_equals_its_formula():
    model, batch = moved(scpnet()).eval(), random_features()
    texts = torch.stack([prompt_text(model.prompts, c, name) for c, name in enumerate(NAMES)])
    graph, hidden = category_graph(model.prompts.start_features, GraphSettings()), texts
    for number, layer in enumerate(model.graph.layers):
        rows = []
        for a in range(4):
            heard = sum(graph[a, b] * (layer.weight @ hidden[b]) for b in range(4))
            rows.append(torch.where(heard > 0, heard, 0.2 * heard) if number < 2 else heard)
        hidden = torch.stack(rows)
    scale, logits = model.matching.log_scale.exp().item(), model(batch).logits
    for b in range(5):
        for c in range(4):
            text = texts[c] + hidden[c]
            cosine = (batch.image_feature[b] @ text / text.norm()).item()
            expected = scale * cosine + model.matching.bias[c].item()
            assert logits[b, c].item() == pytest.approx(expected, abs=1e-4)


def test_scpnet_starts_as_coop():
    batch = random_features()
    assert torch.allclose(scpnet().eval()(batch).logits, coop().eval()(batch).logits, atol=1e-5)


def test_corrected_loss_equals_a_loop():
    logits = 2 * torch.randn(6, 5, generator=torch.Generator().manual_seed(7))
    targets, weights = random_targets(6, 5), torch.rand(6, 5)
    total, corrected = 0.0, 0
    for b in range(6):
        for c in range(5):
            answered = bool(targets.known[b, c])
            positive = answered and bool(targets.labels[b, c])
            p = 1 / (1 + math.exp(-(logits[b, c].item() - (1.0 if positive else 0.0))))
            if not answered and p > 0.6:
                positive, corrected = True, corrected + 1
            cost = -((1 - p) ** 2) * math.log(p) if positive else -(p**2) * math.log(1 - p)
            total += float(weights[b, c]) * cost
    loss = corrected_loss(logits, targets, weights, threshold=0.6, margin=1.0, focus=2.0)
    assert corrected > 0
    assert float(loss) == pytest.approx(total / float(weights.sum()), rel=1e-5)


def test_corrected_loss_gradient():
    logits = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    targets, weights = random_targets(2, 3), torch.rand(2, 3, dtype=torch.float64)

    def loss(z: torch.Tensor) -> torch.Tensor:
        return corrected_loss(z, targets, weights, threshold=1.0, margin=1.0, focus=2.0)

    assert gradcheck(loss, (logits,))


def test_pseudo_labels_and_thresholds_equal_a_loop():
    model = scpnet(consistency={"picked": 2, "cutoff": 0.9})
    model.picked.copy_(torch.tensor([0.8, 0.1, 0.0, 0.4]))
    logits = 3 * torch.randn(12, 4, generator=torch.Generator().manual_seed(2)) - 3
    targets = random_targets(12, 4)
    labels, passed = model.pseudo_labels(logits, targets)
    thresholds = []
    for picked in (0.8, 0.1, 0.0, 0.4):
        rate = max(picked / max(0.8, 2 - 1.3), 1 / 4)
        thresholds.append(0.9 * rate / (2 - rate))
    assert model.thresholds().tolist() == pytest.approx(thresholds, rel=1e-5)
    for b in range(12):
        scores = [1 / (1 + math.exp(-float(z))) for z in logits[b]]
        best = sorted(range(4), key=lambda c: -scores[c])[:2]
        picked = [c for c in best if scores[c] >= thresholds[c]]
        assert bool(passed[b]) == bool(picked)
        for c in range(4):
            known = bool(targets.known[b, c])
            expected = bool(targets.labels[b, c]) if known else c in picked
            assert bool(labels[b, c]) == expected
    assert passed.any() and not passed.all()


def test_consistency_terms_equal_a_loop():
    model = scpnet().train()
    model.picked.fill_(0.9)
    output, targets = model(random_features(6)), random_targets(6)
    terms = model.loss_terms(output, targets)
    labels, passed = model.pseudo_labels(output.logits, targets)
    # In double: close to 1, what is left in single precision depends on the processor.
    weak, strong = (z.double().sigmoid() for z in (output.logits, output.strong_logits))
    sums, count = {"consistency": 0.0, "relation": 0.0}, 0
    for b in range(6):
        for c in range(4):
            if not passed[b]:
                continue
            count += 1
            smooth = sum(model.relation[c, k] * weak[b, k] for k in range(4)).item()
            p = strong[b, c].item()
            for name, goal in (("consistency", float(labels[b, c])), ("relation", smooth)):
                sums[name] -= goal * math.log(p) + (1 - goal) * math.log(1 - p)
    assert count > 0
    for name, total in sums.items():
        assert terms[name].item() == pytest.approx(total / count, rel=1e-4)


def test_correction_waits_for_the_warm_up():
    model = scpnet(consistency={"weight": 0.0}, training={"epochs": 4})
    model.weak.fill_(1)
    blank = Targets(*(torch.zeros(5, 4, dtype=torch.bool),) * 4)
    with torch.no_grad():
        model.matching.bias.fill_(2.0)
    output, losses = model(random_features()), []
    for _ in range(4):
        model.begin_epoch()
        losses.append(model.loss_terms(output, blank)["classification"].item())
    assert losses[0] == losses[1] > losses[2] == losses[3]


def test_what_was_picked_is_counted_from_known_and_pseudo_positives_only():
    one, two = scpnet().train(), scpnet().train()
    targets = random_targets()
    output = one(random_features())
    one.after_step(output, targets, evidence=False)
    two.after_step(output, flipped(targets), evidence=False)
    assert torch.equal(one.picked, two.picked)
    labels, _ = scpnet().pseudo_labels(output.logits, targets)
    assert torch.allclose(one.picked, 0.1 * labels.float().mean(dim=0))
