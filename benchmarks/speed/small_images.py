"""What tagging small images costs beside the encoder, and whether its memory is bounded.

    python -m benchmarks.speed.small_images [--images 2000] [--rounds 3]

Seeded JPEGs of 64 pixels are tagged with the bundled encoder in fp32, on one thread, so that the
time of the processor is that of the work. Each part is timed by itself: reading and decoding, the
encoder's own preprocessing, the forward pass, and `Tagger.tag` as a whole. The peak of memory is
taken after a quarter of the images and after all of them. Writes
benchmarks/results/small_images.json.
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from benchmarks.record import write_results
from benchmarks.speed.tagging import finished_run, write_photos
from benchmarks.speed.training import COCO

from trmml.features.base import encode_batch
from trmml.images import read_image
from trmml.tagging.tagger import Tagger

SIDE = 64
PARTS_FROM = 320  # images on which each part is timed by itself


def microseconds(work: Callable[[], object], images: int, rounds: int) -> float:
    """Processor time an image, the least of the rounds."""
    taken = []
    for _ in range(rounds):
        start = time.process_time()
        work()
        taken.append((time.process_time() - start) / images * 1e6)
    return min(taken)


def peak_mb() -> float:
    """Most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(folder: Path, images: int, rounds: int) -> dict[str, float]:
    """Microseconds an image of each part, and the peaks of memory in MB."""
    torch.set_num_threads(1)
    tagger = Tagger.load(finished_run(folder / "run", "bundled", COCO))
    paths = write_photos(folder / "small", images, SIDE, SIDE)
    some, preprocess = paths[:PARTS_FROM], tagger.frozen.encoder.preprocess
    decoded = [read_image(path) for path in some]
    batches = torch.stack([preprocess(image) for image in decoded]).split(32)
    parts: dict[str, Callable[[], object]] = {
        "read": lambda: [read_image(path) for path in some],
        "preprocess": lambda: [preprocess(image) for image in decoded],
        "encode": lambda: [encode_batch(tagger.frozen, batch) for batch in batches],
        "tag": lambda: list(tagger.tag(some)),
    }
    found = {name: microseconds(work, len(some), rounds) for name, work in parts.items()}
    for name, count in (("quarter", images // 4), ("all", images)):
        for _ in tagger.tag(paths[:count]):
            pass
        found[f"peak_mb_{name}"] = peak_mb()
    return found


def main() -> None:
    """Parse the arguments, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), arguments.images, arguments.rounds)
    for name, value in found.items():
        print(f"{name:14} {value:9.0f}")
    print(f"written: {write_results('small_images', {**vars(arguments), **found})}")


if __name__ == "__main__":
    main()
