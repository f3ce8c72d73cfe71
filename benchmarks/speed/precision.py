"""What the encoder's arithmetic costs in accuracy and gains in speed, on this machine.

    python -m benchmarks.speed.precision [--realbench DIR] [--images 400]

A tagger is trained on fp32 features and scored on test images that are encoded in each precision
that works here: of the drawn scenes with the bundled encoder (a ResNet) and with ViT-B-32 (random
weights: no trained transformer comes with the project, and the head learns from random features
too), and of Corel5k with a trained MobileNet where its folder is given. Prints a table and writes
benchmarks/results/precision.json.
"""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from benchmarks.record import write_results
from benchmarks.speed.training import random_encoder

from trmml.datasets.base import Dataset
from trmml.datasets.formats.folder import read_categories, read_folder
from trmml.encoders import load_encoder
from trmml.encoders.base import Encoder
from trmml.encoders.speed.precision import LEAST_COSINE, SAMPLES, choose_precision
from trmml.features.extract import Encoding, encode_images
from trmml.features.loader import sample_pixels
from trmml.reporting.comparison import score
from trmml.settings.sections import Settings
from trmml.synthetic import write_scenes
from trmml.tagging.tagger import Tagger
from trmml.training.fit import train_run


def grounds(folder: Path, images: int, realbench: Path | None) -> Iterator[tuple[str, Any, Any]]:
    """Name, encoder, and training and test set of each data set."""
    parts = []
    for name, count, seed in (("train", images, 0), ("test", images, 10_000)):
        write_scenes(folder / name, images=count, seed=seed)
        parts.append(read_folder(folder / name, folder / name / "labels.csv"))
    yield "scenes, bundled ResNet", load_encoder("bundled"), parts
    yield "scenes, ViT-B-32 random", random_encoder("ViT-B-32", 224, "cpu"), parts
    if realbench is not None:
        root = realbench / "corel5k"
        names = read_categories(root / "categories.txt")
        parts = [
            read_folder(root / "images", root / f"{n}.csv", blank="absent", categories=names)
            for n in ("train", "test")
        ]
        yield "Corel5k, MobileNet", load_encoder(f"{realbench}/encoder.py:MobileNetMiniLM"), parts


def rows_of(
    name: str, encoder: Encoder, train: Dataset, test: Dataset, folder: Path
) -> list[dict[str, Any]]:
    """One row per precision that works here."""
    store = folder / "store"
    run = folder / f"run-{len(list(folder.glob('run-*')))}"
    settings = Settings(training={"epochs": 6})
    exact = Encoding(store=store, form="fp32")
    for _ in train_run(train, encoder, run, settings=settings, device="cpu", encoding=exact):
        pass
    tagger = Tagger.load(run, encoder=encoder)
    samples = sample_pixels(test.paths, tagger.frozen, SAMPLES)
    choice = choose_precision(tagger.frozen, samples)
    rows = []
    for precision, rate in choice.images_per_second.items():
        way = Encoding(store=store, form="fp32", precision=precision)
        source = encode_images(test.paths, encoder, encoding=way).source
        row = {"dataset": name, "precision": precision, "images_per_second": rate}
        row |= {"cosine": choice.cosines[precision], "chosen": precision == choice.precision}
        rows.append(row | {"map": 100 * score(tagger.model, source, test).mean_ap})
    for row in rows:
        row["map_change"] = row["map"] - rows[0]["map"]
    return rows


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--realbench", type=Path)
    parser.add_argument(
        "--images", type=int, default=400, help="scenes to train on, and to test on"
    )
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for name, encoder, (train, test) in grounds(
            Path(folder), arguments.images, arguments.realbench
        ):
            rows += rows_of(name, encoder, train, test, Path(folder))
            for row in (r for r in rows if r["dataset"] == name):
                mark = "  chosen" if row["chosen"] else ""
                print(
                    f"{row['dataset']:26} {row['precision']:14} {row['images_per_second']:8.1f}"
                    f" images/s  cosine {row['cosine']:.5f}  mAP {row['map']:.2f}"
                    f" ({row['map_change']:+.2f}){mark}",
                    flush=True,
                )
    tree = {"seed": 0, "images": arguments.images, "least_cosine": LEAST_COSINE}
    print(write_results("precision", {**tree, "threads": torch.get_num_threads(), "rows": rows}))


if __name__ == "__main__":
    main()
