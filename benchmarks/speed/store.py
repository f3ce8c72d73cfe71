"""The feature store: bytes, rates, what a training step waits for, and what its forms change.

    python -m benchmarks.speed.store [--rounds 3] [--images 192] [--quick]

Rates are those of random features of the shapes of RN101 at 448 pixels and ViT-B-32 at 224, read
in training batches of 32 from a store that the system holds in memory. A training step's share of
waiting is what an epoch from the store takes longer than one whose batches lie ready. What the
forms change is measured with one tagger, trained on drawn scenes with the bundled encoder: how far
features, logits and mAP from each form are from live ones. What changes when it is also trained on
that form is measured by compare.py --form. Writes benchmarks/results/store.json.
"""

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any, get_args

import torch
import torch.nn.functional as F
from benchmarks.record import write_results
from benchmarks.speed.synthetic import (
    SyntheticEncoder,
    filled_store,
    make_trainer,
    random_features,
    run_epoch,
)
from benchmarks.speed.timing import in_turn, rates, timed
from benchmarks.speed.training import COCO
from jaxtyping import Int
from torch import Tensor, nn

from trmml.datasets.formats.folder import read_folder
from trmml.encoders import load_encoder
from trmml.encoders.base import identify
from trmml.features.base import Features, FeatureSource
from trmml.features.extract import Encoding, encode_images
from trmml.method.interface import predict
from trmml.reporting.comparison import score
from trmml.settings.choices import StoreForm
from trmml.settings.sections import Settings
from trmml.synthetic import write_scenes
from trmml.tagging.tagger import Tagger
from trmml.training.fit import train_run

BATCH = 32
# Patches, width and feature size of what is stored.
SHAPES = {"RN101, 448 pixels": (196, 2048, 512), "ViT-B-32, 224 pixels": (49, 768, 512)}
FORMS: tuple[StoreForm, ...] = get_args(StoreForm)
EPOCHS = 4


class Ready:
    """A source whose every batch lies ready: what training would take with no reading at all."""

    views = 1

    def __init__(self, batch: Features, images: int) -> None:
        self._batch, self._images = batch, images

    def __len__(self) -> int:
        return self._images

    def batch(self, indices: Int[Tensor, " B"], views: Int[Tensor, " B"] | None = None) -> Features:
        """The same features, whatever is asked for."""
        # Reading starts OpenMP threads in its own thread, after which those of the training step
        # wait in another way (libgomp spins less); so that only the reading differs, do so here.
        torch.zeros(2**17).add_(1)
        times = -(-len(indices) // len(self._batch))
        hidden, image = self._batch.hidden_patches, self._batch.image_feature
        if times > 1:  # only at the start of training, where more than a batch is looked at
            hidden, image = hidden.repeat(times, 1, 1), image.repeat(times, 1)
        return Features(hidden[: len(indices)], image[: len(indices)])

    def subset(self, indices: Any) -> "Ready":
        """As many."""
        return Ready(self._batch, len(indices))


def rate_row(
    shape: str, encoder: nn.Module, form: StoreForm, images: int, rounds: int
) -> dict[str, Any]:
    """Bytes and rates of one shape in one form, and the share of a training step spent waiting."""
    identity = identify(encoder)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        made = timed(lambda: random_features(identity, images))
        written = timed(lambda: filled_store(root / "first", identity, images, form)) - made
        source = filled_store(root / "second", identity, images, form)
        size = sum(path.stat().st_size for path in root.glob("second/*/*.safetensors"))

        def read() -> None:
            for part in torch.randperm(images).split(BATCH):
                source.batch(part)

        reading = in_turn({"read": read}, rounds)["read"]
        waits = waiting(encoder, source, random_features(identity, BATCH), rounds)
    return {
        "shape": shape,
        "form": form,
        "bytes_per_image": size / images,
        "written_per_second": images / written,
        **rates(images, reading),
        "read_gib_per_second": size / 2**30 / statistics.median(reading),
        **waits,
    }


def waiting(
    encoder: nn.Module, source: FeatureSource, batch: Features, rounds: int
) -> dict[str, float]:
    """Seconds of a step from the store, and the share of it that reading costs, in percent."""
    ready = make_trainer(encoder, Ready(batch, len(source)), len(COCO), BATCH)
    stored = make_trainer(encoder, source, len(COCO), BATCH)
    ways = {"ready": lambda: run_epoch(ready), "store": lambda: run_epoch(stored)}
    seconds = in_turn(ways, rounds)
    pairs = zip(seconds["ready"], seconds["store"], strict=True)
    return {
        "step_seconds": statistics.median(seconds["store"]) / stored.batches,
        "waiting_percent": statistics.median(100 * (1 - bare / full) for bare, full in pairs),
    }


def form_rows(images: int, device: str = "cpu") -> list[dict[str, Any]]:
    """What each form changes for one tagger, against live features of the same images."""
    encoder = load_encoder("bundled")
    with tempfile.TemporaryDirectory() as place:
        folder, parts = Path(place), []
        for name, seed in (("train", 0), ("test", 1_000_000)):
            write_scenes(folder / name, images=images, seed=seed)
            parts.append(read_folder(folder / name, folder / name / "labels.csv"))
        train, test = parts
        settings, root = Settings(training={"epochs": EPOCHS}), folder / "store"
        for _ in train_run(
            train,
            encoder,
            folder / "run",
            settings=settings,
            encoding=Encoding(root),
            device=device,
        ):
            pass
        model = Tagger.load(folder / "run", encoder=encoder).model
        ways = {"live": Encoding(live=True)} | {f: Encoding(root, form=f) for f in FORMS}
        sources = {
            name: encode_images(test.paths, encoder, encoding=encoding).source
            for name, encoding in ways.items()
        }
        every = torch.arange(len(test))
        live = sources["live"].batch(every).hidden_patches
        logits = predict(model, sources["live"], every, device=torch.device("cpu"))
        rows = []
        for name, source in sources.items():
            cosine = F.cosine_similarity(source.batch(every).hidden_patches, live, dim=-1)
            own = predict(model, source, every, device=torch.device("cpu"))
            rows.append(
                {
                    "form": name,
                    "least_cosine": float(cosine.min()),
                    "largest_logit_difference": float((own - logits).abs().max()),
                    "map_percent": 100 * score(model, source, test).mean_ap,
                }
            )
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Rates as text."""
    lines = [
        f"{'shape':22} {'form':5} {'KiB/image':>10} {'written/s':>10} {'read/s':>8}"
        f" {'spread':>15} {'GiB/s':>6} {'s/step':>7} {'waiting %':>10}"
    ]
    for row in rows:
        spread = f"{row['lowest']:.0f}-{row['highest']:.0f}"
        lines.append(
            f"{row['shape']:22} {row['form']:5} {row['bytes_per_image'] / 1024:10.1f}"
            f" {row['written_per_second']:10.0f} {row['images_per_second']:8.0f} {spread:>15}"
            f" {row['read_gib_per_second']:6.2f} {row['step_seconds']:7.3f}"
            f" {row['waiting_percent']:10.1f}"
        )
    return "\n".join(lines)


def form_table(rows: list[dict[str, Any]]) -> str:
    """What the forms change, as text."""
    lines = [f"{'form':5} {'least cosine':>13} {'largest logit difference':>25} {'mAP %':>7}"]
    lines += [
        f"{row['form']:5} {row['least_cosine']:13.7f} {row['largest_logit_difference']:25.2e}"
        f" {row['map_percent']:7.3f}"
        for row in rows
    ]
    return "\n".join(lines)


def main() -> None:
    """Parse the arguments, measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=192, help="of random features")
    parser.add_argument("--quick", action="store_true", help="48 images, 2 rounds, one shape")
    arguments = parser.parse_args()
    images, rounds = (48, 2) if arguments.quick else (arguments.images, arguments.rounds)
    rows = []
    for shape, sizes in list(SHAPES.items())[1 if arguments.quick else 0 :]:
        encoder = SyntheticEncoder(*sizes)
        rows += [rate_row(shape, encoder, form, images, rounds) for form in FORMS]
        print(table(rows[-len(FORMS) :]), flush=True)
    forms = form_rows(3 * images)
    print(form_table(forms))
    tree = {"seed": 0, "rounds": rounds, "images": images, "rows": rows, "forms": forms}
    print(f"written: {write_results('store', tree, quick=arguments.quick)}")


if __name__ == "__main__":
    main()
