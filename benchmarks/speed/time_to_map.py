"""Seconds of training until a fixed test mAP: the field's loop against trmml.

    python -m benchmarks.speed.time_to_map [--target 55] [--seconds 300] [--quick]
    python -m benchmarks.speed.time_to_map --realbench DIR --known 0.1 --target 30

Both learn from the same images, labels and encoder; what is hidden is drawn from the seed. The
field's loop encodes live, from pixels that are decoded and preprocessed for it beforehand, which
does not count. trmml starts from files, once with an empty store and once with a filled one;
building the model counts. Every so many steps the clock stops and the test set is scored. A way
ends at the target or when its time is up. The data is the demo's world, or Corel5k below
--realbench. Prints a table and writes benchmarks/results/time_to_map.json.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from benchmarks.record import write_results
from benchmarks.speed.field_loop import FieldLoop
from lightning_fabric import Fabric
from torch import Tensor

from trmml.benchmark.demo import TEST_SEED
from trmml.datasets import Dataset
from trmml.datasets.formats.folder import read_categories, read_folder
from trmml.encoders import load_encoder
from trmml.encoders.base import Encoder
from trmml.encoders.frozen import frozen_encoder
from trmml.features.extract import Encoding, encode_images
from trmml.images import read_image
from trmml.labels.matrix import LabelMatrix
from trmml.method.build import build_trmml
from trmml.metrics.average_precision import average_precisions, mean_defined
from trmml.reporting.comparison import score
from trmml.settings.sections import Settings
from trmml.synthetic import write_scenes
from trmml.training.trainer import Trainer

BATCH = 32
# Passes over the training images that the field's schedule is laid out for, as it is published.
FIELD_EPOCHS = 50
# A way learns: the next step is done when its iterator moves on; it is scored when asked.
Way = tuple[Iterator[None], Callable[[], float]]


def scenes(folder: Path, images: int, test_images: int, seed: int) -> tuple[Dataset, Dataset]:
    """Training and test images of the demo's world, below the folder."""
    parts = []
    for count, start in ((images, seed), (test_images, seed + TEST_SEED)):
        write_scenes(folder / str(start), images=count, seed=start)
        parts.append(read_folder(folder / str(start), folder / str(start) / "labels.csv"))
    return parts[0], parts[1]


def corel5k(realbench: Path) -> tuple[Dataset, Dataset]:
    """Training and test images; every image counts as fully labelled."""
    root = realbench / "corel5k"
    names = read_categories(root / "categories.txt")
    train, test = (
        read_folder(root / "images", root / f"{part}.csv", blank="absent", categories=names)
        for part in ("train", "test")
    )
    return train, test


def pixels_of(data: Dataset, encoder: Encoder) -> Tensor:
    """Every image as the encoder wants it."""
    return torch.stack([encoder.preprocess(read_image(path)) for path in data.paths])


def field_way(encoder: Encoder, train: Dataset, known: LabelMatrix, test: Dataset) -> Way:
    """The field's loop, live, with its own schedule and order."""
    pixels, asked = pixels_of(train, encoder), pixels_of(test, encoder)
    batches = len(train) // BATCH
    torch.manual_seed(0)
    loop = FieldLoop(encoder, train.category_names, steps=FIELD_EPOCHS * batches)

    def learn() -> Iterator[None]:
        while True:
            for rows in torch.randperm(len(train))[: batches * BATCH].split(BATCH):
                loop.step(pixels[rows], known.labels[rows], known.known[rows])
                yield

    def test_map() -> float:
        found = torch.cat([loop.probabilities(part) for part in asked.split(8 * BATCH)])
        truth = test.matrix
        return 100 * mean_defined(average_precisions(found.double(), truth.labels, truth.known))

    return learn(), test_map


def trmml_way(
    encoder: Encoder,
    train: Dataset,
    known: LabelMatrix,
    test: Dataset,
    store: Path,
    settings: Settings,
) -> Way:
    """The default schedule of trmml; its first step decodes, encodes and builds the model."""
    trainers: list[Trainer] = []

    def learn() -> Iterator[None]:
        encoded = encode_images(train.paths, encoder, encoding=Encoding(store))
        trainer = Trainer(
            model=build_trmml(frozen_encoder(encoder), train.category_names, settings),
            source=encoded.source,
            matrix=known,
            truth=None,
            training=settings.training,
            fabric=Fabric(accelerator="cpu", devices=1),
        )
        trainers.append(trainer)
        trainer.begin()
        for _ in range(settings.training.epochs):
            started = time.monotonic()
            trainer.model.train()
            yield from trainer.run_epoch()
            trainer.close_epoch(time.monotonic() - started)

    # The test set has a store of its own, filled beforehand: its time is not counted.
    asked = encode_images(test.paths, encoder, encoding=Encoding(store.parent / "test")).source

    def test_map() -> float:
        model = trainers[0].model
        was_training = model.training
        model.eval()
        with trainers[0].averaged():
            found = 100 * score(model, asked, test).mean_ap
        model.train(was_training)
        return found

    return learn(), test_map


def race(way: Way, target: float, seconds: float, every: int) -> dict[str, Any]:
    """Let a way learn until it reaches the target, its time is up, or it is done.

    Args:
        way: what learns.
        target: test mAP in percent.
        seconds: of learning, at most.
        every: steps between two looks at the test set, whose time is not counted.
    """
    learn, test_map = way
    spent, steps, curve = 0.0, 0, list[tuple[float, float]]()
    while spent < seconds:
        started = time.perf_counter()
        done = next(learn, learn) is learn
        spent += time.perf_counter() - started
        steps += not done
        if done or steps % every == 0 or steps == 1:
            curve.append((spent, test_map()))
        if done or (curve and curve[-1][1] >= target):
            break
    else:
        curve.append((spent, test_map()))
    best = max(figure for _, figure in curve)
    reached = best >= target
    return {
        "seconds": curve[-1][0] if reached else None,
        "spent": spent,
        "steps": steps,
        "best_map_percent": best,
        "curve": [[round(at, 3), round(figure, 3)] for at, figure in curve],
    }


def table(rows: list[dict[str, Any]], target: float) -> str:
    """The rows as text."""
    lines = [f"{'seed':>4} {'way':20} {'steps':>6} seconds to {target:g} mAP"]
    for row in rows:
        missed = f"not reached in {row['spent']:.0f} s: best {row['best_map_percent']:.1f}"
        end = missed if row["seconds"] is None else f"{row['seconds']:.2f}"
        lines.append(f"{row['seed']:4} {row['way']:20} {row['steps']:6} {end}")
    return "\n".join(lines)


def run(
    grounds: tuple[Dataset, Dataset], encoder: Encoder, folder: Path, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """All ways on one data set, for one seed."""
    train, test = grounds
    known = train.matrix.hide(options.known, options.seed)
    settings = Settings(training={"seed": options.seed, "batch_size": BATCH})
    shared = (encoder, train, known, test)
    ways: dict[str, Callable[[], Way]] = {
        "field's loop": lambda: field_way(*shared),
        "trmml, empty store": lambda: trmml_way(*shared, folder / "store", settings),
        "trmml, filled store": lambda: trmml_way(*shared, folder / "store", settings),
    }
    rows = []
    for name, make in ways.items():
        found = race(make(), options.target, options.seconds, options.every)
        rows.append({"seed": options.seed, "way": name, **found})
        print(table(rows[-1:], options.target), flush=True)
    return rows


def main() -> None:
    """Parse the arguments, measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--realbench", type=Path, help="folder with corel5k/ and encoder.py")
    parser.add_argument("--known", type=float, default=0.3, help="share of known labels")
    parser.add_argument("--target", type=float, default=55.0, help="test mAP in percent")
    parser.add_argument("--seconds", type=float, default=300.0, help="of training, at most")
    parser.add_argument("--every", type=int, default=10, help="steps between looks at the test set")
    parser.add_argument("--images", type=int, default=1500, help="of scenes")
    parser.add_argument("--test-images", type=int, default=600, help="of scenes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="600 images, 20 s at most")
    options = parser.parse_args()
    if options.quick:
        options.seconds, options.images, options.test_images = 20.0, 600, 200
    with TemporaryDirectory() as place:
        folder = Path(place)
        if options.realbench is None:
            encoder = load_encoder("bundled")
            grounds = scenes(folder, options.images, options.test_images, options.seed)
        else:
            encoder = load_encoder(f"{options.realbench}/encoder.py:MobileNetMiniLM")
            grounds = corel5k(options.realbench)
        rows = run(grounds, encoder, folder, options)
    print(table(rows, options.target))
    name = "time_to_map" if options.realbench is None else "time_to_map_corel5k"
    tree = {key: str(value) for key, value in vars(options).items()}
    path = write_results(name, {"options": tree, "rows": rows}, quick=options.quick)
    print(f"written: {path}")


if __name__ == "__main__":
    main()
