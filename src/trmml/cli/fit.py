"""`trmml fit`: train a run, compare it with zero-shot, report."""

import io
import os
from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, nullcontext, redirect_stderr
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trmml.cli import options
from trmml.cli.output import Show, comparison, print_json, print_table, say, shown_progress
from trmml.cli.reading import (
    TableOptions,
    read_either,
    read_images,
    read_names,
    read_test_split,
    with_answers,
)
from trmml.errors import DataError
from trmml.settings.choices import Blank, Protocol

if TYPE_CHECKING:
    from trmml.datasets.base import Dataset
    from trmml.labels.masks import MaskRule
    from trmml.labels.matrix import LabelMatrix
    from trmml.settings.sections import Settings
    from trmml.training.record import EpochRecord


Devices = Annotated[
    int, typer.Option(min=1, help="Processes or cards of this machine that share the work.")
]
TestBlank = Annotated[
    Blank | None,
    typer.Option(help="What a blank of --test-labels means; when not given, as --blank says."),
]
Nodes = Annotated[
    int, typer.Option(min=1, help="Machines; each starts the same command by torchrun.")
]


def fit(
    out: options.Out,
    images: options.Images = None,
    labels: options.Labels = None,
    answers: options.AnswersOption = None,
    data: options.Data = None,
    data_option: options.DataOption = None,
    encoder: options.Encoder = "bundled",
    known: options.Known = None,
    seed: options.Seed = None,
    single_positive: options.SinglePositive = False,
    quota: options.Quota = None,
    mask: options.Mask = None,
    categories: options.Categories = None,
    blank: options.BlankOption = None,
    minus_one: options.MinusOne = None,
    separator: options.Separator = None,
    image_size: options.ImageSize = None,
    preset: options.Preset = None,
    config: options.Config = None,
    set_: options.Set = None,
    epochs: options.Epochs = None,
    precision: options.PrecisionOption = None,
    store: options.Store = None,
    store_form: options.StoreForm = "fp16",
    live: options.Live = False,
    encoder_precision: options.EncoderPrecision = "fp32",
    on_bad_image: options.BadImage = "error",
    device: options.Device = "auto",
    devices: Devices = 1,
    nodes: Nodes = 1,
    test_images: options.TestImages = None,
    test_labels: options.TestLabels = None,
    test_blank: TestBlank = None,
    test_share: options.TestShare = None,
    tensorboard: options.Tensorboard = False,
    resume: options.Resume = False,
    json: options.Json = False,
) -> None:
    """Train on partly labelled images. Makes a folder with model and report."""
    _check_options(test_images, test_labels, test_share, known, single_positive, quota, mask)
    short = {"training.seed": seed, "training.epochs": epochs, "training.precision": precision}
    given = [f"{name}={value}" for name, value in short.items() if value is not None]
    protocol: Protocol = "single_positive" if single_positive else "partial"
    settings = resolve_settings(preset, config, [*(set_ or ()), *given], protocol)

    # What can be wrong is read before anything long begins
    from trmml.datasets.base import keep_aside
    from trmml.encoders import load_encoder
    from trmml.reporting.fit import fit as run_fit

    table = TableOptions(read_names(categories), blank, minus_one, separator)
    train = read_either(images, labels, data, data_option, table)
    train, test = with_answers(train, labels, answers), None
    if test_images is not None and test_labels is not None:
        names = replace(table, categories=train.category_names)
        test = _test_data(test_images, test_labels, names, test_blank)
    elif test_share is not None:
        train, test = keep_aside(train, test_share, settings.training.seed)
    elif data is not None:
        test = read_test_split(data, data_option)
    loaded = load_encoder(encoder, image_size=image_size)
    with _silent_beside_the_first(), shown_progress() as progress:
        records = run_fit(
            train,
            loaded,
            out,
            settings=settings,
            mask=_mask(known, single_positive, quota, mask, train),
            test=test,
            resume=resume,
            device=device,
            devices=devices,
            nodes=nodes,
            encoding=options.encoding(store, store_form, live, encoder_precision),
            on_bad_image=on_bad_image,
            tensorboard=tensorboard,
            progress=progress,
            note=progress.line,
        )
        summary = follow(records, out, progress)
    _print(summary, json)


def _print(summary: dict[str, Any], json: bool) -> None:
    """What the run is like; nothing of a process beside the first."""
    if not summary:
        return
    if json:
        print_json(summary)
        return
    if "methods" in summary:
        print_table(comparison(summary["methods"]))
    typer.echo(f"run:     {summary['run']}\nreport:  {summary['report']}")


def _silent_beside_the_first() -> AbstractContextManager[object]:
    """Nothing on stderr of the processes that `--devices` or torchrun adds, but their errors."""
    number = os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))
    joined = "MASTER_ADDR" in os.environ and number != "0"
    return redirect_stderr(io.StringIO()) if joined else nullcontext()


def _check_options(
    test_images: Path | None,
    test_labels: Path | None,
    test_share: float | None,
    known: float | None,
    single_positive: bool,
    quota: tuple[int, int] | None,
    mask: Path | None,
) -> None:
    """Refuse options that exclude each other."""
    if (test_images is None) != (test_labels is None):
        raise typer.BadParameter("give both --test-images and --test-labels, or neither")
    if test_share is not None and test_images is not None:
        raise typer.BadParameter("give --test-share, or --test-images and --test-labels, not both")
    if sum((known is not None, single_positive, quota is not None, mask is not None)) > 1:
        raise typer.BadParameter(
            "give at most one of --known, --single-positive, --quota and --mask: each hides labels"
        )


def _test_data(images: Path, labels: Path, table: TableOptions, blank: Blank | None) -> "Dataset":
    """The test images with their labels, whose blanks may mean something else.

    Raises:
        DataError: they cannot be read; a question about blanks names the option for this table.
    """
    try:
        return read_images(images, labels, replace(table, blank=blank or table.blank))
    except DataError as error:
        if "--blank" not in str(error):
            raise
        raise DataError(
            f"{error} For this table alone say --test-blank; --blank is for both."
        ) from None


def _mask(
    known: float | None,
    single_positive: bool,
    quota: tuple[int, int] | None,
    mask: Path | None,
    data: "Dataset",
) -> "MaskRule | LabelMatrix | None":
    """What the options on known labels ask for."""
    from trmml.datasets.tables.peer_masks import read_mask
    from trmml.labels import masks

    if known is not None:
        return masks.share_known(known)
    if quota is not None:
        return masks.quota(*quota)
    if mask is not None:
        return read_mask(mask, data)
    return masks.single_positive() if single_positive else None


def follow(
    records: "Generator[EpochRecord, None, dict[str, Any]]", out: Path, progress: Show
) -> dict[str, Any]:
    """Print the epochs as they come, and return the summary of the run."""
    try:
        while True:
            progress.line(str(next(records)))
    except StopIteration as end:
        summary: dict[str, Any] = end.value
        return summary
    except KeyboardInterrupt:
        begun = any((out / n).is_file() for n in ("state.safetensors", "model.json"))
        say("Interrupted. The same command with --resume continues." if begun else "Interrupted.")
        raise typer.Exit(130) from None


def resolve_settings(
    preset: str | None,
    config: Path | None,
    overrides: Sequence[str] | None,
    protocol: Protocol = "partial",
) -> "Settings":
    """The settings that the options of the command line add up to."""
    if preset is not None and config is not None:
        raise typer.BadParameter("give --preset or --config, not both")
    from trmml.settings.files import load_settings

    source = config if preset is None else preset
    return load_settings(source, overrides or (), protocol=protocol)
