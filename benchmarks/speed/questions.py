"""How long does a person wait for the next question, and how soon does an answer count?

    python -m benchmarks.speed.questions

A collection of random features and labels, 30 % of them known. Answers come one after the other;
after each the next block is asked for while the head learns, as a person would press keys.
"""

import argparse
import math
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from benchmarks.record import write_results

from trmml.curation.answers import Answers, Verdict
from trmml.curation.collection import Collection
from trmml.curation.queue import Question, Queue
from trmml.datasets.base import Dataset
from trmml.labels.matrix import LabelMatrix
from trmml.metrics.calibration import Calibration

WIDTH, IMAGE_FEATURES, IMAGE_BYTES = 576, 512, 100_000


def main() -> None:
    """Print the table and write benchmarks/results/questions.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--categories", type=int, default=250)
    parser.add_argument("--answers", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        collection = drawn(Path(folder), given.images, given.categories, given.seed)
        with Answers(Path(folder) / "answers.sqlite") as answers:
            queue = Queue(collection, answers)
            found = {**pairs(queue, given.answers), **images(queue, max(1, given.answers // 2))}
    print(f"{given.images} images x {given.categories} categories; milliseconds")
    for name, seconds in found.items():
        row = spread(seconds)
        print(
            f"{name:48} median {row['median']:8.1f}  p95 {row['p95']:8.1f}  max {row['max']:8.1f}"
        )
    rows = {name: spread(seconds) for name, seconds in found.items()}
    print(write_results("questions", {**vars(given), "milliseconds": rows}))


def drawn(folder: Path, images: int, categories: int, seed: int) -> Collection:
    """A collection of random features; its image files hold random bytes, for their hashes."""
    draw = torch.Generator().manual_seed(seed)
    names = tuple(f"{n}.jpg" for n in range(images))
    noise = torch.randint(256, (IMAGE_BYTES,), generator=draw, dtype=torch.uint8).numpy().tobytes()
    for name in names:
        (folder / name).write_bytes(name.encode() + noise)
    means = torch.randn(images, WIDTH, generator=draw).abs()
    truth = means @ torch.randn(WIDTH, categories, generator=draw) > 10
    known = torch.rand(truth.shape, generator=draw) < 0.3
    features = torch.randn(images, IMAGE_FEATURES, generator=draw)
    data = Dataset(
        folder, names, tuple(map(str, range(categories))), LabelMatrix(truth, known),
        tuple(range(images)),
    )  # fmt: skip
    return Collection(
        data, torch.randn(truth.shape, generator=draw), torch.nn.functional.normalize(features),
        means.half(), Calibration.identity(categories), "f" * 64,
    )  # fmt: skip


def pairs(queue: Queue, count: int) -> dict[str, list[float]]:
    """Seconds of each step, answering pair by pair."""
    found: dict[str, list[float]] = {
        "next block while the head learns": [],
        "answer on the disk": [],
        "new head in use": [],
        "undo": [],
    }
    block = queue.next()
    for number in range(count):
        verdict: Verdict = "present" if number % 2 else "absent"
        found["answer on the disk"].append(clocked(partial(queue.answer, block[0], verdict)))
        told = time.perf_counter()
        found["next block while the head learns"].append(clocked(queue.next))
        queue.head.wait(60.0)
        found["new head in use"].append(time.perf_counter() - told)
        if number % 10 == 9:
            found["undo"].append(clocked(queue.undo))
        block = queue.next()
    return found


def images(queue: Queue, count: int) -> dict[str, list[float]]:
    """The same image by image; each answers all its open pairs."""
    found: dict[str, list[float]] = {
        "next image while the head learns": [],
        "image's answers on the disk": [],
        "new head in use, all categories": [],
        "undo of an image": [],
    }
    waiting = queue.next_images()
    for number in range(count):
        said: list[tuple[Question, Verdict]] = [
            (asked, "present" if asked.p > 0.5 else "absent") for asked in waiting[0]
        ]
        found["image's answers on the disk"].append(clocked(partial(queue.answer_all, said)))
        told = time.perf_counter()
        found["next image while the head learns"].append(clocked(queue.next_images))
        queue.head.wait(60.0)
        found["new head in use, all categories"].append(time.perf_counter() - told)
        if number % 5 == 4:
            found["undo of an image"].append(clocked(queue.undo))
        waiting = queue.next_images()
    return found


def clocked(step: Callable[[], object]) -> float:
    """Seconds of one call."""
    started = time.perf_counter()
    step()
    return time.perf_counter() - started


def spread(seconds: list[float]) -> dict[str, float]:
    """Median, 95th percentile and largest, in milliseconds."""
    ordered = sorted(1000 * each for each in seconds)
    return {
        "median": round(statistics.median(ordered), 1),
        "p95": round(ordered[math.ceil(0.95 * len(ordered)) - 1], 1),
        "max": round(ordered[-1], 1),
    }


if __name__ == "__main__":
    main()
