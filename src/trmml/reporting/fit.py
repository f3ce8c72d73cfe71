"""`fit`: train a run, compare it with zero-shot where there are test images, and report."""

import logging
import os
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from trmml.datasets.base import Dataset, in_both
from trmml.deploy.kept import keep
from trmml.encoders.base import Encoder
from trmml.encoders.frozen import frozen_encoder
from trmml.features import ranks
from trmml.features.base import Progress
from trmml.features.extract import Encoded, Encoding, encode_images
from trmml.labels.masks import MaskRule
from trmml.labels.matrix import LabelMatrix
from trmml.labels.statistics import counted_by_blanks
from trmml.metrics.figures import Metrics
from trmml.reporting.comparison import HeldOut, method_name, results, zero_shot_metrics
from trmml.reporting.report import write_report
from trmml.settings.choices import OnBadImage
from trmml.settings.sections import Settings
from trmml.storage.atomic import write_json
from trmml.storage.held import held_folder
from trmml.storage.tensors import load_tensors
from trmml.tagging.evaluate import Evaluation, evaluate
from trmml.tagging.tagger import Tagger
from trmml.training.fabric import make_fabric, pick_device
from trmml.training.fit import check_folder, kept_rows, train_run
from trmml.training.record import EpochRecord
from trmml.training.run_folder import load_card, remove_states

if TYPE_CHECKING:
    from lightning_fabric import Fabric

# Held-out present labels below which the choice of the epoch deserves a warning.
FEW_POSITIVES = 50

logger = logging.getLogger(__name__)


def fit(
    data: Dataset,
    encoder: Encoder,
    out: Path | str,
    *,
    settings: Settings | None = None,
    encoder_spec: str | None = None,
    mask: MaskRule | LabelMatrix | None = None,
    truth: LabelMatrix | None = None,
    test: Dataset | None = None,
    resume: bool = False,
    device: str = "auto",
    devices: int = 1,
    nodes: int = 1,
    encoding: Encoding | None = None,
    on_bad_image: OnBadImage = "error",
    encoded: Encoded | None = None,
    tensorboard: bool = False,
    progress: Progress | None = None,
    note: Callable[[str], None] | None = None,
) -> Generator[EpochRecord, None, dict[str, Any]]:
    """Train a tagger; a generator of epoch records. The run folder is complete after the last.

    The folder then holds the model, report.html and, with `test`, results.json. The generator
    returns a summary of the run, which is what `trmml fit --json` prints.

    Args:
        data: images and labels. What is not known is estimated, never taken as "no".
        encoder: see `load_encoder`; it stays frozen.
        out: the run folder (see `run_folder.py`), made if need be.
        settings: defaults to `Settings()`.
        encoder_spec: what `load_encoder` takes to load the encoder again, for `tag`; an encoder
            that came from there knows its own.
        mask: hides labels first. A rule hides by the seed of training; a matrix, as `read_mask`
            returns it, is used as it is. The labels of `data` are then the truth.
        truth: complete labels of the same images, only to report how right pseudo-labels are.
        test: labelled images to evaluate on and to compare with zero-shot; never trained on.
        resume: continue a run that was stopped, with the same data, settings and encoder. One
            that is trained and has no report yet is concluded.
        device: "auto", "cpu", "cuda" or "cuda:1".
        devices: processes of each machine that share the work, each with a card of its own on
            "cuda". They begin this script anew. Batches are as large as with one.
        nodes: machines; on each the same command is started, as `torchrun` does.
        encoding: how the encoder's features are made and kept; by default in the user's store.
        on_bad_image: stop at an unreadable file, or leave it out and list it.
        encoded: features of `data` from the same encoder, where they are computed already.
        tensorboard: write a TensorBoard log beside log.jsonl.
        progress: called with (what, done, total) while something long runs.
        note: called with a line for people: what was read, and which epoch was kept.

    Raises:
        CheckpointError: the folder holds a run already, another process works in it, or `resume`
            does not fit it.
        DataError, ConfigError, EncoderError, TrainingError: see their names.

    Example:
        >>> for record in fit(data, encoder, "runs/photos"):  # doctest: +SKIP
        ...     print(record)
    """
    started, out, settings = time.monotonic(), Path(out), settings or Settings()
    note = note or (lambda line: None)
    if mask is not None:
        truth = data.matrix if truth is None else truth
        data = _hide(data, mask, settings.training.seed)
    note(_described(data))
    _warn_of_trained_on(test, data, settings)
    _look_first(out, resume, data.root)
    fabric = make_fabric(device, settings.training.precision, devices=devices, nodes=nodes)
    with nullcontext() if ranks.number() else held_folder(out):
        if ranks.of_first(resume and _is_trained(out)):
            kept = kept_rows(out, data, settings)
        else:
            kept = yield from train_run(
                data,
                encoder,
                out,
                settings=settings,
                encoder_spec=encoder_spec,
                truth=truth,
                resume=resume,
                encoding=encoding,
                on_bad_image=on_bad_image,
                encoded=encoded,
                tensorboard=tensorboard,
                progress=progress,
                keep_states=True,
                fabric=fabric,
            )
        together: Any = {"encoding": encoding, "on_bad_image": on_bad_image, "progress": progress}
        if _is_beside_the_first(test, encoder, settings, fabric, **together):
            return {}
        truth = None if truth is None else truth.subset(kept)
        card = load_card(out)
        note(_chosen(card.chosen))
        summary = {"run": str(out), **card.data, "chosen": card.chosen}
        evaluation, others = None, dict[str, Metrics]()
        if test is not None:
            tagger = Tagger.load(out, encoder=encoder, device=pick_device(device))
            evaluation, others = _compare(out, tagger, data.subset(kept), encoded, test, **together)
            summary |= _write_results(out, evaluation, others, time.monotonic() - started)
        keep(out)
        report = write_report(out, evaluation, baselines=others, truth=truth)
        remove_states(out)  # last: the run is finished
    return {**summary, "seconds": round(time.monotonic() - started, 1), "report": str(report)}


def _warn_of_trained_on(test: Dataset | None, data: Dataset, settings: Settings) -> None:
    """Log how many test images are images that training reads."""
    if test is None:
        return
    used = data if settings.learns_from_unanswered else data.subset(data.matrix.answered.tolist())
    if both := in_both(used, test):
        logger.warning(
            "%d of %d test images are trained on too, first %s: their scores say nothing of new"
            " images",
            len(both),
            len(test),
            both[0],
        )


def _is_beside_the_first(
    test: Dataset | None,
    encoder: Encoder,
    settings: Settings,
    fabric: "Fabric",
    *,
    encoding: Encoding | None,
    on_bad_image: OnBadImage,
    progress: Progress | None,
) -> bool:
    """Whether this process is done; all have encoded the test images before they part."""
    if test is not None and ranks.count() > 1:
        encode_images(
            test.paths,
            frozen_encoder(encoder, device=str(fabric.device)),
            encoding=encoding,
            views=settings.training.scored_views,
            seed=settings.training.seed,
            on_bad_image=on_bad_image,
            progress=progress,
        )
    number = ranks.number()
    ranks.part()
    return number > 0


def _look_first(out: Path, resume: bool, images: Path) -> None:
    """Look at the folder before other processes begin, which would say the same of it."""
    begun = os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))
    if begun == "0" and not (resume and _is_trained(out)):
        check_folder(out, resume, images)


def _is_trained(run: Path) -> bool:
    """Whether all that a run lacks is its end: the state of its training is removed last.

    Runs of before 2026-12 removed it before the report.
    """
    opened = (run / "state.safetensors").is_file() or not (run / "report.html").is_file()
    return (run / "model.json").is_file() and opened


def _hide(data: Dataset, mask: MaskRule | LabelMatrix, seed: int) -> Dataset:
    """The same images with fewer known labels."""
    return replace(
        data, matrix=mask.apply(data.matrix, seed) if isinstance(mask, MaskRule) else mask
    )


def _described(data: Dataset) -> str:
    """What is trained on, so that a misread table is noticed at once."""
    matrix = data.matrix
    positives, negatives = int(matrix.positives.sum()), int(matrix.negatives.sum())
    none = int((matrix.positives == 0).sum())
    lacking = f"; {none} categories have no known present label" if none else ""
    return (
        f"{len(data)} images, {len(data.category_names)} categories, {matrix.known_share:.1%} of"
        f" the labels known: {positives} present, {negatives} absent{lacking}"
    )


def _chosen(chosen: Mapping[str, Any]) -> str:
    """Which epoch was kept and on what evidence."""
    score, positives = chosen["held_out_map"], chosen["held_out_positives"]
    held_out = "not to be had" if score is None else f"{100 * score:.1f}"
    few = " Few: the choice is little more than luck." if positives < FEW_POSITIVES else ""
    again = " Then it was trained again on all images." if chosen.get("refit") else ""
    return (
        f"Kept epoch {chosen['epoch']}: held-out mAP {held_out}, from {positives} present labels of"
        f" {chosen['held_out_images']} held-out images.{few}{again}"
    )


def _held_out(
    run: Path,
    tagger: Tagger,
    data: Dataset,
    encoded: Encoded | None,
    *,
    encoding: Encoding | None,
    on_bad_image: OnBadImage,
    progress: Progress | None,
) -> HeldOut:
    """The training images that the run is calibrated on; `data` are those that it could read."""
    tensors, _ = load_tensors(run / "held_out.safetensors")
    images, by_blanks = tensors["images"], counted_by_blanks(data.matrix)
    if encoded is not None:
        return HeldOut(encoded.source, images, data.matrix.subset(images), by_blanks)
    held = data.subset(images.tolist())
    encoded = encode_images(  # training has put them into the store
        held.paths,
        tagger.frozen,
        encoding=encoding,
        on_bad_image=on_bad_image,
        progress=progress,
    )
    every = torch.arange(len(encoded.kept))
    return HeldOut(encoded.source, every, held.matrix.subset(encoded.kept), by_blanks)


def _compare(
    run: Path,
    tagger: Tagger,
    data: Dataset,
    encoded: Encoded | None,
    test: Dataset,
    *,
    encoding: Encoding | None,
    on_bad_image: OnBadImage,
    progress: Progress | None,
) -> tuple[Evaluation, dict[str, Metrics]]:
    """The run on the test images, and the encoder's own zero-shot, calibrated as the run is."""
    together: Any = {"encoding": encoding, "on_bad_image": on_bad_image, "progress": progress}
    held_out = _held_out(run, tagger, data, encoded, **together)
    asked = encode_images(
        test.paths, tagger.frozen, views=tagger.views, seed=tagger.seed, **together
    )
    evaluation = evaluate(tagger, test, encoded=asked)
    baselines = zero_shot_metrics(
        tagger.frozen,
        asked.source,
        evaluation.data,
        held_out=held_out,
        prompts=tagger.card.settings.prompts,
    )
    if evaluation.metrics.mean_ap < max(metrics.mean_ap for metrics in baselines.values()):
        logger.warning("training did not beat the encoder's own zero-shot; it needs more labels.")
    return evaluation, baselines


def _write_results(
    out: Path, evaluation: Evaluation, baselines: Mapping[str, Metrics], seconds: float
) -> dict[str, Any]:
    """Write results.json into the run and return what it holds."""
    card = evaluation.tagger.card
    tree = results(
        {**baselines, method_name(card.settings): evaluation.metrics},
        known_share=card.data["known_share"],
        seed=card.settings.training.seed,
        seconds=seconds,
    )
    write_json(out / "results.json", tree)
    return tree
