"""`trmml benchmark`: read, encode, tune where asked for, run the grid, write tables and plots."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from trmml.cli import grid_options, options
from trmml.cli.grid_options import (
    mask_rules,
    method_keys,
    method_settings,
    protocols_of,
    read_masks,
    seed_list,
    title_of,
)
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


def benchmark(
    out: grid_options.GridOut,
    data: options.Data = None,
    data_option: options.DataOption = None,
    encoder: options.Encoder = "bundled",
    image_size: options.ImageSize = None,
    methods: grid_options.Methods = "all",
    known: grid_options.Shares = None,
    single_positive: options.SinglePositive = False,
    quota: options.Quota = None,
    masks: grid_options.Masks = None,
    seeds: grid_options.Seeds = "3",
    settings: grid_options.SettingsFolder = None,
    views: grid_options.Views = None,
    precision: grid_options.PrecisionForAll = None,
    tune: grid_options.Tune = None,
    tune_folds: grid_options.Folds = 2,
    epoch: grid_options.EpochOption = "held-out",
    best_on_test: grid_options.BestOnTest = False,
    refit: grid_options.Refit = False,
    draws: grid_options.Draws = 1000,
    store: options.Store = None,
    store_form: options.StoreForm = "fp16",
    live: options.Live = False,
    encoder_precision: options.EncoderPrecision = "fp32",
    on_bad_image: options.BadImage = "error",
    device: options.Device = "auto",
    report_only: grid_options.ReportOnly = False,
    json: options.Json = False,
) -> None:
    """Compare methods on one encoder. Every method, mask and seed; tables, plots, intervals."""
    if report_only:
        _show(_report(out, draws), out, json)
        return
    if data is None:
        raise typer.BadParameter("give --data NAME ROOT, or --report-only for a finished grid")
    if tune is not None:
        options.writable_folder(settings)
    rules = mask_rules(known, single_positive, quota, masked=bool(masks))
    chosen_seeds = seed_list(seeds)

    from trmml.benchmark.data import encode_benchmark_data
    from trmml.benchmark.grid import find_methods
    from trmml.benchmark.tuning import Plan
    from trmml.encoders import load_encoder
    from trmml.training.fabric import pick_device

    chosen = find_methods(method_keys(methods))
    title, train, test = read_both(data, options.named_values(data_option, "--data-option"))
    rules += read_masks(masks or (), train)
    start = method_settings(chosen, rules, settings if tune is None else None, views, precision)
    schedules = [each.training for own in start.values() for each in own.values.values()]
    # Single positive has no negatives to calibrate on, in every epoch of every cell.
    with silenced("trmml.metrics.calibration"), shown_progress() as progress:
        encoded = encode_benchmark_data(
            title,
            train,
            test,
            load_encoder(encoder, image_size=image_size),
            device=pick_device(device),
            encoding=options.encoding(store, store_form, live, encoder_precision),
            views=max(each.encoded_views for each in schedules),
            scored_views=max(each.scored_views for each in schedules),
            encoder_spec=encoder,
            on_bad_image=on_bad_image,
            progress=progress,
        )
        rules = _of_readable(rules, train, encoded.train)
        if tune is not None:
            plan = Plan(trials=tune, folds=tune_folds, views=views, precision=precision)
            folder = settings or out / "settings"
            start = _tune(encoded, chosen, rules, plan, folder, out, epoch, progress)
        failure = _run(
            encoded, out, chosen, rules, chosen_seeds, start, epoch, best_on_test, refit, progress
        )
    _finish(out, draws, json, failure)


def read_both(data: tuple[str, Path], choices: Mapping[str, str]) -> "tuple[str, Dataset, Dataset]":
    """What tables call the data, the images to train on, and those to test on."""
    from trmml.datasets.catalog import read_named

    train, test = (read_named(*data, split, choices) for split in ("train", "test"))
    say(f"{len(train)} images to train on, {len(test)} to test on")
    return title_of(data, choices), train, test


def _of_readable(
    rules: "list[MaskRule]", asked: "Dataset", readable: "Dataset"
) -> "list[MaskRule]":
    """The rules for the images that could be read."""
    if len(readable) == len(asked):
        return rules
    images = set(readable.images)
    kept = [row for row, image in enumerate(asked.images) if image in images]
    return [rule.subset(kept) for rule in rules]


def _finish(out: Path, draws: int, json: bool, failure: "TrainingError | None") -> None:
    """Report the finished cells, if there are any, then raise what failed."""
    from trmml.benchmark.records import CellFolder

    if failure is None or CellFolder(out).cells():
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
    refit: bool,
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
        refit=refit,
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


def _tune(
    benchmark_data: "BenchmarkData",
    methods: "Sequence[Method]",
    rules: "Sequence[MaskRule]",
    plan: "Plan",
    folder: Path,
    out: Path,
    epoch: choices.EpochRule,
    progress: Show,
) -> "dict[str, MethodSettings]":
    """Search every method's settings for the protocols of the rules."""
    from trmml.benchmark.tuning import tune

    folder.mkdir(parents=True, exist_ok=True)
    for method in methods:
        for protocol in protocols_of(method, rules):
            trials = tune(
                benchmark_data,
                method,
                protocol,
                plan,
                folder=folder,
                work=out / "tuning",
                epoch=epoch,
                progress=progress,
            )
            for trial in trials:
                progress.line(str(trial))
    return method_settings(methods, rules, folder, plan.views, plan.precision)


def _report(out: Path, draws: int) -> "Report":
    from trmml.benchmark.report import report_benchmark

    with shown_progress() as progress:
        return report_benchmark(out, draws=draws, progress=progress)


def _show(report: "Report", out: Path, json: bool) -> None:
    if json:
        print_json({"out": str(out), **report.to_dict()})
        return
    for table in report.tables[: 2 if report.results.comparisons else 1]:
        print_table(terminal(table))
    typer.echo(
        f"page:    {out / 'results.md'}\ntables:  {out / 'tables'}\nplots:   {out / 'plots'}"
    )


def terminal(table: "Table") -> "RichTable":
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
