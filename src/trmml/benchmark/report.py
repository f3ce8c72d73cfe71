"""What a benchmark leaves for readers: tables, plots, and summary.json, beside its cells."""

import csv
import io
import json
import math
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from trmml.benchmark.plots import write_plots
from trmml.benchmark.records import CellFolder
from trmml.benchmark.results import Results, load_results
from trmml.benchmark.table_text import WRITERS, Table, to_markdown
from trmml.benchmark.tables import result_tables
from trmml.features.base import Progress
from trmml.storage.atomic import write_text


@dataclass(frozen=True)
class Report:
    """What was written."""

    results: Results  # the cells and comparisons
    tables: list[Table]  # of these
    plots: list[str]  # names of images without ending

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe form: mAP per method and column, and the comparisons."""
        results = self.results
        return {
            "dataset": results.dataset,
            "cells": len(results.cells),
            "map": {
                line.key: {column: _spread(results, line.key, column) for column in results.columns}
                for line in results.lines
            },
            "comparisons": [comparison.to_dict() for comparison in results.comparisons],
            "remarks": results.remarks,
        }


def _spread(results: Results, key: str, column: str) -> dict[str, Any] | None:
    """Mean and deviation of a method's mAP over the seeds; None where no cell is finished."""
    spread = results.spread(key, column)
    if spread is None:
        return None
    deviation = spread.deviation if spread.count > 1 else None
    return {"mean": spread.mean, "deviation": deviation, "seeds": spread.count}


def report_benchmark(
    out: Path | str, *, draws: int = 1000, progress: Progress | None = None
) -> Report:
    """Write tables, plots and summary.json from the finished cells of a folder.

        tables/*.md, *.tex, *.csv   every table in three forms
        tables/references.bib       what the LaTeX tables cite
        categories.csv              AP of each category, by method and column
        plots/*.png, *.svg
        summary.json                differences of the paired bootstrap
        results.md                  tables and plots on one page

    Args:
        out: folder of a benchmark.
        draws: of the test images, for intervals; 0 leaves them out.
        progress: told (what, done, total).

    Raises:
        CheckpointError: the folder is none of a benchmark, or damaged.
        DataError: no cell is finished.
    """
    folder = CellFolder(out)
    results = load_results(folder, count=draws, progress=progress)
    tables = result_tables(results)
    for part in ("tables", "plots"):
        (folder.root / part).mkdir(exist_ok=True)
    for table in tables:
        for ending, write in WRITERS.items():
            write_text(folder.root / "tables" / f"{table.name}.{ending}", write(table))
    sources = files("trmml.benchmark").joinpath("references.bib").read_text(encoding="utf-8")
    write_text(folder.root / "tables" / "references.bib", sources)
    write_text(folder.root / "categories.csv", categories_csv(results))
    write_text(folder.root / "summary.json", summary_json(results))
    plots = write_plots(results, folder.root / "plots")
    images = "\n".join(f"![{name}](plots/{name}.png)\n" for name in plots)
    page = "\n".join([f"# {results.dataset}\n", *map(to_markdown, tables), images])
    write_text(folder.root / "results.md", page)
    return Report(results, tables, plots)


def summary_json(results: Results) -> str:
    """The comparisons, which cannot be had from cells.jsonl alone."""
    parts = [comparison.to_dict() for comparison in results.comparisons]
    return json.dumps({"draws": results.draws, "comparisons": parts}, indent=1) + "\n"


def categories_csv(results: Results) -> str:
    """A row per category: its facts, then AP of each method in each headline column."""
    columns = [(line, column) for column in results.headlines for line in results.lines]
    aps = [results.category_aps(line.key, column) for line, column in columns]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = [f"{line.key}, {column}" for line, column in columns]
    writer.writerow(["category", "train_positives", "test_positives", "size", *names])
    for c, fact in enumerate(results.grid["categories"]):
        values = ["" if math.isnan(each[c]) else round(each[c], 6) for each in aps]
        size = "" if fact["size"] is None else fact["size"]
        writer.writerow(
            [fact["name"], fact["train_positives"], fact["test_positives"], size, *values]
        )
    return out.getvalue()
