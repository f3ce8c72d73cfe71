"""Text towers against open_clip's own modules, and learned tokens in them."""

from types import SimpleNamespace

import open_clip
import pytest
import torch
import torch.nn.functional as F
from open_clip.model import CustomTextCLIP
from torch import Tensor, nn

from tests.tiny_clip import TEXT, TEXTS, TOKENIZER, VIT, clip, encoder, perturb
from trmml.encoders.clip.encoder import OpenClipEncoder, start_tokens, text_tower
from trmml.encoders.clip.text import ClipTextTower, HuggingFaceTextTower
from trmml.errors import EncoderError


@pytest.fixture(scope="module")
def vit() -> open_clip.CLIP:
    return clip(VIT)


# equality with open_clip


@pytest.mark.parametrize(
    "text",
    [
        {},
        {"pool_type": "eos", "eos_id": 49407},
        {"no_causal_mask": True},
        {"no_causal_mask": True, "pool_type": "last", "proj_bias": True},
        {"pool_type": "first", "no_causal_mask": True},
        {"proj_type": "none", "width": 24},
        {"ls_init_value": 0.1, "act_kwargs": {"approximate": "tanh"}},
    ],
)
@pytest.mark.parametrize("kind", [open_clip.CLIP, CustomTextCLIP])
def test_text_feature_is_open_clips(kind: type[nn.Module], text: dict) -> None:
    torch.manual_seed(0)
    model = perturb(kind(24, VIT, {**TEXT, "context_length": 16, **text}))
    encoded = encoder(model)
    ids = TOKENIZER(TEXTS, context_length=16)
    expected = model.encode_text(ids, normalize=True).detach()
    embeddings, mask = encoded.token_embeddings(TEXTS)
    assert embeddings.shape[1] <= 8
    found = encoded.encode_text(embeddings, mask)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_learned_tokens_stand_where_words_would(vit: open_clip.CLIP) -> None:
    for settings in ({}, {"no_causal_mask": True, "pool_type": "last"}):
        encoded = encoder(clip(VIT, settings))
        words, _ = encoded.token_embeddings(["a photo of"])
        embeddings, mask = encoded.token_embeddings(["dog", "polar bear"])
        context = words[:, 1:4].expand(2, -1, -1)
        joined = torch.cat([embeddings[:, :1], context, embeddings[:, 1:]], dim=1)
        mask = torch.cat([torch.ones(2, 3, dtype=mask.dtype), mask], dim=1)
        expected = encoded.encode_text(
            *encoded.token_embeddings(["a photo of dog", "a photo of polar bear"])
        )
        torch.testing.assert_close(encoded.encode_text(joined, mask), expected, atol=1e-6, rtol=0)


# invariants


def test_cutting_after_the_end_token_is_exact(vit: open_clip.CLIP) -> None:
    encoded = encoder(vit)
    embeddings, mask = encoded.token_embeddings(["dog", "a photo of a cat"])
    full = torch.cat([embeddings, torch.randn(2, 77 - embeddings.shape[1], 32)], dim=1)
    long_mask = F.pad(mask, (0, 77 - mask.shape[1]))
    short = encoded.encode_text(embeddings, mask)
    torch.testing.assert_close(encoded.encode_text(full, long_mask), short, atol=1e-6, rtol=0)
    beyond = F.pad(full, (0, 0, 0, 5)), F.pad(long_mask, (0, 5))
    torch.testing.assert_close(encoded.encode_text(*beyond), short, atol=1e-6, rtol=0)
    alone = encoded.encode_text(*encoded.token_embeddings(["dog"]))
    torch.testing.assert_close(alone, short[:1], atol=1e-6, rtol=0)


LEARNED = ["dog", "zebra crossing", "a black and white cat"]


def behind_context(
    embeddings: Tensor, mask: Tensor, context: Tensor, length: int | None = None
) -> tuple[Tensor, Tensor]:
    """Texts with context tokens behind the start token, padded to a length with noise."""
    count, size = len(embeddings), context.shape[1]
    joined = torch.cat([embeddings[:, :1], context, embeddings[:, 1:]], dim=1)
    mask = torch.cat([torch.ones(count, size, dtype=mask.dtype), mask], dim=1)
    if length is not None:
        missing = length - joined.shape[1]
        joined = torch.cat([joined, torch.randn(count, missing, joined.shape[2])], dim=1)
        mask = F.pad(mask, (0, missing))
    return joined, mask


def test_the_whole_tower_of_vit_b_32_cut_short_and_in_full() -> None:
    """Weights of the real size, started at random; open_clip's blocks against ours as well."""
    torch.manual_seed(0)
    text = {**TEXT, "width": 512, "heads": 8, "layers": 12}
    encoded = encoder(open_clip.CLIP(512, VIT, text))
    tower = encoded.text_tower
    assert tower is not None and tower._plain and not tower.sees_padding
    embeddings, mask = encoded.token_embeddings(LEARNED)
    assert embeddings.shape[1] == 7
    context = 0.02 * torch.randn(3, 16, 512)
    results = []
    for length, plain in ((None, True), (77, True), (77, False)):
        tower._plain = plain
        leaf = context.clone().requires_grad_()
        feature = encoded.encode_text(*behind_context(embeddings, mask, leaf, length))
        feature[:, :8].sum().backward()
        results.append((feature.detach(), leaf.grad))
        bare = encoded.encode_text(*behind_context(embeddings, mask, context[:, :0], length))
        results[-1] += (bare,)
    for other in results[1:]:
        for found, expected in zip(results[0], other, strict=True):
            torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)
    assert all(value.grad is None for value in encoded.parameters())


@pytest.mark.parametrize(
    "text",
    [{}, {"ls_init_value": 0.1}, {"act_kwargs": {"approximate": "tanh"}}, {"pool_type": "eos"}],
)
def test_our_blocks_are_open_clips(text: dict) -> None:
    pool = {"eos_id": 49407} if "pool_type" in text else {}
    tower = encoder(clip(VIT, {**text, **pool})).text_tower
    assert tower is not None and tower._plain
    embeddings = torch.randn(3, 9, 32)
    mask = torch.arange(9) < torch.tensor([[9], [4], [1]])
    results = []
    for plain in (True, False):
        tower._plain = plain
        leaf = embeddings.clone().requires_grad_()
        feature = tower(leaf, mask.long())
        feature[:, :8].sum().backward()
        results.append((feature.detach(), leaf.grad))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_attention_is_fused_and_causal_by_a_flag(
    vit: open_clip.CLIP, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = encoder(vit)
    embeddings, mask = encoded.token_embeddings(LEARNED)
    leaf = embeddings.clone().requires_grad_()
    with torch.profiler.profile() as profile:
        encoded.encode_text(leaf, mask).sum().backward()
    calls = {event.key: event.count for event in profile.key_averages()}
    assert calls["aten::_scaled_dot_product_flash_attention_for_cpu"] == 2
    assert calls["aten::_scaled_dot_product_flash_attention_for_cpu_backward"] == 2
    assert "aten::_softmax" not in calls and "aten::bmm" not in calls


@pytest.mark.parametrize("text", [{"no_causal_mask": True}, {"pool_type": "last"}])
def test_other_towers_keep_open_clips_blocks_and_their_padding(text: dict) -> None:
    encoded = encoder(clip(VIT, {**text, "context_length": 16}))
    tower = encoded.text_tower
    assert tower is not None and not tower._plain and tower.sees_padding
    seen = []
    tower.transformer.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[1]))
    encoded.encode_text(*encoded.token_embeddings(["dog"]))
    assert seen == [16]


# gradient


@pytest.mark.parametrize("text", [{}, {"no_causal_mask": True, "pool_type": "last"}])
def test_gradient_reaches_the_embeddings(text: dict) -> None:
    encoded = encoder(clip(VIT, text))
    embeddings, mask = encoded.token_embeddings(["dog", "a photo of a cat"])
    leaf = embeddings.clone().requires_grad_()
    encoded.encode_text(leaf, mask)[:, 0].sum().backward()
    assert leaf.grad is not None and leaf.grad.isfinite().all()
    assert (leaf.grad[0, 0].abs() > 0).any()
    assert not leaf.grad[0, 3:].any()  # padding after "dog"


def test_gradcheck_of_the_text_tower() -> None:
    model = clip(VIT, {"width": 8, "heads": 2, "layers": 1, "context_length": 6, "vocab_size": 50})
    tower = ClipTextTower(model, pad_id=0).double()
    embeddings = torch.randn(2, 4, 8, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
    assert torch.autograd.gradcheck(lambda x: F.normalize(tower(x, mask), dim=-1), embeddings)


# Hugging Face text towers, from a small configuration


@pytest.mark.parametrize("kind", ["roberta", "mt5", "m2m_100"])
def test_hugging_face_text_tower(kind: str) -> None:
    transformers = pytest.importorskip("transformers")
    hf_model = pytest.importorskip("open_clip.hf_model")
    small = {
        "roberta": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
        "mt5": {"d_model": 16, "num_layers": 1, "num_heads": 2, "d_kv": 8, "d_ff": 16},
        "m2m_100": {"d_model": 16, "encoder_layers": 1, "encoder_attention_heads": 2},
    }[kind]
    config = transformers.AutoConfig.for_model(kind, vocab_size=60, pad_token_id=1, **small)
    torch.manual_seed(0)
    pooler = "cls_pooler" if kind == "m2m_100" else "mean_pooler"
    text = hf_model.HFTextEncoder("", 24, config=config, pooler_type=pooler, proj_type="linear")
    if config.is_encoder_decoder:
        text.transformer = text.transformer.get_encoder()
    tower = HuggingFaceTextTower(text, 12).eval()
    ids = torch.tensor([[5, 6, 7, 2, 1, 1], [5, 9, 2, 1, 1, 1]])
    assert tower.lengths(ids).tolist() == [4, 3]
    mask = (torch.arange(4) < tower.lengths(ids)[:, None]).long()
    found = tower(tower.embed(ids[:, :4]), mask)
    torch.testing.assert_close(found, text.eval()(ids), atol=1e-5, rtol=1e-5)


# error messages


def test_texts_that_do_not_fit(vit: open_clip.CLIP) -> None:
    encoded = encoder(vit)
    encoded.token_embeddings(["word " * 75])  # with start and end just fits
    with pytest.raises(EncoderError, match=r"'word word.*more than the 77 tokens of tiny"):
        encoded.token_embeddings(["dog", "word " * 76])
    with pytest.raises(EncoderError, match="texts is empty"):
        encoded.token_embeddings([])
    embeddings, mask = encoded.token_embeddings(["word " * 75])
    with pytest.raises(EncoderError, match=r"has 79 tokens.*at most 77.*fewer context tokens"):
        encoded.encode_text(
            torch.cat([embeddings, embeddings[:, :2]], dim=1), F.pad(mask, (0, 2), value=1)
        )


def test_a_text_is_never_cut_where_padding_is_the_end_token() -> None:
    """SigLIP's first tokenizer, which has no start token either."""

    def words(texts: list[str], context_length: int) -> Tensor:
        rows = [[len(word) + 1 for word in text.split()][: context_length - 1] for text in texts]
        return torch.tensor([row + [1] * (context_length - len(row)) for row in rows])

    torch.manual_seed(0)
    text = {**TEXT, "context_length": 5, "vocab_size": 30, "no_causal_mask": True}
    model = perturb(CustomTextCLIP(24, VIT, {**text, "pool_type": "last"}))
    encoded = OpenClipEncoder(model, words, name="tiny")
    assert encoded.context_position == 0
    texts = ["one three five seven", "four", ""]
    expected = model.encode_text(words(texts, 5), normalize=True).detach()
    found = encoded.encode_text(*encoded.token_embeddings(texts))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    with pytest.raises(EncoderError, match="'a b c d e' has more than the 5 tokens"):
        encoded.token_embeddings(["a", "a b c d e"])


def test_tokenizers_without_a_start_token() -> None:
    def words(texts: list[str], context_length: int) -> Tensor:
        rows = [[len(word) + 2 for word in text.split()] + [1] for text in texts]
        return torch.tensor([row + [0] * (context_length - len(row)) for row in rows])

    assert start_tokens(words) == 0 and start_tokens(TOKENIZER) == 1
    words.tokenizer_mode = "clips"
    with pytest.raises(EncoderError, match="class token after the padding"):
        text_tower(SimpleNamespace(), words)
