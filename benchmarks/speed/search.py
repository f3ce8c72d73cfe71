"""Milliseconds of a search: from disk, in memory and approximate, with filters, and the recall.

    python -m benchmarks.speed.search [--images 100000 1000000] [--queries 200 20] [--quick]

The index is made: unit vectors of 512 numbers around 2,000 centres, and 24 categories, of which 1 %
of the images have the first and 30 % the last. So no encoder's time is in it; the queries are
vectors near the centres. Exact search compares every row that holds the filter: it scans the disk,
or the features that a process keeps in memory. The recall is the share of the exact first 50 that
`--ann` finds. Prints a table and writes benchmarks/results/search.json.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.record import write_results

from trmml.search.approximate import index_vectors, recall
from trmml.search.index import Index
from trmml.search.query import Edges, parse_query, where
from trmml.search.reference import Reference, write_reference
from trmml.search.table import IndexCard, connect, image_schema, open_images, vectors

SIZE, CENTRES, FIRST, ROWS = 512, 2000, 50, 20_000
KINDS = ("exact", "in memory", "approximate")
NAMES = [f"category {number}" for number in range(24)]
FILTERS = {"no filter": [], "1 %": [NAMES[0]], "30 %": [NAMES[-1]]}


class Given:
    """An embedder whose texts are numbers of vectors.

    Args:
        queries: the vectors.
    """

    def __init__(self, queries: np.ndarray) -> None:
        self._queries = queries

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """The vectors of these numbers."""
        return self._queries[[int(text) for text in texts]]

    def images(self, paths: Sequence[Path], box: Edges | None) -> np.ndarray:
        """No image is asked for."""
        raise NotImplementedError

    def best_parts(self, paths: Sequence[Path], vector: np.ndarray) -> np.ndarray:
        """No part is asked for."""
        raise NotImplementedError


def unit(rows: np.ndarray) -> np.ndarray:
    """The rows with length 1."""
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def make_index(folder: Path, images: int, centres: np.ndarray, draw: np.random.Generator) -> Any:
    """The table of an index of so many made images."""
    import pyarrow as pa

    thresholds = [0.5] * len(NAMES)
    encoder = {
        "name": "made",
        "feature_size": SIZE,
        "checksum": "",
        "image_checksum": "",
        "size": 0,
    }
    card = IndexCard(1, "/", encoder, None, "{}", "", NAMES, thresholds, "0")
    schema = image_schema(card)
    table = connect(folder).create_table("images", schema=schema)
    shares = np.linspace(0.01, 0.3, len(NAMES))
    for start in range(0, images, ROWS):
        count = min(ROWS, images - start)
        near = centres[draw.integers(0, len(centres), count)]
        features = unit(near + 0.04 * draw.normal(size=(count, SIZE)))
        shown = draw.random((count, len(NAMES))) < shares
        present = [[NAMES[c] for c in row.nonzero()[0]] for row in shown]
        columns: dict[str, Any] = {
            name: pa.nulls(count, schema.field(name).type) for name in schema.names
        }
        columns |= {
            "image": [f"{n:09}.jpg" for n in range(start, start + count)],
            "image_feature": vectors(features, schema, "image_feature"),
            "probability": vectors(shown.astype(np.float32), schema, "probability"),
            "given": [[] for _ in range(count)],
            "absent": [[] for _ in range(count)],
            "present": present,
        }
        table.add(pa.table(columns, schema=schema))
    table.optimize()
    return table


def timed(index: Index, queries: int, tags: Sequence[str]) -> dict[str, float]:
    """Milliseconds of the first search, then median, 95th percentile, and those of all cores."""
    index.search(parse_query(["0"]), top=FIRST)  # opens what later searches find open
    began = time.perf_counter()
    index.search(parse_query(["0"], tags=tags), top=FIRST)
    first = 1000 * (time.perf_counter() - began)
    taken, worked = [], time.process_time()
    for number in range(1, queries):
        began = time.perf_counter()
        index.search(parse_query([str(number)], tags=tags), top=FIRST)
        taken.append(1000 * (time.perf_counter() - began))
    worked = 1000 * (time.process_time() - worked) / len(taken)
    p95 = float(np.quantile(taken, 0.95))
    median = statistics.median(taken)
    return {"first_ms": first, "median_ms": median, "p95_ms": p95, "processor_ms": worked}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--queries", type=int, nargs="+", default=[200, 20])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--exact", action="store_true", help="no approximate searches")
    parser.add_argument("--quick", action="store_true", help="10,000 images, 20 queries")
    options = parser.parse_args(arguments)
    counts = [10_000] if options.quick else options.images
    numbers = [20] if options.quick else options.queries
    rows = []
    print(f"{'images':>9}  {'search':12} {'filter':9} {'first ms':>9} {'median ms':>9}"
          f" {'p95 ms':>8} {'processor':>9} {'recall':>7}")  # fmt: skip
    for images, number in zip(counts, numbers, strict=True):
        draw = np.random.default_rng(options.seed)
        centres = unit(draw.normal(size=(CENTRES, SIZE)))
        queries = unit(centres[:number] + 0.04 * draw.normal(size=(number, SIZE)))
        given = Given(queries)
        with tempfile.TemporaryDirectory() as folder:
            table = make_index(Path(folder), images, centres, draw)
            none = np.zeros((0, SIZE), np.float32)
            found = Reference(centres.mean(axis=0), centres, none, ())
            write_reference(Path(folder), found, open_images(folder)[1])
            for kind in ("exact", "in memory") if options.exact else KINDS:
                if kind == "approximate":
                    began = time.perf_counter()
                    index_vectors(table, queries[:1])
                    print(f"{images:9}  the index of the vectors took"
                          f" {time.perf_counter() - began:.0f} s")  # fmt: skip
                index = Index(folder, lambda _, made=given: made, in_memory=kind == "in memory")
                for name, tags in FILTERS.items():
                    found = timed(index, number, tags)
                    filters = where(parse_query(["0"], tags=tags), index.card)
                    share = recall(table, queries, filters) if kind == "approximate" else 1.0
                    rows.append({"images": images, "queries": number, "search": kind,
                                 "filter": name, **found, "recall_50": share})  # fmt: skip
                    print(f"{images:9}  {kind:12} {name:9} {found['first_ms']:9.1f}"
                          f" {found['median_ms']:9.1f} {found['p95_ms']:8.1f}"
                          f" {found['processor_ms']:9.1f} {share:7.3f}")  # fmt: skip
    tree = {"seed": options.seed, "size": SIZE, "rows": rows}
    print(f"written: {write_results('search', tree, quick=options.quick)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
