"""Measure what the bundled encoder knows of both hands of the generated world, untrained on.

    python -m benchmarks.accuracy.bundled_zero_shot --out benchmarks/results/bundled_zero_shot.json

Scores are cosines with the prompt "a photo of a {name}": of the image feature, and of the patch
features weighted by a softmax over the patches. mAP is non-interpolated, mean over categories.
"""

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from benchmarks.record import provenance
from torch import Tensor

from trmml.encoders import load_encoder
from trmml.encoders.base import Encoder
from trmml.metrics.average_precision import average_precisions
from trmml.synthetic import CATEGORY_NAMES, draw_scene

PROMPT = "a photo of a {}"
PATCH_SCALE = 50.0  # 1 / temperature of the softmax over patches
BATCH = 64


@dataclass(frozen=True)
class Cosines:
    """Cosines (N, C) by two readings of the encoder, and the truth (N, C)."""

    image_feature: Tensor
    patches: Tensor
    truth: Tensor


@torch.no_grad()
def score(encoder: Encoder, style: Literal["demo", "caption"], images: int, seed: int) -> Cosines:
    """Draw images and compare each with each category's prompt."""
    texts = encoder.encode_text(
        *encoder.token_embeddings([PROMPT.format(name) for name in CATEGORY_NAMES])
    )
    truth = torch.zeros(images, len(CATEGORY_NAMES), dtype=torch.bool)
    whole, dense = [], []
    for start in range(0, images, BATCH):
        pixels = []
        for number in range(start, min(start + BATCH, images)):
            scene = draw_scene(np.random.default_rng([seed, number]), style)
            truth[number, list(scene.category_indices)] = True
            pixels.append(encoder.preprocess(scene.image))
        hidden, feature = encoder.encode_image(torch.stack(pixels))
        cosines = F.normalize(encoder.project(hidden), dim=-1) @ texts.T  # (B, P, C)
        whole.append(feature @ texts.T)
        dense.append(((PATCH_SCALE * cosines).softmax(1) * cosines).sum(1))
    return Cosines(torch.cat(whole), torch.cat(dense), truth)


def per_category(scores: Tensor, truth: Tensor) -> list[float]:
    """AP of each category in percent; nan where no image shows it."""
    return (100 * average_precisions(scores, truth, torch.ones_like(truth))).tolist()


def measure(encoder: Encoder, images: int, seed: int) -> dict[str, dict[str, object]]:
    """Per style: mAP by both readings, what chance would give, AP per category."""
    result: dict[str, dict[str, object]] = {}
    for style in ("caption", "demo"):
        scores = score(encoder, style, images, seed)
        whole, dense = (
            per_category(part, scores.truth) for part in (scores.image_feature, scores.patches)
        )
        result[style] = {
            "map_image_feature": round(float(np.nanmean(whole)), 2),
            "map_patches": round(float(np.nanmean(dense)), 2),
            "map_of_chance": round(100 * float(scores.truth.float().mean()), 2),
            "labels_per_image": round(float(scores.truth.sum(1).float().mean()), 2),
            "ap_image_feature": _named(whole),
            "ap_patches": _named(dense),
        }
    return result


def _named(figures: list[float]) -> dict[str, float | None]:
    return {
        name: None if np.isnan(figure) else round(figure, 1)
        for name, figure in zip(CATEGORY_NAMES, figures, strict=True)
    }


def main() -> None:
    """Print a table and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1000, help="images of each style")
    parser.add_argument("--seed", type=int, default=900_001, help="never used in training")
    parser.add_argument("--encoder", default="bundled")
    parser.add_argument("--out", type=Path, help="where to write JSON")
    options = parser.parse_args()
    started = time.time()
    result = measure(load_encoder(options.encoder), options.images, options.seed)
    print(f"{'style':10}{'image feature':>15}{'patches':>10}{'chance':>9}   (mAP, %)")
    for style, row in result.items():
        print(
            f"{style:10}{row['map_image_feature']:15.1f}{row['map_patches']:10.1f}"
            f"{row['map_of_chance']:9.1f}"
        )
    if options.out:
        report = {
            "what": "zero-shot mAP of the bundled encoder on generated scenes",
            "encoder": options.encoder,
            "images": options.images,
            "seed": options.seed,
            "prompt": PROMPT,
            "seconds": round(time.time() - started),
            "threads": torch.get_num_threads(),
            **provenance(),
            "results": result,
        }
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
