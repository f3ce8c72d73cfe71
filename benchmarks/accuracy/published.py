"""Finished grids made small enough to be committed, and read again: benchmarks/results/<dataset>/.

grid.json       the data set, its categories, what all cells share, and the settings by number
cells.jsonl     a line per cell; APs in three digits, no scores
draws.safetensors  mAP of each cell on each draw of the test images, for intervals
summary.json    the differences with their intervals
about.json      the commands, in the order in which their cells were published
tried.md        by hand: what was tried on this data set and did not help; may be missing
ablation.json   of ablation.py: trmml without each of its parts; may be missing
ablation-paper.json   the same of trmml-paper
training-paper.json   of ablation.py: trmml-paper trained longer, shorter and on several views
defaults.jsonl  cells of trmml without a search, as `trmml benchmark` wrote them
views.jsonl     cells of some methods with four views of each image, likewise; may be missing
untrained.json  of untrained.py: mAP of prompt learners before their first step; may be missing
refit.json      of trained_again.py: what training again on all images gains; may be missing
settings/       <method>.toml that the cells ran with, and where each comes from; may be missing
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from trmml.benchmark.records import Cell, CellFolder
from trmml.benchmark.report import summary_json
from trmml.benchmark.results import Comparison, Results, compared, drawn_maps
from trmml.encoders.base import short_name
from trmml.errors import CheckpointError, DataError
from trmml.settings.choices import PROTOCOLS
from trmml.settings.files import read_toml, to_toml
from trmml.storage.atomic import write_json, write_text

# Fields that all cells of a grid have in common, or that only a restart needs.
LEFT_OUT = ("dataset", "encoder", "data", "fingerprint", "ap_interpolated")
AP_DIGITS, FIGURE_DIGITS = 3, 5


@dataclass(frozen=True)
class Published:
    """A data set as the page shows it.

    Attributes:
        results: without scores; the comparisons are those of the full grid.
        commands: that ran it.
        tried: by hand, in Markdown; "" without any.
        ablations: what `ablation.py` wrote; empty without any.
        untrained: mAP in percent before the first step, by method; empty where not measured.
        refit: what `trained_again.py` wrote; empty without any.
        folder: where it lies.
    """

    results: Results
    commands: Sequence[str]
    tried: str
    ablations: Sequence[Mapping[str, Any]]
    untrained: Mapping[str, float]
    refit: Mapping[str, Any]
    folder: Path


def publish(
    out: Path, folder: Path, *, command: str, draws: int, settings: Path | None = None
) -> None:
    """Write finished cells small into `folder`/<data>, beside those that lie there.

    A grid may so be run in parts, on several machines: a cell that lies there already is replaced,
    the others stay, and the intervals are made anew of all. Settings go with their methods.

    Args:
        out: of `trmml benchmark`.
        folder: of all published data sets.
        command: for readers; without paths of this machine.
        draws: of the paired bootstrap.
        settings: the folder with the methods' TOML files, where the grid had one.

    Raises:
        DataError: no cell is finished.
        CheckpointError: what lies there has other data, another encoder or other draws, or is
            damaged.
    """
    source = CellFolder(out)
    grid, found = source.grid(), list(source.cells().values())
    if not found:
        raise DataError(f"no cell in {out} is finished; run the benchmark first")
    drawn = drawn_maps(source, found, count=draws) if draws else {}
    cells = {cell.key: replace(cell, fingerprint=_name(cell)) for cell in found}
    maps = {_name(cell): drawn[cell.fingerprint] for cell in found if drawn}
    place, commands = folder / grid["dataset"], [command]
    if (place / "cells.jsonl").is_file():
        earlier = read_published(place)
        _refuse_another(earlier.results, grid, draws, place)
        cells = {cell.key: cell for cell in earlier.results.cells} | cells
        maps = _read_draws(place, earlier.results) | maps
        commands = [each for each in earlier.commands if each != command] + commands
    results = compared(Results(grid, list(cells.values())), maps, draws)
    place.mkdir(parents=True, exist_ok=True)
    first, used = found[0], list[dict[str, Any]]()
    lines = [json.dumps(_small(cell, used), ensure_ascii=False) for cell in results.cells]
    encoder = {**first.encoder, "name": short_name(first.encoder["name"])}
    shared = {"dataset": first.dataset, "encoder": encoder, "data": first.data}
    grid = {**grid, "encoder": encoder, "shared": shared, "settings": used}
    if maps:
        # By name: rows without a name could be told from others by their place alone.
        table = {name: row.float() for name, row in maps.items()}
        save_file(table, place / "draws.safetensors")
    write_json(place / "grid.json", grid)
    write_text(place / "cells.jsonl", "".join(line + "\n" for line in lines))
    write_text(place / "summary.json", summary_json(results))
    write_json(place / "about.json", {"commands": commands})
    for method in {cell.method for cell in found}:
        protocols = {cell.protocol for cell in found if cell.method == method}
        _settings_of(f"{method}.toml", protocols, place / "settings", settings)


def read_published(folder: Path) -> Published:
    """What `publish` wrote."""
    grid = json.loads((folder / "grid.json").read_text("utf-8"))
    lines = (folder / "cells.jsonl").read_text("utf-8").splitlines()
    cells = [_whole(json.loads(line), grid) for line in lines]
    summary = json.loads((folder / "summary.json").read_text("utf-8"))
    comparisons = [Comparison.from_dict(each) for each in summary["comparisons"]]
    tried, start, again = (folder / f for f in ("tried.md", "untrained.json", "refit.json"))
    ablations = [folder / f"{name}.json" for name in ("ablation", "ablation-paper")]
    return Published(
        results=Results(grid, cells, comparisons, summary["draws"]),
        commands=json.loads((folder / "about.json").read_text("utf-8"))["commands"],
        tried=tried.read_text("utf-8").strip() if tried.is_file() else "",
        ablations=[json.loads(path.read_text("utf-8")) for path in ablations if path.is_file()],
        untrained=json.loads(start.read_text("utf-8"))["map"] if start.is_file() else {},
        refit=json.loads(again.read_text("utf-8")) if again.is_file() else {},
        folder=folder,
    )


def _refuse_another(earlier: Results, grid: Mapping[str, Any], draws: int, place: Path) -> None:
    """Cells of other data, another encoder or other draws cannot stand in one table."""
    for name, there, new in (
        ("data or encoder", earlier.grid["same"], grid["same"]),
        ("number of draws", earlier.draws, draws),
    ):
        if there != new:
            raise CheckpointError(
                f"{place} holds the cells of another grid: its {name} is {there}, not {new};"
                " publish with the same, or remove the folder first"
            )


def _read_draws(place: Path, earlier: Results) -> dict[str, Float[Tensor, " B"]]:
    """The mAP of each published cell on each draw; empty where none were made."""
    if not earlier.draws:
        return {}
    path = place / "draws.safetensors"
    try:
        maps = load_file(path)
        return {cell.fingerprint: maps[cell.fingerprint].double() for cell in earlier.cells}
    except (OSError, SafetensorError, KeyError) as error:
        raise CheckpointError(
            f"{path} lacks draws of published cells ({error}); restore it, or remove {place} and"
            " publish all its parts again"
        ) from None


def _settings_of(name: str, protocols: Collection[str], place: Path, settings: Path | None) -> None:
    """Put a method's parts of these protocols beside its cells; those of others stay.

    A part that the cells were not run with is taken away.
    """
    new = settings / name if settings is not None else None
    given = read_toml(new) if new is not None and new.is_file() else {}
    before = read_toml(place / name) if (place / name).is_file() else {}

    def parts(of: str | None) -> dict[str, Any]:
        old, now = (tree if of is None else tree.get(of, {}) for tree in (before, given))
        chosen = {part: now if part in protocols else old for part in PROTOCOLS}
        return {part: tree[part] for part, tree in chosen.items() if part in tree}

    (place / name).unlink(missing_ok=True)
    if found := parts(None):
        place.mkdir(exist_ok=True)
        write_text(place / name, to_toml({**found, "provenance": parts("provenance")}))


def _small(cell: Cell, settings: list[dict[str, Any]]) -> dict[str, Any]:
    """A cell without what others say too; its settings as their number in the list."""
    tree = {name: value for name, value in asdict(cell).items() if name not in LEFT_OUT}
    training = dict(cell.settings.get("training", {}))
    training.pop("seed", None)
    own = {**cell.settings, "training": training}
    if own not in settings:
        settings.append(own)
    figures = {name: _rounded(value, FIGURE_DIGITS) for name, value in cell.figures.items()}
    aps = [_rounded(value, AP_DIGITS) for value in cell.ap]
    curve = [(step, _rounded(value, FIGURE_DIGITS)) for step, value in cell.curve]
    own_parts = {"settings": settings.index(own), "figures": figures, "ap": aps, "curve": curve}
    return {**tree, **own_parts}


def _whole(tree: dict[str, Any], grid: Mapping[str, Any]) -> Cell:
    settings = grid["settings"][tree["settings"]]
    training = {**settings["training"], "seed": tree["seed"]}
    whole = {**tree, **grid["shared"], "settings": {**settings, "training": training}}
    whole["curve"] = [tuple(look) for look in tree.get("curve", ())]
    cell = Cell(**{**whole, "fingerprint": "", "ap_interpolated": []})
    return replace(cell, fingerprint=_name(cell))


def _name(cell: Cell) -> str:
    """What tells published cells apart."""
    return ", ".join(map(str, cell.key))


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
