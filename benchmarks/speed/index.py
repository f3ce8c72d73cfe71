"""What `trmml index` costs beside its encoder: images a second, of both.

    python -m benchmarks.speed.index [--images 400] [--rounds 3]

Seeded JPEGs of 640 x 480 are described by ViT-B-32 with random weights, and by the bundled encoder,
which takes a hundredth of that. "Bare" decodes, prepares and encodes them in batches, and keeps
nothing. "Index" also hashes the files, keeps features in an empty store, tags with 80 categories
and writes the table; "again" finds all unchanged. On one thread, by the time of the processor, so
that other programs do not count. Prints a table and writes benchmarks/results/index.json.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from benchmarks.record import write_results
from benchmarks.speed.tagging import finished_run, write_photos, write_weights
from benchmarks.speed.training import COCO

from trmml.features.base import encode_batch
from trmml.features.decoding import Decoding, ImageView
from trmml.features.extract import Encoding
from trmml.features.loader import load_batches
from trmml.search.build import build_index
from trmml.tagging.tagger import Tagger


def processor_seconds(step: Callable[[], object]) -> float:
    """Of one call, all threads together."""
    began = time.process_time()
    step()
    return time.process_time() - began


def rates(folder: Path, run: Path, paths: list[Path], rounds: int) -> dict[str, float]:
    """Images a second of processor time, bare and into an index; medians over the rounds."""
    tagger, out = Tagger.load(run), folder / "index"
    decoding = Decoding(reduced=tagger.reduced)

    def bare() -> None:
        views = [ImageView(path) for path in paths]
        for batch in load_batches(views, tagger.frozen, decoding, on_bad_image="error"):
            encode_batch(tagger.frozen, batch.pixels)

    def index() -> None:
        build_index(run, paths[0].parent, out, encoding=Encoding(store=folder / "store"))

    found: dict[str, list[float]] = {"bare": [], "index": [], "again": []}
    bare()
    index()  # what is imported for it, too
    for _ in range(rounds):
        for place in (out, folder / "store"):
            shutil.rmtree(place, ignore_errors=True)
        for name, step in (("bare", bare), ("index", index), ("again", index)):
            found[name].append(len(paths) / processor_seconds(step))
    return {name: statistics.median(values) for name, values in found.items()}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = write_photos(folder / "photos", given.images, 640, 480)
        specs = {"ViT-B-32": write_weights(folder / "vit.safetensors"), "bundled": "bundled"}
        for encoder, spec in specs.items():
            place = folder / encoder
            row = rates(place, finished_run(place / "run", spec, COCO), paths, given.rounds)
            rows[encoder] = {**row, "share": row["index"] / row["bare"]}
            print(encoder, {what: round(value, 3) for what, value in rows[encoder].items()})
    print(f"written: {write_results('index', {**vars(given), 'rows': rows})}")


if __name__ == "__main__":
    main()
