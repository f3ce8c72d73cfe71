"""What a training step costs as the task grows: seconds, peak memory and log-log slopes.

    python -m benchmarks.speed.scaling [--rounds 3] [--full] [--quick]

The head is trmml's own, in its own trainer, on random features that lie in a store: from B = 32
images, P = 49 patches, D = 512, C = 80 categories one of them grows at a time; then all are large
at once. The text side is CLIP's text tower of ViT-B-32 with random weights, and 16 learned context
tokens per category: prompts cut after their end against full length, and peak memory as categories
grow (--full: 5,000 of them, several minutes). Every cell is a process of its own, in a quick round
only the large one: peak memory is that of the process. Prints tables
and writes benchmarks/results/scaling.json.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from benchmarks.record import write_results
from benchmarks.speed.field_loop import CONTEXT_TOKENS, FieldLoop
from benchmarks.speed.synthetic import SyntheticEncoder, filled_store, make_trainer, run_epoch
from benchmarks.speed.timing import in_process, in_turn, peak_gib, slopes, timed
from benchmarks.speed.training import COCO, random_encoder

from trmml.encoders.base import freeze, identify
from trmml.method.prompts import PromptLearner
from trmml.settings.sections import PromptSettings

BASE = {"categories": 80, "images": 96, "patches": 49, "batch": 32, "hidden": 768, "feature": 512}
# What grows, and through which sizes; as many images as make three steps where it is not they.
GROWING: dict[str, tuple[int, ...]] = {
    "categories": (80, 800, 8000),
    "images": (256, 512, 1024),
    "patches": (49, 196, 784),
    "batch": (16, 32, 64),
}
# What a quick round looks at: what has to be linear.
QUICK: dict[str, tuple[int, ...]] = {"categories": (80, 800), "images": (128, 256)}
# Many categories, many patches: has to stay below 6 GB.
# As many images as the model looks at before the first step.
LARGE = {**BASE, "categories": 5000, "patches": 196, "hidden": 2048, "images": 256, "steps": 3}
QUICK_LARGE = {**LARGE, "images": 32, "steps": 1}
LARGE_LIMIT_GB = 6.0
TEXT_ARCHITECTURE = "ViT-B-32"
TEXT_CATEGORIES = (80, 800, 5000)


def head_cell(cell: dict[str, Any]) -> dict[str, Any]:
    """Seconds of a step and of an epoch, and the peak memory of this process."""
    encoder = SyntheticEncoder(cell["patches"], cell["hidden"], cell["feature"])
    with tempfile.TemporaryDirectory() as folder:
        source = filled_store(Path(folder), identify(encoder), cell["images"])
        trainer = make_trainer(
            encoder, source, cell["categories"], cell["batch"], cell.get("steps")
        )
        seconds = in_turn({"epoch": lambda: run_epoch(trainer)}, cell["rounds"])["epoch"]
    steps = trainer.batches
    return {
        "step_seconds": statistics.median(seconds) / steps,
        "lowest": min(seconds) / steps,
        "highest": max(seconds) / steps,
        "epoch_seconds": statistics.median(seconds),
        "peak_gib": peak_gib(),
    }


def text_cell(cell: dict[str, Any]) -> dict[str, Any]:
    """Seconds and memory of one forward and backward pass of prompts with learned context."""
    encoder = random_encoder(TEXT_ARCHITECTURE, 224, "cpu")
    names = [f"{COCO[n % len(COCO)]} {n // len(COCO) or ''}".strip() for n in range(cell["text"])]
    before = peak_gib()
    settings = PromptSettings(
        train_context=True, context_start="random", context_tokens=CONTEXT_TOKENS
    )
    learner = PromptLearner(
        encoder=encoder,
        category_names=names,
        start_features=torch.zeros(len(names), 512),
        settings=settings,
        generator=torch.Generator().manual_seed(0),
    )
    taken = timed(lambda: learner().sum().backward())
    return {"seconds": taken, "before_gib": before, "peak_gib": peak_gib()}


def truncation(rounds: int) -> dict[str, Any]:
    """The same 80 prompts through the text tower at full length, and cut after their last end."""
    encoder = random_encoder(TEXT_ARCHITECTURE, 224, "cpu")
    freeze(encoder)
    field = FieldLoop(encoder, COCO, steps=1)
    count, at = len(COCO), field.at
    field.names, field.ends = field.names[:count], field.ends[:count]
    field.context = torch.nn.Parameter(field.context[:count].detach())
    places = torch.arange(field.names.shape[1] + CONTEXT_TOKENS)
    length = int(field.ends.max()) + 1  # what `PromptLearner` gives to the encoder
    mask = (places[:length] <= field.ends[:, None]).long()

    def cut() -> torch.Tensor:
        prompts = [field.names[:, :at], field.context, field.names[:, at:]]
        return encoder.encode_text(torch.cat(prompts, dim=1)[:, :length], mask)

    with torch.no_grad():
        difference = float((cut() - field.texts()).abs().max())
    ways = {
        "full length": lambda: field.texts().sum().backward(),
        "cut": lambda: cut().sum().backward(),
    }
    seconds = in_turn(ways, rounds)
    pairs = zip(seconds["full length"], seconds["cut"], strict=True)
    ratios = [full / short for full, short in pairs]
    return {
        "full_length_tokens": len(places),
        "cut_tokens": length,
        "full_length_seconds": statistics.median(seconds["full length"]),
        "cut_seconds": statistics.median(seconds["cut"]),
        "ratio": statistics.median(ratios),
        "lowest": min(ratios),
        "highest": max(ratios),
        "largest_difference": difference,
    }


def head_rows(
    rounds: int, growing: Mapping[str, Sequence[int]], largest: dict[str, int], *, apart: bool
) -> list[dict[str, Any]]:
    """Each axis from its smallest size to its largest, with slopes; then the large case.

    Args:
        rounds: of each cell.
        growing: sizes of each axis.
        largest: the large case.
        apart: each cell in a process of its own, or only the large one.
    """
    rows = []
    for axis, sizes in growing.items():
        found = []
        for size in sizes:
            cell = {**BASE, axis: size}
            if axis != "images":
                cell["images"] = 3 * cell["batch"]
            cell["rounds"] = rounds
            measured = in_process("benchmarks.speed.scaling", cell) if apart else head_cell(cell)
            found.append({"axis": axis, **cell} | measured)
        cost = "epoch_seconds" if axis == "images" else "step_seconds"
        rises = slopes(sizes, [row[cost] for row in found])
        memory = slopes(sizes, [row["peak_gib"] for row in found])
        for row, rise, more in zip(found, rises, memory, strict=True):
            rows.append({**row, "slope": rise, "memory_slope": more})
        print(table(rows[-len(sizes) :]), flush=True)
    large = {"axis": "all", **largest} | in_process(
        "benchmarks.speed.scaling", {**largest, "rounds": rounds}
    )
    rows.append({**large, "slope": None, "memory_slope": None})
    print(table(rows[-1:]), flush=True)
    print(f"peak {large['peak_gib'] * 1.0737:.2f} GB of {LARGE_LIMIT_GB:.0f} GB allowed")
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Rows of the head as text."""
    lines = [
        f"{'grows':11} {'C':>5} {'N':>5} {'P':>4} {'B':>3} {'s/step':>8} {'spread':>15}"
        f" {'s/epoch':>8} {'slope':>6} {'peak GiB':>9}"
    ]
    for row in rows:
        slope = "" if row["slope"] is None else f"{row['slope']:.2f}"
        lines.append(
            f"{row['axis']:11} {row['categories']:5} {row['images']:5} {row['patches']:4}"
            f" {row['batch']:3} {row['step_seconds']:8.3f}"
            f" {row['lowest']:7.3f}-{row['highest']:.3f} {row['epoch_seconds']:8.2f} {slope:>6}"
            f" {row['peak_gib']:9.2f}"
        )
    return "\n".join(lines)


def main() -> None:
    """Parse the arguments, measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="1 round, small C and N only")
    parser.add_argument("--full", action="store_true", help="5,000 learned prompts too")
    parser.add_argument("--cell", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.cell:
        measure = text_cell if "text" in arguments.cell else head_cell
        print(json.dumps(measure(arguments.cell)))
        return
    rounds = 1 if arguments.quick else arguments.rounds
    growing, largest = GROWING, LARGE
    if arguments.quick:
        growing, largest = QUICK, QUICK_LARGE
    rows = head_rows(rounds, growing, largest, apart=not arguments.quick)
    cut = truncation(rounds)
    print(
        f"text side, 80 prompts: {cut['full_length_seconds']:.2f} s at {cut['full_length_tokens']}"
        f" tokens, {cut['cut_seconds']:.2f} s at {cut['cut_tokens']}: {cut['ratio']:.2f}x"
        f" ({cut['lowest']:.2f}-{cut['highest']:.2f}), difference {cut['largest_difference']:.1e}",
        flush=True,
    )
    prompts = []
    # What 80 prompts take is said by the line above; a quick round leaves it at that.
    counts = () if arguments.quick else TEXT_CATEGORIES[: 3 if arguments.full else 2]
    for count in counts:
        prompts.append(
            {"categories": count} | in_process("benchmarks.speed.scaling", {"text": count})
        )
        print(
            "{categories} prompts: {seconds:.1f} s, peak {peak_gib:.2f} GiB".format(**prompts[-1])
        )
    tree = {"seed": 0, "rounds": rounds, "rows": rows, "truncation": cut, "prompts": prompts}
    path = write_results("scaling", tree, quick=arguments.quick)
    print(f"written: {path}")


if __name__ == "__main__":
    main()
