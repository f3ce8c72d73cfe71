"""What a search finds: precision at the automatic cut-off, and parts of images as queries.

    python -m benchmarks.accuracy.search --data scenes DIR --run RUN
    python -m benchmarks.accuracy.search --data corel5k DIR --encoder SPEC --run RUN

Each category's name is a text query over the test images. Of what lies above `--min auto` the
precision is the share that shows the category, the recall the share of such images that is shown.
Where boxes are known, up to 200 boxes that cover less than a tenth of their image are queries as
well: the box, its whole image, and the box with `--part`. AP is over all other test images, right
where they show the box's category. Where captions are known, 200 of them are queries, too, right
for their own image alone. Nothing is tuned here. Prints tables and writes
benchmarks/results/<dataset>/search.json.
"""

import argparse
import csv
import random
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from benchmarks.record import write_results

from trmml import load_encoder
from trmml.datasets.base import Dataset
from trmml.datasets.catalog import read_named
from trmml.metrics.average_precision import average_precisions
from trmml.search.build import build_index
from trmml.search.encoder import EncoderEmbedder
from trmml.search.index import Index
from trmml.search.query import Query, Term, parse_query

BOXES, LARGEST, CAPTIONS, FIRST = 200, 0.1, 200, 10


def at_the_cut(index: Index, data: Dataset) -> list[dict[str, Any]]:
    """A row for each category: how many images are shown, precision and recall."""
    places = {name: place for place, name in enumerate(data.images)}
    rows = []
    for category, name in enumerate(data.category_names):
        right = data.matrix.labels[:, category]
        if not right.any():
            continue
        found = index.search(parse_query([name]), top=len(data), least="auto")
        shown = [bool(right[places[hit.image]]) for hit in found.hits]
        rows.append(
            {
                "category": name,
                "shown": len(shown),
                "right": sum(shown),
                "present": int(right.sum()),
                "least": found.cut,
            }
        )
    return rows


def box_queries(index: Index, data: Dataset, seed: int) -> dict[str, float]:
    """Mean AP of images that show the category of a small box, by what is searched for."""
    boxes = data.boxes
    assert boxes is not None
    left, top, right, bottom = boxes.edges.unbind(1)
    small = ((right - left) * (bottom - top) < LARGEST).nonzero().flatten()
    chosen = small[torch.randperm(len(small), generator=torch.Generator().manual_seed(seed))]
    places = {name: place for place, name in enumerate(data.images)}
    found: dict[str, list[float]] = {"whole image": [], "box": [], "box, --part": []}
    for row in chosen[:BOXES].tolist():
        image = data.images[int(boxes.image[row])]
        edges = tuple(boxes.edges[row].tolist())
        path = str(data.root / image)
        queries = {
            "whole image": (Query((Term("image", image),)), False),
            "box": (Query((Term("image", path, 1.0, edges),)), False),
            "box, --part": (Query((Term("image", path, 1.0, edges),)), True),
        }
        labels = data.matrix.labels[:, int(boxes.category[row])]
        for name, (query, parts) in queries.items():
            hits = index.search(query, top=len(data), parts=parts).hits
            scores = torch.full((len(data), 1), -1e9)
            for hit in hits:
                scores[places[hit.image]] = hit.score
            others = torch.ones(len(data), 1, dtype=torch.bool)
            others[places[image]] = False
            ap = average_precisions(scores, labels[:, None], others)
            found[name].append(float(ap))
    return {name: statistics.fmean(values) for name, values in found.items()} | {
        "boxes": float(len(found["box"]))
    }


def captions_found(index: Index, data: Dataset, seed: int) -> dict[str, float]:
    """Share of captions whose own image is among the first found."""
    with (data.root / "captions.csv").open(encoding="utf-8", newline="") as file:
        captions = {row["image"]: row["caption"] for row in csv.DictReader(file)}
    chosen = random.Random(seed).sample(sorted(captions.items()), min(CAPTIONS, len(captions)))
    places = []
    for image, caption in chosen:
        hits = index.search(parse_query([caption]), top=FIRST).hits
        places.append([hit.image for hit in hits].index(image) if image in
                      {hit.image for hit in hits} else FIRST)  # fmt: skip
    return {
        "captions": float(len(chosen)),
        "recall among the first": statistics.fmean(place < 1 for place in places),
        f"recall among the first {FIRST}": statistics.fmean(place < FIRST for place in places),
    }


def summary_of(rows: list[dict[str, Any]], images: int) -> dict[str, float | None]:
    """Means over the categories of `at_the_cut`."""
    hit = [row for row in rows if row["shown"]]
    shown = sum(row["shown"] for row in hit)
    return {
        "categories": float(len(rows)),
        "with a hit": float(len(hit)),
        "precision, all hits": sum(row["right"] for row in hit) / max(shown, 1),
        "precision, mean of categories with a hit":
            statistics.fmean(row["right"] / row["shown"] for row in hit) if hit else None,
        "recall, mean of categories":
            statistics.fmean(row["right"] / row["present"] for row in rows),
        "share of images, mean of categories":
            statistics.fmean(row["present"] / images for row in rows),
    }  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", nargs=2, required=True, metavar=("NAME", "DIR"))
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--encoder")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    name, root = given.data
    data = read_named(name, Path(root), "test", {})
    encoder = None if given.encoder is None else load_encoder(given.encoder)
    with tempfile.TemporaryDirectory() as folder:
        build_index(given.run, data.root, folder, encoder=encoder, only=data.images)
        index = Index(folder, lambda card: EncoderEmbedder(card, encoder=encoder))
        rows = at_the_cut(index, data)
        found = {"cut": summary_of(rows, len(data))}
        if (data.root / "captions.csv").exists():
            found["captions"] = dict(captions_found(index, data, given.seed))
        if data.boxes is not None:
            found["boxes"] = dict(box_queries(index, data, given.seed))
    for part, figures in found.items():
        for what, value in figures.items():
            print(f"{part:9} {what:42} {value}")
    tree = {"seed": given.seed, **found, "categories": rows}
    print(f"written: {write_results(f'{name}/search', tree)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
