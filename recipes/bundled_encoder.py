"""Train the bundled encoder: a small CLIP that knows the generated world and nothing else.

    python recipes/bundled_encoder.py --work work/bundled --out src/trmml/encoders/bundled_weights

Images are drawn in the "caption" style, never in the "demo" style. A ModifiedResNet of open_clip
reads the images, and a small transformer reads captions. Four contrastive terms bring them
together: captions with images, and category names with images, with patches, and with the patches
under each object's box. The first part of the training reads windows at 96 pixels, the second whole
images at the final size. Gradients are averaged over two processes of one thread each. Other work
on the machine slows them less than two threads in one process.
"""

import argparse
import json
import math
import platform
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import save_file
from torch import Tensor, nn

from bundled_images import MEAN, SIZE, STD, Batch, Images, draw_all
from bundled_vocabulary import TEMPLATES, write_vocabulary
from trmml.synthetic import CATEGORY_NAMES
from trmml.synthetic.captions import name_with_article

CONTEXT_LENGTH = 40
WEIGHTS_NAME, VOCABULARY_NAME = "weights.safetensors", "vocabulary.txt.gz"


@dataclass(frozen=True)
class Recipe:
    """Every number of the training."""

    images: int = 10_000
    steps: int = 1_000
    small_share: float = 0.85  # of the steps, on windows of `small_size` pixels
    small_size: int = 96
    batch: int = 64  # per process
    captioned: int = 24  # images of a batch whose captions are read
    processes: int = 2
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    seed: int = 1


def model_config(vocabulary: int) -> dict[str, object]:
    """What `open_clip.CLIP` takes."""
    vision = {"layers": [1, 2, 2, 1], "width": 16, "head_width": 64, "image_size": SIZE}
    text = {"context_length": CONTEXT_LENGTH, "vocab_size": vocabulary, "width": 128, "heads": 4,
            "layers": 3}  # fmt: skip
    return {"embed_dim": 128, "vision_cfg": vision, "text_cfg": text}


# --- model ------------------------------------------------------------------------------------


def encode_images(model: nn.Module, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Patch features (B, P, D), not normalised, and image features (B, D), unit length."""
    tower, pool = model.visual, model.visual.attnpool
    hidden = tower.layer4(tower.layer3(tower.layer2(tower.layer1(tower.stem(pixels)))))
    rows, columns = hidden.shape[2:]
    tokens = hidden.flatten(2).transpose(1, 2)  # (B, P, W)
    patches = pool.c_proj(pool.v_proj(tokens))
    tokens = torch.cat([tokens.mean(1, keepdim=True), tokens], 1)
    tokens = tokens + _positions(pool.positional_embedding, rows, columns)
    query, key, value = pool.q_proj(tokens[:, :1]), pool.k_proj(tokens), pool.v_proj(tokens)
    split = (len(tokens), -1, pool.num_heads, query.shape[-1] // pool.num_heads)
    heads = (part.reshape(split).transpose(1, 2) for part in (query, key, value))
    pooled = F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(1)
    return patches, F.normalize(pool.c_proj(pooled), dim=-1)


def _positions(embedding: Tensor, rows: int, columns: int) -> Tensor:
    if len(embedding) == rows * columns + 1:
        return embedding
    side = math.isqrt(len(embedding) - 1)
    grid = embedding[1:].T.reshape(1, -1, side, side)
    grid = F.interpolate(grid, (rows, columns), mode="bicubic", align_corners=False)
    return torch.cat([embedding[:1], grid.flatten(2)[0].T])


def encode_texts(model: nn.Module, tokens: Tensor) -> Tensor:
    """Unit-length features (N, D) of token rows; columns after the longest text are dropped."""
    ends = tokens.argmax(1)
    length = int(ends.max()) + 1
    states = model.token_embedding(tokens[:, :length]) + model.positional_embedding[:length]
    states = model.transformer(states, attn_mask=model.attn_mask[:length, :length])
    states = model.ln_final(states)[torch.arange(len(tokens)), ends]
    return F.normalize(states @ model.text_projection, dim=-1)


# --- losses -----------------------------------------------------------------------------------


def two_way(logits: Tensor, state: Tensor) -> Tensor:
    """Contrastive loss with several positives a row and a column; entries of -1 take no part."""
    logits = logits.masked_fill(state < 0, -1e4)
    positive = (state > 0).float()
    total = logits.new_zeros(())
    for axis in (1, 0):
        weight = positive / positive.sum(axis, keepdim=True).clamp_min(1)
        rows = -(weight * logits.log_softmax(axis)).sum(axis)
        any_positive = positive.sum(axis) > 0
        total = total + (rows * any_positive).sum() / any_positive.sum().clamp_min(1)
    return total / 2


def region_features(patches: Tensor, boxes: Tensor) -> Tensor:
    """Mean patch feature under each box, unit length, (M, D)."""
    side = math.isqrt(patches.shape[1])
    edges = torch.arange(side + 1) / side
    covers = []
    for low, high in ((boxes[:, 2:3], boxes[:, 4:5]), (boxes[:, 3:4], boxes[:, 5:6])):
        covers.append(
            (torch.minimum(edges[1:], high) - torch.maximum(edges[:-1], low)).clamp_min(0)
        )
    weight = (covers[1][:, :, None] * covers[0][:, None, :]).flatten(1)  # (M, P)
    weight = weight / weight.sum(1, keepdim=True).clamp_min(1e-6)
    return F.normalize((weight[:, None] @ patches[boxes[:, 0].long()])[:, 0], dim=-1)


def losses(
    model: nn.Module, batch: Batch, tokenizer: SimpleTokenizer, step: int
) -> dict[str, Tensor]:
    """The four terms."""
    template = TEMPLATES[step % len(TEMPLATES)]
    articles = "small" not in template and "large" not in template
    names = [
        template.format(name_with_article(name) if articles else name) for name in CATEGORY_NAMES
    ]
    texts = encode_texts(model, tokenizer([*names, *batch.captions], CONTEXT_LENGTH))
    names_features, captions = texts[: len(names)], texts[len(names) :]
    patches, features = encode_images(model, batch.pixels)
    scale = model.logit_scale.exp().clamp(max=100)
    named = batch.caption_sets
    missing = (named[None] & (batch.state <= 0)[:, None]).any(2)  # (B, captions)
    fits = torch.where(missing, 0, 1) - 2 * (~named.any(1))[None].long()  # nothing named: no part
    dense = scale * F.normalize(patches, dim=-1) @ names_features.T  # (B, P, C)
    pooled = (dense.softmax(1) * dense).sum(1)
    regions = scale * region_features(patches, batch.boxes) @ names_features.T
    return {
        "captions": two_way(scale * features @ captions.T, fits.clamp_min(-1)),
        "names": two_way(scale * features @ names_features.T, batch.state),
        "patches": two_way(pooled, batch.state),
        "regions": F.cross_entropy(regions, batch.boxes[:, 1].long()),
    }


# --- training ---------------------------------------------------------------------------------


def train(rank: int, work: Path, recipe: Recipe) -> None:
    """One process of the training; the first one writes `model.pt` and the log."""
    torch.set_num_threads(1)
    torch.manual_seed(recipe.seed)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{work}/meeting", rank=rank, world_size=recipe.processes
    )
    tokenizer = SimpleTokenizer(bpe_path=str(work / VOCABULARY_NAME), context_length=CONTEXT_LENGTH)
    model = open_clip.CLIP(**model_config(tokenizer.vocab_size))
    model = model.to(memory_format=torch.channels_last).train()
    optimizer = _optimizer(model, recipe)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, recipe.steps, pct_start=0.15
    )
    images, rng = (
        Images(work, batch=recipe.batch, captioned=recipe.captioned),
        np.random.default_rng([recipe.seed, 7, rank]),
    )
    started, sums = time.time(), Counter[str]()
    for step in range(recipe.steps):
        small = step < recipe.small_share * recipe.steps
        batch = images.batch(rng, recipe.small_size if small else SIZE)
        terms = losses(model, batch, tokenizer, step)
        optimizer.zero_grad()
        sum(terms.values()).backward()
        _average_gradients(model, recipe.processes)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        sums.update({name: float(term.detach()) for name, term in terms.items()})
        if rank == 0 and step % 20 == 19:
            means = " ".join(f"{name} {value / 20:.3f}" for name, value in sums.items())
            scale = float(model.logit_scale.detach().exp())
            print(f"{step + 1} {time.time() - started:.0f} s {means} scale {scale:.1f}", flush=True)
            sums.clear()
        if rank == 0 and (step % 250 == 249 or step + 1 == recipe.steps):
            torch.save(model.state_dict(), work / "model.pt")
    torch.distributed.destroy_process_group()


def _optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(
        groups, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, betas=(0.9, 0.98)
    )


def _average_gradients(model: nn.Module, processes: int) -> None:
    if processes == 1:
        return
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    torch.distributed.all_reduce(flat)
    start = 0
    for gradient in gradients:
        gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient) / processes)
        start += gradient.numel()


# --- saving ---


def save(model: nn.Module, vocabulary: Path, out: Path, training: dict[str, object]) -> None:
    """Write config, half-precision weights and vocabulary."""
    out.mkdir(parents=True, exist_ok=True)
    state = {
        name: value.half().contiguous() if value.is_floating_point() else value
        for name, value in model.state_dict().items()
        if name != "attn_mask"
    }
    save_file(state, out / WEIGHTS_NAME)
    (out / WEIGHTS_NAME).chmod(0o644)
    (out / VOCABULARY_NAME).write_bytes(vocabulary.read_bytes())
    size = SimpleTokenizer(bpe_path=str(vocabulary)).vocab_size
    config = {
        "model_cfg": model_config(size),
        "preprocess": {"size": SIZE, "mean": MEAN, "std": STD, "interpolation": "bicubic",
                       "resize_mode": "squash"},
        "tokenizer": {"bpe_path": VOCABULARY_NAME, "context_length": CONTEXT_LENGTH},
        "weights": {"file": WEIGHTS_NAME, "dtype": "float16"},
        "training": training,
    }  # fmt: skip
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def main() -> None:
    """Draw, train, measure, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for images and log")
    parser.add_argument("--out", type=Path, required=True, help="folder for the encoder's files")
    parser.add_argument("--images", type=int, default=Recipe.images)
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    options = parser.parse_args()
    recipe = Recipe(images=options.images, steps=options.steps)
    work: Path = options.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    write_vocabulary(work / VOCABULARY_NAME)
    started = time.time()
    if not (work / "words.json").exists():
        draw_all(work, images=recipe.images, seed=recipe.seed, processes=recipe.processes)
    drawn = time.time()
    (work / "meeting").unlink(missing_ok=True)
    if recipe.steps:
        torch.multiprocessing.spawn(train, (work, recipe), nprocs=recipe.processes)
    trained = time.time()
    tokenizer = SimpleTokenizer(bpe_path=str(work / VOCABULARY_NAME), context_length=CONTEXT_LENGTH)
    model = open_clip.CLIP(**model_config(tokenizer.vocab_size))
    training: dict[str, object] = {"recipe": asdict(recipe), "styles": ["caption"]}
    if recipe.steps:
        model.load_state_dict(torch.load(work / "model.pt", weights_only=True))
        training |= {
            "seconds_drawing": round(drawn - started),
            "seconds_training": round(trained - drawn),
            "versions": {"python": platform.python_version(), "torch": torch.__version__,
                         "open_clip": open_clip.__version__},
        }  # fmt: skip
    save(model, work / VOCABULARY_NAME, options.out, training)


if __name__ == "__main__":
    main()
