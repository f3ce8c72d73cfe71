"""A tiny encoder of the protocol and a tiny picture folder, for tests."""

import hashlib
import string
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from safetensors.torch import load_file
from torch import Tensor, nn

# What is off by default, switched on: tests are of every part.
WHOLE = {
    "regions": {"mlp_size": 128},
    "csra_head": {"use": True},
    "neighbour_head": {"use": True},
    "losses": {"pseudo": 0.1, "contrastive": 0.02},
}
COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 180, 60),
    "blue": (40, 70, 220),
    "yellow": (230, 210, 40),
}


class ToyEncoder(nn.Module):
    """Patches are mean colours; words are hashed letters; random weights, so zero-shot is luck.

    Shapes: S = 24, P = 9, W = 12, D = 8, E = 6.
    """

    size = 24
    grid = (3, 3)
    context_position = 1
    context_length = 40

    def __init__(self, size: int = 24, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.size = size

        def random(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator) / shape[0] ** 0.5

        self.lift = nn.Parameter(random(3, 12))
        self.projection = nn.Parameter(random(12, 8))
        self.letters = nn.Parameter(random(len(string.printable) + 2, 6))
        self.text = nn.Parameter(random(6, 8))
        self.requires_grad_(False).eval()

    def preprocess(self, image: Image.Image) -> Tensor:
        resized = image.convert("RGB").resize((self.size, self.size), Image.Resampling.BILINEAR)
        return torch.from_numpy(np.array(resized)).permute(2, 0, 1).float() / 127.5 - 1

    @torch.no_grad()
    def encode_image(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        means = F.adaptive_avg_pool2d(pixels, 3).flatten(2).transpose(1, 2)  # (B, 9, 3)
        hidden = torch.tanh(means @ self.lift)
        return hidden, F.normalize(self.project(hidden).mean(dim=1), dim=-1)

    def project(self, hidden_patches: Tensor) -> Tensor:
        return hidden_patches @ self.projection

    def token_embeddings(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        end = len(string.printable)
        rows = [[end + 1, *(self._word(w) for w in text.split()), end] for text in texts]
        length = max(map(len, rows))
        mask = torch.tensor([[1] * len(r) + [0] * (length - len(r)) for r in rows])
        ids = torch.tensor([r + [end] * (length - len(r)) for r in rows])
        return self.letters[ids], mask

    @staticmethod
    def _word(word: str) -> int:
        return hashlib.sha256(word.encode()).digest()[0] % len(string.printable)

    def encode_text(self, token_embeddings: Tensor, mask: Tensor) -> Tensor:
        weights = mask.unsqueeze(-1).to(token_embeddings.dtype)
        mean = (token_embeddings * weights).sum(dim=1) / weights.sum(dim=1)
        return F.normalize(torch.tanh(mean) @ self.text, dim=-1)


def kept_encoder() -> ToyEncoder:
    """The encoder of the runs that are kept: other processors draw other last bits."""
    encoder = ToyEncoder()
    encoder.load_state_dict(load_file(Path(__file__).parent / "training/toy_encoder.safetensors"))
    return encoder


def write_images(folder: Path, count: int, seed: int = 0) -> np.ndarray:
    """Write `count` PNGs of coloured squares into a folder; returns which colours each shows."""
    rng = np.random.default_rng(seed)
    shown = rng.random((count, len(COLOURS))) < 0.4
    folder.mkdir(parents=True, exist_ok=True)
    for number, row in enumerate(shown):
        image = Image.new("RGB", (48, 48), (128, 128, 128))
        draw = ImageDraw.Draw(image)
        cells = rng.permutation(9)
        for cell, index in zip(cells, row.nonzero()[0], strict=False):
            left, top = 16 * (cell % 3), 16 * (cell // 3)
            draw.rectangle((left, top, left + 15, top + 15), fill=list(COLOURS.values())[index])
        image.save(folder / f"{number:03}.png")
    return shown


def write_table(path: Path, shown: np.ndarray) -> None:
    """Write the complete wide table of `write_images`."""
    lines = ["image," + ",".join(COLOURS)]
    lines += [f"{n:03}.png," + ",".join(str(int(v)) for v in row) for n, row in enumerate(shown)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
