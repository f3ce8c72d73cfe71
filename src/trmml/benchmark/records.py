"""The folder of a benchmark: one line per finished cell, and what its tables are made of.

    grid.json              what all cells share: data set, categories, encoder
    test.safetensors       the labels of the test images
    cells.jsonl            a line per finished cell, written when the cell is finished
    scores/*.safetensors   per cell, the rank of each test image in each category

A line that was cut off by a kill is ignored and overwritten. Of two lines of one cell the later one
counts. Several processes may work in one folder: lines are added under a lock.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from filelock import FileLock
from safetensors import SafetensorError
from safetensors.numpy import load_file

from trmml.errors import CheckpointError
from trmml.labels.matrix import LabelMatrix
from trmml.settings.old_names import current_method, current_names
from trmml.storage.atomic import sweep, told_if_full, write_json
from trmml.storage.json_text import of_kind, parse_object
from trmml.storage.tensors import save_tensors

# Raised when the same settings, data and encoder give another line than before: cells are redone.
CELL_FORMAT = 4

Ranks = npt.NDArray[np.integer[Any]]


class CellKey(NamedTuple):
    """What a cell is called: method key, name of the known labels, seed."""

    method: str
    known: str
    seed: int


@dataclass(frozen=True)
class Cell:
    """One method on one mask: a line of cells.jsonl."""

    dataset: str  # name of the data
    method: str  # key of the method; `name` is what tables call it
    name: str
    baseline: bool  # whether it is a rival of TRM-ML
    full_labels: bool  # whether it was given every label
    known: str  # name of the rule that hid labels; `share` is set where it keeps a share
    share: float | None
    protocol: str  # "partial" or "single_positive"
    seed: int  # of mask and training
    fingerprint: str  # of all that the figures depend on
    settings: Mapping[str, Any]  # all of them, resolved
    provenance: Mapping[str, Any]  # where they come from
    mask: Mapping[str, Any]  # checksum and counts of the known labels
    data: Mapping[str, str]  # checksums of training and test data
    encoder: Mapping[str, Any]  # identity of the encoder and the form of its features
    # of the packages that figures depend on; `commit` where trmml is a git checkout
    versions: Mapping[str, str]
    commit: str | None
    device: str
    date: str
    seconds: Mapping[str, float]  # of training and prediction
    epoch: Mapping[str, Any]  # which one was kept, of how many, and by what rule
    # on the test images, shares in [0, 1]; None where undefined
    figures: Mapping[str, float | None]
    ap: Sequence[float | None]  # per category, non-interpolated; None without a test positive
    ap_interpolated: Sequence[float | None]  # the same in the interpolated form
    # what the field reports: the best epoch by test mAP; None, as refit_map, where it was not asked
    # for or no test positive is known
    best_on_test: Mapping[str, Any] | None = None
    refit_map: float | None = None
    # after each epoch, the optimiser steps so far and held-out mAP; None where it has none
    curve: Sequence[tuple[int, float | None]] = ()

    @property
    def key(self) -> CellKey:
        """What the cell is called."""
        return CellKey(self.method, self.known, self.seed)

    @property
    def mean_ap(self) -> float:
        """Test mAP in [0, 1]; nan where no category has a positive."""
        value = self.figures["map"]
        return float("nan") if value is None else value


@dataclass(frozen=True)
class CategoryFact:
    """What plots set gains against."""

    name: str  # of the category
    train_positives: int  # images in which it is present, before anything is hidden
    test_positives: int  # the same of the test images
    # median over its boxes of the side of a square of equal area, as a share of the image's; None
    # without boxes
    size: float | None


@dataclass(frozen=True)
class Grid:
    """What is read of a grid.json, which holds more for people."""

    dataset: str
    same: Mapping[str, Any]
    categories: Sequence[CategoryFact]


class CellFolder:
    """The folder that a benchmark writes.

    Args:
        root: the folder; made when the first thing is written.
    """

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        self._cells = self.root / "cells.jsonl"
        self._grid = self.root / "grid.json"

    def open(self, grid: Mapping[str, Any], test: LabelMatrix) -> None:
        """Begin a grid, or check that the folder holds the same one.

        Args:
            grid: JSON values; `same` within must stay the same, the rest is written anew.
            test: labels of the test images.

        Raises:
            CheckpointError: the folder holds cells of other data or another encoder.
        """
        if self.root.exists() and not self.root.is_dir():
            raise CheckpointError(f"{self.root} is a file; name a folder for the benchmark")
        if self._grid.is_file():
            _refuse_another(self.grid(), grid, self.root)
        elif self._cells.is_file():
            raise CheckpointError(f"{self._cells} lies without its grid.json; restore it")
        self.root.mkdir(parents=True, exist_ok=True)
        for folder in (self.root, self.root / "scores", self.root / "tables", self.root / "plots"):
            sweep(folder)
        test.save(self.root / "test.safetensors")
        write_json(self._grid, grid)

    def grid(self) -> dict[str, Any]:
        """What `open` wrote.

        Raises:
            CheckpointError: the folder holds no benchmark.
        """
        try:
            tree = _current_keys(parse_object(self._grid.read_bytes()))
            of_kind(Grid, tree)
        except FileNotFoundError:
            raise CheckpointError(
                f"{self.root} holds no benchmark: there is no grid.json; run one first"
            ) from None
        except ValueError as error:
            raise CheckpointError(f"{self._grid} is damaged ({error}); restore it") from None
        return tree

    def test_labels(self) -> LabelMatrix:
        """Labels of the test images."""
        return LabelMatrix.load(self.root / "test.safetensors")

    def cells(self) -> dict[CellKey, Cell]:
        """The last line of each cell; a line that a kill cut off does not count.

        Raises:
            CheckpointError: another line is damaged.
        """
        return {cell.key: cell for cell in self.lines()}

    def lines(self) -> list[Cell]:
        """Every line, also those that a later one of the same cell replaces; errors as above."""
        return read_lines(self._cells) if self._cells.is_file() else []

    def add(self, cell: Cell, ranks: Ranks) -> None:
        """Write a finished cell: its ranks, then its line, forced to disk."""
        self._write_ranks(cell.fingerprint, ranks)
        line = (json.dumps(asdict(cell), ensure_ascii=False, allow_nan=False) + "\n").encode()
        with (
            FileLock(self.root / ".lock"),
            told_if_full(self._cells, len(line)),
            self._cells.open("ab+") as file,
        ):
            file.truncate(_whole_lines(file))
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    def has_ranks(self, cell: Cell) -> bool:
        """Whether the ranks of a cell are there."""
        return self._ranks(cell.fingerprint).is_file()

    def ranks(self, cell: Cell) -> Ranks:
        """Rank of each test image in each category, (N, C), 0 for the highest score.

        Raises:
            CheckpointError: the file is missing or damaged.
        """
        path = self._ranks(cell.fingerprint)
        try:
            return load_file(path)["ranks"]
        except FileNotFoundError:
            raise CheckpointError(f"{path} is missing; run the benchmark again") from None
        except (OSError, SafetensorError, KeyError) as error:
            raise CheckpointError(
                f"{path} cannot be read ({error}); remove it and run the benchmark again"
            ) from None

    def _ranks(self, fingerprint: str) -> Path:
        return self.root / "scores" / f"{fingerprint[:32]}.safetensors"

    def _write_ranks(self, fingerprint: str, ranks: Ranks) -> None:
        path = self._ranks(fingerprint)
        path.parent.mkdir(exist_ok=True)
        save_tensors(path, {"ranks": torch.from_numpy(ranks)})


def read_lines(path: Path) -> list[Cell]:
    """Every line of a file of cells; what follows the last line's end is ignored.

    Raises:
        CheckpointError: a whole line is damaged, or of another format.
    """
    lines = path.read_bytes().split(b"\n")[:-1]  # what a kill cut off has no end of line
    return [_parse(line, f"{path} line {number}") for number, line in enumerate(lines, 1)]


def ranks_of(scores: npt.NDArray[np.floating[Any]]) -> Ranks:
    """Dense ranks per column, 0 for the highest score; equal scores share one rank.

    All that an AP depends on, exact, in 2 bytes where there are at most 65,536 images.

    Example:
        >>> ranks_of(np.array([[0.1, 0.5], [0.9, 0.5]])).tolist()
        [[1, 0], [0, 0]]
    """
    smallest = np.uint16 if len(scores) <= 2**16 else np.uint32
    columns = [np.unique(-column, return_inverse=True)[1] for column in scores.T]
    return np.stack(columns, axis=1).astype(smallest)


def _whole_lines(file: Any) -> int:
    """Bytes up to the end of the last whole line."""
    file.seek(0)
    content = file.read()
    return int(content.rfind(b"\n") + 1)


def _parse(line: bytes, where: str) -> Cell:
    try:
        tree = parse_object(line)
        tree = {**_current_keys(tree), "settings": current_names(tree["settings"])}
        cell: Cell = of_kind(Cell, tree)
        if "map" not in cell.figures:
            raise KeyError("map")
        return cell
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise CheckpointError(f"{where} is damaged ({error}); remove the line") from None


def _current_keys(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Lines and grids of before 2026-12 call the name of the data set "ground"."""
    if "method" in tree:
        tree = {**tree, "method": current_method(tree["method"])}
    return {"dataset" if name == "ground" else name: value for name, value in tree.items()}


def _refuse_another(there: Mapping[str, Any], wanted: Mapping[str, Any], root: Path) -> None:
    old, new = there.get("same", {}), wanted["same"]
    for name in {**old, **new}:
        if old.get(name) != new.get(name):
            raise CheckpointError(
                f"{root} holds the cells of another grid: its {name} is {old.get(name)}, not"
                f" {new.get(name)}; name another folder"
            )
