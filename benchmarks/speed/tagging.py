"""Images per second of tagging: a plain open_clip loop against trmml, and what trmml adds.

    python -m benchmarks.speed.tagging [--rounds 3] [--photos 48] [--device cuda] [--quick]

Both tag the same JPEGs with 80 categories on ViT-B-32 with seeded random weights: the time does not
depend on what the weights know. The plain loop is what anybody writes: Pillow, the model's own
preprocessing, encode_image in fp32, a softmax over cosines with text features that are computed
once; it is also timed behind a DataLoader of 2 processes. trmml is a finished run, and
`Tagger.tag`. The overhead is all that follows the encoder (regions, matching, calibration, choice
of tags) over the encoder's forward pass on the same batch. What a precision costs in mAP is
measured by precision.py. Prints tables and writes benchmarks/results/tagging.json.
"""

import argparse
import os
import statistics
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from benchmarks.record import write_results
from benchmarks.speed.timing import in_turn, rates
from benchmarks.speed.training import COCO
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader

from trmml.datasets import Dataset
from trmml.deploy.kept import keep, open_kept
from trmml.encoders import load_encoder
from trmml.encoders.speed.precision import (
    SAMPLES,
    MeasuredPrecision,
    choose_precision,
    in_precision,
)
from trmml.features.base import encode_batch
from trmml.features.extract import Encoding
from trmml.features.loader import sample_pixels
from trmml.labels.matrix import LabelMatrix
from trmml.settings.sections import Settings
from trmml.tagging.tagger import Tagger
from trmml.tagging.tags import Choice
from trmml.training.fit import train_run

ARCHITECTURE = "ViT-B-32"
BATCH = 32
# What is tagged: (width, height, images for each of --photos).
CASES = {"12 megapixels": (4000, 3000, 1), "448 pixels": (448, 448, 4)}
TRAINED_ON = 40
WARM_UP = 8
# Categories of the second run, on which only the overhead is measured.
MANY = 1000


def write_photos(folder: Path, count: int, width: int, height: int) -> list[Path]:
    """Seeded JPEGs of quality 90 with broad shapes and fine grain."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    grain = generator.normal(0, 6, (512, 512, 1))
    tiles = -(-height // 512), -(-width // 512), 1
    grain = np.tile(grain, tiles)[:height, :width].astype(np.int16)
    paths = []
    for number in range(count):
        coarse = Image.fromarray(generator.integers(0, 255, (12, 16, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.int16)
        paths.append(folder / f"{number}.jpg")
        image = (smooth + np.roll(grain, number, axis=1)).clip(0, 255).astype(np.uint8)
        Image.fromarray(image).save(paths[-1], quality=90)
    return paths


def write_weights(path: Path) -> str:
    """Write seeded random weights; the spec of the encoder that has them."""
    torch.manual_seed(0)
    model: nn.Module = open_clip.create_model(ARCHITECTURE)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, path)
    return f"{ARCHITECTURE}:{path}"


class PlainLoop:
    """What anybody writes around open_clip to tag a list of files.

    Args:
        weights: of the architecture.
        names: of the categories.
        device: "cpu" or "cuda".
    """

    def __init__(self, weights: str, names: Sequence[str], device: str) -> None:
        model, _, self.preprocess = open_clip.create_model_and_transforms(
            ARCHITECTURE, pretrained=weights, device=device
        )
        self.model, self.device = model.eval(), device
        tokens = open_clip.get_tokenizer(ARCHITECTURE)([f"a photo of a {name}" for name in names])
        with torch.no_grad():
            self.text = F.normalize(self.model.encode_text(tokens.to(device)), dim=-1)

    def sequential(self, paths: Sequence[Path]) -> Tensor:
        """Probabilities; images are decoded between the passes."""
        chunks = (paths[i : i + BATCH] for i in range(0, len(paths), BATCH))
        return self._tag(torch.stack([self.open(path) for path in chunk]) for chunk in chunks)

    def loader(self, paths: Sequence[Path]) -> Tensor:
        """Probabilities; two processes decode."""
        return self._tag(DataLoader(_Files(paths, self), batch_size=BATCH, num_workers=2))

    def open(self, path: Path) -> Tensor:
        """One image as the model wants it."""
        pixels: Tensor = self.preprocess(Image.open(path).convert("RGB"))
        return pixels

    @torch.no_grad()
    def _tag(self, batches: Iterable[Tensor]) -> Tensor:
        found = []
        for pixels in batches:
            feature = F.normalize(self.model.encode_image(pixels.to(self.device)), dim=-1)
            found.append((100 * feature @ self.text.T).softmax(dim=-1).cpu())
        return torch.cat(found)


class _Files(torch.utils.data.Dataset[Tensor]):
    def __init__(self, paths: Sequence[Path], loop: PlainLoop) -> None:
        self._paths, self._open = paths, loop.open

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Tensor:
        return self._open(self._paths[index])


def finished_run(folder: Path, spec: str, names: Sequence[str], device: str = "cpu") -> Path:
    """A run of one epoch on a few small images: what it knows does not matter here."""
    paths = write_photos(folder / "photos", TRAINED_ON, 96, 64)
    generator = torch.Generator().manual_seed(0)
    labels = torch.rand(len(paths), len(names), generator=generator) < 0.3
    data = Dataset(
        root=folder / "photos",
        images=tuple(path.name for path in paths),
        category_names=tuple(names),
        matrix=LabelMatrix(labels, torch.ones_like(labels)),
        rows=tuple(range(len(paths))),
    )
    settings = Settings(training={"epochs": 1})
    kept, out = Encoding(store=folder / "store"), folder / "run"
    for _ in train_run(
        data, load_encoder(spec), out, settings=settings, encoding=kept, device=device
    ):
        pass
    return out


def pick_precisions(
    tagger: Tagger, paths: Sequence[Path], *, quick: bool
) -> tuple[list[str], MeasuredPrecision | None]:
    """fp32, int8 where it can be had, and what "auto" stands for here, with what was measured.

    Measuring all that "auto" chooses from takes minutes, so a quick round leaves it out.
    """
    names = ["fp32"]
    if tagger.device == "cpu":
        names.append("int8")
    if quick:
        return names, None
    samples = sample_pixels(paths, tagger.frozen, SAMPLES)
    choice = choose_precision(tagger.frozen, samples)
    return [*names, *({choice.precision} - set(names))], choice


def tagging_ways(
    plain: PlainLoop, tagger: Tagger, kinds: Sequence[str], *, quick: bool
) -> dict[str, Callable[[Sequence[Path]], object]]:
    """What is compared; a quick round leaves the loader's processes out."""
    ways: dict[str, Callable[[Sequence[Path]], object]] = {"plain loop": plain.sequential}
    if not quick:
        ways["plain loop, 2 loader processes"] = plain.loader
    for kind in kinds:
        ways[f"trmml, {kind}"] = lambda paths, kind=kind: list(tagger.tag(paths, precision=kind))
    return ways


def tagging_rows(
    name: str,
    paths: Sequence[Path],
    ways: Mapping[str, Callable[[Sequence[Path]], object]],
    rounds: int,
) -> list[dict[str, Any]]:
    """Rates of all ways on the same files, after a short list of them."""

    def over(some: Sequence[Path]) -> dict[str, Callable[[], object]]:
        return {each: lambda way=way: way(some) for each, way in ways.items()}

    times = in_turn(over(paths), rounds, warm_up=over(paths[:WARM_UP]))
    rows: list[dict[str, Any]] = [
        {"case": name, "way": way, **rates(len(paths), seconds)} for way, seconds in times.items()
    ]
    base = rows[0]["images_per_second"]
    return [{**row, "ratio": row["images_per_second"] / base} for row in rows]


def overhead(run: Path, tagger: Tagger, pixels: Tensor, kind: str, rounds: int) -> dict[str, Any]:
    """What follows the encoder, over the encoder's forward pass on the same batch.

    In int8 the run's kept file has both, so the encoder's pass is taken off.
    """
    encoder = in_precision(tagger.frozen, kind)
    features = encode_batch(encoder, pixels)

    def conclude() -> object:
        scores = tagger.score(features)
        own = tagger.thresholds().numpy()
        return Choice().tags(scores.probabilities.numpy(), own, tagger.category_names)

    # Each right after the forward pass, with the caches as they are then when tagging.
    ways = {"bare": lambda: encode_batch(encoder, pixels), "after": conclude}
    kept = None
    if kind == "int8":
        keep(run)
        kept = open_kept(run, "int8")
    if kept is not None:
        images = [np.zeros((*pixels.shape[2:], 3), np.uint8)] * len(pixels)
        ways["after"] = lambda: kept.score(images)
    seconds = in_turn(ways, 3 * rounds)
    taken_off = 0 if kept is None else 100
    share = [100 * late / bare - taken_off for bare, late in zip(*seconds.values(), strict=True)]
    return {
        "categories": len(tagger.category_names),
        "precision": kind,
        "batch": len(pixels),
        "bare_images_per_second": len(pixels) / statistics.median(seconds["bare"]),
        "overhead_percent": statistics.median(share),
        "lowest": min(share),
        "highest": max(share),
    }


def measure(folder: Path, photos: int, rounds: int, device: str, *, quick: bool) -> dict[str, Any]:
    """Everything, in one run."""
    spec = write_weights(folder / "weights.safetensors")
    run = finished_run(folder / "few", spec, COCO, device)
    tagger = Tagger.load(run, device=device, trust=True)
    plain = PlainLoop(spec.partition(":")[2], COCO, device)
    files = {
        name: write_photos(folder / name, photos * times, width, height)
        for name, (width, height, times) in CASES.items()
    }
    small = files["448 pixels"]
    kinds, choice = pick_precisions(tagger, small, quick=quick)
    ways, rows = tagging_ways(plain, tagger, kinds, quick=quick), list[dict[str, Any]]()
    for name, paths in files.items():
        rows += tagging_rows(name, paths, ways, rounds)
    print(table(rows), flush=True)
    pixels = sample_pixels(small, tagger.frozen, BATCH)
    over = [overhead(run, tagger, pixels, kind, rounds) for kind in kinds]
    if not quick:
        names = [f"thing {number}" for number in range(MANY)]
        run = finished_run(folder / "many", spec, names, device)
        tagger = Tagger.load(run, device=device, trust=True)
        over += [overhead(run, tagger, pixels, kind, rounds) for kind in kinds]
    print(overhead_table(over), flush=True)
    if choice is not None:
        print(f"auto: {choice}", flush=True)
    return {"rows": rows, "overhead": over, "auto": None if choice is None else vars(choice)}


def table(rows: list[dict[str, Any]]) -> str:
    """Rates as text."""
    lines = [f"{'case':15} {'way':32} {'images/s':>9} {'spread':>17} {'ratio':>7}"]
    for row in rows:
        spread = f"{row['lowest']:.2f}-{row['highest']:.2f}"
        lines.append(
            f"{row['case']:15} {row['way']:32} {row['images_per_second']:9.2f} {spread:>17}"
            f" {row['ratio']:6.2f}x"
        )
    return "\n".join(lines)


def overhead_table(rows: list[dict[str, Any]]) -> str:
    """Overheads as text."""
    lines = [f"{'categories':>10} {'precision':15} {'bare images/s':>14} {'overhead %':>11} spread"]
    lines += [
        f"{row['categories']:10} {row['precision']:15} {row['bare_images_per_second']:14.2f}"
        f" {row['overhead_percent']:11.2f} {row['lowest']:.2f}-{row['highest']:.2f}"
        for row in rows
    ]
    return "\n".join(lines)


def main() -> None:
    """Parse the arguments, measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--photos", type=int, default=48, help="of 12 megapixels; 448 pixels: x 4")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--quick", action="store_true", help="1 round, 80 categories, no loader")
    arguments = parser.parse_args()
    device = arguments.device
    if device == "cuda" and not torch.cuda.is_available():
        parser.error("torch finds no CUDA card")
    photos, rounds = arguments.photos, 1 if arguments.quick else arguments.rounds
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TRMML_CACHE"] = folder  # what was measured here before shall not decide
        found = measure(Path(folder), photos, rounds, device, quick=arguments.quick)
    tree = {"architecture": ARCHITECTURE, "seed": 0, "rounds": rounds, "photos": photos}
    suffix = "" if device == "cpu" else f"_{device}"
    tree |= {"device": device, **found}
    path = write_results(f"tagging{suffix}", tree, quick=arguments.quick)
    print(f"written: {path}")


if __name__ == "__main__":
    main()
