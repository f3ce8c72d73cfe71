"""The exported ONNX file against torch: parity and speed of the same tagger.

    python -m benchmarks.speed.export [--rounds 5] [--batch 16] [--quick]

A tagger with 80 categories is exported whole and as its head alone, on the bundled encoder and on
ViT-B-32 with seeded random weights; `trmml.export` itself compares every output with torch's. Then
ONNX Runtime and torch tag the same prepared batch in turn. Writes benchmarks/results/export.json.
"""

import argparse
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from benchmarks.record import write_results
from benchmarks.speed.tagging import finished_run, write_weights
from benchmarks.speed.timing import in_turn, rates
from benchmarks.speed.training import COCO
from PIL import Image

from trmml.deploy.onnx_file import TOLERANCE, export
from trmml.features.base import encode_batch
from trmml.settings.choices import ExportPart
from trmml.storage.sessions import open_session
from trmml.tagging.tagger import Tagger


def rows_of(name: str, run: Path, folder: Path, batch: int, rounds: int) -> list[dict[str, Any]]:
    """Each part of one tagger: deviation, size, and both rates on one batch."""
    tagger, rows = Tagger.load(run, trust=True), []
    generator = np.random.default_rng(0)
    images = generator.integers(
        0, 256, (batch, *2 * (tagger.frozen.identity.size,), 3), dtype=np.uint8
    )
    preprocess = tagger.frozen.encoder.preprocess
    pixels = torch.stack([preprocess(Image.fromarray(image)) for image in images])
    features = encode_batch(tagger.frozen, pixels)
    torch_ways: dict[ExportPart, Callable[[], object]] = {
        "all": lambda: tagger.score(encode_batch(tagger.frozen, pixels)),
        "head": lambda: tagger.score(features),
    }
    given = {"all": images, "head": features.hidden_patches.numpy()}
    for part in get_args(ExportPart):
        done = export(run, folder / f"{part}.onnx", part=part, trust=True)
        session = open_session(done.path, torch.get_num_threads())
        intake = {session.get_inputs()[0].name: given[part]}
        ways: dict[str, Callable[[], object]] = {
            "torch": torch_ways[part],
            "onnxruntime": lambda session=session, intake=intake: session.run(None, intake),
        }
        seconds = in_turn(ways, rounds)
        for way, taken in seconds.items():
            row = {"encoder": name, "part": part, "way": way, **rates(batch, taken)}
            if way == "onnxruntime":
                said = torch.from_numpy(session.run(None, intake)[0])
                here = tagger.score(features).probabilities
                row |= {
                    "checked_deviation": done.max_deviation,
                    "deviation_here": float((said - here).abs().max()),
                    "size_mib": done.size_bytes / 2**20,
                }
            rows.append(row)
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as text."""
    lines = [
        f"{'encoder':10} {'part':5} {'way':12} {'images/s':>9} {'spread':>17}"
        f" {'deviation':>10} {'MiB':>7}"
    ]
    for row in rows:
        spread = f"{row['lowest']:.1f}-{row['highest']:.1f}"
        end = ""
        if "size_mib" in row:
            worst = max(row["checked_deviation"], row["deviation_here"])
            end = f" {worst:10.1e} {row['size_mib']:7.1f}"
        lines.append(
            f"{row['encoder']:10} {row['part']:5} {row['way']:12}"
            f" {row['images_per_second']:9.1f} {spread:>17}{end}"
        )
    return "\n".join(lines)


def main() -> None:
    """Parse the arguments, measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--quick", action="store_true", help="the bundled encoder only, 2 rounds")
    arguments = parser.parse_args()
    rounds = 2 if arguments.quick else arguments.rounds
    rows = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        os.environ["TRMML_CACHE"] = place
        specs = {"bundled": "bundled"}
        if not arguments.quick:
            specs["ViT-B-32"] = write_weights(folder / "weights.safetensors")
        for name, spec in specs.items():
            run = finished_run(folder / name, spec, COCO)
            rows += rows_of(name, run, folder / name, arguments.batch, rounds)
    print(table(rows), f"allowed deviation: {TOLERANCE:g}", sep="\n")
    tree = {"seed": 0, "rounds": rounds, "batch": arguments.batch, "tolerance": TOLERANCE}
    path = write_results("export", {**tree, "rows": rows}, quick=arguments.quick)
    print(f"written: {path}")


if __name__ == "__main__":
    main()
