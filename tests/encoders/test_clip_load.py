"""Loading open_clip models: files of every layout, tags, architectures, and what is refused."""

import gzip
import json
from pathlib import Path

import open_clip
import pytest
import torch
from open_clip.transformer import QuickGELU
from safetensors import safe_open
from safetensors.torch import save_file

from tests.tiny_clip_files import (
    CONFIGS,
    TEXT,
    architectures,
    published,
    save_openai_archive,
    state,
)
from trmml.encoders import bundled, load_encoder
from trmml.encoders.base import identify
from trmml.encoders.clip import load as clip_load
from trmml.encoders.clip import weights as clip_weights
from trmml.encoders.clip.encoder import OpenClipEncoder
from trmml.encoders.clip.load import build_image_model, build_model, load_open_clip
from trmml.encoders.clip.weights import fit_weights, read_weights
from trmml.errors import EncoderError, MissingExtraError

__all__ = ["architectures"]  # a fixture


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "weights.safetensors"
    save_file(state(), path)
    return path


def test_every_kind_of_file_gives_the_same_encoder(tmp_path: Path, file: Path) -> None:
    entries = state()
    torch.save(entries, tmp_path / "plain.pt")
    nested = {f"module.{key}": value for key, value in entries.items()}
    torch.save({"epoch": 3, "state_dict": nested}, tmp_path / "training.pt")
    expected = identify(load_encoder(f"tiny-RN:{file}"))
    assert expected.name == f"tiny-RN:{file}" and expected.grid == (2, 2)
    for name in ("plain.pt", "training.pt"):
        found = identify(load_open_clip(f"tiny-RN:{tmp_path / name}"))
        assert found.checksum == expected.checksum
    assert load_encoder(f"tiny/RN:{file}", image_size=96).grid == (3, 3)
    cropped = load_open_clip(f"tiny-RN:{file}", resize_mode="center-crop")
    assert cropped.name.endswith("(center-crop)")


def test_openais_archive_means_quick_gelu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "RN.pt"
    save_openai_archive(state(), path)
    published(monkeypatch, path)
    found = load_open_clip(f"tiny-RN:{path}")
    assert isinstance(found.text_tower.transformer.resblocks[0].mlp.gelu, QuickGELU)
    torch.manual_seed(0)
    model = build_model(CONFIGS["tiny-RN"], quick_gelu=True)
    fit_weights(model, {k: v.half().float() for k, v in state().items()}, "model")
    ids = open_clip.tokenize(["a photo of a cat"])
    expected = model.encode_text(ids, normalize=True).detach()
    feature = found.encode_text(*found.token_embeddings(["a photo of a cat"]))
    torch.testing.assert_close(feature, expected, atol=1e-5, rtol=0)
    assert all(value.dtype == torch.float32 for value in found.parameters())


def test_openais_weights_in_another_file_are_pointed_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "RN-openai.safetensors"
    save_file(state(), path)
    load_encoder(f"tiny-RN:{path}")
    assert "write tiny-RN-quickgelu before the colon" in caplog.text


def test_settings_that_a_file_does_not_say_are_asked_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, file: Path
) -> None:
    half = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    tags: dict[str, dict[str, object]] = {
        "plain": {"url": "x"},
        "quick": {"quick_gelu": True},
        "half": half,
    }
    monkeypatch.setattr(open_clip, "list_pretrained_tags_by_model", lambda _: [*tags])
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda _, name: tags.get(name, {}))
    load_encoder(f"tiny-RN:{file}", text=False)
    assert "those of quick (quick_gelu=True); or half (mean=(0.5, 0.5, 0.5), std=" in caplog.text
    assert f"write tiny-RN:{file}@TAG" in caplog.text
    caplog.clear()
    encoders = {name: load_open_clip(f"tiny-RN:{file}@{name}") for name in tags}
    assert not caplog.text
    assert "mean (0.5, 0.5, 0.5)" in encoders["half"].preprocessing
    assert "mean (0.481" in encoders["quick"].preprocessing
    gelus = {
        name: isinstance(each.text_tower.transformer.resblocks[0].mlp.gelu, QuickGELU)
        for name, each in encoders.items()
    }
    assert gelus == {"plain": False, "quick": True, "half": False}
    with pytest.raises(EncoderError, match="'other' is neither a file nor a tag of tiny-RN; its"):
        load_encoder(f"tiny-RN:{file}@other")
    tags.clear()  # no weights are published, or all agree: nothing is asked
    load_encoder(f"tiny-RN:{file}", text=False)
    assert not caplog.text


def test_a_file_is_prepared_for_like_the_published_weights() -> None:
    agreed = clip_load._agreed_preprocess
    assert agreed("ViT-B-16-SigLIP")["mean"] == (0.5, 0.5, 0.5)
    assert agreed("MobileCLIP-S1")["std"] == (1.0, 1.0, 1.0)
    assert agreed("tiny-RN") == {}


def test_tags_are_downloaded(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    tag = {"quick_gelu": True, "mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
    known = {("tiny-RN", "openai"): tag}
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda *key: known.get(key, {}))
    monkeypatch.setattr(open_clip, "download_pretrained", lambda cfg: str(file))
    found = load_open_clip("tiny-RN:openai")
    assert isinstance(found.text_tower.transformer.resblocks[0].mlp.gelu, QuickGELU)
    from PIL import Image

    black = found.preprocess(Image.new("RGB", (8, 8)))
    torch.testing.assert_close(black, torch.full((3, 64, 64), -2.0))

    def offline(cfg: object) -> str:
        raise OSError("Name or service not known\nand more")

    monkeypatch.setattr(open_clip, "download_pretrained", offline)
    message = r"tiny-RN:openai: .*could not be downloaded \(Name or service not known\).*give the f"
    with pytest.raises(EncoderError, match=message):
        load_encoder("tiny-RN:openai")


def test_models_of_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, file: Path) -> None:
    config = tmp_path / "open_clip_config.json"
    content = {"model_cfg": CONFIGS["tiny-RN"], "preprocess_cfg": {"mean": [0.5, 0.5, 0.5]}}
    config.write_text(json.dumps(content))

    def download(model_id: str, filename: str | None = None) -> str:
        assert model_id == "owner/model"
        return str({"open_clip_config.json": config, "open_clip_model.safetensors": file}[filename])

    monkeypatch.setattr(clip_load, "download_pretrained_from_hf", download)
    monkeypatch.setattr(open_clip, "get_tokenizer", lambda name: open_clip.SimpleTokenizer())
    assert load_encoder("hf-hub:owner/model").size == 64
    for tree, words in (
        ({}, "has no 'model_cfg'"),
        ({"model_cfg": {"text_cfg": {}}}, "has no 'vision_cfg'"),
        ({"model_cfg": {**CONFIGS["tiny-RN"], "vision_cfg": {"timm_model_name": "hf-hub:evil/x"}}},
         "has timm fetch 'hf-hub:evil/x'"),
    ):  # fmt: skip
        config.write_text(json.dumps(tree))
        with pytest.raises(EncoderError, match=words):
            load_encoder("hf-hub:owner/model")

    def unknown(model_id: str, filename: str | None = None) -> str:
        raise FileNotFoundError("no such repository")

    monkeypatch.setattr(clip_load, "download_pretrained_from_hf", unknown)
    with pytest.raises(EncoderError, match=r"hf-hub:owner/none: .*no such repository"):
        load_encoder("hf-hub:owner/none")


@pytest.mark.parametrize("prefix", ["local-dir:", "hf-hub:"])
def test_a_folder_of_a_hub_model(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, prefix: str
) -> None:
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": CONFIGS["tiny-RN"]}))
    with pytest.raises(EncoderError, match=r"expected open_clip_config\.json and open_clip_model"):
        load_encoder(f"{prefix}{tmp_path}")
    torch.save(state(), tmp_path / "open_clip_pytorch_model.bin")
    if prefix == "local-dir:":
        assert load_encoder(f"{prefix}{tmp_path}").size == 64
    else:  # as of the hub itself
        with pytest.raises(EncoderError, match=r"and open_clip_model\.safetensors in the folder"):
            load_encoder(f"{prefix}{tmp_path}")
    save_file(state(), tmp_path / "open_clip_model.safetensors")
    found = load_encoder(f"{prefix}{tmp_path}")
    assert found.size == 64 and identify(found).name == f"{prefix}{tmp_path}"
    (tmp_path / "open_clip_config.json").write_text("[]")
    with pytest.raises(EncoderError, match=r"open_clip_config\.json is no JSON object"):
        load_encoder(f"{prefix}{tmp_path}")


@pytest.mark.parametrize("prefix", ["local-dir:", "hf-hub:"])
def test_a_tokenizer_runs_no_code(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, prefix: str
) -> None:
    text = {**TEXT, "hf_tokenizer_name": "owner/model", "tokenizer_kwargs": {"clean": "whitespace"}}
    config = {**CONFIGS["tiny-RN"], "text_cfg": text}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    save_file(state(), tmp_path / "open_clip_model.safetensors")
    asked: list[dict[str, object]] = []

    def get_tokenizer(name: str, **options: object) -> object:
        asked.append(options)
        return open_clip.SimpleTokenizer()

    monkeypatch.setattr(open_clip, "get_tokenizer", get_tokenizer)
    load_encoder(f"{prefix}{tmp_path}")
    assert asked == [{"trust_remote_code": False}]
    text["tokenizer_kwargs"] = {"clean": "lower", "trust_remote_code": True}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    with pytest.raises(EncoderError, match="gives the tokenizer trust_remote_code, and only clean"):
        load_encoder(f"{prefix}{tmp_path}", text=False)


def test_the_configuration_is_left_as_it_is() -> None:
    before = json.dumps(CONFIGS["tiny-SigLIP"])
    build_model(CONFIGS["tiny-SigLIP"], quick_gelu=True)
    assert json.dumps(CONFIGS["tiny-SigLIP"]) == before


# error messages


def test_unknown_architectures_and_tags(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match=r"no architecture 'RN10'; did you mean .*RN101"):
        load_encoder("RN10:openai")
    with pytest.raises(EncoderError, match=r"no architecture 'zzz'; see .*package.module:factory"):
        load_encoder("zzz")
    message = r"'opnai' is neither a file nor a tag of RN101; its tags are openai, yfcc15m"
    with pytest.raises(EncoderError, match=message):
        load_encoder("RN101:opnai")
    with pytest.raises(EncoderError, match=r"which weights\? Give RN101:tag or RN101:path"):
        load_encoder("RN101")
    with pytest.raises(EncoderError, match="open_clip has no weights for it"):
        load_encoder("tiny-RN")


def test_what_cannot_be_built_or_tokenized(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    with pytest.raises(EncoderError, match="open_clip cannot build this model"):
        build_model({"embed_dim": 8, "vision_cfg": {"depth": 3}, "text_cfg": {}})

    def no_transformers(name: str) -> object:
        raise ImportError("No module named 'transformers'")

    monkeypatch.setattr(open_clip, "get_tokenizer", no_transformers)
    with pytest.raises(
        MissingExtraError, match=r"a clone of trmml: pip install '\.\[huggingface\]'"
    ):
        load_encoder(f"tiny-RN:{file}")

    def no_network(name: str) -> object:
        raise OSError("cannot reach the hub")

    monkeypatch.setattr(open_clip, "get_tokenizer", no_network)
    with pytest.raises(EncoderError, match=r"tokenizer could not be downloaded \(cannot reach"):
        load_encoder(f"tiny-RN:{file}")


# without the text tower


@pytest.fixture
def no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """Building a text tower or a tokenizer fails."""

    def fails(*_: object, **__: object) -> object:
        raise AssertionError("texts are not asked for")

    for place in (open_clip.model, open_clip.coca_model):
        monkeypatch.setattr(place, "_build_text_tower", fails)
    monkeypatch.setattr(open_clip, "get_tokenizer", fails)


@pytest.mark.parametrize("name", ["tiny-RN", "tiny-ViT", "tiny-SigLIP"])
@pytest.mark.parametrize("kind", ["safetensors", "pt", "training"])
def test_the_image_tower_alone_gives_the_same_bits(
    name: str,
    kind: str,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(open_clip, "get_tokenizer", lambda name: open_clip.SimpleTokenizer())
    entries, path = state(name), tmp_path / f"weights.{kind}"
    if kind == "safetensors":
        save_file(entries, path)
    elif kind == "pt":
        torch.save(entries, path)
    else:
        torch.save({"state_dict": {f"module.{key}": v for key, v in entries.items()}}, path)
    whole = load_encoder(f"{name}:{path}")
    request.getfixturevalue("no_text")
    alone = load_encoder(f"{name}:{path}", text=False)
    assert isinstance(whole, OpenClipEncoder) and isinstance(alone, OpenClipEncoder)
    images = torch.randn(2, 3, whole.size, whole.size)
    for found, expected in zip(alone.encode_image(images), whole.encode_image(images), strict=True):
        assert torch.equal(found, expected)
    hidden, _ = alone.encode_image(images)
    assert torch.equal(alone.project(hidden), whole.project(hidden))
    assert alone.logit_scale == whole.logit_scale
    assert not [key for key in alone.state_dict() if not key.startswith("image_tower.")]
    found, expected = identify(alone), identify(whole)
    assert found.image_checksum == expected.image_checksum
    assert (found.checksum, found.token_size, alone.has_text) == ("", 0, False)
    message = "was loaded without its text tower, so it encodes no text.*text=True"
    with pytest.raises(EncoderError, match=message):
        alone.token_embeddings(["dog"])
    with pytest.raises(EncoderError, match=message):
        alone.encode_text(torch.zeros(1, 2, 3), torch.ones(1, 2))


def test_text_weights_of_safetensors_are_not_read(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    class Spy:
        def __init__(self, *arguments: object, **settings: object) -> None:
            self.file = safe_open(*arguments, **settings)

        def __enter__(self) -> "Spy":
            self.file.__enter__()
            return self

        def __exit__(self, *arguments: object) -> None:
            self.file.__exit__(*arguments)

        def keys(self) -> list[str]:
            return self.file.keys()

        def get_tensor(self, key: str) -> torch.Tensor:
            read.append(key)
            return self.file.get_tensor(key)

    monkeypatch.setattr(clip_weights, "safe_open", Spy)
    load_encoder(f"tiny-RN:{file}", text=False)
    assert "logit_scale" in read
    assert all(key.startswith("visual.") for key in read if key != "logit_scale")


def test_openais_archive_without_text(
    tmp_path: Path,
    request: pytest.FixtureRequest,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "openai.pt"
    save_openai_archive(state("tiny-ViT"), path)
    published(monkeypatch, path)
    request.getfixturevalue("no_text")
    found = load_open_clip(f"tiny-ViT:{path}", text=False)
    assert isinstance(found.image_tower.visual.transformer.resblocks[0].mlp.gelu, QuickGELU)
    assert not caplog.text  # the archive says which GELU it needs


def test_quick_gelu_changes_the_checksum(tmp_path: Path, file: Path) -> None:
    path = tmp_path / "vit.safetensors"
    save_file(state("tiny-ViT"), path)
    plain = load_open_clip(f"tiny-ViT:{path}", text=False)
    quick = OpenClipEncoder(
        build_image_model(CONFIGS["tiny-ViT"], quick_gelu=True), None, name="quick"
    )
    quick.load_state_dict(plain.state_dict())
    assert identify(quick).image_checksum != identify(plain).image_checksum


def test_image_weights_that_do_not_fit(tmp_path: Path, file: Path) -> None:
    message = r"missing \(.*unexpected \(.*They fit .*tiny-RN.*before the colon"
    with pytest.raises(EncoderError, match=message):
        load_encoder(f"tiny-ViT:{file}", text=False)


# the bundled encoder


def write_bundle(folder: Path) -> None:
    """A folder of the form that the package carries, with random weights and few words."""
    vocabulary = 512 + 3 + 2  # bytes, bytes at a word's end, three merges, two special tokens
    config = {**CONFIGS["tiny-RN"], "text_cfg": {**TEXT, "vocab_size": vocabulary}}
    config["text_cfg"]["context_length"] = 20
    torch.manual_seed(0)
    halves = {k: v.half() for k, v in build_model(config).state_dict().items()}
    save_file(halves, folder / "w.safetensors")
    merges = "#version\nd o\nc a\nca t</w>"
    (folder / "bpe.txt.gz").write_bytes(gzip.compress(merges.encode()))
    preprocess = {"size": 64, "mean": [0.5] * 3, "std": [0.5] * 3}
    preprocess.update(interpolation="bicubic", resize_mode="squash")
    content = {
        "model_cfg": config,
        "preprocess": preprocess,
        "tokenizer": {"bpe_path": "bpe.txt.gz", "context_length": 20},
        "weights": {"file": "w.safetensors", "dtype": "float16"},
    }
    (folder / "config.json").write_text(json.dumps(content))


def test_a_bundle_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bundle(tmp_path)
    monkeypatch.setattr(bundled, "FOLDER", tmp_path)
    encoder = load_encoder("bundled", image_size=96)
    assert isinstance(encoder, OpenClipEncoder)
    identity = identify(encoder)
    assert (identity.name, identity.size, identity.grid) == ("bundled", 96, (3, 3))
    assert encoder.context_length == 20
    assert encoder.token_embeddings(["cat"])[0].shape[1] == 3  # start, cat, end
    alone = load_encoder("bundled", image_size=96, text=False)
    assert identify(alone).image_checksum == identity.image_checksum
    assert not alone.has_text


def test_a_bundle_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundled, "FOLDER", tmp_path)
    with pytest.raises(EncoderError, match=r"bundled encoder cannot be read.*install trmml again"):
        load_encoder("bundled")


# real architectures


@pytest.mark.slow
@pytest.mark.parametrize(("name", "patches"), [("RN101", 196), ("ViT-B-16", 784)])
def test_real_architectures(
    name: str, patches: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = build_model(open_clip.get_model_config(name), quick_gelu=True).eval()
    path = tmp_path / "archive.pt"
    save_openai_archive(model.state_dict(), path)
    published(monkeypatch, path)
    fit_weights(model, read_weights(path)[0], name)
    encoder = load_encoder(f"{name}:{path}")
    images = torch.randn(1, 3, 224, 224)
    _, feature = encoder.encode_image(images)
    expected = model.encode_image(images, normalize=True).detach()
    torch.testing.assert_close(feature, expected, atol=1e-5, rtol=0)
    texts = ["dog", "a photo of a cat"]
    expected = model.encode_text(open_clip.tokenize(texts), normalize=True).detach()
    found = encoder.encode_text(*encoder.token_embeddings(texts))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert identify(load_encoder(f"{name}:{path}", image_size=448)).patches == patches
