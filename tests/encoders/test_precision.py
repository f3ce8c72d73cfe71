import json
from dataclasses import replace

import pytest
import torch

from tests import tiny_clip
from trmml.encoders.frozen import frozen_encoder
from trmml.encoders.speed import onnx, precision
from trmml.encoders.speed.precision import (
    choose_precision,
    in_precision,
    remembered_choice,
    resolve_precision,
)
from trmml.errors import EncoderError
from trmml.storage import cache

TOWERS = {"ViT": (tiny_clip.VIT, 32), "ResNet": (tiny_clip.RESNET, 64)}


@pytest.fixture(params=TOWERS)
def encoder(request, tmp_path, monkeypatch):
    monkeypatch.setenv("TRMML_CACHE", str(tmp_path / "cache"))
    return tiny_clip.encoder(tiny_clip.clip(TOWERS[request.param][0]))


def features(encoder, name, count=3):
    return in_precision(frozen_encoder(encoder), name).encode(tiny_clip.pixels(encoder.size, count))


@pytest.mark.parametrize("name", ["fp32", "channels-last", "bf16", "onnx", "int8"])
def test_features_stay_close_and_the_encoder_as_it_is(encoder, name, monkeypatch):
    monkeypatch.setattr(onnx, "LEAST_WEIGHTS", 0)  # of a tiny tower
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    hidden, image = encoder.encode_image(tiny_clip.pixels(encoder.size))
    fast_hidden, fast_image = features(encoder, name)
    assert fast_hidden.dtype == fast_image.dtype == torch.float32
    assert fast_hidden.shape == hidden.shape and fast_image.shape == image.shape
    exact = name in ("fp32", "channels-last", "onnx")
    least = 0.99999 if exact else 0.99
    assert torch.cosine_similarity(fast_image, image).min() > least
    assert torch.cosine_similarity(fast_hidden, hidden, dim=-1).min() > least
    assert torch.allclose(fast_image.norm(dim=-1), torch.ones(3), atol=1e-3)
    after = encoder.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert all(value.is_contiguous() for value in after.values())


def test_the_onnx_file_is_made_once_and_anew_when_damaged(encoder, monkeypatch, caplog):
    features(encoder, "onnx")
    (path,) = (cache.cache_folder() / "encoders").glob("*.onnx")
    monkeypatch.setattr(onnx, "_make", None)
    features(encoder, "onnx", count=5)  # another batch size, the same file
    monkeypatch.undo()
    monkeypatch.setenv("TRMML_CACHE", str(path.parents[1]))
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1  # of a weight: ONNX Runtime would not notice
    for damaged in (whole[:1000], bytes(flipped)):
        caplog.clear()
        path.write_bytes(damaged)
        features(encoder, "onnx")
        assert path.name in caplog.text and path.stat().st_size > 1000
    caplog.clear()
    path.with_suffix(".sha256").unlink()  # as an earlier version left it
    features(encoder, "onnx")
    assert not caplog.text


def test_what_cannot_be_had_says_why(encoder, monkeypatch):
    for name, words in (("fp16", "needs a card"), ("fp8", "precision must be one of")):
        with pytest.raises(EncoderError, match=words):
            features(encoder, name)
    with pytest.raises(EncoderError, match="processor only"):
        in_precision(replace(frozen_encoder(encoder), device="cuda"), "int8")
    monkeypatch.setattr(precision.shutil, "which", lambda name: None)
    with pytest.raises(EncoderError, match="compiler"):
        features(encoder, "compile")


def test_the_fastest_that_changes_nothing_is_chosen_and_remembered(encoder, monkeypatch):
    frozen, samples = frozen_encoder(encoder), tiny_clip.pixels(encoder.size, 4)
    assert remembered_choice(frozen) is None

    def slow(encode, seconds, wrong=False):
        def run(pixels):
            hidden, image = encode(pixels)
            return (-hidden, -image) if wrong else (hidden, image)

        run.seconds = seconds
        return run

    ways = {
        "fp32": slow(encoder.encode_image, 4.0),
        "channels-last": slow(encoder.encode_image, 2.0),
        "bf16": slow(encoder.encode_image, 1.0, wrong=True),  # fastest, but another feature
    }

    def made(frozen, name):
        if name not in ways:
            raise OSError(f"no {name} today")
        return replace(frozen, encode=ways[name])

    monkeypatch.setattr(precision, "in_precision", made)
    monkeypatch.setattr(precision, "_timed", lambda way, samples: way.seconds)
    choice = choose_precision(frozen, samples)
    assert choice.precision == "channels-last" and choice.images_per_second["fp32"] == 1
    assert choice.cosines["bf16"] < 0 and choice.reasons["int8"] == "no int8 today"
    assert "2.00 times fp32" in str(choice)
    assert remembered_choice(frozen) == choice


def test_auto_measures_only_where_it_pays(encoder, monkeypatch):
    frozen, asked = frozen_encoder(encoder), []

    def auto(images):
        samples = lambda: asked.append(1) or tiny_clip.pixels(encoder.size, 2)  # noqa: E731
        return resolve_precision("auto", frozen, images=images, samples=samples)

    assert auto(10) == "fp32" and not asked
    monkeypatch.setattr(precision, "CPU_CANDIDATES", ("fp32",))
    assert auto(precision.MEASURE_FROM) == "fp32" and len(asked) == 1
    (path,) = (cache.cache_folder() / "encoders").glob("*-precision.json")
    chosen = {
        "precision": "onnx",
        "images_per_second": {"fp32": 1.0, "onnx": 2.0},
        "cosines": {"onnx": 1.0},
    }
    path.write_text(json.dumps(json.loads(path.read_text()) | chosen))
    assert auto(10) == "onnx" and len(asked) == 1  # what was measured serves small jobs too
    for damaged in (
        "damaged",
        "[]",
        "null",
        "[" * 99999,
        json.dumps(chosen),
        path.read_text().replace("onnx", "int9"),
        path.read_text().replace("2.0", '"2"'),
    ):
        path.write_text(damaged)
        assert auto(10) == "fp32"
    nothing = torch.empty(0, 3, encoder.size, encoder.size)  # no picture can be read
    many = {"images": precision.MEASURE_FROM, "samples": lambda: nothing}
    assert resolve_precision("auto", frozen, **many) == "fp32"
    few = {"images": 1, "samples": lambda: torch.empty(0)}
    assert resolve_precision("bf16", frozen, **few) == "bf16"
