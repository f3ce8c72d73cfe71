"""`trmml fit`: read, hide labels where asked to, train, compare with zero-shot, report."""

import json as json_text
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from trmml.cli import options
from trmml.cli.output import Show, comparison, print_json, print_table, say, shown_progress

# Held-out present labels below which a choice of epoch deserves a warning.
FEW_POSITIVES = 50

if TYPE_CHECKING:
    from trmml.datasets.base import Dataset
    from trmml.encoders.base import Encoder
    from trmml.features.extract import Encoding
    from trmml.labels.matrix import LabelMatrix
    from trmml.metrics.figures import Metrics
    from trmml.settings.sections import Protocol, Settings
    from trmml.tagging.evaluate import Evaluation


def fit(
    images: options.Images,
    labels: options.Labels,
    out: options.Out,
    encoder: options.Encoder = "bundled",
    known: options.Known = None,
    seed: options.Seed = None,
    single_positive: options.SinglePositive = False,
    quota: options.Quota = None,
    mask: options.Mask = None,
    categories: options.Categories = None,
    blank: options.BlankOption = None,
    minus_one: options.MinusOne = None,
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
    test_images: options.TestImages = None,
    test_labels: options.TestLabels = None,
    tensorboard: options.Tensorboard = False,
    resume: options.Resume = False,
    json: options.Json = False,
) -> None:
    """Train on partly labelled pictures. Makes a folder with model and report."""
    started = time.monotonic()
    if (test_images is None) != (test_labels is None):
        raise typer.BadParameter("give both --test-images and --test-labels, or neither")
    if sum((known is not None, single_positive, quota is not None, mask is not None)) > 1:
        raise typer.BadParameter("give one of --known, --single-positive, --quota and --mask")
    short = {"training.seed": seed, "training.epochs": epochs, "training.precision": precision}
    given = [f"{name}={value}" for name, value in short.items() if value is not None]
    protocol: Protocol = "single_positive" if single_positive else "partial"
    settings = resolve_settings(preset, config, [*(set_ or ()), *given], protocol)

    # What can be wrong is read before anything long begins
    from trmml.encoders import load_encoder

    full, test = _read(
        (images, labels),
        None if test_images is None or test_labels is None else (test_images, test_labels),
        categories=categories,
        blank=blank,
        minus_one=minus_one,
    )
    data = _hide(full, known, single_positive, quota, mask, settings.training.seed)
    say(_described(data))
    loaded = load_encoder(encoder, image_size=image_size)

    truth = None if data is full else full.matrix
    encoding = options.encoding(store, store_form, live, encoder_precision)
    with shown_progress() as progress:
        _train(
            data,
            loaded,
            out,
            settings=settings,
            encoder_spec=encoder,
            truth=truth,
            resume=resume,
            device=device,
            encoding=encoding,
            on_bad_image=on_bad_image,
            tensorboard=tensorboard,
            progress=progress,
        )
        truth = _truth_of_run(out, data, truth)
        summary = _conclude(
            out, loaded, test, truth, device, encoding, on_bad_image, started, progress
        )
    if json:
        print_json(summary)
        return
    if "methods" in summary:
        print_table(comparison(summary["methods"]))
    typer.echo(f"run:     {summary['run']}\nreport:  {summary['report']}")


def _read(
    given: tuple[Path, Path],
    test: tuple[Path, Path] | None,
    *,
    categories: Path | None,
    blank: options.Blank | None,
    minus_one: options.Blank | None,
) -> "tuple[Dataset, Dataset | None]":
    """What to train on, and what to test on with the same categories: folder and table each."""
    from trmml.datasets.formats.folder import read_folder

    def read(part: tuple[Path, Path], names: Sequence[str] | None) -> "Dataset":
        return read_folder(*part, blank=blank, minus_one=minus_one, categories=names)

    data = read(given, read_names(categories))
    return data, None if test is None else read(test, data.category_names)


def _described(data: "Dataset") -> str:
    """What was read, so that a misread table is noticed at once."""
    matrix = data.matrix
    positives, negatives = int(matrix.positives.sum()), int(matrix.negatives.sum())
    none = int((matrix.positives == 0).sum())
    lacking = f"; {none} categories have no known present label" if none else ""
    return (
        f"{len(data)} pictures, {len(data.category_names)} categories, {matrix.known_share:.1%} of"
        f" the labels known: {positives} present, {negatives} absent{lacking}"
    )


def _chosen(chosen: dict[str, Any]) -> str:
    """Which epoch was kept and on what evidence."""
    score, positives = chosen["held_out_map"], chosen["held_out_positives"]
    held_out = "not to be had" if score is None else f"{100 * score:.1f}"
    few = " Few: the choice is little more than luck." if positives < FEW_POSITIVES else ""
    return (
        f"Kept epoch {chosen['epoch']}: held-out mAP {held_out}, from {positives} present labels of"
        f" {chosen['held_out_images']} held-out pictures.{few}"
    )


def _train(
    data: "Dataset",
    encoder: "Encoder",
    out: Path,
    *,
    settings: "Settings",
    encoder_spec: str,
    truth: "LabelMatrix | None",
    resume: bool,
    device: str,
    encoding: "Encoding",
    on_bad_image: options.OnBadImage,
    tensorboard: bool,
    progress: Show,
) -> None:
    from trmml.training.fit import fit as train

    records = train(
        data,
        encoder,
        out,
        settings=settings,
        encoder_spec=encoder_spec,
        truth=truth,
        resume=resume,
        device=device,
        encoding=encoding,
        on_bad_image=on_bad_image,
        tensorboard=tensorboard,
        progress=progress,
    )
    try:
        for record in records:
            progress.line(str(record))
    except KeyboardInterrupt:
        begun = (out / "state.safetensors").is_file()
        say("Interrupted. The same command with --resume continues." if begun else "Interrupted.")
        raise typer.Exit(130) from None


def _conclude(
    out: Path,
    encoder: "Encoder",
    test: "Dataset | None",
    truth: "LabelMatrix | None",
    device: str,
    encoding: "Encoding",
    on_bad_image: options.OnBadImage,
    started: float,
    progress: Show,
) -> dict[str, Any]:
    """Evaluate where there is something to evaluate on, write the report, and sum up."""
    from trmml.benchmark.zero_shot import TRAINED, results, zero_shot_metrics
    from trmml.features.extract import encode_images
    from trmml.reporting.report import write_report
    from trmml.tagging.evaluate import evaluate
    from trmml.tagging.tagger import Tagger
    from trmml.training.run_folder import load_card, write_text

    card, device = load_card(out), pick_device(device)
    say(_chosen(card.chosen))
    evaluation: Evaluation | None = None
    baselines: dict[str, Metrics] = {}
    summary: dict[str, Any] = {"run": str(out), **card.data, "chosen": card.chosen}
    if test is not None:
        tagger = Tagger.load(out, encoder=encoder, device=device)
        encoded = encode_images(
            test.paths,
            encoder,
            identity=tagger.card.encoder,
            encoding=encoding,
            views=tagger.views,
            seed=tagger.seed,
            device=device,
            on_bad_image=on_bad_image,
            progress=progress,
        )
        evaluation = evaluate(tagger, test, encoded=encoded)
        baselines = zero_shot_metrics(
            encoder,
            encoded.source,
            evaluation.data,
            prompts=card.settings.prompts,
            device=device,
        )
        if evaluation.metrics.mean_ap < max(m.mean_ap for m in baselines.values()):
            say("Warning: training did not beat the encoder's own zero-shot; it needs more labels.")
        tree = results(
            {**baselines, TRAINED: evaluation.metrics},
            known_share=card.data["known_share"],
            seed=card.settings.training.seed,
            seconds=time.monotonic() - started,
        )
        write_text(out / "results.json", json_text.dumps(tree, indent=1) + "\n")
        summary |= tree
    report = write_report(out, evaluation, baselines=baselines, truth=truth)
    seconds = round(time.monotonic() - started, 1)
    return {**summary, "seconds": seconds, "report": str(report)}


def resolve_settings(
    preset: str | None,
    config: Path | None,
    overrides: Sequence[str] | None,
    protocol: "Protocol" = "partial",
) -> "Settings":
    """The settings that the options of the command line add up to."""
    if preset is not None and config is not None:
        raise typer.BadParameter("give --preset or --config, not both")
    from trmml.settings.sections import load_settings

    source = config if preset is None else preset
    return load_settings(source, overrides or (), protocol=protocol)


def read_names(categories: Path | None) -> list[str] | None:
    """The names in a file, or None without one."""
    from trmml.datasets.formats.folder import read_categories

    return None if categories is None else read_categories(categories)


def pick_device(device: str) -> str:
    """What "auto" means on this machine; anything else as it is."""
    import torch

    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


def _hide(
    data: "Dataset",
    known: float | None,
    single_positive: bool,
    quota: tuple[int, int] | None,
    mask: Path | None,
    seed: int,
) -> "Dataset":
    """The same pictures with fewer known labels, or the very same data set."""
    if known is not None:
        return replace(data, matrix=data.matrix.hide(known, seed))
    if single_positive:
        return replace(data, matrix=data.matrix.keep_single_positive(seed))
    if quota is not None:
        return replace(data, matrix=data.matrix.keep_quota(*quota, seed))
    if mask is not None:
        from trmml.datasets.tables.peer_masks import read_mask

        return replace(data, matrix=read_mask(mask, data))
    return data


def _truth_of_run(out: Path, data: "Dataset", truth: "LabelMatrix | None") -> "LabelMatrix | None":
    """The truth of the pictures that the run could read."""
    skipped = out / "skipped.json"
    if truth is None or not skipped.is_file():
        return truth
    bad = {row["name"] for row in json_text.loads(skipped.read_text("utf-8"))}
    return truth.rows([i for i, path in enumerate(data.paths) if str(path) not in bad])
