import copy

import pytest
import torch
import torch.nn.functional as F

from tests import tiny_clip
from tests.toy import ToyEncoder
from trmml.encoders.frozen import frozen_encoder
from trmml.errors import ConfigError, EncoderError
from trmml.features.base import MemoryFeatures
from trmml.method import prompts as prompts_module
from trmml.method.build import build_trmml
from trmml.method.interface import predict
from trmml.method.prompts import (
    PromptLearner,
    encode_prompts,
    encode_templates,
    fill,
    template_context,
)
from trmml.method.trmml import TRMML
from trmml.settings.sections import PromptSettings, Settings

NAMES = ["dog", "zebra crossing", "été"]


def learner(encoder=None, names=NAMES, **changes) -> PromptLearner:
    encoder, settings = encoder or ToyEncoder(), PromptSettings(**changes)
    return PromptLearner(
        encoder=encoder,
        category_names=names,
        start_features=encode_templates(encoder, [settings.template], names)[0],
        settings=settings,
        generator=torch.Generator().manual_seed(0),
    )


@pytest.mark.parametrize("train_context", [True, False])
@pytest.mark.parametrize("shared", [True, False])
def test_start_equals_the_hand_written_prompt(train_context: bool, shared: bool):
    prompts = learner(train_context=train_context, shared_context=shared)
    expected = encode_prompts(ToyEncoder(), fill("a photo of a {}", NAMES))
    assert torch.allclose(prompts(), expected, atol=1e-6)


def test_context_is_found_without_knowing_the_tokenizer():
    encoder = ToyEncoder()
    context = template_context(encoder, "a photo of a {}")
    embeddings, _ = encoder.token_embeddings(["a photo of a cat"])
    assert torch.equal(context, embeddings[0, 1:5])


def test_what_trains_is_what_is_switched_on():
    def trained(prompts):
        return {name: tuple(p.shape) for name, p in prompts.named_parameters()}

    assert trained(learner()) == {"text_residual": (3, 8)}
    assert trained(learner(text_residual=False)) == {}
    assert trained(learner(train_context=True, text_residual=False)) == {
        "context_tokens": (3, 4, 6)
    }
    shared = learner(train_context=True, shared_context=True, context_start="random")
    assert trained(shared)["context_tokens"] == (1, 16, 6)


def test_random_start_is_seeded_and_small():
    one = learner(train_context=True, context_start="random", context_tokens=8)
    two = learner(train_context=True, context_start="random", context_tokens=8)
    assert torch.equal(one.context_tokens, two.context_tokens)
    assert 0.01 < float(one.context_tokens.detach().std()) < 0.03


def test_gradient_flows_through_the_frozen_encoder():
    encoder = ToyEncoder()
    prompts = learner(encoder, train_context=True)
    (prompts() * torch.randn(3, 8)).sum().backward()
    assert (prompts.context_tokens.grad != 0).any()
    assert all(p.grad is None for p in encoder.parameters())
    assert not any(name.startswith("encoder") for name in prompts.state_dict())


def test_features_have_unit_length_after_learning():
    prompts = learner(train_context=True)
    with torch.no_grad():
        prompts.text_residual.add_(torch.randn(3, 8))
        prompts.context_tokens.add_(1.0)
    assert torch.allclose(prompts().norm(dim=-1), torch.ones(3), atol=1e-5)


def test_permuting_names_permutes_features():
    order = [2, 0, 1]
    shuffled = learner(names=[NAMES[i] for i in order])()
    assert torch.allclose(shuffled, learner()()[order], atol=1e-6)


# One pass per distinct prompt


class Counting(ToyEncoder):
    """Writes down the shape of each pass of the text encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.passes: list[tuple[int, int]] = []

    def encode_text(self, token_embeddings, mask):
        self.passes.append(tuple(token_embeddings.shape[:2]))
        return super().encode_text(token_embeddings, mask)


def test_equal_texts_are_encoded_once():
    encoder = Counting()
    features = encode_prompts(encoder, ["a", "b c d", "a", "b", "a"])
    assert encoder.passes == [(3, 5)]  # with start and end
    alone = [encode_prompts(ToyEncoder(), [text])[0] for text in ("a", "b c d", "a", "b", "a")]
    assert torch.allclose(features, torch.stack(alone), atol=1e-6)


def test_prompts_of_a_length_go_together(monkeypatch):
    monkeypatch.setattr(prompts_module, "TEXT_BATCH", 2)
    encoder = Counting()
    encode_prompts(encoder, ["one two three four", "a", "one two three", "b"])
    assert encoder.passes == [(2, 3), (2, 6)]


def test_templates_share_one_pass():
    encoder = Counting()
    one, two, three = encode_templates(encoder, ["a {}", "no {}", "a {}"], NAMES)
    assert [count for count, _ in encoder.passes] == [6]
    assert torch.equal(one, three) and not torch.allclose(one, two)
    assert torch.allclose(two, encode_prompts(ToyEncoder(), fill("no {}", NAMES)), atol=1e-6)


def test_a_negative_template_costs_no_second_pass():
    encoder = Counting()
    frozen = frozen_encoder(encoder)
    encoder.passes.clear()
    settings = Settings(prompts={"template": "a {}", "negative_template": "no {}"})
    build_trmml(frozen, NAMES, settings)
    assert [count for count, _ in encoder.passes] == [6]


# Chunks

MANY = [" ".join(["word"] * (1 + n % 5)) + f" {n}" for n in range(23)]


def gradients(prompts: PromptLearner) -> tuple[torch.Tensor, torch.Tensor]:
    """Text features, and the gradient of a fixed function of them."""
    weights = torch.randn(len(MANY), 8, generator=torch.Generator().manual_seed(5))
    features = prompts()
    (features * weights).sum().backward()
    return features.detach(), prompts.context_tokens.grad


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("kept", [0, 60, 10**6])
def test_chunks_change_neither_features_nor_gradient(shared, kept, monkeypatch):
    settings = {"train_context": True, "shared_context": shared, "context_start": "random"}
    expected = gradients(learner(names=MANY, **settings))
    monkeypatch.setattr(prompts_module, "CHUNK", 4)
    monkeypatch.setattr(prompts_module, "KEPT_TOKENS", kept)
    found = gradients(learner(names=MANY, **settings))
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, atol=1e-6, rtol=1e-5)


def test_chunks_of_a_real_tower(monkeypatch):
    encoder = tiny_clip.encoder(tiny_clip.clip(tiny_clip.VIT))

    def gradient() -> torch.Tensor:
        prompts = learner(encoder, MANY, train_context=True)
        prompts()[:, :4].sum().backward()
        return prompts.context_tokens.grad

    whole = gradient()
    monkeypatch.setattr(prompts_module, "CHUNK", 4)
    monkeypatch.setattr(prompts_module, "KEPT_TOKENS", 50)
    assert torch.allclose(gradient(), whole, atol=1e-5 * float(whole.abs().max()))
    assert float(whole.abs().max()) > 0


def test_a_chunk_is_cut_behind_its_longest_name_and_computed_again(monkeypatch):
    monkeypatch.setattr(prompts_module, "CHUNK", 2)
    encoder = Counting()
    names = ["d e f g", "a", "b c", "h", "i j"]
    prompts = learner(encoder, names, train_context=True, template="a photo of {}")
    once = [(2, 6), (2, 7), (1, 9)]  # start, three words of context, the names, end
    monkeypatch.setattr(prompts_module, "KEPT_TOKENS", 26)
    encoder.passes.clear()
    features = prompts()
    assert encoder.passes == once
    features.sum().backward()
    assert encoder.passes[3:] == [once[2]]  # only what exceeds KEPT_TOKENS
    monkeypatch.setattr(prompts_module, "KEPT_TOKENS", 0)
    encoder.passes.clear()
    prompts().sum().backward()
    assert sorted(encoder.passes) == sorted(2 * once)
    encoder.passes.clear()
    with torch.no_grad():
        prompts()
    assert encoder.passes == once  # nothing to keep
    expected = encode_prompts(ToyEncoder(), fill("a photo of {}", names))
    assert torch.allclose(features, expected, atol=1e-6)


# Once per state of the parameters


def counting() -> tuple[Counting, TRMML]:
    encoder = Counting()
    settings = Settings(prompts={"train_context": True, "text_residual": True})
    model = build_trmml(frozen_encoder(encoder), NAMES, settings).eval()
    encoder.passes.clear()
    return encoder, model


def source(images: int = 50) -> MemoryFeatures:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(1, images, 9, 12, generator=generator)
    image = torch.randn(1, images, 8, generator=generator)
    return MemoryFeatures(hidden, F.normalize(image, dim=-1))


def test_an_evaluation_of_many_batches_is_one_pass():
    encoder, model = counting()
    logits = predict(model, source(), batch_size=4)
    assert len(encoder.passes) == 1 and logits.shape == (50, 3)
    with torch.no_grad():
        model.prompts.context_tokens += 0.5
    moved = predict(model, source(), batch_size=7)
    assert len(encoder.passes) == 2
    assert not torch.allclose(moved, logits, atol=1e-4)


def steps(**settings):
    def change(parameter: torch.nn.Parameter) -> None:
        parameter.grad = torch.ones_like(parameter)
        torch.optim.AdamW([parameter], lr=0.1, **settings).step()

    return change


def in_place(name: str):
    def change(parameter: torch.nn.Parameter) -> None:
        with torch.no_grad():
            other = torch.full_like(parameter, 0.3)
            getattr(parameter, name)(other, *([0.5] if name == "lerp_" else []))

    return change


def by_data(parameter: torch.nn.Parameter) -> None:
    parameter.data += 1


def by_new_data(parameter: torch.nn.Parameter) -> None:
    parameter.data = parameter.data + 1


@pytest.mark.parametrize(
    "change",
    [
        steps(),
        steps(foreach=True),
        steps(foreach=False),
        steps(fused=True),
        in_place("copy_"),
        in_place("lerp_"),
        in_place("add_"),
        by_data,
        by_new_data,
    ],
)
def test_changed_context_is_noticed(change):
    encoder, model = counting()
    with torch.no_grad():
        before = model.texts()[0]
    change(model.prompts.context_tokens)
    with torch.no_grad():
        after = model.texts()[0]
        assert torch.equal(after, model.texts()[0])
    assert len(encoder.passes) == 2
    assert not torch.allclose(before, after, atol=1e-4)
    with torch.enable_grad():
        assert torch.allclose(model.texts()[0], after, atol=1e-6)


@pytest.mark.parametrize("assign", [True, False])
def test_a_loaded_state_is_noticed(assign):
    encoder, model = counting()
    own = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        before = model.texts()[0]
        model.prompts.context_tokens += 1
        moved = model.texts()[0]
        model.load_state_dict(own, assign=assign)
        assert torch.equal(model.texts()[0], before)
    assert len(encoder.passes) == 3
    assert not torch.allclose(moved, before, atol=1e-4)


def test_a_residual_needs_no_pass():
    encoder, model = counting()
    with torch.no_grad():
        before = model.texts()[0]
        model.prompts.text_residual += torch.randn(3, 8)
        assert not torch.allclose(model.texts()[0], before, atol=1e-3)
    assert len(encoder.passes) == 1


def test_frozen_context_is_encoded_once_in_training():
    encoder, model = counting()
    model.train()
    model.prompts.context_tokens.requires_grad_(False)
    with torch.inference_mode():
        model.texts()
    for _ in range(3):
        model.texts()[0].sum().backward()
    assert len(encoder.passes) == 1
    assert model.prompts.text_residual.grad is not None


def test_another_precision_is_another_state():
    encoder, model = counting()
    with torch.no_grad():
        full = model.texts()[0]
        with torch.autocast("cpu", torch.bfloat16):
            model.texts()
            assert len(encoder.passes) == 2
        assert torch.equal(model.texts()[0], full)


def test_half_precision_on_a_processor_learns_with_plain_attention(monkeypatch):
    """Fused attention is slow to go back through there; the gradients are the same."""
    plain, gradients = [], []
    encoder = tiny_clip.encoder(tiny_clip.clip(tiny_clip.VIT))
    encode = encoder.encode_text
    monkeypatch.setattr(
        encoder,
        "encode_text",
        lambda *given: plain.append(not torch.backends.cuda.flash_sdp_enabled()) or encode(*given),
    )
    model = learner(encoder, train_context=True)
    plain.clear()
    for precision in (torch.float32, torch.bfloat16):
        model.zero_grad()
        with torch.autocast("cpu", precision, enabled=precision == torch.bfloat16):
            (model() * torch.arange(model.start_features.shape[1])).sum().backward()
        gradients.append(model.context_tokens.grad.flatten())
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        model()
    assert plain == [False, True, False]
    assert F.cosine_similarity(*gradients, dim=0) > 0.99


def test_a_copy_has_its_own_state():
    _, model = counting()
    with torch.no_grad():
        before = model.texts()[0]
        other = copy.deepcopy(model)
        other.prompts.context_tokens += 1
        assert not torch.allclose(other.texts()[0], before, atol=1e-4)
        assert torch.equal(model.texts()[0], before)


def test_errors_say_what_to_do():
    with pytest.raises(ConfigError, match=r"one \{\} for the name, got 'a photo'"):
        fill("a photo", NAMES)
    with pytest.raises(ConfigError, match="must end with"):
        learner(template="a {} in the snow", train_context=True)
    with pytest.raises(ConfigError, match="words before the name"):
        learner(template="{}", train_context=True)
    with pytest.raises(EncoderError, match=r"at most 40 tokens.*'zebra crossing' make 44"):
        learner(train_context=True, context_start="random", context_tokens=40)
