"""What several processes gain where `fit --devices N` encodes: images a second of one and of two.

    python -m benchmarks.speed.encoding_ranks [--images 192] [--rounds 3]

Seeded JPEGs of 640 x 480 are encoded by ViT-B-32 with random weights into a new store, as `fit`
does, one thread of torch in each process. Loading is not counted: the clock starts once all
processes have encoded a few other images. One and two processes take turns. Prints a table and
writes benchmarks/results/encoding_ranks.json.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from benchmarks.record import write_results
from benchmarks.speed.tagging import write_photos, write_weights

from trmml.encoders import load_encoder
from trmml.encoders.frozen import frozen_encoder
from trmml.features.extract import Encoding, encode_images

WARMING = 8


def process(rank: int, count: int, folder: str, spec: str, paths: list[Path]) -> None:
    """One of the processes; the first writes the seconds."""
    torch.set_num_threads(1)
    place = Path(folder)
    dist.init_process_group(
        "gloo", init_method=f"file://{place / 'meeting'}", rank=rank, world_size=count
    )
    frozen = frozen_encoder(load_encoder(spec, text=False), device="cpu", spec=spec)
    encode_images(paths[:WARMING], frozen, encoding=Encoding(store=place / "warm"))
    dist.barrier()
    began = time.perf_counter()
    encode_images(paths[WARMING:], frozen, encoding=Encoding(store=place / "store"))
    dist.barrier()
    if rank == 0:
        (place / "seconds").write_text(str(time.perf_counter() - began))
    dist.destroy_process_group()


def rate(count: int, spec: str, paths: list[Path]) -> float:
    """Images a second of so many processes."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(process, (count, folder, spec, paths), nprocs=count)
        return (len(paths) - WARMING) / float(Path(folder, "seconds").read_text())


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=192)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    found: dict[str, list[float]] = {"1": [], "2": []}
    with tempfile.TemporaryDirectory() as name:
        spec = write_weights(Path(name, "vit.safetensors"))
        paths = write_photos(Path(name, "photos"), given.images, 640, 480)
        for _ in range(given.rounds):
            for count, rates in found.items():
                rates.append(rate(int(count), spec, paths))
    gains = [two / one for one, two in zip(found["1"], found["2"], strict=True)]
    tree = {**vars(given), "rates": found, "gain": statistics.median(gains), "gains": gains,
            "load": os.getloadavg()}  # fmt: skip
    print(tree)
    print(f"written: {write_results('encoding_ranks', tree)}")


if __name__ == "__main__":
    main()
