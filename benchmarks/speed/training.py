"""Images per second of training: the field's loop against trmml, A and B in turn in one run.

    python -m benchmarks.speed.training [--case rn101-448 vit-b-16-224] [--device cuda] [--bf16]

Both train 80 categories (COCO's names) at batch 32 on the same encoder with random weights: the
time does not depend on what the weights know. The field's loop gets decoded pixels; trmml reads a
warm store from disk. Its first epoch hashes, decodes and encodes as many images as a step of the
field's loop takes, writes a new store, and then trains on them. What is learned once, before the
first epoch, has a row of its own. Prints a table and writes benchmarks/results/training.json.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from benchmarks.record import write_results
from benchmarks.speed.field_loop import CONTEXT_TOKENS, FieldLoop
from benchmarks.speed.timing import in_turn, rates, timed
from lightning_fabric import Fabric
from PIL import Image

from trmml.encoders.clip.encoder import OpenClipEncoder
from trmml.encoders.frozen import frozen_encoder
from trmml.features.base import FeatureSource
from trmml.features.extract import Encoding, encode_images
from trmml.images import read_image
from trmml.labels.matrix import LabelMatrix
from trmml.method.build import build_trmml
from trmml.method.heads.image_head import ImageHead
from trmml.settings.sections import Settings
from trmml.training.heads import train_image_head
from trmml.training.trainer import Trainer

BATCH = 32
IMAGES = 64
FILL = "filling the store"
# Mean patches that the whole image learns from.
MEANS = 2048
# What is timed: (architecture, side in pixels).
CASES = {"rn101-448": ("RN101", 448), "vit-b-16-224": ("ViT-B-16", 224)}
AS_PUBLISHED = {"train_context": True, "context_start": "random", "context_tokens": CONTEXT_TOKENS}
# The ways trmml can train: what learns on the text side.
VARIANTS: dict[str, dict[str, Any]] = {
    f"{CONTEXT_TOKENS} context tokens trained": AS_PUBLISHED,
    "the template's tokens trained": {"train_context": True, "context_start": "template"},
    "context frozen (default)": {},
}
COCO = (
    "person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,"
    "stop sign,parking meter,bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,"
    "backpack,umbrella,handbag,tie,suitcase,frisbee,skis,snowboard,sports ball,kite,baseball bat,"
    "baseball glove,skateboard,surfboard,tennis racket,bottle,wine glass,cup,fork,knife,spoon,bowl,"
    "banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake,chair,couch,"
    "potted plant,bed,dining table,toilet,tv,laptop,mouse,remote,keyboard,cell phone,microwave,"
    "oven,toaster,sink,refrigerator,book,clock,vase,scissors,teddy bear,hair drier,toothbrush"
).split(",")


def random_encoder(architecture: str, size: int, device: str) -> OpenClipEncoder:
    """An open_clip model with seeded random weights as trmml's encoder."""
    torch.manual_seed(0)
    model = open_clip.create_model(architecture)
    tokenizer = open_clip.get_tokenizer(architecture)
    return OpenClipEncoder(model, tokenizer, name=architecture, size=size).to(device)


def write_photos(folder: Path, count: int, side: int) -> list[Path]:
    """JPEGs with coarse and fine structure, seeded."""
    generator = np.random.default_rng(0)
    paths = []
    for number in range(count):
        coarse = Image.fromarray(generator.integers(0, 255, (12, 12, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC), dtype=float)
        noisy = (smooth + generator.normal(0, 12, smooth.shape)).clip(0, 255).astype(np.uint8)
        paths.append(folder / f"{number}.jpg")
        Image.fromarray(noisy).save(paths[-1], quality=90)
    return paths


def some_labels(count: int) -> LabelMatrix:
    """Three present labels an image, a tenth of all labels known."""
    generator = torch.Generator().manual_seed(0)
    present = torch.rand(count, len(COCO), generator=generator) < 3 / len(COCO)
    return LabelMatrix(present, torch.rand(present.shape, generator=generator) < 0.1)


def trmml_steps(
    encoder: OpenClipEncoder, source: Any, matrix: LabelMatrix, prompts: dict[str, Any], **kind: str
) -> Callable[[], Iterator[None]]:
    """A function that runs one epoch of trmml's own trainer, step by step."""
    training = {"batch_size": BATCH, "epochs": 1000, "held_out_share": 0.05}
    settings = Settings(
        prompts=prompts,
        training={**training, "precision": kind["precision"]},
        prototypes={"warm_up_share": 0},  # so that every part of the method takes part
    )
    fabric = Fabric(accelerator=kind["device"], devices=1, precision=kind["precision"])
    trainer = Trainer(
        model=build_trmml(frozen_encoder(encoder), COCO, settings),
        source=source,
        matrix=matrix,
        truth=None,
        training=settings.training,
        fabric=fabric,
    )
    trainer.kept = torch.arange(IMAGES)  # whole batches only
    trainer.batches = IMAGES // BATCH

    def epoch() -> Iterator[None]:
        trainer.model.train()
        yield from trainer.run_epoch()
        trainer.close_epoch(0.0)

    return epoch


def run_epoch(epoch: Callable[[], Iterator[None]]) -> None:
    """One epoch, for its time."""
    for _ in epoch():
        pass


def text_floor(encoder: OpenClipEncoder, device: str) -> float:
    """Seconds of the bare text tower, forward and backward, on the prompts cut to their length."""
    with torch.no_grad():
        tokens, mask = encoder.token_embeddings(list(COCO))
    context = 0.02 * torch.randn(len(COCO), CONTEXT_TOKENS, tokens.shape[2])
    tokens = torch.cat([tokens[:, :1], context.to(device), tokens[:, 1:]], dim=1)
    mask = torch.cat([torch.ones_like(mask[:, :1]).expand(-1, CONTEXT_TOKENS), mask], dim=1)
    leaf = tokens.detach().requires_grad_()
    times = [timed(lambda: encoder.encode_text(leaf, mask).sum().backward()) for _ in range(3)]
    return statistics.median(times[1:])


def image_head_seconds(hidden_size: int, device: str) -> float:
    """Seconds in which the branch on the whole image makes all its passes."""
    settings, matrix = Settings(), some_labels(MEANS)
    branch = ImageHead(
        categories=len(COCO), hidden_size=hidden_size, settings=settings.image_head
    ).to(device)
    means = torch.rand(1, MEANS, hidden_size).half()
    return timed(lambda: train_image_head(branch, means, matrix, settings.training))


def measure(
    name: str, rounds: int, device: str, precisions: list[str], variants: list[str]
) -> list[dict[str, Any]]:
    """All rows of one case."""
    architecture, size = CASES[name]
    encoder = random_encoder(architecture, size, device)
    frozen = frozen_encoder(encoder, device=device)
    matrix = some_labels(IMAGES)
    with tempfile.TemporaryDirectory() as folder:
        paths = write_photos(Path(folder), IMAGES, size)
        stores = (Path(folder) / f"store {number}" for number in count())

        def filled(images: list[Path]) -> FeatureSource:
            """Their features, from a store that was empty."""
            encoding = Encoding(store=next(stores))
            return encode_images(images, frozen, encoding=encoding).source

        begun = time.perf_counter()
        source = filled(paths)
        cold = IMAGES / (time.perf_counter() - begun)
        field = FieldLoop(encoder, COCO, steps=1000, device=device)
        pixels = torch.stack([encoder.preprocess(read_image(path)) for path in paths[:BATCH]])
        labels, known = matrix.labels[:BATCH], matrix.known[:BATCH]
        ways: dict[tuple[str, str], Callable[[], object]] = {
            ("field's loop", "32-true"): lambda: field.step(pixels, labels, known)
        }
        for precision in precisions:
            for variant in variants:
                kind = {"precision": precision, "device": device}
                epoch = trmml_steps(encoder, source, matrix, VARIANTS[variant], **kind)
                ways[variant, precision] = lambda epoch=epoch: run_epoch(epoch)
        if rounds > 1:
            ways[FILL, "32-true"] = lambda: filled(paths[:BATCH])
        # Filling the store warmed it up; a quick round has no minute for the field's loop.
        cool = {FILL, "field's loop"} if rounds == 1 else {FILL}
        warm_up = {way: _nothing if way[0] in cool else step for way, step in ways.items()}
        times = in_turn(ways, rounds, warm_up=warm_up)
        reading = [timed(lambda: source.batch(torch.randperm(IMAGES)[:BATCH])) for _ in range(9)]
        floor = BATCH / text_floor(encoder, device)
        first = MEANS / image_head_seconds(
            source.batch(torch.arange(1)).hidden_patches.shape[2], device
        )
    return case_rows(name, times, cold=cold, reading=reading, first=first, floor=floor)


def case_rows(
    name: str,
    times: dict[tuple[str, str], list[float]],
    *,
    cold: float,
    reading: list[float],
    first: float,
    floor: float,
) -> list[dict[str, Any]]:
    """Rates of a case, each against the field's loop.

    Args:
        name: of the case.
        times: seconds of each round, by way and precision.
        cold: images a second of the first filling of the store.
        reading: seconds to read a batch.
        first: images a second of the image head, all its passes.
        floor: images a second of the text tower alone.
    """
    # A quick round takes the first filling of the store, which is no warmed-up one.
    fillings = times.pop((FILL, "32-true"), [])
    filling = rates(BATCH, fillings)["images_per_second"] if fillings else cold
    found = {
        way: rates(BATCH if way[0] == "field's loop" else IMAGES, seconds)
        for way, seconds in times.items()
    }
    base = found["field's loop", "32-true"]["images_per_second"]
    rows: list[dict[str, Any]] = [
        {"case": name, "way": way, "precision": precision, **rate}
        | {"ratio": rate["images_per_second"] / base}
        | {"share_reading": statistics.median(reading) * rate["images_per_second"] / BATCH}
        for (way, precision), rate in found.items()
    ]
    extra = {"case": name, "precision": "32-true", "lowest": None, "highest": None}
    for row in [row for row in rows if row["way"] in VARIANTS and row["precision"] == "32-true"]:
        filled_too = 1 / (1 / filling + 1 / row["images_per_second"])
        rows.append({**extra, "way": f"first epoch, {row['way']}"} | rated(filled_too, base))
    rows.append({**extra, "way": "image head, all passes, once"} | rated(first, base))
    rows.append({**extra, "way": "bare text tower, cut prompts (floor)"} | rated(floor, base))
    return rows


def _nothing() -> None:
    """Of what needs no warming up."""


def rated(rate: float, base: float) -> dict[str, float | None]:
    """A rate and what it is against the field's loop."""
    return {"images_per_second": rate, "ratio": rate / base, "share_reading": None}


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as text."""
    lines = [f"{'case':13} {'way':40} {'precision':11} {'images/s':>9} {'spread':>15} {'ratio':>7}"]
    for row in rows:
        low, high = row["lowest"], row["highest"]
        spread = "" if low is None else f"{low:.2f}-{high:.2f}"
        lines.append(
            f"{row['case']:13} {row['way']:40} {row['precision']:11}"
            f" {row['images_per_second']:9.2f} {spread:>15} {row['ratio']:6.1f}x"
        )
    return "\n".join(lines)


def main() -> None:
    """Parse the arguments, measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--case", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="1 round; context tokens: 16 or none")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--bf16", action="store_true", help="bf16-mixed too (default on a card)")
    arguments = parser.parse_args()
    device = arguments.device
    if device == "cuda" and not torch.cuda.is_available():
        parser.error("torch finds no CUDA card")
    precisions = ["32-true", "bf16-mixed"] if arguments.bf16 or device == "cuda" else ["32-true"]
    rows, rounds = [], 1 if arguments.quick else arguments.rounds
    variants = [way for way in VARIANTS if not (arguments.quick and "template" in way)]
    for name in arguments.case:
        rows += measure(name, rounds, device, precisions, variants)
        print(table(rows), flush=True)
    suffix = "" if device == "cpu" else f"_{device}"
    tree = {"batch": BATCH, "categories": len(COCO), "images": IMAGES, "rounds": rounds}
    tree |= {"seed": 0, "device": device, "rows": rows}
    path = write_results(f"training{suffix}", tree, quick=arguments.quick)
    print(f"written: {path}")


if __name__ == "__main__":
    main()
