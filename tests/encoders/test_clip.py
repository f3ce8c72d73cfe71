"""OpenClipEncoder: towers of every kind against open_clip's own modules."""

import math
from collections import OrderedDict
from types import SimpleNamespace

import numpy as np
import open_clip
import pytest
import timm
import torch
import torch.nn.functional as F
from open_clip.timm_model import TimmModel
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torch import Tensor, nn

from tests.tiny_clip import RESNET, TEXT, TOKENIZER, VIT, clip, encoder, perturb, pixels
from trmml.encoders.base import identify
from trmml.encoders.clip.dense import check_size, resize_positions, square_side, value_path
from trmml.encoders.clip.encoder import image_tower, text_tower
from trmml.encoders.clip.timm_towers import timm_tower
from trmml.errors import EncoderError


@pytest.fixture(scope="module")
def resnet() -> open_clip.CLIP:
    return clip(RESNET)


@pytest.fixture(scope="module")
def vit() -> open_clip.CLIP:
    return clip(VIT)


# by hand


def test_positions_keep_the_class_token_and_a_constant_plane() -> None:
    positions = torch.cat([torch.full((1, 2), 9.0), torch.full((4, 2), 3.0)])
    resized = resize_positions(positions, (3, 3))
    torch.testing.assert_close(resized[0], torch.full((2,), 9.0))
    torch.testing.assert_close(resized[1:], torch.full((9, 2), 3.0))
    assert resize_positions(positions, (2, 2)) is positions


def test_value_path_is_attention_to_one_token() -> None:
    torch.manual_seed(0)
    for attention in (
        nn.MultiheadAttention(8, 2, batch_first=True),
        nn.MultiheadAttention(8, 2, kdim=6, vdim=6, batch_first=True),
        nn.MultiheadAttention(8, 2, bias=False, batch_first=True),
    ):
        token = torch.randn(1, 1, attention.vdim)
        expected = attention(torch.randn(1, 1, 8), token, token, need_weights=False)[0]
        torch.testing.assert_close(value_path(attention, token), expected)


# equality with open_clip


@pytest.mark.parametrize("vision", [RESNET, VIT])
def test_image_feature_is_open_clips(vision: dict) -> None:
    model = clip(vision)
    images = pixels(vision["image_size"])
    _, feature = encoder(model).encode_image(images)
    expected = model.encode_image(images, normalize=True)
    torch.testing.assert_close(feature, expected.detach(), atol=1e-5, rtol=0)


def test_resnet_patches_are_the_pool_at_one_position(resnet: open_clip.CLIP) -> None:
    hidden, _ = (encoded := encoder(resnet, size=96)).encode_image(pixels(96))
    visual = resnet.visual
    feature_map = visual.layer4(
        visual.layer3(visual.layer2(visual.layer1(visual.stem(pixels(96)))))
    )
    assert hidden.shape == (3, 9, 256)
    torch.testing.assert_close(hidden[:, 5], feature_map[:, :, 1, 2].detach())
    flat = {"positional_embedding": torch.zeros(2, 256)}
    alone = torch.func.functional_call(visual.attnpool, flat, (feature_map[:, :, 1:2, 2:3],))
    patches = encoded.project(hidden)
    torch.testing.assert_close(patches[:, 5], alone.detach(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [64, 96])
def test_resnet_positions_are_what_its_pool_adds_before_the_values(
    resnet: open_clip.CLIP, size: int
) -> None:
    encoded, pool = encoder(resnet, size=size), resnet.visual.attnpool
    hidden, _ = encoded.encode_image(pixels(size))
    side = size // 32
    feature_map = hidden.transpose(1, 2).unflatten(2, (side, side))
    heard = []  # what the pool's keys and values read: its mean token first
    whole = F.multi_head_attention_forward

    def listen(*given: Tensor, **options: Tensor) -> tuple[Tensor, Tensor | None]:
        heard.append(options["value"].transpose(0, 1))
        return whole(*given, **options)

    positions = encoded.patch_positions
    with pytest.MonkeyPatch.context() as patched, torch.no_grad():
        patched.setattr(F, "multi_head_attention_forward", listen)
        added = {"positional_embedding": positions}
        torch.func.functional_call(pool, added, (feature_map,))
        values = pool.c_proj(pool.v_proj(heard[0]))
    tokens = torch.cat([hidden.mean(dim=1, keepdim=True), hidden], dim=1) + positions
    assert positions.shape == (1 + side**2, 256)
    torch.testing.assert_close(encoded.project(tokens), values, atol=1e-5, rtol=0)
    own = pool.positional_embedding
    torch.testing.assert_close(positions[0], own[0])
    assert size != 64 or torch.equal(positions, own)


def test_only_resnets_have_positions(vit: open_clip.CLIP) -> None:
    assert encoder(vit).patch_positions is None


def test_resnet_at_another_size_is_a_model_of_that_size(resnet: open_clip.CLIP) -> None:
    larger = clip({**RESNET, "image_size": 128})
    state = resnet.state_dict()
    key = "visual.attnpool.positional_embedding"
    grid = state[key][1:].T.reshape(1, -1, 2, 2)
    grid = F.interpolate(grid, (4, 4), mode="bicubic", antialias=True, align_corners=False)
    state[key] = torch.cat([state[key][:1], grid.reshape(256, 16).T])
    larger.load_state_dict(state)
    _, feature = encoder(resnet, size=128).encode_image(pixels(128))
    expected = larger.encode_image(pixels(128), normalize=True)
    torch.testing.assert_close(feature, expected.detach(), atol=1e-5, rtol=0)


def test_vit_at_another_size_is_what_open_clip_loads(vit: open_clip.CLIP) -> None:
    larger = clip({**VIT, "image_size": 48})
    state = vit.state_dict()
    open_clip.model.resize_pos_embed(state, larger)
    larger.load_state_dict(state)
    _, feature = encoder(vit, size=48).encode_image(pixels(48))
    expected = larger.encode_image(pixels(48), normalize=True)
    torch.testing.assert_close(feature, expected.detach(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("custom", [{}, {"ls_init_value": 0.1}, {"scale_attn": True}])
def test_class_token_patches_are_the_last_attention_alone(custom: dict) -> None:
    model = clip({**VIT, **custom})
    encoded = encoder(model)
    hidden, _ = encoded.encode_image(pixels(32))
    visual, images = model.visual, pixels(32)
    entering = visual.forward_intermediates(images, indices=[0], output_fmt="NLC")
    entering = entering["image_intermediates"][0]
    torch.testing.assert_close(hidden, entering.detach())
    block, alone = visual.transformer.resblocks[-1], entering[:, 6:7]
    if "scale_attn" in custom:
        value = block.ls_1(block.ln_attn(block.attn(block.ln_1(alone))))
    else:
        value = block.ls_1(block.attention(block.ln_1(alone)))
    expected = (visual.ln_post(value) @ visual.proj)[:, 0].detach()
    torch.testing.assert_close(encoded.project(hidden)[:, 6], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("after", [False, True])
def test_mean_pooling_patches_are_one_token_means(after: bool) -> None:
    model = clip({**VIT, "pool_type": "avg", "final_ln_after_pool": after, "no_ln_pre": True})
    encoded = encoder(model)
    hidden, feature = encoded.encode_image(pixels(32))
    expected = model.encode_image(pixels(32), normalize=True).detach()
    torch.testing.assert_close(feature, expected, atol=1e-5, rtol=0)
    if not after:
        mean = F.normalize(encoded.project(hidden).mean(dim=1), dim=-1)
        torch.testing.assert_close(mean, feature, atol=1e-5, rtol=0)


def coca() -> open_clip.CoCa:
    torch.manual_seed(0)
    vision = {**VIT, "attentional_pool": True, "attn_pooler_heads": 4, "output_tokens": True}
    text = {**TEXT, "context_length": 12, "embed_cls": True, "output_tokens": True}
    decoder = {"width": 24, "heads": 2, "layers": 1, "context_length": 12}
    return perturb(open_clip.CoCa(24, decoder, text, vision))


def test_coca_image_and_text_are_open_clips() -> None:
    model = coca()
    encoded = encoder(model)
    hidden, feature = encoded.encode_image(pixels(32))
    expected = model.encode_image(pixels(32), normalize=True).detach()
    torch.testing.assert_close(feature, expected, atol=1e-5, rtol=0)
    visual, alone = model.visual, hidden[:, 6:7]
    pooled = visual.ln_post(visual.attn_pool(alone))[:, 0] @ visual.proj
    torch.testing.assert_close(encoded.project(hidden)[:, 6], pooled.detach(), atol=1e-5, rtol=0)
    texts = ["dog", "a photo of a cat", ""]  # its own mask takes "!", id 0, for padding
    ids = TOKENIZER(texts, context_length=12)
    expected = model.encode_text(ids, normalize=True).detach()
    found = encoded.encode_text(*encoded.token_embeddings(texts))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("name", "pool", "size", "patches"),
    [
        ("test_convnext", "avg", 96, 9),
        ("test_vit", "token", 160, 100),
        ("test_vit3", "map", 160, 100),
        ("eva02_tiny_patch14_224", "token", 224, 256),
        ("fastvit_t8", "avg", 96, 9),
        pytest.param("swin_tiny_patch4_window7_224", "avg", 224, 49, marks=pytest.mark.slow),
    ],
)
def test_timm_towers(name: str, pool: str, size: int, patches: int) -> None:
    torch.manual_seed(0)
    visual = perturb(TimmModel(name, 24, image_size=size, pool=pool, proj="linear"))
    if hasattr(visual.trunk, "set_input_size"):
        visual.set_input_size(size)
    tower = image_tower(visual).eval()
    with torch.no_grad():
        hidden, feature = tower(pixels(size, 2))
        torch.testing.assert_close(feature, visual(pixels(size, 2)), atol=1e-5, rtol=1e-5)
        projected = tower.project(hidden)
        alone = tower.project(hidden[:, 4])
    assert hidden.shape[:2] == (2, patches) and math.prod(tower.grid) == patches
    torch.testing.assert_close(projected[:, 4], alone, atol=1e-5, rtol=1e-5)
    if pool == "map":
        with torch.no_grad():
            pooled = visual.head(visual.trunk.attn_pool(hidden[:, 4:5]))
        torch.testing.assert_close(projected[:, 4], pooled, atol=1e-5, rtol=1e-5)


def test_a_uniform_map_projects_to_the_image_feature() -> None:
    tower = image_tower(perturb(TimmModel("test_convnext", 24, image_size=64, proj="linear")))
    with torch.no_grad():
        feature_map = torch.randn(2, 64, 1, 1).expand(-1, -1, 2, 2)
        expected = tower.visual.head(tower.visual.trunk.forward_head(feature_map))
        found = tower.project(feature_map.flatten(2).transpose(1, 2))
    torch.testing.assert_close(found[:, 0], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("mode", ["squash", "center-crop"])
def test_preprocess_is_open_clips(vit: open_clip.CLIP, mode: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (50, 70, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    found = encoder(vit, resize_mode=mode).preprocess(image)
    settings = PreprocessCfg(size=32, resize_mode="squash" if mode == "squash" else "shortest")
    torch.testing.assert_close(found, image_transform_v2(settings, is_train=False)(image))
    assert found.shape == (3, 32, 32) and found.dtype == torch.float32


@pytest.mark.parametrize("mode", ["squash", "center-crop"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("sides", [(50, 70), (300, 200), (20, 16)])
def test_decoded_images_are_prepared_alike(
    vit: open_clip.CLIP, mode: str, interpolation: str, sides: tuple[int, int]
) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (*sides, 3), dtype=np.uint8)
    encoded = encoder(vit, resize_mode=mode, interpolation=interpolation)
    expected = encoded.preprocess(Image.fromarray(noise))
    found = encoded.preprocess_pixels(torch.from_numpy(noise).permute(2, 0, 1))
    assert found.shape == (3, 32, 32) and found.dtype == torch.float32
    step = 1 / (255 * 0.26)  # one grey level, normalised
    torch.testing.assert_close(found, expected, atol=1.5 * step, rtol=0)
    # Pillow rounds after each of two passes, torch on some processors once: a quarter on average.
    assert float((found - expected).abs().mean()) < 0.5 * step


def test_the_preprocessing_is_named_in_one_line(vit: open_clip.CLIP) -> None:
    plain = encoder(vit).preprocessing
    assert plain.startswith("squash to 32 px, bicubic with antialiasing, mean (0.48145466, ")
    changes = [
        {"size": 48},
        {"mean": (0.5, 0.5, 0.5)},
        {"std": (0.5, 0.5, 0.5)},
        {"interpolation": "bilinear"},
        {"resize_mode": "center-crop"},
    ]
    lines = {plain, *(encoder(vit, **change).preprocessing for change in changes)}
    assert len(lines) == 6 and not any("\n" in line for line in lines)
    assert encoder(vit, mean=[0.5, 0.5, 0.5]).preprocessing in lines


# invariants


def test_always_frozen_and_in_evaluation_mode(vit: open_clip.CLIP) -> None:
    encoded = encoder(vit)
    assert encoded.train() is encoded
    assert not any(module.training for module in encoded.modules())
    assert not any(value.requires_grad for value in encoded.parameters())
    assert encoded.logit_scale == pytest.approx(float(vit.logit_scale.detach().exp()))
    assert (encoded.grid, encoded.context_length, encoded.context_position) == ((4, 4), 77, 1)
    assert identify(encoded).patches == 16


@pytest.mark.parametrize("vision", [RESNET, VIT])
def test_one_image_alone_is_the_same_in_a_batch(vision: dict) -> None:
    encoded = encoder(clip(vision))
    images = pixels(vision["image_size"])
    hidden, feature = encoded.encode_image(images)
    alone_hidden, alone = encoded.encode_image(images[1:2])
    torch.testing.assert_close(alone, feature[1:2], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(alone_hidden, hidden[1:2], atol=1e-5, rtol=1e-5)


def test_checksum_does_not_depend_on_the_size(vit: open_clip.CLIP) -> None:
    small, large = identify(encoder(vit)), identify(encoder(vit, size=48))
    assert small.checksum == large.checksum and (small.patches, large.patches) == (16, 36)


# error messages


def test_sizes_that_do_not_suit(vit: open_clip.CLIP, resnet: open_clip.CLIP) -> None:
    with pytest.raises(EncoderError, match="multiple of 32 pixels; the nearest is 64 or 96"):
        encoder(resnet, size=70)
    with pytest.raises(EncoderError, match=r"multiple of 8 pixels; the nearest is 8$"):
        encoder(vit, size=5)
    with pytest.raises(EncoderError, match="only squares"):
        square_side((32, 64))
    with pytest.raises(
        EncoderError, match=r"expects pixels \(B, 3, 32, 32\), got \(1, 3, 40, 40\)"
    ):
        encoder(vit).encode_image(pixels(40, 1))
    check_size(64, 32)


def test_models_without_patch_features_are_refused(vit: open_clip.CLIP) -> None:
    twice = clip({**VIT, "attentional_pool": "parallel", "attn_pooler_heads": 4})
    with pytest.raises(EncoderError, match="pools twice or not at all"):
        encoder(twice)
    with pytest.raises(EncoderError, match=r"VisionTransformerRelPos.*take a ResNet"):
        image_tower(TimmModel("test_vit_relpos", 24, image_size=160, pool="", proj="linear"))
    with pytest.raises(EncoderError, match="ResNet of timm: it pools with a timm attention pool"):
        pooled = nn.Sequential(OrderedDict(pool=nn.Identity()))
        timm_tower(SimpleNamespace(trunk=timm.create_model("test_resnet"), head=pooled))
    with pytest.raises(EncoderError, match="image tower Linear"):
        image_tower(nn.Linear(2, 2))
    with pytest.raises(EncoderError, match="text tower Linear"):
        text_tower(SimpleNamespace(text=nn.Linear(2, 2)), TOKENIZER)
    with pytest.raises(EncoderError, match="pool_type 'none'"):
        encoder(clip(VIT, {"pool_type": "none"}))
    with pytest.raises(EncoderError, match="resize_mode must be"):
        encoder(vit, resize_mode="stretch")
