"""Tiny open_clip models with random weights, for tests."""

import open_clip
import torch
from torch import Tensor, nn

from trmml.encoders.clip.encoder import OpenClipEncoder

RESNET = {"layers": [1, 1, 1, 1], "width": 8, "head_width": 64, "image_size": 64}
VIT = {"layers": 2, "width": 32, "head_width": 16, "patch_size": 8, "image_size": 32}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
TEXTS = ["dog", "a photo of a cat", "two words!", ""]
TOKENIZER = open_clip.SimpleTokenizer()


def perturb(module: nn.Module, seed: int = 0) -> nn.Module:
    """Take weights away from the zeros and ones they start with, so that no part is idle."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in module.parameters():
            value += 0.05 * torch.randn(value.shape, generator=generator)
    return module.eval()


def clip(vision: dict, text: dict | None = None, **settings: object) -> open_clip.CLIP:
    torch.manual_seed(0)
    return perturb(open_clip.CLIP(24, vision, {**TEXT, **(text or {})}, **settings))


def encoder(model: nn.Module, **settings: object) -> OpenClipEncoder:
    return OpenClipEncoder(model, TOKENIZER, name="tiny", **settings)


def pixels(size: int, count: int = 3) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))
