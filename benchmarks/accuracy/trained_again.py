r"""What training again on all known images gains, method by method, for the results page.

    trmml benchmark --data scenes DIR --known 10,50,90 --single-positive --seeds 1 --refit \
        --settings benchmarks/results/scenes/settings --out OUT
    python -m benchmarks.accuracy.trained_again OUT [OUT ...]

A cell of `--refit` has two test mAPs: of the model whose held-out images chose the epoch, and of
one trained as long on all images. Prints a table and writes benchmarks/results/<dataset>/refit.json
from the cells of all folders, which must be of one data set. A method that no folder has keeps the
row of that file, so that methods can be measured one after another.
"""

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import record

from trmml.benchmark.catalog import METHODS
from trmml.benchmark.records import Cell, CellFolder
from trmml.errors import DataError

SINGLE = "single positive"
Maps = Mapping[str, Mapping[str, Sequence[float]]]  # by column and seed: without, with
HEAD = """## What training again on all images gains

`trmml fit` ends with a training on all known images, held-out ones included, for as many epochs as
those had chosen (`training.refit`). `trmml benchmark` leaves it out, for every method. This is test
mAP with it, and in brackets the gain over the same cells without: one seed, the settings of the
tables below. *Partial* is the mean of 10, 50 and 90 % known. A dash means that it was not run.
"""
LEADS = "This is the lead over the best of these rivals, without and with it; rivals gain too.\n"


def measured(cells: Sequence[Cell]) -> dict[str, Any]:
    """By method and column both mAPs in percent, without and with the second training.

    Rows of benchmarks/results/<dataset>/refit.json stay where no cell is of their method.

    Raises:
        DataError: no cell was trained again, or they are of several data sets.
    """
    again = [cell for cell in cells if cell.refit_map is not None]
    data = sorted({cell.dataset for cell in again})
    if len(data) != 1:
        raise DataError(
            f"expected cells of `trmml benchmark --refit` of one data set, got {len(again)} of"
            f" {' and '.join(data) or 'none'}; name other folders"
        )
    rows: dict[str, dict[str, Any]] = {}
    for cell in again:
        row = rows.setdefault(cell.method, {"method": cell.method, "name": cell.name, "map": {}})
        pair = [round(100 * value, 3) for value in (cell.figures["map"], cell.refit_map or 0.0)]
        row["map"].setdefault(cell.known, {})[str(cell.seed)] = pair
    commits = {cell.commit or "unknown" for cell in again}
    path = record.RESULTS / data[0] / "refit.json"
    if path.is_file():
        before = json.loads(path.read_text())
        rows = {row["method"]: row for row in before["rows"]} | rows
        commits |= {*before["cells_commit"]}
    return {"dataset": data[0], "cells_commit": sorted(commits), "rows": list(rows.values())}


def gained_everywhere(trees: Sequence[Mapping[str, Any]]) -> str:
    """For all data sets a table with a row per method; "" without any.

    Args:
        trees: what `measured` gave, one per data set.
    """
    if not trees:
        return ""
    names = {row["method"]: row["name"] for tree in trees for row in tree["rows"]}
    rivals_first = sorted(METHODS, key=lambda key: not METHODS[key].baseline)
    heads = [f"{tree['dataset']}: partial | single" for tree in trees]
    lines = [HEAD, f"| method | {' | '.join(heads)} |", "| --- |" + " ---: | ---: |" * len(trees)]
    for key in (each for each in rivals_first if each in names):
        cells = []
        for tree in trees:
            found = next((row["map"] for row in tree["rows"] if row["method"] == key), {})
            cells += [_shown(found, columns) for columns in _parts(found)]
        lines.append(f"| {names[key]} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *_leads(trees, heads)]) + "\n"


def _leads(trees: Sequence[Mapping[str, Any]], heads: Sequence[str]) -> list[str]:
    """Lines of a table: how far ours is ahead of the best rival, without and with."""
    lines = []
    fair = {key: method for key, method in METHODS.items() if not method.full_labels}
    for ours in [method for method in fair.values() if not method.baseline]:
        cells = []
        for tree in trees:
            maps = {row["method"]: row["map"] for row in tree["rows"]}
            rivals = [maps[key] for key in maps if key in fair and fair[key].baseline]
            own = maps.get(ours.key, {})
            cells += [_lead(own, rivals, columns) for columns in _parts(own)]
        if set(cells) != {"-"}:
            lines.append(f"| {ours.name} | {' | '.join(cells)} |")
    if not lines:
        return []
    head = f"| lead over the best rival | {' | '.join(heads)} |"
    return [LEADS, head, "| --- |" + " ---: | ---: |" * len(trees), *lines]


def _lead(own: Maps, rivals: Sequence[Maps], columns: Sequence[str]) -> str:
    """The lead without and with the second training; "-" where no rival has all columns."""
    means = [_means(each, columns) for each in rivals if columns and {*columns} <= {*each}]
    if not means:
        return "-"
    best = [max(values) for values in zip(*means, strict=True)]
    pairs = zip(_means(own, columns), best, strict=True)
    return " to ".join(_signed(mine - other) for mine, other in pairs)


def _parts(found: Maps) -> tuple[list[str], list[str]]:
    """The columns of partial labels, and that of single positive if there is one."""
    return [c for c in found if c != SINGLE], [c for c in found if c == SINGLE]


def _signed(points: float) -> str:
    return f"{round(points, 1) + 0.0:+.1f}"


def _means(found: Maps, columns: Sequence[str]) -> tuple[float, float]:
    """Mean mAP without and with the second training."""
    pairs = [pair for column in columns for pair in found[column].values()]
    without, both = (statistics.mean(values) for values in zip(*pairs, strict=True))
    return without, both


def _shown(found: Maps, columns: Sequence[str]) -> str:
    """Mean with the second training, and what it gained; "-" without any cell."""
    if not columns:
        return "-"
    without, both = _means(found, columns)
    return f"{both:.1f} ({_signed(both - without)})"


def main() -> None:
    """Print a table and write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("out", type=Path, nargs="+", metavar="OUT", help="of the benchmark")
    folders = [CellFolder(out) for out in parser.parse_args().out]
    tree = measured([cell for folder in folders for cell in folder.cells().values()])
    print(gained_everywhere([tree]).removeprefix(HEAD))
    print(record.write_results(f"{tree['dataset']}/refit", tree))


if __name__ == "__main__":
    main()
