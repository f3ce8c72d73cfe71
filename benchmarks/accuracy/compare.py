"""Compare trmml (default) with zero-shot and a masked probe: same features, mask, loop and metric.

    python -m benchmarks.accuracy.compare scenes --known 0.3 --seeds 0 1 2
    python -m benchmarks.accuracy.compare corel5k --root REALBENCH --known 0.1 --seeds 0 1 2
    python -m benchmarks.accuracy.compare scenes --variant "no image head" image_head.use=false

`scenes` draws the demo's world and uses the bundled encoder. Any other name is a folder under
--root with train.csv, test.csv (image,labels), categories.txt and images/; its encoder.py holds
the encoder. The seed draws the mask (and, for scenes, the images) and seeds the training.
mAP is non-interpolated, in percent, over the test images; the epoch is chosen on held-out
training labels.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from benchmarks.record import write_results

from trmml.baselines.linear_probe import ProbeSettings, probe_settings
from trmml.baselines.zero_shot import build_zero_shot
from trmml.benchmark.catalog import METHODS, Method
from trmml.benchmark.demo import TEST_SEED
from trmml.datasets import Dataset
from trmml.datasets.formats.folder import read_categories, read_folder
from trmml.encoders import load_encoder
from trmml.encoders.frozen import FrozenEncoder, frozen_encoder
from trmml.features.base import FeatureSource
from trmml.features.extract import Encoding, encode_images
from trmml.labels.matrix import LabelMatrix
from trmml.method.interface import MultiLabelModel
from trmml.reporting.comparison import score
from trmml.settings.files import load_settings
from trmml.settings.sections import Settings
from trmml.synthetic import write_scenes
from trmml.training.loop import train


@dataclass(frozen=True)
class EncodedData:
    """Encoded images with all their labels; what is hidden is drawn per run."""

    train: FeatureSource
    labels: LabelMatrix
    test: FeatureSource
    test_data: Dataset
    category_names: tuple[str, ...]


def scenes(
    frozen: FrozenEncoder, images: int, test_images: int, seed: int, encoding: Encoding
) -> EncodedData:
    """The demo's images of one seed."""
    with tempfile.TemporaryDirectory() as folder:
        parts = []
        for count, start in ((images, seed), (test_images, seed + TEST_SEED)):
            place = Path(folder) / str(start)
            write_scenes(place, images=count, seed=start)
            data = read_folder(place, place / "labels.csv")
            parts.append((encode_images(data.paths, frozen, encoding=encoding).source, data))
    (train_source, data), (test_source, test) = parts
    return EncodedData(train_source, data.matrix, test_source, test, data.category_names)


def folder(frozen: FrozenEncoder, root: Path, encoding: Encoding) -> EncodedData:
    """A folder with train.csv and test.csv; every image counts as fully labelled."""
    names = read_categories(root / "categories.txt")
    parts = []
    for split in ("train", "test"):
        data = read_folder(root / "images", root / f"{split}.csv", blank="absent", categories=names)
        parts.append((encode_images(data.paths, frozen, encoding=encoding).source, data))
    (train_source, data), (test_source, test) = parts
    return EncodedData(train_source, data.matrix, test_source, test, tuple(names))


def test_map(model: MultiLabelModel, data: EncodedData) -> float:
    """Test mAP in percent."""
    return 100 * score(model, data.test, data.test_data).mean_ap


def trained(
    method: Method,
    frozen: FrozenEncoder,
    data: EncodedData,
    mask: LabelMatrix,
    settings: Settings | ProbeSettings,
) -> float:
    """Test mAP of a method after training."""
    trainer = method.trainer(frozen, data.category_names, settings, data.train, mask)
    for _ in train(trainer):
        pass
    return test_map(trainer.model, data)


def methods(
    frozen: FrozenEncoder,
    data: EncodedData,
    mask: LabelMatrix,
    seed: int,
    variants: dict[str, list[str]],
    only: list[str] | None,
) -> Iterator[tuple[str, float, float]]:
    """Name, test mAP and seconds of each method on one mask."""
    names = data.category_names
    for look in ("image", "dense"):
        name = "zero-shot" if look == "image" else "zero-shot dense"
        if only is not None and name not in only:
            continue
        yield name, test_map(build_zero_shot(frozen.encoder, names, look=look), data), 0.0
    base = [f"training.seed={seed}"]
    for name, overrides in {"linear probe": [], "trmml (default)": [], **variants}.items():
        if only is not None and name not in (*only, *variants):
            continue
        settings, started = load_settings(None, [*base, *overrides]), time.monotonic()
        if name.startswith("linear probe"):
            probe = METHODS["probe-masked"]
            figure = trained(probe, frozen, data, mask, probe_settings(settings))
        else:
            figure = trained(METHODS["trmml"], frozen, data, mask, settings)
        yield name, figure, time.monotonic() - started


def main() -> None:
    """Run, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", help="scenes, or a folder's name under --root")
    parser.add_argument("--root", type=Path, help="holds the folder and encoder.py")
    parser.add_argument("--known", type=float, nargs="+", default=[0.3])
    parser.add_argument("--single-positive", action="store_true")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--images", type=int, default=1500, help="of scenes")
    parser.add_argument("--test-images", type=int, default=600, help="of scenes")
    parser.add_argument("--form", choices=["fp16", "int8", "fp32"], default="fp16")
    parser.add_argument("--only", nargs="+", help="of the methods, besides the variants")
    parser.add_argument("--variant", nargs="+", action="append", default=[], metavar="NAME SET")
    parser.add_argument("--name", help="of the JSON file; default: the data set's")
    options = parser.parse_args()
    is_scenes = options.dataset == "scenes"
    spec = "bundled" if is_scenes else f"{options.root}/encoder.py:MobileNetMiniLM"
    encoder_name = "bundled" if is_scenes else "MobileNetMiniLM"
    frozen = frozen_encoder(load_encoder(spec), spec=encoder_name)
    variants = {given[0]: given[1:] for given in options.variant}
    encoding = Encoding(form=options.form)
    data = None if is_scenes else folder(frozen, options.root / options.dataset, encoding)
    rows: dict[str, dict[str, list[float]]] = {}
    for seed in options.seeds:
        if is_scenes:
            data = scenes(frozen, options.images, options.test_images, seed, encoding)
        assert data is not None
        masks = {f"{share:.0%}": data.labels.hide(share, seed) for share in options.known}
        if options.single_positive:
            masks = {"single positive": data.labels.keep_single_positive(seed)}
        for share, mask in masks.items():
            for name, figure, seconds in methods(frozen, data, mask, seed, variants, options.only):
                rows.setdefault(share, {}).setdefault(name, []).append(round(figure, 2))
                print(f"  seed {seed}  {share}  {name}: {figure:.2f}  {seconds:.0f} s", flush=True)
    print_table(options.dataset, rows)
    tree = {
        "dataset": options.dataset,
        "seeds": options.seeds,
        "encoder": {"name": encoder_name, "checksum": frozen.identity.checksum},
        "settings": load_settings().model_dump(),
        "variants": variants,
        "form": options.form,
        "test_map_percent": rows,
        "threads": torch.get_num_threads(),
    }
    print(write_results(options.name or options.dataset, tree))


def print_table(data: str, rows: dict[str, dict[str, list[float]]]) -> None:
    """Mean and standard deviation over the seeds."""
    print(f"\n{data}: test mAP in percent, mean ± deviation over seeds")
    for share, found in rows.items():
        for name, values in found.items():
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            print(f"{share:>16}  {name:28} {statistics.mean(values):6.2f} ± {spread:.2f}")


if __name__ == "__main__":
    main()
