"""`trmml benchmark`: read, encode, tune where asked for, run the grid, write tables and plots."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from trmml.cli import options
from trmml.cli.output import Show, print_json, print_table, say, shown_progress, silenced
from trmml.settings import choices

if TYPE_CHECKING:
    from rich.table import Table as RichTable

    from trmml.benchmark.catalog import Method
    from trmml.benchmark.data import BenchmarkData
    from trmml.benchmark.method_settings import MethodSettings
    from trmml.benchmark.report import Report
    from trmml.benchmark.table_text import Table
    from trmml.benchmark.tuning import Plan
    from trmml.datasets import Dataset
    from trmml.errors import TrainingError
    from trmml.labels.masks import MaskRule

# `--known 10..90` goes in steps of so many percent, as the field does.
STEP = 10


def benchmark(
    out: options.GridOut,
    data: options.Data = None,
    data_option: options.DataOption = None,
    encoder: options.Encoder = "bundled",
    image_size: options.ImageSize = None,
    methods: options.Methods = "all",
    known: options.Shares = None,
    single_positive: options.SinglePositive = False,
    quota: options.Quota = None,
    masks: options.Masks = None,
    seeds: options.Seeds = "3",
    settings: options.SettingsFolder = None,
    views: options.Views = None,
    precision: options.PrecisionForAll = None,
    tune: options.Tune = None,
    tune_folds: options.Folds = 2,
    epoch: options.EpochOption = "held-out",
    best_on_test: options.BestOnTest = False,
    draws: options.Draws = 1000,
    store: options.Store = None,
    store_form: options.StoreForm = "fp16",
    live: options.Live = False,
    encoder_precision: options.EncoderPrecision = "fp32",
    on_bad_image: options.BadImage = "error",
    device: options.Device = "auto",
    report_only: options.ReportOnly = False,
    json: options.Json = False,
) -> None:
    """Compare methods on one encoder. Every method, mask and seed; tables, plots, intervals."""
    if report_only:
        _show(_report(out, draws), out, json)
        return
    if data is None:
        raise typer.BadParameter("give --data NAME ROOT, or --report-only for a finished grid")
    rules = mask_rules(known, single_positive, quota, masked=bool(masks))
    chosen_seeds = seed_list(seeds)

    from trmml.benchmark.grid import find_methods
    from trmml.datasets.catalog import read_named
    from trmml.encoders import load_encoder

    chosen = find_methods(method_keys(methods))
    choices = options.named_values(data_option, "--data-option")
    train, test = (read_named(*data, split, choices) for split in ("train", "test"))
    say(f"{len(train)} images to train on, {len(test)} to test on")
    rules += _masks(masks or (), train)
    start = _settings(chosen, settings if tune is None else None, views, precision)
    schedules = [v.training for s in start.values() for v in s.values.values()]
    loaded = load_encoder(encoder, image_size=image_size)
    # Single positive has no negatives to calibrate on, in every epoch of every cell.
    with silenced("trmml.metrics.calibration"), shown_progress() as progress:
        from trmml.benchmark.data import encode_benchmark_data
        from trmml.training.fabric import pick_device

        benchmark_data = encode_benchmark_data(
            _title(data, choices),
            train,
            test,
            loaded,
            device=pick_device(device),
            encoding=options.encoding(store, store_form, live, encoder_precision),
            views=max(each.encoded_views for each in schedules),
            scored_views=max(each.scored_views for each in schedules),
            encoder_spec=encoder,
            on_bad_image=on_bad_image,
            progress=progress,
        )
        if len(benchmark_data.train) < len(train):  # unreadable images were left out
            left = set(benchmark_data.train.images)
            kept = [row for row, image in enumerate(train.images) if image in left]
            rules = [rule.subset(kept) for rule in rules]
        if tune is not None:
            from trmml.benchmark.tuning import Plan

            folder = settings or out / "settings"
            protocols = list(dict.fromkeys(rule.protocol for rule in rules))
            plan = Plan(trials=tune, folds=tune_folds, views=views, precision=precision)
            _tune(benchmark_data, chosen, protocols, plan, folder, out, epoch, progress)
            start = _settings(chosen, folder, views, precision)
        failure = _run(
            benchmark_data, out, chosen, rules, chosen_seeds, start, epoch, best_on_test, progress
        )
    if failure is not None:
        from trmml.benchmark.records import CellFolder

        if not CellFolder(out).cells():
            raise failure  # there is nothing to report
    _show(_report(out, draws), out, json)
    if failure is not None:
        raise failure


def _run(
    benchmark_data: "BenchmarkData",
    out: Path,
    methods: "Sequence[Method]",
    known: "Sequence[MaskRule]",
    seeds: Sequence[int],
    settings: "dict[str, MethodSettings]",
    epoch: choices.EpochRule,
    best_on_test: bool,
    progress: Show,
) -> "TrainingError | None":
    """Run the grid; the error of cells that diverged, so that the others are reported first."""
    from trmml.benchmark.grid import run_benchmark
    from trmml.errors import TrainingError

    cells = run_benchmark(
        benchmark_data,
        out,
        methods=methods,
        known=known,
        seeds=seeds,
        settings=settings,
        epoch=epoch,
        best_on_test=best_on_test,
        progress=progress,
    )
    try:
        for finished in cells:
            progress.line(str(finished))
    except TrainingError as error:
        return error
    except KeyboardInterrupt:
        say("Interrupted. The same command continues; finished cells are kept.")
        raise typer.Exit(130) from None
    return None


def mask_rules(
    known: str | None, single_positive: bool, quota: tuple[int, int] | None, masked: bool
) -> "list[MaskRule]":
    """What the options on known labels add up to; 10 to 90 percent where none is given."""
    from trmml.labels import masks

    if known is None and not single_positive and quota is None and not masked:
        known = "10..90"
    shares = [] if known is None else percentages(known)
    rules = [masks.share_known(percent / 100) for percent in shares]
    rules += [masks.single_positive()] if single_positive else []
    return rules if quota is None else [*rules, masks.quota(*quota)]


def _masks(paths: Sequence[Path], train: "Dataset") -> "list[MaskRule]":
    """Masks from files, those of other projects too."""
    from trmml.datasets.tables.peer_masks import read_mask
    from trmml.labels import masks

    return [masks.fixed(path.stem, read_mask(path, train)) for path in paths]


def percentages(text: str) -> list[float]:
    """The shares of `--known` in percent.

    Raises:
        ConfigError: it is neither a range nor a list, or a share is out of range.

    Example:
        >>> percentages("10..30"), percentages("5,50")
        ([10.0, 20.0, 30.0], [5.0, 50.0])
    """
    from trmml.errors import ConfigError

    first, dots, last = text.partition("..")
    try:
        if dots:
            found = [float(p) for p in range(int(first), int(last) + 1, STEP)]
            if found and found[-1] != float(last):
                raise ConfigError(
                    f"--known {text} goes by steps of {STEP} and misses {last}; write the shares"
                    " out, as 10,50,95"
                )
        else:
            found = [float(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"expected --known 10..90 or a list as 10,50,90, got {text!r}") from None
    wrong = [percent for percent in found if not 1 <= percent <= 100]
    if wrong or not found:
        what = f"{wrong[0]:g}" if wrong else text
        raise ConfigError(
            f"expected shares of known labels from 1 to 100 percent, got {what} in --known {text};"
            " to keep a tenth, write 10"
        )
    return found


def seed_list(text: str) -> list[int]:
    """The seeds of `--seeds`: so many from 0, or a list.

    Raises:
        ConfigError: there is none, or it is neither.

    Example:
        >>> seed_list("3"), seed_list("5,7"), seed_list("4,")
        ([0, 1, 2], [5, 7], [4])
    """
    from trmml.errors import ConfigError

    parts = [part.strip() for part in text.split(",")]
    listed = [part for part in parts if part]
    if not all(part.isdecimal() for part in listed):
        raise ConfigError(f"expected --seeds 3 (so many, from 0) or a list as 0,5,7, got {text!r}")
    found = [int(part) for part in listed]
    found = found if len(parts) > 1 else list(range(found[0] if found else 0))
    if not found:
        raise ConfigError(f"expected at least 1 seed, got --seeds {text}; 3 is usual")
    return found


def method_keys(text: str) -> list[str]:
    """The keys of `--methods`."""
    from trmml.benchmark.catalog import METHODS

    return list(METHODS) if text == "all" else [part.strip() for part in text.split(",")]


def _title(data: tuple[str, Path], choices: Mapping[str, str]) -> str:
    """What tables call the data: a set of the field by its name, and the choices made."""
    from trmml.datasets.catalog import find_reader

    name, root = data
    title = name if find_reader(name).counts else root.resolve().name
    made = ", ".join(f"{option}={value}" for option, value in choices.items())
    return f"{title} ({made})" if made else title


def _settings(
    methods: "Sequence[Method]",
    folder: Path | None,
    views: int | None,
    precision: choices.Precision | None,
) -> "dict[str, MethodSettings]":
    """Each method's of the folder or its defaults; `--views` and `--precision` are for all."""
    from trmml.benchmark.method_settings import (
        default_settings,
        read_settings,
        shared_changes,
        with_changes,
    )

    found, alike = {}, shared_changes(views, precision)
    for method in methods:
        own = default_settings(method) if folder is None else read_settings(method, folder)
        found[method.key] = with_changes(own, alike)
    return found


def _tune(
    benchmark_data: "BenchmarkData",
    methods: "Sequence[Method]",
    protocols: Sequence[choices.Protocol],
    plan: "Plan",
    folder: Path,
    out: Path,
    epoch: choices.EpochRule,
    progress: Show,
) -> None:
    """Search every method's settings; an upper bound's once, for its labels are always the same."""
    from trmml.benchmark.tuning import tune

    folder.mkdir(parents=True, exist_ok=True)
    for method in methods:
        for protocol in ("partial",) if method.full_labels else protocols:
            found = tune(
                benchmark_data,
                method,
                protocol,
                plan,
                folder=folder,
                work=out / "tuning",
                epoch=epoch,
                progress=progress,
            )
            for trial in found:
                progress.line(str(trial))


def _report(out: Path, draws: int) -> "Report":
    from trmml.benchmark.report import report_benchmark

    with shown_progress() as progress:
        return report_benchmark(out, draws=draws, progress=progress)


def _show(report: "Report", out: Path, json: bool) -> None:
    if json:
        print_json(_summary(report, out))
        return
    for table in report.tables[: 2 if report.results.comparisons else 1]:
        print_table(_terminal(table))
    typer.echo(
        f"page:    {out / 'results.md'}\ntables:  {out / 'tables'}\nplots:   {out / 'plots'}"
    )


def _terminal(table: "Table") -> "RichTable":
    """A table for the terminal."""
    from rich.table import Table as RichTable
    from rich.text import Text

    from trmml.benchmark.table_text import shown

    made = RichTable(title=Text(table.title), caption=Text(table.note))
    made.add_column("method")
    for column in table.columns:
        made.add_column(column, justify="right")
    for row in table.rows:
        cells = (Text(shown(value, signed=table.signed)) for value in row.values)
        made.add_row(Text(row.label), *cells)
    return made


def _summary(report: "Report", out: Path) -> dict[str, Any]:
    """What --json prints: mAP per method and column, and the comparisons."""
    results = report.results

    def spread(key: str, column: str) -> dict[str, Any] | None:
        found = results.spread(key, column)
        if found is None:
            return None
        deviation = found.deviation if found.count > 1 else None
        return {"mean": found.mean, "deviation": deviation, "seeds": found.count}

    return {
        "out": str(out),
        "dataset": results.dataset,
        "cells": len(results.cells),
        "map": {
            line.key: {column: spread(line.key, column) for column in results.columns}
            for line in results.lines
        },
        "comparisons": [comparison.to_dict() for comparison in results.comparisons],
        "remarks": results.remarks,
    }
