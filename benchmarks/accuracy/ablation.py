r"""What each part of TRM-ML is worth: the method without it, on one data set of the results page.

    python -m benchmarks.accuracy.ablation --data scenes DIR --out OUT
    python -m benchmarks.accuracy.ablation --data corel5k DIR --encoder SPEC --settings DIR \
        --out OUT
    python -m benchmarks.accuracy.ablation --method trmml-paper --data scenes DIR --out OUT
    python -m benchmarks.accuracy.ablation --rows training --data scenes DIR --out OUT

Which parts are on by default is decided here, so no test image is read: a quarter of the training
images is held out, and mAP is over all their labels. Each row changes one setting and trains anew
on the same features, masks and seeds of the rest; the epoch is chosen on known labels of that rest.
One more run per kind of mask, with pseudo-labels on, is told the hidden labels, only to say how
many of them are right, epoch by epoch. Where boxes are known, the most attended patch of each
present category is looked for in its boxes, before training and after (the pointing game, Zhang et
al. 2016). Finished cells are kept in OUT; the same command goes on. Writes
benchmarks/results/<dataset>/ablation.json, or ablation-paper.json with `--method trmml-paper`.
Columns of that file that are not measured now stay, if they have the same seeds.
With `--rows training` nothing is left out: the method is trained longer, shorter and on several
views of each image, and the file is training.json or training-paper.json.
"""

import argparse
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import torch
from benchmarks import record

from trmml.benchmark.catalog import METHODS, Method
from trmml.benchmark.data import BenchmarkData, encode_benchmark_data
from trmml.benchmark.grid import run_benchmark
from trmml.benchmark.method_settings import (
    MethodSettings,
    default_settings,
    read_settings,
    shared_changes,
    with_changes,
)
from trmml.benchmark.records import CellFolder
from trmml.benchmark.run_cell import for_cell
from trmml.benchmark.tuning import split
from trmml.datasets.catalog import read_named
from trmml.encoders import load_encoder
from trmml.errors import DataError
from trmml.labels.masks import MaskRule, share_known, single_positive
from trmml.method.interface import MultiLabelModel
from trmml.settings.choices import Precision
from trmml.settings.sections import changed
from trmml.storage.provenance import commit
from trmml.training.loop import train

HELD_OUT = 0.25
PSEUDO = {"losses.pseudo": 0.1}
PLAIN = {
    "image_head.use": False,
    "csra_head.use": False,
    "neighbour_head.use": False,
    "stacking.zero_shot": False,
}
# What is changed in each row, by section and name; a part of the paper first, then what is ours.
# "with" marks what is off by default.
DEFAULT: dict[str, dict[str, Any]] = {
    "trmml (default)": {},
    "no learned regions": {"regions.learn": False},
    "no learned text": {"prompts.text_residual": False},
    "context tokens learned, no residual": {
        "prompts.text_residual": False,
        "prompts.train_context": True,
    },
    "with pseudo-labels": PSEUDO,
    "with pseudo-labels, ten times the weight": {"losses.pseudo": 1.0},
    "with the contrastive term": {"losses.contrastive": 0.02},
    "with the contrastive term, five times the weight": {"losses.contrastive": 0.1},
    "with pseudo-labels and the contrastive term": {**PSEUDO, "losses.contrastive": 0.02},
    "no distillation": {"losses.distillation": 0.0},
    "distillation, ten times the weight": {"losses.distillation": 0.1},
    "regions: no reading of hidden patches": {"regions.hidden_rank": 0},
    "regions: reading through a bottleneck": {"regions.hidden_rank": 128},
    "regions: with an MLP": {"regions.mlp_size": 128},
    "no CSRA head": {"csra_head.use": False},
    "with the CSRA head": {"csra_head.use": True},
    "no neighbour head": {"neighbour_head.use": False},
    "with the neighbour head": {"neighbour_head.use": True},
    "no image head": {"image_head.use": False},
    "image head: no linear map": {"image_head.linear": False},
    "image head: no spectrum power": {"image_head.spectrum_power": 0.0},
    "image head: wide directions count more": {"image_head.spectrum_power": 0.25},
    "image head: wide directions count less": {"image_head.spectrum_power": -0.25},
    "no zero-shot head": {"stacking.zero_shot": False},
    # The neighbour head has no other weight than a fitted one.
    "head weights not fitted": {"stacking.fit_weights": False, "neighbour_head.use": False},
    "no weight average": {"training.average_share": 0.0},
    "12 epochs, however few steps they are": {"training.epochs": 12},
    "the match alone": PLAIN,
}
# The weights of the preset `paper`.
PAPER_LOSSES = {"losses.pseudo": 1.0, "losses.contrastive": 0.2, "losses.distillation": 0.1}
PAPER: dict[str, dict[str, Any]] = {
    "TRM-ML (paper's parts)": {},
    "no learned regions": {"regions.learn": False},
    "no learned text": {"prompts.text_residual": False},
    "context tokens learned, no residual": {
        "prompts.text_residual": False,
        "prompts.train_context": True,
    },
    "no pseudo-labels": {"losses.pseudo": 0.0},
    "no contrastive term": {"losses.contrastive": 0.0},
    "no distillation": {"losses.distillation": 0.0},
    "the match alone, with no other term": dict.fromkeys(PAPER_LOSSES, 0.0),
    # For the data sets whose search left them at 0.
    "with pseudo-labels": {"losses.pseudo": PAPER_LOSSES["losses.pseudo"]},
    "with the contrastive term": {"losses.contrastive": PAPER_LOSSES["losses.contrastive"]},
    "with distillation": {"losses.distillation": PAPER_LOSSES["losses.distillation"]},
    "contrastive term, a tenth of the weight": {"losses.contrastive": 0.02},
    "distillation, a tenth of the weight": {"losses.distillation": 0.01},
    "with all three": PAPER_LOSSES,
    "regions: no MLP": {"regions.mlp_size": 0},
    "regions: no reading of hidden patches": {"regions.hidden_rank": 0},
    "regions: reading through a bottleneck": {"regions.hidden_rank": 128},
    "regions: less dropout": {"regions.dropout": 0.2},
    "no weight average": {"training.average_share": 0.0},
}
# No part, but how long and on what.
TRAINING: dict[str, dict[str, Any]] = {
    "as it is": {},
    # One epoch is fewer steps on these sets, so that `least_steps` alone decides.
    "500 steps": {"training.epochs": 1, "training.least_steps": 500},
    "2,000 steps": {"training.epochs": 1, "training.least_steps": 2000},
    "3,000 steps": {"training.epochs": 1, "training.least_steps": 3000},
    "trained on four views": {"training.views": 4},
    "trained on four views, scored by four": {"training.views": 4, "training.scored_views": 4},
}
ROWS = {
    "parts": {"trmml": DEFAULT, "trmml-paper": PAPER},
    "training": {"trmml": TRAINING, "trmml-paper": TRAINING},
}


def variants(
    base: Method,
    rows: Mapping[str, Mapping[str, Any]],
    folder: Path | None,
    alike: Mapping[str, Any],
) -> tuple[list[Method], dict[str, MethodSettings]]:
    """A method for each row that changes anything, with the settings of `base` but for that."""
    start = default_settings(base) if folder is None else read_settings(base, folder)
    methods, settings = [], {}
    for name, changes in rows.items():
        words = "".join(letter for letter in name if letter not in ":,").replace(" ", "-")
        key = f"{base.key}-{words}" if changes else base.key
        values = {p: changed(each, changes) for p, each in start.values.items()}
        if changes and values == start.values:
            continue  # the data set's settings are this row
        methods.append(replace(base, key=key, name=name))
        cards = {p: {"changes": changes} for p in values}
        own = MethodSettings(values, cards)
        settings[key] = with_changes(own, alike)
    return methods, settings


@torch.no_grad()
def pointing(data: BenchmarkData, model: MultiLabelModel) -> float:
    """Share of present categories whose most attended patch has its centre in one of their boxes.

    The maps of the plain images that are held out, split into a square of patches.
    """
    boxes = data.test.boxes
    assert boxes is not None
    source = data.encoded_test.features(pooled=False)
    model.eval()
    peaks = []
    for part in torch.split(torch.arange(len(source)), 64):
        attention = model(source.batch(part).to(data.frozen.device)).attention
        peaks.append(attention.argmax(dim=-1).cpu())
    peak = torch.cat(peaks)  # (N, C)
    side = math.isqrt(attention.shape[-1])
    x, y = (peak % side + 0.5) / side, (peak // side + 0.5) / side
    hit: dict[tuple[int, int], bool] = {}
    for image, category, edges in zip(
        boxes.image.tolist(), boxes.category.tolist(), boxes.edges.tolist(), strict=True
    ):
        pair = image, category
        left, top, right, bottom = edges
        inside = left <= x[pair] <= right and top <= y[pair] <= bottom
        hit[pair] = hit.get(pair, False) or bool(inside)
    return sum(hit.values()) / len(hit)


def looked_into(
    base: Method, data: BenchmarkData, known: MaskRule, settings: Any
) -> dict[str, Any]:
    """One run with seed 0: pseudo-labels by epoch, and where boxes are known, pointing.

    Of the pseudo-labels of each epoch: how many, which share is right, and of all which found.
    """
    if settings.losses.pseudo == 0:
        settings = changed(settings, PSEUDO)
    chosen = for_cell(settings, seed=0, choose_epoch="held-out")
    truth, mask = data.train.matrix, known.apply(data.train.matrix, 0)
    source = data.encoded_train.features(pooled=False, views=chosen.training.encoded_views)
    names = data.train.category_names
    trainer = base.trainer(data.frozen, names, chosen, source, mask)
    trainer.truth = truth  # never trained on: it only says what is right
    # Held-out images never get a pseudo-label.
    open_pairs = (truth.known & ~mask.known)[trainer.kept]
    present = truth.labels[trainer.kept]
    hidden = {
        "positive": int((open_pairs & present).sum()),
        "negative": int((open_pairs & ~present).sum()),
    }
    before = None if data.test.boxes is None else pointing(data, trainer.model)
    epochs = []
    for done in train(trainer):
        row: dict[str, float | None] = {"epoch": done.epoch}
        for name, there in hidden.items():
            count = done.pseudo.get(f"pseudo_{name}", 0)
            right = done.pseudo.get(f"pseudo_{name}_right", math.nan)
            row |= {f"{name}_count": count, f"{name}_precision": None, f"{name}_recall": None}
            if count:
                row |= {f"{name}_precision": right, f"{name}_recall": right * count / there}
        epochs.append(row)
    found: dict[str, Any] = {"pseudo": epochs}
    if before is not None:
        found["pointing"] = {"before": before, "after": pointing(data, trainer.model)}
    return found


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Mean and deviation, and the mean paired difference to the first row."""
    lines = [f"{'':38}" + "".join(f"{c:>16}{'':9}" for c in columns)]
    for row in rows:
        parts = []
        for column in columns:
            own, full = row["map"].get(column), rows[0]["map"][column]
            if own is None:
                parts.append(f"{'-':>9}{'':16}")
                continue
            both = [a - b for a, b in zip(own, full, strict=True)]
            spread = statistics.stdev(own) if len(own) > 1 else 0.0
            parts.append(
                f"{statistics.mean(own):9.2f} ± {spread:4.2f} {statistics.mean(both):+8.2f}"
            )
        lines.append(f"{row['name']:38}" + " ".join(parts))
    return "\n".join(lines)


def joined(tree: dict[str, Any], name: str) -> dict[str, Any]:
    """Figures with those columns of results `name` that they lack; none, of other seeds."""
    path = record.RESULTS / f"{name}.json"
    before = json.loads(path.read_text()) if path.is_file() else {"seeds": None}
    if before["seeds"] != tree["seeds"]:
        return tree
    others = {row["name"]: row["map"] for row in before["rows"]}
    columns = sorted({*before["runs"], *tree["runs"]}, key=lambda each: (len(each), each))
    rows = []
    for row in tree["rows"]:
        both = others.get(row["name"], {}) | row["map"]
        rows.append({**row, "map": {each: both[each] for each in columns if each in both}})
    runs = before["runs"] | tree["runs"]
    commits = {*before.get("cells_commit", [before["commit"]]), commit() or "unknown"}
    return {
        **tree,
        "rows": rows,
        "runs": {each: runs[each] for each in columns},
        "cells_commit": sorted(commits),
    }


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--method", default="trmml", choices=list(ROWS["parts"]))
    parser.add_argument("--rows", default="parts", choices=list(ROWS))
    parser.add_argument("--data", nargs=2, required=True, metavar=("NAME", "ROOT"))
    parser.add_argument("--encoder", default="bundled")
    parser.add_argument("--settings", type=Path, help="a folder with METHOD.toml")
    parser.add_argument("--views", type=int, help="default: as the settings say")
    parser.add_argument("--precision", choices=get_args(Precision))
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--known", type=int, nargs="+", default=[10, 50], help="percent")
    parser.add_argument("--single-positive", action="store_true", help="and one label a image")
    parser.add_argument("--seeds", type=int, default=3, help="of masks and training")
    parser.add_argument("--out", type=Path, required=True, help="where finished cells are kept")
    return parser.parse_args()


def trains_otherwise(
    settings: Mapping[str, MethodSettings], base: Method, method: Method, known: MaskRule
) -> bool:
    """Whether a row trains otherwise than the first; a data set's two settings may differ."""
    own, full = (settings[each.key].values[known.protocol] for each in (method, base))
    return bool(own != full)


def held_out_data(name: str, root: str, encoder: str, **options: Any) -> BenchmarkData:
    """The training images, three quarters to train on and the rest as if they were the test."""
    data = read_named(name, Path(root), "train", {})
    if not data.matrix.known.all():
        raise DataError(f"{name} has unknown labels: what is right of a guess is not known")
    parts = (data.subset(part.tolist()) for part in split(len(data), HELD_OUT, 0))
    return encode_benchmark_data(
        name, *parts, load_encoder(encoder), encoder_spec=encoder, **options
    )


def main() -> None:
    """Run, print a table, write JSON."""
    options = parsed()
    base = METHODS[options.method]
    alike = shared_changes(options.views, options.precision)
    changes = ROWS[options.rows][base.key]
    methods, settings = variants(base, changes, options.settings, alike)
    trainings = [each.training for own in settings.values() for each in own.values.values()]
    data = held_out_data(
        *options.data,
        options.encoder,
        device=options.device,
        views=max(each.encoded_views for each in trainings),
        scored_views=max(each.scored_views for each in trainings),
    )
    known = [share_known(percent / 100) for percent in options.known]
    known += [single_positive()] * options.single_positive
    seeds = range(options.seeds)
    for finished in run_benchmark(
        data, options.out, methods=methods, known=known, seeds=seeds, settings=settings
    ):
        print(finished, flush=True)
    cells = CellFolder(options.out).cells()
    columns = [each.name for each in known]
    figures = {(c.method, c.known, c.seed): 100 * c.figures["map"] for c in cells.values()}
    rows = [{"name": m.name, "change": changes[m.name]} for m in methods]
    for method, row in zip(methods, rows, strict=True):
        row["map"] = {
            each.name: [round(figures[method.key, each.name, s], 3) for s in seeds]
            for each in known
            if method is methods[0] or trains_otherwise(settings, base, method, each)
        }
    print(table(rows, columns))
    tree: dict[str, Any] = {"dataset": data.name, "seeds": list(seeds), "rows": rows}
    tree["method"] = base.key
    tree |= {"images": len(data.train), "held_out": len(data.test)}
    kind = "ablation" if options.rows == "parts" else "training"
    name = f"{data.name}/{kind}" + "-paper" * (base.key == "trmml-paper")
    if options.rows == "parts":
        full = settings[base.key].values
        runs = {each.name: looked_into(base, data, each, full[each.protocol]) for each in known}
        print(json.dumps({c: [r["pseudo"][-1], r.get("pointing")] for c, r in runs.items()}))
        tree = joined({**tree, "runs": runs}, name)
    print(record.write_results(name, tree))


if __name__ == "__main__":
    main()
