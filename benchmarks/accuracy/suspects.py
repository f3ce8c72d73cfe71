"""What do the two lists of suspect labels find, with a tenth of the labels planted wrong?

    python -m benchmarks.accuracy.suspects --data scenes data/scenes --data corel5k data/corel5k

A tenth of the present labels of the training images is turned off, and as many absent ones are
turned on. Precision is among the first 100 and 500 of each list, cut or not; real faults of the
labels count as right ones. Intervals come from drawing images. No run is needed: a linear head
stands in, as in `review`, whose suspects never ask the run either.
"""

import argparse
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from benchmarks.record import write_results
from torch import Tensor

from trmml.benchmark.bootstrap import draws
from trmml.curation.collection import Collection
from trmml.curation.suspects import Suspects, label_logits, suspects
from trmml.datasets.base import Dataset
from trmml.datasets.catalog import read_named
from trmml.encoders import load_encoder
from trmml.encoders.frozen import frozen_encoder
from trmml.features.extract import encode_images
from trmml.labels.matrix import LabelMatrix
from trmml.metrics.calibration import Calibration

FIRST, DRAWS = (100, 500), 200
# A pair of matrices: what is asked of each list, and which of its labels were planted.
Planted = tuple[LabelMatrix, Tensor]


def main() -> None:
    """Print a table for each data set and write benchmarks/results/suspects.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", nargs=2, action="append", metavar=("NAME", "ROOT"), required=True)
    parser.add_argument("--encoder", default="bundled")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", default="suspects")
    given = parser.parse_args()
    found = {}
    for name, root in given.data:
        collection = encoded(read_named(name, Path(root), "train", {}), given.encoder)
        rows = [row(collection, seed) for seed in range(given.seeds)]
        found[name] = {"clean": clean(collection), "seeds": rows, "mean": mean(rows)}
        print(name, len(collection), "images;", "clean:", found[name]["clean"])
        for key, value in found[name]["mean"].items():
            print(f"  {key:30} {value}")
    print(write_results(given.out, {"encoder": given.encoder, "data": found}))


def encoded(data: Dataset, encoder: str) -> Collection:
    """A collection without a run."""
    source = encode_images(data.paths, frozen_encoder(load_encoder(encoder), spec=encoder)).source
    batches = [source.batch(part) for part in torch.arange(len(data)).split(64)]
    return Collection(
        data=data,
        logits=torch.zeros(data.matrix.labels.shape),
        features=torch.cat([batch.image_feature for batch in batches]).float(),
        means=torch.cat([batch.hidden_patches.mean(dim=1).half() for batch in batches]),
        calibration=Calibration.identity(len(data.category_names)),
        run="",
    )


def planted(matrix: LabelMatrix, seed: int) -> Planted:
    """Labels of which a tenth of the present ones and as many absent ones are turned about."""
    draw = torch.Generator().manual_seed(seed)
    wrong = torch.zeros_like(matrix.known)
    count = int(matrix.labels.sum()) // 10
    for state in (matrix.labels, matrix.known & ~matrix.labels):
        pairs = state.nonzero()
        some = pairs[torch.randperm(len(pairs), generator=draw)[:count]]
        wrong[some[:, 0], some[:, 1]] = True
    return LabelMatrix(matrix.labels ^ wrong, matrix.known), wrong


def clean(collection: Collection) -> dict[str, int]:
    """How many labels are listed where none was planted, of how many."""
    logits, matrix = label_logits(collection), collection.matrix
    return {
        "present": len(suspects(logits, matrix, given=True)),
        "of present": int(matrix.positives.sum()),
        "absent": len(suspects(logits, matrix, given=False)),
        "of absent": int(matrix.negatives.sum()),
    }


def row(collection: Collection, seed: int) -> dict[str, Any]:
    """What both lists find with one seed, by the head alone and with what other labels say."""
    matrix, wrong = planted(collection.matrix, seed)
    spoilt = replace(collection, data=replace(collection.data, matrix=matrix))
    found: dict[str, Any] = {"seed": seed, "planted": int(wrong.sum()) // 2}
    for way, logits in (("head", spoilt.expected), ("labels too", label_logits(spoilt))):
        for name, given in (("present", True), ("absent", False)):
            listed = suspects(logits, matrix, given=given)
            found[f"{name}, {way}"] = figures(listed, wrong, len(matrix))
    return found


def figures(listed: Suspects, wrong: Tensor, images: int) -> dict[str, Any]:
    """Precision among the first in percent with intervals, and what the list holds."""
    hit = wrong[listed.pairs[:, 0], listed.pairs[:, 1]].double()
    often = torch.as_tensor(draws(images, DRAWS)).double()[:, listed.pairs[:, 0]]
    found: dict[str, Any] = {"listed": len(listed), "planted": int(hit.sum())}
    for first in FIRST:
        found[f"first {first}"] = round(100 * float(hit[:first].mean()), 1)
        inside = (often.cumsum(dim=1) <= first) * often
        share = 100 * (inside * hit).sum(dim=1) / inside.sum(dim=1)
        edges = torch.quantile(share, share.new_tensor([0.025, 0.975]))
        found[f"interval {first}"] = [round(edge, 1) for edge in edges.tolist()]
    return found


def mean(rows: list[dict[str, Any]]) -> dict[str, str]:
    """Each figure of all seeds, and their mean."""
    return {
        f"{name}, {key}": f"{' '.join(f'{row[name][key]:.0f}' for row in rows)}"
        f" (mean {statistics.fmean(row[name][key] for row in rows):.1f})"
        for name in rows[0]
        if isinstance(rows[0][name], dict)
        for key in (*(f"first {first}" for first in FIRST), "listed", "planted")
    }


if __name__ == "__main__":
    main()
