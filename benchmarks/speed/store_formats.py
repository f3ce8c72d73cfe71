"""Our feature store against Lance and zarr: bytes, writing, and random batches for training.

    pip install pylance zarr
    python -m benchmarks.speed.store_formats [--rounds 5]

Each format holds the same random features. Random batches of 64 images are read from files that the
system holds in memory, and end as fp32 tensors, which is what a training step takes. The process
is bound to one core, and rates are per second of processor time of all its threads: on a machine
with nothing else to do, that is the time on the clock. Our writing includes a checksum and forces
files to disk; the others leave both out. Writes benchmarks/results/store_formats.json.
"""

import argparse
import os
import statistics
import tempfile
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import torch
import zarr
from benchmarks.record import write_results
from benchmarks.speed.synthetic import SyntheticEncoder, filled_store, open_store, random_features
from torch import Tensor

from trmml.encoders.base import identify
from trmml.features.base import Features
from trmml.features.shards import packed
from trmml.settings.choices import StoreForm

BATCH = 64
# Patches, width and feature size of what is stored, and how many images.
SHAPES = {
    "ViT-bigG-14, 49 patches": ((49, 1280, 512), 1024),
    "RN101, 448 pixels": ((196, 2048, 512), 384),
}
FORMS: tuple[StoreForm, ...] = ("fp16", "int8")
# Images that are made and handed over at a time.
PART = 128


class Rival(ABC):
    """A format: a folder written part by part, and read by positions.

    Args:
        folder: not there yet.
        form: of the features.
        images: how many will be written.
    """

    def __init__(self, folder: Path, form: StoreForm, images: int) -> None:
        self.folder, self.form, self.images = folder, form, images

    @abstractmethod
    def write(self, features: Features, start: int) -> None:
        """Add the features of some images, the first of which has the position `start`."""

    @abstractmethod
    def read(self, positions: np.ndarray) -> Features:
        """Features of some images in fp32, in that order."""


class Lance(Rival):
    """A Lance table: of each image a fixed-size list per tensor."""

    def write(self, features: Features, start: int) -> None:
        """Append one table."""
        tensors = packed(features, self.form)
        self._shapes = {name: tensor.shape[1:] for name, tensor in tensors.items()}
        columns = {
            name: pa.FixedSizeListArray.from_arrays(
                pa.array(tensor.numpy().reshape(-1)), tensor[0].numel()
            )
            for name, tensor in tensors.items()
        }
        lance.write_dataset(pa.table(columns), self.folder, mode="append" if start else "create")

    def read(self, positions: np.ndarray) -> Features:
        """Take rows by their numbers."""
        rows, tensors = self._table.take(positions), {}
        for name, shape in self._shapes.items():
            flat = rows.column(name).combine_chunks().flatten().to_numpy(zero_copy_only=True)
            tensors[name] = torch.from_numpy(flat.reshape(len(positions), *shape))
        return unpacked(tensors)

    @cached_property
    def _table(self) -> Any:
        return lance.dataset(self.folder)


class Zarr(Rival):
    """zarr arrays without compression: a chunk per image, in shards of `PART` images."""

    def write(self, features: Features, start: int) -> None:
        """Set a slice of each array."""
        group = zarr.open_group(self.folder, mode="a")
        for name, tensor in packed(features, self.form).items():
            if not start:
                group.create_array(
                    name,
                    shape=(self.images, *tensor.shape[1:]),
                    chunks=(1, *tensor.shape[1:]),
                    shards=(PART, *tensor.shape[1:]),
                    dtype=tensor.numpy().dtype,
                    compressors=None,
                )
            group[name][start : start + len(tensor)] = tensor.numpy()

    def read(self, positions: np.ndarray) -> Features:
        """Select rows by their numbers; zarr wants them sorted, which is undone."""
        order = np.argsort(positions)
        back = np.argsort(order)
        return unpacked(
            {
                name: torch.from_numpy(array.oindex[positions[order]][back])
                for name, array in self._arrays.items()
            }
        )

    @cached_property
    def _arrays(self) -> dict[str, Any]:
        return dict(zarr.open_group(self.folder, mode="r").arrays())


def unpacked(tensors: Mapping[str, Tensor]) -> Features:
    """Features in fp32, as `StoreFeatures` gives them."""
    hidden = tensors["hidden"]
    if "scale" in tensors:
        return Features(hidden * tensors["scale"][..., None], tensors["image"])
    return Features(hidden.float(), tensors["image"])


def cpu_seconds(step: Callable[[], object]) -> float:
    """Processor time of one call, of all threads of this process."""
    started = time.process_time()
    step()
    return time.process_time() - started


def written(write: Callable[[Features, int], object], parts: Mapping[int, Features]) -> float:
    """Processor seconds of writing all parts, each with the number of its first image."""
    return sum(cpu_seconds(lambda: write(part, start)) for start, part in parts.items())  # noqa: B023


def compare(name: str, form: StoreForm, folder: Path, rounds: int) -> list[dict[str, Any]]:
    """A row per format on one shape and form."""
    shape, images = SHAPES[name]
    identity = identify(SyntheticEncoder(*shape))
    parts = {start: random_features(identity, PART, seed=start) for start in range(0, images, PART)}
    rivals = {
        "lance": Lance(folder / "lance", form, images),
        "zarr": Zarr(folder / "zarr", form, images),
    }
    store = open_store(folder / "timed", identity, form)
    writers: dict[str, Callable[[Features, int], object]] = {
        "trmml": lambda part, start: store.add([f"{start}-{i}" for i in range(PART)], part),
        **{key: rival.write for key, rival in rivals.items()},
    }
    write = {key: written(writer, parts) for key, writer in writers.items()}
    source = filled_store(folder / "trmml", identity, images, form)
    readers: dict[str, Callable[[np.ndarray], Features]] = {
        "trmml": lambda batch: source.batch(torch.from_numpy(batch)),
        **{key: rival.read for key, rival in rivals.items()},
    }
    seconds = reading(readers, images, rounds)
    base = statistics.median(seconds["trmml"])
    return [
        {
            "case": name,
            "form": form,
            "format": key,
            "bytes_per_image": size_of(folder / key) / images,
            "written_images_per_second": images / write[key],
            "read_images_per_second": images / statistics.median(taken),
            "lowest": images / max(taken),
            "highest": images / min(taken),
            "ratio": base / statistics.median(taken),
        }
        for key, taken in seconds.items()
    ]


def reading(
    readers: Mapping[str, Callable[[np.ndarray], Features]], images: int, rounds: int
) -> dict[str, list[float]]:
    """Processor seconds of each reader for all images once, in random batches, in each round."""
    order = np.random.default_rng(0).permutation(images)
    batches = [order[start : start + BATCH] for start in range(0, images, BATCH)]
    seconds: dict[str, list[float]] = {key: [] for key in readers}
    for number in range(rounds + 1):  # the first round fills the system's memory
        for key, read in readers.items():
            taken = cpu_seconds(lambda: [read(batch) for batch in batches])  # noqa: B023
            if number:
                seconds[key].append(taken)
    return seconds


def size_of(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # nor is it written
    rows = []
    for name in SHAPES:
        for form in FORMS:
            with tempfile.TemporaryDirectory() as folder:
                rows += compare(name, form, Path(folder), options.rounds)
                for row in rows[-3:]:
                    print(row)
    packages = {"pylance": version("pylance"), "zarr": version("zarr")}
    tree = {"batch": BATCH, "rows": rows, "rivals": packages}
    print(write_results("store_formats", tree))


if __name__ == "__main__":
    main()
