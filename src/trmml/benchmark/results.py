"""All cells of a data set, seen as tables and plots need them."""

import logging
import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from trmml.benchmark.bootstrap import (
    Difference,
    Spread,
    difference_interval,
    draws,
    mean_over_cells,
    over_seeds,
    over_shares,
    resampled_map,
)
from trmml.benchmark.catalog import METHODS
from trmml.benchmark.records import Cell, CellFolder
from trmml.errors import DataError
from trmml.features.base import Progress
from trmml.labels.masks import MEAN
from trmml.settings.old_names import first_names

logger = logging.getLogger(__name__)

Figure = Callable[[Cell], float | None]


def mean_ap(cell: Cell) -> float | None:
    """Test mAP of a cell, in [0, 1]."""
    return cell.figures["map"]


@dataclass(frozen=True)
class ListedMethod:
    """A method as it stands in a table."""

    key: str
    name: str
    baseline: bool
    full_labels: bool


@dataclass(frozen=True)
class Comparison:
    """Every method against the best baseline of one column."""

    column: str  # a rule that hides labels, or `MEAN`
    rival: str  # key of the baseline; for a share it is the one with the best mean over shares
    # by method key, shares in [0, 1], over the seeds that both have
    differences: Mapping[str, Difference]

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        parts = {k: list(d) for k, d in self.differences.items()}
        return {"column": self.column, "rival": self.rival, "differences": parts}

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any]) -> "Comparison":
        """The inverse of `to_dict`."""
        parts = {key: Difference(*values) for key, values in tree["differences"].items()}
        return cls(tree["column"], tree["rival"], parts)


@dataclass(frozen=True, eq=False)
class Results:
    """The finished cells of a data set."""

    grid: Mapping[str, Any]  # as in grid.json
    cells: Sequence[Cell]  # the last of each key
    comparisons: Sequence[Comparison] = ()  # of the paired bootstrap; empty where it was not run
    draws: int = 0  # of the bootstrap

    @property
    def dataset(self) -> str:
        """Name of the data."""
        return str(self.grid["dataset"])

    @cached_property
    def lines(self) -> list[ListedMethod]:
        """Methods in the order of tables: baselines, forms of TRM-ML, upper bounds."""
        found = {c.method: _listed(c) for c in self.cells}
        known = list(METHODS)
        place = {key: known.index(key) if key in known else len(known) for key in found}
        return sorted(found.values(), key=lambda x: (x.full_labels, not x.baseline, place[x.key]))

    @cached_property
    def shares(self) -> list[float]:
        """Shares of known labels, lowest first."""
        return sorted({cell.share for cell in self.cells if cell.share is not None})

    @cached_property
    def seeds(self) -> list[int]:
        """Of any cell."""
        return sorted({cell.seed for cell in self.cells})

    @cached_property
    def columns(self) -> list[str]:
        """Shares, their mean, then all other rules."""
        names = {cell.share: cell.known for cell in self.cells if cell.share is not None}
        others = dict.fromkeys(cell.known for cell in self.cells if cell.share is None)
        mean = [MEAN] if self.shares else []
        return [*(names[share] for share in self.shares), *mean, *others]

    @property
    def headlines(self) -> list[str]:
        """The columns that methods are judged by: the mean, and each rule that is no share."""
        shares = {cell.known for cell in self.cells if cell.share is not None}
        return [column for column in self.columns if column not in shares]

    def cells_of(self, method: str, column: str) -> list[Cell]:
        """Cells of a method, of one rule or of all shares, by seed."""
        found = [
            cell
            for cell in self.cells
            if cell.method == method
            and (cell.share is not None if column == MEAN else cell.known == column)
        ]
        return sorted(found, key=lambda cell: (cell.seed, cell.share or 0.0))

    def whole_seeds(self, method: str, column: str) -> set[int]:
        """Seeds of which a method has every cell of a column."""
        wanted = len(self.shares) if column == MEAN else 1
        counts = Counter(cell.seed for cell in self.cells_of(method, column))
        return {seed for seed, count in counts.items() if count == wanted}

    def shared_seeds(self, methods: Sequence[str], column: str) -> set[int]:
        """Seeds of which each of some methods has every cell of a column: these compare."""
        return set.intersection(*(self.whole_seeds(method, column) for method in methods))

    def spread(self, method: str, column: str, figure: Figure = mean_ap) -> Spread | None:
        """Mean and deviation over seeds of a figure; None where nothing, or not all, is there."""
        cells = self.cells_of(method, column)
        if column == MEAN:
            return over_shares(cells, figure, self.shares)
        return over_seeds(cells, figure)

    @property
    def baselines(self) -> list[ListedMethod]:
        """What TRM-ML is compared with; upper bounds take no part."""
        return [line for line in self.lines if line.baseline and not line.full_labels]

    def ours(self, column: str) -> ListedMethod | None:
        """TRM-ML as it is by default, or the first of its forms: the test set chooses none."""
        found = [line for line in self.lines if not line.baseline and not line.full_labels]
        found = [line for line in found if self.spread(line.key, column) is not None]
        return min(found, key=lambda line: line.key != "trmml") if found else None

    def rival(self, column: str) -> ListedMethod | None:
        """The baseline to beat in a column: for a share, the best by the mean over shares."""
        column = column if column in self.headlines else MEAN
        found = {
            line: spread.mean
            for line in self.baselines
            if (spread := self.spread(line.key, column)) is not None
        }
        return max(found, key=lambda line: found[line]) if found else None

    def category_aps(
        self, method: str, column: str, *, seeds: Collection[int] | None = None
    ) -> list[float]:
        """Mean AP per category over the cells of a column, nan where undefined.

        As in `spread`, a seed that lacks a share does not count for their mean.

        Args:
            method: its key.
            column: a rule that hides labels, or `MEAN`.
            seeds: of which the mean is taken; by default all that are whole.
        """
        seeds = self.whole_seeds(method, column) if seeds is None else seeds
        cells = [cell for cell in self.cells_of(method, column) if cell.seed in seeds]
        rows = [[np.nan if ap is None else ap for ap in c.ap] for c in cells]
        if not rows:
            return [np.nan] * len(self.grid["categories"])
        return [float(value) for value in np.mean(rows, axis=0)]  # undefined in all or in none

    @cached_property
    def remarks(self) -> list[str]:
        """What a reader must know besides: mixed masks, settings or views, cells that lack."""
        found = _mixed(self.cells)
        views = {cell.settings["training"].get("scored_views", 1) for cell in self.cells}
        if len(views) > 1:
            counts = ", ".join(str(count) for count in sorted(views))
            found.append(
                f"Methods looked at different numbers of views of each image ({counts}): only"
                " those with equally many can be compared (--views K gives all of them K)."
            )
        trained = [cell for cell in self.cells if cell.epoch.get("by")]
        kinds = {cell.settings["training"].get("precision", "32-true") for cell in trained}
        if len(kinds) > 1:
            found.append(
                f"Methods were trained in different precisions ({', '.join(sorted(kinds))});"
                " --precision gives all of them the same."
            )
        lacking = []
        for line in self.lines:
            own = [cell for cell in self.cells if cell.method == line.key]
            for protocol in sorted({cell.protocol for cell in own}):
                settings = [_without_seed(c) for c in own if c.protocol == protocol]
                if any(other != settings[0] for other in settings):
                    found.append(f"{line.name}: its cells do not all have the same settings.")
            rules = {cell.known for cell in self.cells}
            lack = len(rules) * len(self.seeds) - len({(c.known, c.seed) for c in own})
            if lack:
                lacking.append(f"{line.name} {lack}")
        if lacking:
            found.append(f"Cells that are not finished: {', '.join(lacking)}.")
        return found


def load_results(
    folder: CellFolder, *, count: int = 1000, seed: int = 0, progress: Progress | None = None
) -> Results:
    """The results in a folder, with the paired bootstrap.

    Args:
        folder: of a benchmark.
        count: of draws of the test images; 0 leaves the bootstrap out.
        seed: of the draws.
        progress: told ("bootstrap", done, total).

    Raises:
        CheckpointError: the folder is none of a benchmark, or damaged.
        DataError: no cell is finished.
    """
    grid, cells = folder.grid(), list(folder.cells().values())
    if not cells:
        raise DataError(f"no cell in {folder.root} is finished; run the benchmark first")
    drawn = drawn_maps(folder, cells, count=count, seed=seed, progress=progress) if count else {}
    return compared(Results(grid, cells), drawn, count)


def drawn_maps(
    folder: CellFolder,
    cells: Sequence[Cell],
    *,
    count: int,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Float[Tensor, " B"]]:
    """The mAP of cells on the same draws of the test images, by fingerprint.

    Args:
        folder: that keeps their ranks.
        cells: of the folder.
        count: B, at least 1.
        seed: of the draws.
        progress: told ("bootstrap", done, total).
    """
    labels = folder.test_labels()
    counts = draws(len(labels), count, seed)
    distinct = {cell.fingerprint: cell for cell in cells}
    found = {}
    for done, (name, cell) in enumerate(distinct.items(), 1):
        found[name] = resampled_map(folder.ranks(cell), labels, counts)
        if progress is not None:
            progress("bootstrap", done, len(distinct))
    return found


def compared(results: Results, drawn: Mapping[str, Float[Tensor, " B"]], count: int) -> Results:
    """The same results with every comparison that the draws allow; none without draws."""
    if not drawn:
        return results
    found = (_compare(results, column, drawn) for column in results.columns)
    return replace(results, comparisons=[each for each in found if each], draws=count)


def _compare(results: Results, column: str, drawn: Mapping[str, Tensor]) -> Comparison | None:
    """Each method against the rival, over the seeds that are whole for both."""
    rival = results.rival(column)
    if rival is None:
        return None
    found = {}
    for line in results.lines:
        keys = (line.key, rival.key)
        seeds = results.shared_seeds(keys, column)
        if line == rival or not seeds:
            continue
        both = [[c for c in results.cells_of(key, column) if c.seed in seeds] for key in keys]
        own, theirs = (statistics.fmean(cell.mean_ap for cell in cells) for cells in both)
        if not math.isnan(own - theirs):
            drawn_means = (mean_over_cells(cells, drawn) for cells in both)
            found[line.key] = difference_interval(own - theirs, *drawn_means)
    return Comparison(column, rival.key, found)


def _mixed(cells: Sequence[Cell]) -> list[str]:
    """Remarks where methods differ at one rule and seed: in their masks, in the choice of epoch."""
    masks: dict[tuple[str, int], set[str]] = defaultdict(set)
    rules: dict[tuple[str, int], set[str]] = defaultdict(set)
    for cell in cells:
        if cell.full_labels:
            continue
        masks[cell.known, cell.seed].add(cell.mask["sha256"])
        if by := cell.epoch.get("by"):
            rules[cell.known, cell.seed].add(by)
    same_again = "they cannot be compared (run all of them into a new --out)."
    found = []
    if columns := {known: None for (known, _), some in masks.items() if len(some) > 1}:
        found.append(f"Methods had different known labels at {', '.join(columns)}: {same_again}")
    if columns := {known: None for (known, _), some in rules.items() if len(some) > 1}:
        found.append(
            f"The epoch was chosen by different rules at {', '.join(columns)}: {same_again}"
        )
    return found


def _listed(cell: Cell) -> ListedMethod:
    """A method by its present name, which a grid of before may lack; a variant has its own."""
    method = METHODS.get(cell.method)
    name = cell.name if method is None else method.name
    return ListedMethod(cell.method, name, cell.baseline, cell.full_labels)


def _without_seed(cell: Cell) -> dict[str, Any]:
    """Settings as first written: cells of before a setting was added have it off."""
    settings = first_names(cell.settings)
    training = {k: v for k, v in settings.get("training", {}).items() if k != "seed"}
    return {**settings, "training": training}
