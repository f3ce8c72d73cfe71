r"""What `trmml complete` adds to the tagger alone, on pairs that are hidden from both.

    python -m benchmarks.accuracy.completion --data scenes DIR --out OUT --tagger linear
    python -m benchmarks.accuracy.completion --data scenes DIR --out OUT --tagger run

Rows: `complete-image` is the tagger alone; `complete-pairs` and `complete-stack` insist on a level
of evidence; `complete-auto` is the default. Figures are mAP over the unknown pairs of the training
images, with the paired interval of drawing images anew; no test image is read. The tagger is a run
of `trmml fit`, or a linear head on the same features, which is quick. Finished cells and runs are
kept in OUT, and the same command goes on. `--publish` writes what is there to
benchmarks/results/completion.json.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from benchmarks.record import write_results
from jaxtyping import Float
from torch import Tensor

from trmml import fit, load_encoder
from trmml.benchmark.bootstrap import difference_interval, draws, resampled_map
from trmml.benchmark.records import ranks_of
from trmml.benchmark.table_text import Table, TableRow, TableValue, to_markdown
from trmml.curation.acceptance import Rule
from trmml.curation.collection import Collection, read_collection
from trmml.curation.complete import MODEL, complete_collection
from trmml.curation.cross_fit import directions_of, fit_head
from trmml.curation.weighing import Unseen
from trmml.datasets.base import Dataset
from trmml.datasets.catalog import read_named
from trmml.encoders.base import Encoder
from trmml.features.base import read_features
from trmml.features.extract import encode_images
from trmml.labels.matrix import LabelMatrix
from trmml.labels.statistics import counted_by_blanks
from trmml.metrics.average_precision import average_precisions, mean_defined
from trmml.metrics.calibration import calibrate
from trmml.settings.choices import EvidenceChoice
from trmml.settings.sections import Settings, changed
from trmml.storage.atomic import write_json
from trmml.training.run_folder import load_card
from trmml.training.schedule import hold_out

LEVELS: dict[str, EvidenceChoice] = {
    "complete-image": "off", "complete-pairs": "pairs", "complete-stack": "stack",
    "complete-auto": "auto",
}  # fmt: skip
DRAWS, PRECISION = 200, 0.9


def popular_hidden(truth: LabelMatrix, seed: int) -> LabelMatrix:
    """Labels of which the more frequent categories are hidden more often: 10 to 90 % of them."""
    rank = truth.positives.argsort().argsort().double() / len(truth.positives)
    draw = torch.rand(truth.known.shape, generator=torch.Generator().manual_seed(seed))
    return LabelMatrix(truth.labels, truth.known & (draw < 0.9 - 0.8 * rank))


MASKS: dict[str, Callable[[LabelMatrix, int], LabelMatrix]] = {
    "10 %": lambda truth, seed: truth.hide(0.1, seed),
    "50 %": lambda truth, seed: truth.hide(0.5, seed),
    "90 %": lambda truth, seed: truth.hide(0.9, seed),
    "single positive": LabelMatrix.keep_single_positive,
    "popular hidden": popular_hidden,
}


def main() -> None:
    """Compute the cells that are missing, or publish them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", nargs=2, metavar=("NAME", "DIR"))
    parser.add_argument("--encoder", default="bundled")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tagger", choices=("linear", "run"), default="run")
    parser.add_argument("--masks", nargs="+", choices=MASKS, default=list(MASKS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--set", nargs="*", default=[], metavar="SECTION.NAME=VALUE")
    parser.add_argument("--publish", action="store_true")
    asked = parser.parse_args()
    if asked.publish:
        publish(asked.out)
        return
    name, root = asked.data
    data, encoder = read_named(name, Path(root), "train", {}), load_encoder(asked.encoder)
    for seed in range(asked.seeds):
        for mask in asked.masks:
            place = f"{name}-{asked.tagger}-{mask.split()[0]}-{seed}"
            if (asked.out / "cells" / f"{place}.json").exists():
                continue
            cell: dict[str, Any] = {
                "data": name, "tagger": asked.tagger, "mask": mask, "seed": seed,
            }  # fmt: skip
            masked = replace(data, matrix=MASKS[mask](data.matrix, seed))
            values = {"training.seed": seed, **dict(each.split("=") for each in asked.set)}
            settings = changed(Settings(), values)
            if asked.tagger == "run":
                run = asked.out / "runs" / place
                collection = of_run(masked, encoder, run, settings)
                training = load_card(run).settings.training
                cell |= training.model_dump(include={"refit", "precision"})
            else:
                collection = of_linear_head(masked, encoder, settings)
            (asked.out / "cells").mkdir(parents=True, exist_ok=True)
            write_json(asked.out / "cells" / f"{place}.json", {**cell, **scored(collection, data)})
            print(place, flush=True)


def of_run(data: Dataset, encoder: Encoder, run: Path, settings: Settings) -> Collection:
    """The collection as a run of the default settings sees it."""
    if not (run / "report.html").exists():
        for _ in fit(data, encoder, run, settings=settings, resume=run.exists()):
            pass
    return read_collection(run, data, encoder=encoder)


def of_linear_head(data: Dataset, encoder: Encoder, settings: Settings) -> Collection:
    """The same with a linear head, first without the held-out images, then with all."""
    source = encode_images(data.paths, encoder).source
    hidden, features = read_features(source, pooled=True, views=1, dtype=torch.float32)
    means, matrix = hidden[0, :, 0], data.matrix
    inputs = directions_of(means)
    kept, held = hold_out(matrix, settings.training.held_out_share, settings.training.seed)
    logits = _by_head(inputs[kept], matrix.subset(kept), inputs[held])
    lines = calibrate(logits, matrix.subset(held), counted_by_blanks(matrix))
    whole = lines.logits(_by_head(inputs, matrix, inputs))
    unseen = Unseen(held, lines.logits(logits))
    return Collection(data, whole, features[0], means, lines, "linear head", held_out=unseen)


def _by_head(
    inputs: Float[Tensor, "M K"], matrix: LabelMatrix, others: Float[Tensor, "N K"]
) -> Float[Tensor, "N C"]:
    head = fit_head(inputs, matrix)
    return others @ head.weight + head.bias


def scored(collection: Collection, data: Dataset) -> dict[str, Any]:
    """Figures of each row, in percent: mAP over unknown pairs, its gain, and precision."""
    unknown = LabelMatrix(data.matrix.labels, data.matrix.known & ~collection.matrix.known)
    counts, rows = draws(len(data), DRAWS), dict[str, Any]()
    alone, drawn_alone = 0.0, torch.zeros(DRAWS)
    for row, level in LEVELS.items():
        found = complete_collection(collection, Rule("precision", PRECISION), level)
        scores = found.probability.where(unknown.known, torch.tensor(0.0))
        mean = 100 * mean_defined(average_precisions(scores, unknown.labels, unknown.known))
        drawn = 100 * resampled_map(ranks_of(scores.numpy()), unknown, counts)
        if level == "off":
            alone, drawn_alone = mean, drawn
        gain = difference_interval(mean - alone, drawn, drawn_alone)
        decided = (found.source >= MODEL) & found.matrix.labels & unknown.known
        rows[row] = {
            "map": mean, "gain": gain._asdict(), "decided": int(decided.sum()),
            "right": int((decided & unknown.labels).sum()), "weights": found.report["weights"],
        }  # fmt: skip
    return {"rows": rows, "told_held_out": collection.held_out is not None}


def publish(out: Path) -> None:
    """Print a table for each data set and tagger, and write all cells."""
    cells = [json.loads(path.read_text()) for path in sorted((out / "cells").glob("*.json"))]
    groups = defaultdict[tuple[str, str], list[dict[str, Any]]](list)
    for cell in cells:
        groups[cell["data"], cell["tagger"]].append(cell)
    for (data, tagger), group in groups.items():
        masks = [mask for mask in MASKS if any(cell["mask"] == mask for cell in group)]
        rows = tuple(
            TableRow(row, tuple(_value([c for c in group if c["mask"] == m], row) for m in masks))
            for row in (*LEVELS, "right of 100 decided")
        )
        print(to_markdown(Table(data, f"{data}, {tagger}", "", tuple(masks), rows, True)))
    print(write_results("completion", {"cells": cells}))


def _value(cells: list[dict[str, Any]], row: str) -> TableValue | None:
    """Over seeds: the tagger's mAP, the gain of other rows, or the precision of what is decided."""
    if row not in LEVELS:
        found = [cell["rows"]["complete-auto"] for cell in cells]
        decided = sum(each["decided"] for each in found)
        return TableValue(100 * sum(each["right"] for each in found) / decided) if decided else None
    rows = [cell["rows"][row] for cell in cells]
    if row == "complete-image":
        return TableValue(fmean(each["map"] for each in rows))
    gains = [each["gain"] for each in rows]
    interval = fmean(each["low"] for each in gains), fmean(each["high"] for each in gains)
    return TableValue(fmean(each["mean"] for each in gains), interval=interval)


if __name__ == "__main__":
    main()
