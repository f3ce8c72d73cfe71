import copy

import pytest
import torch
import torch.nn.functional as F

from tests.toy import COLOURS, WHOLE, ToyEncoder
from trmml.baselines.zero_shot import build_zero_shot
from trmml.benchmark.catalog import METHODS
from trmml.encoders.frozen import frozen_encoder
from trmml.features.base import Features
from trmml.labels.matrix import LabelMatrix
from trmml.labels.statistics import known_positive_share, lacking_negatives
from trmml.method.build import build_trmml
from trmml.method.classification import matrix_weights
from trmml.method.interface import Targets
from trmml.method.matching import match
from trmml.method.trmml import TRMML
from trmml.settings.sections import Settings

NAMES = list(COLOURS)
ENCODER = ToyEncoder()


def features(images: int = 5, seed: int = 0) -> Features:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(images, 9, 12, generator=generator)
    return Features(hidden, F.normalize(ENCODER.project(hidden).mean(1), dim=-1))


def build(names=NAMES, **sections) -> TRMML:
    return build_trmml(frozen_encoder(ENCODER), names, Settings(**{**WHOLE, **sections}))


def moved(model: TRMML, seed: int = 3) -> TRMML:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


def targets(images: int = 5, categories: int = 4, seed: int = 0, nothing: bool = False) -> Targets:
    generator = torch.Generator().manual_seed(seed)
    draws = torch.rand(3, images, categories, generator=generator)
    known = (draws[0] < 0.5) & torch.tensor(not nothing)
    pseudo = (draws[1] < 0.3) & ~known & torch.tensor(not nothing)
    return Targets(draws[2] < 0.4, known, draws[0] < 0.2, pseudo)


PLAIN = {
    "image_head": {"use": False},
    "csra_head": {"use": False},
    "neighbour_head": {"use": False},
    "stacking": {"zero_shot": False},
}
ALL_TERMS = {"losses": {"pseudo": 0.1, "distillation": 0.1, "contrastive": 0.1}}


@pytest.mark.parametrize("train_context", [False, True])
def test_step_0_equals_training_free_dense_clip(train_context: bool):
    model = build(prompts={"train_context": train_context}).eval()
    dense = build_zero_shot(ENCODER, NAMES, look="dense")
    batch = features()
    cosines = dense(batch).logits / 20
    assert torch.allclose(model(batch).logits, 20 * cosines, atol=1e-5)


def test_training_switches_the_start_bias_only():
    model, batch = build(), features(40)
    before = model.eval()(batch).logits
    shown = torch.rand(40, 4) < 0.3
    model.init_from_labels(batch, LabelMatrix(shown, torch.ones_like(shown)))
    moved_by = model(batch).logits - before
    assert torch.allclose(moved_by, moved_by[:1].expand_as(moved_by), atol=1e-5)


@pytest.mark.parametrize("nothing", [True, False])
@pytest.mark.parametrize("train_context", [True, False])
def test_losses_and_gradients_are_finite(nothing: bool, train_context: bool):
    model = moved(build(prompts={"train_context": train_context}, **ALL_TERMS)).train()
    output = model(features())
    batch = targets(nothing=nothing)
    terms = model.loss_terms(output, batch)
    assert set(terms) == set(model.loss_weights())
    assert all(name in model.state_dict() for name in model.fast_parameters())
    sum(terms.values()).backward()
    assert all(t.isfinite() for t in terms.values())
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients and all(g.isfinite().all() for g in gradients)


def test_one_image_one_category():
    model = build(["red"], **ALL_TERMS).train()
    output = model(features(1))
    terms = model.loss_terms(output, targets(1, 1))
    assert all(t.isfinite() for t in terms.values())
    assert model.after_step(output, targets(1, 1), evidence=True).shape == (1, 1)


def test_unknown_labels_change_no_loss_no_prototype_no_evidence():
    one = moved(build(**ALL_TERMS)).eval()
    two = copy.deepcopy(one)
    seen = targets()
    hidden = Targets(
        torch.where(seen.known, seen.labels, ~seen.labels),
        seen.known,
        torch.where(seen.pseudo, seen.pseudo_labels, ~seen.pseudo_labels),
        seen.pseudo,
    )
    output = one(features())
    first, second = one.loss_terms(output, seen), two.loss_terms(output, hidden)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(
        one.after_step(output, seen, evidence=True), two.after_step(output, hidden, evidence=True)
    )
    for (name, a), b in zip(one.state_dict().items(), two.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_every_term_can_be_switched_off():
    off = {"pseudo": 0.0, "distillation": 0.0, "contrastive": 0.0}
    model = build(losses=off, **PLAIN).train()
    output = model(features())
    assert list(model.loss_terms(output, targets())) == ["classification"]
    assert output.teacher is None and model.after_step(output, targets(), evidence=True) is None


def test_permuting_categories_permutes_the_logits():
    order = [2, 0, 3, 1]
    batch = features()
    one = build().eval()
    two = build([NAMES[i] for i in order]).eval()
    assert torch.allclose(two(batch).logits, one(batch).logits[:, order], atol=1e-5)


def test_one_image_alone_equals_it_in_a_batch():
    model, batch = moved(build()).eval(), features()
    alone = model(Features(batch.hidden_patches[:1], batch.image_feature[:1])).logits
    assert torch.allclose(alone, model(batch).logits[:1], atol=1e-5)


def test_the_encoder_is_no_part_of_the_model():
    names = [name for name, _ in build(prompts={"train_context": True}).named_parameters()]
    assert all(name.startswith(("prompts.", "regions.", "matching.", "heads.")) for name in names)


def test_baked_texts_are_used_in_eval_mode_only():
    model = moved(build()).eval()
    before = model(features()).logits
    model.freeze_text_features()
    with torch.no_grad():
        model.prompts.text_residual.zero_()
    assert torch.allclose(model(features()).logits, before, atol=1e-6)
    assert not torch.allclose(model.train()(features()).logits, before, atol=1e-3)


def test_a_new_name_leaves_the_trained_logits_as_they_are():
    model, batch = moved(build()).eval(), features()
    longer = model(batch, F.normalize(torch.ones(2, 8), dim=-1)).logits
    assert longer.shape == (5, 6)
    assert torch.allclose(longer[:, :4], model(batch).logits, atol=1e-5)


def test_negative_prompt_is_subtracted():
    batch = features()
    plain, negative = build(), build(prompts={"negative_template": "no {}"})
    text = build_zero_shot(ENCODER, NAMES, templates=["no {}"]).text_features
    output = plain.eval()(batch)
    expected = output.logits - 20 * match(output.regions, text)
    assert torch.allclose(negative.eval()(batch).logits, expected, atol=1e-4)


def test_the_teacher_takes_negative_prompts_off_too():
    model = build(prompts={"negative_template": "no {}"}, losses={"distillation": 1.0}).train()
    batch = features()
    output = model(batch)
    texts = (learner.start_features for learner in (model.prompts, model.negative_prompts))
    positive, negative = texts
    image = 20 * batch.image_feature @ (positive - negative).T
    assert torch.allclose(output.teacher, (output.match_logits + image) / 2, atol=1e-4)


def test_a_guess_weighs_no_more_than_a_label():
    model = build(losses={"pseudo": 1.0, "clip": 0.0}, **PLAIN).train()
    output = model(features())
    output.match_logits.retain_grad()
    shown, known = torch.ones(5, 4, dtype=torch.bool), torch.ones(5, 4, dtype=torch.bool)
    known[0, 0] = False
    terms = model.loss_terms(output, Targets(shown, known, shown, ~known))
    (terms["classification"] + terms["pseudo"]).backward()
    chance = output.match_logits.detach().sigmoid()
    slope = output.match_logits.grad / (chance - 1) ** 2  # a positive's, up to a factor
    assert slope.std() < 0.2 * slope.mean().abs()


def test_categories_without_known_negatives_take_blanks_as_weak_ones():
    model = build(losses={"clip": 0.0}, **PLAIN).train()
    shown = torch.tensor([[True, False, True, False]] * 3)
    known = torch.tensor([[True, True, True, False]] * 3)  # columns 0 and 2 know no negative
    model.init_from_labels(features(3), LabelMatrix(shown, known))
    assert model.weak.tolist() == [1, 0, 1, 0]  # column 1 has three, of column 3 nothing is known
    output = model(features(1))
    nothing = torch.zeros(1, 4, dtype=torch.bool)
    one = torch.tensor([[False, True, False, False]])
    output.match_logits.retain_grad()
    model.loss_terms(output, Targets(nothing, one, nothing, nothing))["classification"].backward()
    assert ((output.match_logits.grad[0] != 0) == torch.tensor([True, True, True, False])).all()
    # Nobody looked at an image of which nothing is known.
    output = model(features(1))
    output.match_logits.retain_grad()
    model.loss_terms(output, Targets(*(nothing,) * 4))["classification"].backward()
    assert not output.match_logits.grad.any()


def test_distillation_leaves_the_biases_alone():
    model, batch = build(losses={"distillation": 1.0}).train(), features()
    with torch.no_grad():
        model.matching.bias.add_(torch.randn(len(NAMES)))
    output = model(batch)
    known = torch.ones(5, len(NAMES), dtype=torch.bool)
    terms = model.loss_terms(output, Targets(known, known, ~known, ~known))
    (gradient,) = torch.autograd.grad(terms["distillation"], model.matching.bias)
    assert gradient.abs().max() < 1e-5


def test_a_category_of_which_nothing_is_known_is_not_taken_for_absent():
    labels = torch.rand(40, 3, generator=torch.Generator().manual_seed(0)) < 0.4
    known = torch.ones_like(labels)
    known[:, 2] = False
    matrix = LabelMatrix(labels, known)
    assert lacking_negatives(matrix).tolist() == [0, 0, 0]
    share = known_positive_share(matrix)
    assert share[2] == pytest.approx((int(labels[:, :2].sum()) + 0.5) / 81, abs=1e-6)


def test_known_positive_share():
    labels = torch.tensor([[True, False], [False, False], [True, True]])
    known = torch.tensor([[True, False], [True, False], [False, True]])
    share = known_positive_share(LabelMatrix(labels, known))
    assert torch.allclose(share, torch.tensor([1.5 / 3, 1.5 / 4]))
    # Images of which nothing is known change nothing: their blanks are no negatives.
    more, none = torch.cat([labels, labels]), torch.cat([known, torch.zeros_like(known)])
    assert torch.equal(known_positive_share(LabelMatrix(more, none)), share)
    assert not matrix_weights(LabelMatrix(more, none), torch.ones(2))[3:].any()


def test_linear_probe_trains_on_known_pairs_only():
    method = METHODS["probe-masked"]
    probe = method.build(frozen_encoder(ENCODER), NAMES, method.settings())
    shown = torch.rand(40, 4) < 0.5
    probe.init_from_labels(features(40), LabelMatrix(shown, torch.ones_like(shown)))
    seen = targets()
    loss = probe.loss_terms(probe(features()), seen)["classification"]
    other = torch.where(seen.known, seen.labels, ~seen.labels)
    flipped = Targets(other, seen.known, seen.pseudo_labels, seen.pseudo)
    assert torch.equal(loss, probe.loss_terms(probe(features()), flipped)["classification"])
    pooled = probe.standard(features(40).hidden_patches.mean(dim=1))
    assert torch.allclose(pooled.mean(0), torch.zeros(12), atol=1e-5)
    assert torch.allclose(pooled.std(0), torch.ones(12), atol=1e-4)


def test_zero_shot_dense_equals_its_formula():
    """Patches of their own lengths, weighed by softmaxed cosine; then a cosine again."""
    batch = features()
    found = build_zero_shot(ENCODER, NAMES, look="dense")(batch).logits
    for image, hidden in enumerate(batch.hidden_patches):
        patches = ENCODER.project(hidden)
        for c, name in enumerate(NAMES):
            text = F.normalize(ENCODER.encode_text(*tokens(f"a photo of a {name}")), dim=-1)[0]
            cosines = torch.stack([F.normalize(patch, dim=0) @ text for patch in patches])
            weight = (20 * cosines).exp() / (20 * cosines).exp().sum()
            region = sum(w * patch for w, patch in zip(weight, patches, strict=True))
            expected = 20 * region @ text / region.norm()
            assert float(found[image, c]) == pytest.approx(float(expected), abs=1e-4)


def test_a_prompt_ensemble_is_the_mean_of_unit_texts():
    templates = ["a photo of a {}", "a drawing of the {}"]
    model = build_zero_shot(ENCODER, NAMES, templates=templates)
    for c, name in enumerate(NAMES):
        texts = [ENCODER.encode_text(*tokens(t.format(name)))[0] for t in templates]
        mean = sum(text / text.norm() for text in texts) / 2
        assert torch.allclose(model.text_features[c], mean / mean.norm(), atol=1e-5)


def tokens(prompt: str) -> tuple[torch.Tensor, torch.Tensor]:
    return ENCODER.token_embeddings([prompt])


def test_zero_shot_image_is_the_cosine():
    batch = features()
    model = build_zero_shot(ENCODER, NAMES)
    assert torch.allclose(model(batch).logits, 20 * batch.image_feature @ model.text_features.T)
