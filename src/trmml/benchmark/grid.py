"""The grid: every method on every mask, with one encoder, loop and metric; resumed by the cell."""

import difflib
import hashlib
import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trmml.benchmark.catalog import METHODS, Method
from trmml.benchmark.data import BenchmarkData
from trmml.benchmark.method_settings import MethodSettings, default_settings
from trmml.benchmark.records import CELL_FORMAT, Cell, CellFolder, CellKey, Ranks
from trmml.benchmark.run_cell import CellRunner, Job, for_cell
from trmml.errors import ConfigError, TrainingError
from trmml.features.base import Progress
from trmml.labels.masks import MaskRule
from trmml.labels.matrix import LabelMatrix
from trmml.settings.choices import EpochRule
from trmml.settings.old_names import current_method, first_names
from trmml.settings.sections import Settings
from trmml.training.schedule import refuse_contradictions

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Finished:
    """What `run_benchmark` yields."""

    cell: Cell  # that was finished now
    done: int  # cells of the grid that are finished, those of earlier runs included
    total: int  # cells of the grid
    seconds_left: float  # for the rest, from what each method took so far

    def __str__(self) -> str:
        cell, left = self.cell, f"{self.seconds_left:.0f} s"
        if self.seconds_left > 99:
            left = f"{self.seconds_left // 3600:.0f} h {self.seconds_left % 3600 / 60:.0f} min"
        return (
            f"{self.done}/{self.total}  {cell.name}, {cell.known}, seed {cell.seed}:"
            f" mAP {100 * cell.mean_ap:.1f}  {sum(cell.seconds.values()):.0f} s  {left} left"
        )


def find_methods(keys: Sequence[str]) -> list[Method]:
    """Methods by key, in the given order.

    Raises:
        ConfigError: one is unknown or named twice, or none is named.

    Example:
        >>> [method.name for method in find_methods(["zero-shot"])]
        ['zero-shot']
    """
    keys = [current_method(key) for key in keys]
    if not keys:
        raise ConfigError(f"expected at least one method of {', '.join(METHODS)}")
    for key in keys:
        if key not in METHODS:
            close = difflib.get_close_matches(key, METHODS, n=1) or list(METHODS)
            raise ConfigError(f"there is no method {key!r}; did you mean {', '.join(close)}?")
    if len(set(keys)) < len(keys):
        raise ConfigError(f"a method is named twice in {', '.join(keys)}; name each once")
    return [METHODS[key] for key in keys]


def run_benchmark(
    data: BenchmarkData,
    out: Path | str,
    *,
    methods: Sequence[Method],
    known: Sequence[MaskRule],
    seeds: Sequence[int] = (0, 1, 2),
    settings: Mapping[str, MethodSettings] | None = None,
    epoch: EpochRule = "held-out",
    best_on_test: bool = False,
    refit: bool = False,
    progress: Progress | None = None,
) -> Iterator[Finished]:
    """Run a grid of method x known labels x seed; a generator of cells as they are finished.

    A cell that the folder holds already, with the same settings, mask, data and encoder, is not
    run again. Cells are kept as they come: a kill loses the one that runs.

    Args:
        data: encoded images, labels and encoder.
        out: folder of the grid; see `records.py`.
        methods: distinct keys.
        known: distinct names.
        seeds: of masks and training, distinct.
        settings: by method key; a method's defaults where it is not named.
        epoch: which epoch is reported: chosen on held-out training labels, or the last.
        best_on_test: also find the epoch that is best on the test images, as the field reports;
            it stands apart and decides nothing.
        refit: also train each model again on all known images, held-out ones included; its mAP
            stands apart as well.
        progress: told (what, done, total) within a cell.

    Raises:
        ConfigError: there is nothing to run, or settings of TRM-ML contradict each other.
        CheckpointError: the folder holds another grid.
        TrainingError: some cells diverged; raised after all others are finished.
    """
    grid = _Grid(data, settings or {}, epoch, best_on_test, refit)
    seeds, known = _seeds(seeds), _distinct(known)
    jobs = [grid.job(method, k, seed) for seed in seeds for k in known for method in methods]
    if not jobs:
        raise ConfigError("expected at least one method to run, got none")
    folder = CellFolder(out)
    folder.open(data.grid(), data.test.matrix)
    there, failed = folder.cells(), list[str]()
    for job in jobs:
        if grid.is_finished(job, there, folder):
            continue
        lines = folder.lines()  # another process may work on the same grid
        there = {cell.key: cell for cell in lines}
        if grid.is_finished(job, there, folder):
            continue
        try:
            cell, ranks = grid.known_already(job, lines, folder) or grid.runner.run(
                job, grid.mask(method=job.method, known=job.known, seed=job.seed), progress
            )
        except TrainingError as error:
            logger.warning("%s fails: %s", job.title, error)
            failed.append(job.title)
            continue
        folder.add(cell, ranks)
        there[cell.key] = cell
        done = sum(grid.is_finished(each, there, folder) for each in jobs)
        yield Finished(cell, done, len(jobs), grid.seconds_left(jobs, there, folder))
    if failed:
        raise TrainingError(
            f"{len(failed)} of {len(jobs)} cells failed, first {failed[0]}; the same command tries"
            " them again, lower their training.learning_rate first"
        )


class _Grid:
    """The cells of one run, and what they have in common."""

    def __init__(
        self,
        data: BenchmarkData,
        settings: Mapping[str, MethodSettings],
        epoch: EpochRule,
        best: bool,
        refit: bool,
    ) -> None:
        self.data, self.settings, self.epoch = data, settings, epoch
        self.best, self.refit = best, refit
        self.runner = CellRunner(data, epoch, best, refit)
        self._masks: dict[tuple[str, int], dict[str, Any]] = {}

    def job(self, method: Method, known: MaskRule, seed: int) -> Job:
        """A cell with its settings resolved; the mask is drawn for its checksum only."""
        chosen = self.settings.get(method.key) or default_settings(method)
        protocol = "partial" if method.full_labels else known.protocol
        settings = for_cell(chosen.values[protocol], seed=seed, choose_epoch=self.epoch)
        if isinstance(settings, Settings):
            refuse_contradictions(settings)
        name = ("", 0) if method.full_labels else (known.name, seed)
        if name not in self._masks:
            self._masks[name] = _mask_card(self.mask(method, known, seed))
        card = self._masks[name]
        parts = {
            "format": CELL_FORMAT,
            "method": method.key,
            "settings": first_names(settings.model_dump(mode="json")),
            "mask": card["sha256"],
            "same": self.data.same,
        }
        digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
        return Job(method, known, seed, settings, chosen.provenance[protocol], card, digest)

    def mask(self, method: Method, known: MaskRule, seed: int) -> LabelMatrix:
        """What a cell may train on."""
        labels = self.data.train.matrix
        return labels if method.full_labels else known.apply(labels, seed)

    def is_finished(self, job: Job, there: Mapping[CellKey, Cell], folder: CellFolder) -> bool:
        """Whether the folder holds this very cell."""
        cell = there.get(job.key)
        if cell is None or cell.fingerprint != job.fingerprint:
            return False
        return self.serves(cell, job) and folder.has_ranks(cell)

    def serves(self, cell: Cell, job: Job) -> bool:
        """Whether a cell of the same fingerprint has all that was asked for.

        Where its mAP is undefined, so are the figures that stand apart.
        """
        if cell.figures["map"] is None:
            return True
        lacks_best = self.best and job.method.trains and cell.best_on_test is None
        return not (lacks_best or (self.refit and cell.refit_map is None))

    def known_already(
        self, job: Job, lines: Sequence[Cell], folder: CellFolder
    ) -> tuple[Cell, Ranks] | None:
        """The same cell under another name, or replaced by one of other settings since.

        An upper bound is the same at every share; settings that are changed back are those of
        lines that are still there.
        """
        for twin in reversed(lines):
            if twin.fingerprint == job.fingerprint and self.serves(twin, job):
                if not folder.has_ranks(twin):
                    continue
                known = job.known
                cell = replace(
                    twin,
                    known=known.name,
                    share=known.share,
                    protocol=known.protocol,
                    seed=job.seed,
                )
                return cell, folder.ranks(twin)
        return None

    def seconds_left(
        self, jobs: Sequence[Job], there: Mapping[CellKey, Cell], folder: CellFolder
    ) -> float:
        """Sum over the cells that will be run of what their method took on average."""
        took: dict[str, list[float]] = {}
        for cell in {cell.fingerprint: cell for cell in there.values()}.values():
            took.setdefault(cell.method, []).append(sum(cell.seconds.values()))
        means = {method: sum(values) / len(values) for method, values in took.items()}
        other = sum(means.values()) / len(means)
        known = {cell.fingerprint for cell in there.values() if folder.has_ranks(cell)}
        left = {j.fingerprint: j.method.key for j in jobs if j.fingerprint not in known}
        return math.fsum(means.get(method, other) for method in left.values())


def _mask_card(mask: LabelMatrix) -> dict[str, Any]:
    return {
        "sha256": mask.checksum(),
        "known_share": round(mask.known_share, 6),
        "positives": int(mask.positives.sum()),
        "negatives": int(mask.negatives.sum()),
    }


def _seeds(seeds: Sequence[int]) -> Sequence[int]:
    if not seeds:
        raise ConfigError("expected at least one seed, got none")
    if len(set(seeds)) < len(seeds):
        raise ConfigError(f"a seed is named twice in {list(seeds)}; name each once")
    return seeds


def _distinct(known: Sequence[MaskRule]) -> Sequence[MaskRule]:
    names = [each.name for each in known]
    if not names:
        raise ConfigError("expected at least one share of known labels or single positive")
    if len(set(names)) < len(names):
        raise ConfigError(f"known labels are named twice in {', '.join(names)}; name each once")
    return known
