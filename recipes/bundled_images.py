"""Images that train the bundled encoder: drawn once, then cut into windows at random."""

import json
import multiprocessing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from trmml.synthetic import CATEGORY_NAMES, draw_scene
from trmml.synthetic.captions import write_caption

SIZE = 160
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
MOST_OBJECTS = 8


def draw(task: tuple[int, int]) -> tuple[np.ndarray, list[tuple[float, ...]], list[str], str]:
    """One image squashed to SIZE, its boxes (category, edges in [0, 1]), colours, setting."""
    scene = draw_scene(np.random.default_rng(task), "caption")
    width, height = scene.image.size
    boxes = [
        (box.category, box.left / width, box.top / height, box.right / width, box.bottom / height)
        for box in scene.boxes
    ][:MOST_OBJECTS]
    pixels = np.asarray(scene.image.resize((SIZE, SIZE), Image.Resampling.BICUBIC))
    return pixels, boxes, [box.colour for box in scene.boxes], scene.setting


def draw_all(work: Path, *, images: int, seed: int, processes: int) -> None:
    """Draw the training images once and keep them in `work`."""
    pixels = np.lib.format.open_memmap(work / "pixels.npy", "w+", np.uint8, (images, SIZE, SIZE, 3))
    boxes = np.full((images, MOST_OBJECTS, 5), -1.0, dtype=np.float32)
    words = []
    tasks = [(seed, k) for k in range(images)]
    with multiprocessing.get_context("fork").Pool(processes) as pool:
        for k, (image, places, colours, setting) in enumerate(pool.imap(draw, tasks, 64)):
            pixels[k] = image
            boxes[k, : len(places)] = np.array(places, dtype=np.float32).reshape(-1, 5)
            words.append((colours, setting))
            if k % 1000 == 0:
                print(f"drawn {k}", flush=True)
    np.save(work / "boxes.npy", boxes)
    (work / "words.json").write_text(json.dumps(words))


@dataclass(frozen=True)
class Batch:
    """Windows of images: pixels (B, 3, S, S), state (B, C) 1, 0 or -1 if cut, boxes, captions."""

    pixels: Tensor
    state: Tensor
    boxes: Tensor  # (M, 6): row in the batch, category, edges in the window
    captions: list[str]
    caption_sets: Tensor  # (captions, C) bool: what each caption names


class Images:
    """The drawn images, from which windows are cut at random.

    Args:
        work: where `draw_all` left them.
        batch: windows in a batch.
        captioned: how many of them get a caption.
    """

    def __init__(self, work: Path, *, batch: int, captioned: int) -> None:
        self.pixels = np.load(work / "pixels.npy", mmap_mode="r")
        self.boxes = torch.from_numpy(np.load(work / "boxes.npy"))
        self.words = json.loads((work / "words.json").read_text())
        self.rows, self.captioned = batch, captioned

    def batch(self, rng: np.random.Generator, size: int) -> Batch:
        """A batch of windows at `size` pixels."""
        rows = rng.choice(len(self.pixels), self.rows, replace=False)
        plain = np.array([not self.words[row][1] for row in rows])
        low, high = (np.where(plain, 0.6, 0.5), np.where(plain, 1.0, 0.8))
        if size == SIZE:
            low, high = np.full(len(rows), 0.85), np.full(len(rows), 1.0)
        window = torch.from_numpy(rng.uniform(low, high).astype(np.float32))  # (B,)
        corner = torch.from_numpy(rng.random((len(rows), 2), dtype=np.float32))
        corner = corner * (1 - window[:, None])
        flip = torch.from_numpy(rng.choice([-1.0, 1.0], len(rows)).astype(np.float32))
        pixels = _windows(torch.from_numpy(self.pixels[rows]), window, corner, flip, size)
        boxes, share = _window_boxes(self.boxes[rows], window, corner, flip)
        state, kept = _states(boxes, share)
        captions, sets = self._captions(rng, rows, boxes, share)
        return Batch(_jitter(pixels, rng), state, kept, captions, sets)

    def _captions(
        self, rng: np.random.Generator, rows: np.ndarray, boxes: Tensor, share: Tensor
    ) -> tuple[list[str], Tensor]:
        count = self.captioned
        captions, sets = [], torch.zeros(count, len(CATEGORY_NAMES), dtype=torch.bool)
        for b, row in enumerate(rows.tolist()[: self.captioned]):
            colours, phrase = self.words[row]
            inside = (share[b] > 0.5).nonzero()[:, 0].tolist()
            named = [(int(boxes[b, m, 0]), colours[m]) for m in inside]
            if len(named) > 1 and rng.random() < 0.4:
                named = named[: int(rng.integers(1, len(named)))]
            phrase = phrase if rng.random() < 0.6 else ""
            captions.append(write_caption(rng, named, phrase, colour_share=0.4))
            sets[b, [index for index, _ in named]] = True
        return captions, sets


def _windows(pixels: Tensor, window: Tensor, corner: Tensor, flip: Tensor, size: int) -> Tensor:
    theta = torch.zeros(len(pixels), 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = window * flip, window
    theta[:, :, 2] = 2 * corner + window[:, None] - 1
    grid = F.affine_grid(theta, [len(pixels), 3, size, size], align_corners=False)
    floats = pixels.permute(0, 3, 1, 2).float()
    return F.grid_sample(floats, grid, padding_mode="border", align_corners=False)


def _window_boxes(
    boxes: Tensor, window: Tensor, corner: Tensor, flip: Tensor
) -> tuple[Tensor, Tensor]:
    """Boxes in the window's own coordinates and the share of each that lies inside; -1 padding."""
    edges = (boxes[..., 1:] - corner.repeat(1, 2)[:, None]) / window[:, None, None]
    mirrored = torch.stack([1 - edges[..., 2], edges[..., 1], 1 - edges[..., 0], edges[..., 3]], -1)
    edges = torch.where(flip[:, None, None] < 0, mirrored, edges)
    inside = edges.clamp(0, 1)
    area = (edges[..., 2] - edges[..., 0]) * (edges[..., 3] - edges[..., 1])
    kept = (inside[..., 2] - inside[..., 0]) * (inside[..., 3] - inside[..., 1])
    share = torch.where(boxes[..., 0] < 0, -1.0, kept / area.clamp_min(1e-6))
    return torch.cat([boxes[..., :1], inside], -1), share


def _states(boxes: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    state = torch.zeros(len(boxes), len(CATEGORY_NAMES), dtype=torch.long)
    for wanted, value in (((share > 0.1) & (share <= 0.5), -1), (share > 0.5, 1)):
        row, column = wanted.nonzero(as_tuple=True)
        state[row, boxes[row, column, 0].long()] = value
    row, column = (share > 0.5).nonzero(as_tuple=True)
    return state, torch.cat([row[:, None].float(), boxes[row, column]], 1)


def _jitter(pixels: Tensor, rng: np.random.Generator) -> Tensor:
    count = len(pixels)
    gain = torch.from_numpy(rng.uniform(0.75, 1.25, (count, 1, 1, 1)).astype(np.float32))
    cast = torch.from_numpy(rng.uniform(0.85, 1.15, (count, 3, 1, 1)).astype(np.float32))
    fade = torch.from_numpy(rng.uniform(0.0, 0.5, (count, 1, 1, 1)).astype(np.float32))
    grey = pixels.mean(1, keepdim=True)
    pixels = (pixels + fade * (grey - pixels)) * gain * cast
    pixels = pixels + torch.from_numpy(
        rng.standard_normal((count, 1, *pixels.shape[2:]), dtype=np.float32)
    ) * float(rng.uniform(0, 12))
    return normalise(pixels.clamp(0, 255))


def normalise(pixels: Tensor) -> Tensor:
    """Bytes (B, 3, S, S) to what the model reads."""
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
    return ((pixels / 255 - mean) / std).contiguous(memory_format=torch.channels_last)
