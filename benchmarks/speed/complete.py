"""Seconds that `trmml complete` takes on a made-up table, step by step, and their peak of memory.

Beside them stand the processor's seconds over all cores: on a busy machine only these count.

    python -m benchmarks.speed.complete --images 100000 --categories 500

Features, run and labels of these steps are made up and in memory. What comes before, reading a warm
store and scoring by a run, is measured on 2,000 images of the bundled encoder (of 3,000, less the
time of the first 1,000, which has the loading in it) and multiplied. Writes
benchmarks/results/complete.json.
"""

import argparse
import resource
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from benchmarks.record import write_results
from benchmarks.speed.tagging import finished_run, write_photos

from trmml.curation.acceptance import Rule
from trmml.curation.collection import Collection, read_collection
from trmml.curation.complete import complete_collection
from trmml.curation.weighing import Unseen
from trmml.curation.writing import write_completed
from trmml.datasets.base import Dataset
from trmml.features.extract import Encoding
from trmml.labels.matrix import LabelMatrix
from trmml.metrics.calibration import Calibration

KNOWN, DEPTH, WIDTH, READ = 0.3, 64, 512, 1000


def made_up(images: int, categories: int, seed: int = 0) -> Collection:
    """A collection of random features with labels that follow them, three in ten known."""
    torch.manual_seed(seed)
    means = torch.randn(images, WIDTH)
    logits = means[:, :DEPTH] @ torch.randn(DEPTH, categories) / 4 - 3
    truth = torch.rand_like(logits) < logits.sigmoid()
    data = Dataset(
        root=Path("images"),
        images=tuple(f"{n}.jpg" for n in range(images)),
        category_names=tuple(f"category {c}" for c in range(categories)),
        matrix=LabelMatrix(truth, torch.rand_like(logits) < KNOWN),
        rows=tuple(range(2, images + 2)),
    )
    features = torch.nn.functional.normalize(means[:, :384], dim=1)
    identity, held = Calibration.identity(categories), torch.arange(0, images, 10)
    unseen = Unseen(held, logits[held])
    return Collection(data, logits, features, means.half(), identity, "", held_out=unseen)


def table_of(data: Dataset) -> str:
    """A wide table of the data."""
    cells = torch.where(data.matrix.known, data.matrix.labels.int(), 2).tolist()
    rows = (
        f"{n}.jpg,{','.join('01'[c] if c < 2 else '' for c in row)}" for n, row in enumerate(cells)
    )
    return "\n".join([f"image,{','.join(data.category_names)}", *rows]) + "\n"


class Clock:
    """Seconds of steps by the clock, and of the processor's cores together."""

    def __init__(self) -> None:
        self.steps = dict[str, tuple[float, float]]()
        self.start()

    def start(self) -> None:
        """Begin a step."""
        self._begun = time.perf_counter(), time.process_time()

    def done(self, step: str) -> None:
        """Keep and print what a step took; the next one begins."""
        passed, worked = self._begun
        self.steps[step] = time.perf_counter() - passed, time.process_time() - worked
        print(f"{step:24} {self.steps[step][0]:6.1f} s {self.steps[step][1]:6.1f} s", flush=True)
        self.start()


def steps_of(collection: Collection, clock: Clock) -> None:
    """Complete a collection and write it, step by step."""
    clock.start()
    for step in ("inputs", "folds", "out_of_sample", "expected"):
        getattr(collection, step)
        clock.done(step)
    rule = Rule.parse("precision=0.9")
    complete_collection(collection, rule, "off")
    clock.done("without evidence")
    completed = complete_collection(collection, rule)
    clock.done("with evidence")
    with TemporaryDirectory() as folder:
        table = Path(folder) / "labels.csv"
        table.write_text(table_of(collection.data))
        clock.start()
        write_completed(completed, Path(folder) / "out.csv", table, "wide")
        clock.done("write the table")
        write_completed(completed, Path(folder) / "out.jsonl", table, "jsonl")
        clock.done("write JSON lines")


def reading(categories: int, clock: Clock) -> tuple[float, float]:
    """Seconds of an image: to read its features from a warm store and score them by a run."""
    names = tuple(f"category {c}" for c in range(categories))
    with TemporaryDirectory() as folder:
        run = finished_run(Path(folder) / "run", "bundled", names)
        paths = write_photos(Path(folder) / "photos", 3 * READ, 160, 120)
        nothing = torch.zeros(len(paths), categories, dtype=torch.bool)
        images = tuple(path.name for path in paths)
        data = Dataset(
            paths[0].parent, images, names, LabelMatrix(nothing, nothing), tuple(range(len(paths)))
        )
        found = []
        steps = {"encode": 3 * READ, "first": READ, "read some": READ, "read more": 3 * READ}
        for step, count in steps.items():
            clock.start()
            some = data.subset(range(count))
            read_collection(run, some, encoding=Encoding(store=Path(folder) / "store"))
            clock.done(step)
            found.append(clock.steps.pop(step))
    return tuple((more - some) / (2 * READ) for some, more in zip(*found[2:], strict=True))  # type: ignore[return-value]


def main() -> None:
    """Make, complete, write, and tell the seconds of each step."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--categories", type=int, default=500)
    asked, clock = parser.parse_args(), Clock()
    each = reading(asked.categories, clock)
    clock.steps["read and score"] = tuple(asked.images * seconds for seconds in each)  # type: ignore[assignment]
    steps_of(made_up(asked.images, asked.categories), clock)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    other = ("without evidence", "write JSON lines")
    whole = [
        sum(each)
        for each in zip(*(t for step, t in clock.steps.items() if step not in other), strict=True)
    ]
    print(f"{'in all, with evidence':24} {whole[0]:6.1f} s {whole[1]:6.1f} s, {peak:.1f} GiB")
    sizes = {"images": asked.images, "categories": asked.categories, "seed": 0}
    write_results("complete", {**sizes, "seconds": clock.steps, "in_all": whole, "peak_gib": peak})


if __name__ == "__main__":
    main()
