"""Tiny architectures known to open_clip, and files of weights for them, for tests."""

import json
import warnings
from collections.abc import Iterator
from pathlib import Path

import open_clip
import pytest
import torch
from torch import Tensor, nn

from trmml.encoders.clip import weights as clip_weights
from trmml.encoders.clip.load import build_model
from trmml.storage.hashes import hash_file

TEXT = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1}
CONFIGS = {
    "tiny-RN": {
        "embed_dim": 24,
        "vision_cfg": {"layers": [1, 1, 1, 1], "width": 8, "image_size": 64},
        "text_cfg": TEXT,
    },
    "tiny-ViT": {
        "embed_dim": 24,
        "vision_cfg": {
            "layers": 2,
            "width": 64,
            "head_width": 64,
            "patch_size": 8,
            "image_size": 32,
        },
        "text_cfg": TEXT,
    },
    "tiny-SigLIP": {
        "embed_dim": 24,
        "init_logit_bias": -10,
        "custom_text": True,
        "vision_cfg": {"layers": 2, "width": 64, "patch_size": 16, "image_size": 32},
        "text_cfg": TEXT,
    },
}


@pytest.fixture(scope="module", autouse=True)
def architectures(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Make the tiny architectures known to open_clip while these tests run."""
    folder = tmp_path_factory.mktemp("configs")
    for name, config in CONFIGS.items():
        (folder / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)
    yield
    open_clip.factory._MODEL_CONFIG_PATHS.remove(folder)
    for name in CONFIGS:
        del open_clip.factory._MODEL_CONFIGS[name]


def state(name: str = "tiny-RN", **settings: bool) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return build_model(CONFIGS[name], **settings).state_dict()


class Holder(nn.Module):
    """Holds entries under dotted names, so that a state dict can be made into an archive."""

    def __init__(self, entries: dict[str, Tensor]) -> None:
        super().__init__()
        for name in {key.split(".")[0] for key in entries}:
            inner = {k[len(name) + 1 :]: v for k, v in entries.items() if k.startswith(f"{name}.")}
            if inner:
                self.add_module(f"{name}", Holder(inner))
            else:
                self.register_buffer(name, entries[name])

    def forward(self, x: Tensor) -> Tensor:
        return x


def published(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    """Have an archive pass for one that OpenAI published."""
    monkeypatch.setattr(clip_weights, "_openai_checksums", lambda: {hash_file(path)})


def save_openai_archive(entries: dict[str, Tensor], path: Path) -> None:
    """A TorchScript archive with the names, dtypes and extra entries of OpenAI's own."""
    halves = {k: v.half() if v.is_floating_point() else v for k, v in entries.items()}
    extras = {"input_resolution": 64, "context_length": 77, "vocab_size": 49408}
    halves.update({key: torch.tensor(value) for key, value in extras.items()})
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*torch\.jit\.script.*", category=FutureWarning)
        torch.jit.script(Holder(halves)).save(str(path))
