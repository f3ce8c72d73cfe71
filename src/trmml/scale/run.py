"""`tag_manifest`: plan the parts, leave out those that are done, have an engine do the others."""

import json
import logging
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import polars as pl

from trmml.deploy.kept import load_scorer
from trmml.errors import ConfigError, DataError
from trmml.scale.job import (
    FAILED,
    FORMAT,
    Job,
    begin,
    ordered,
    part_card,
    part_path,
    read_job,
    refuse_other,
    rows_checksum,
)
from trmml.scale.lance_table import begin_table, join, lance
from trmml.scale.manifest import read_manifest
from trmml.scale.objects import Storage, UnreachableError
from trmml.scale.part import why_failed
from trmml.scale.status import Status, status
from trmml.settings.choices import BatchFormat, Engine
from trmml.storage.atomic import write_text
from trmml.storage.held import held_folder
from trmml.storage.json_text import parse_object
from trmml.storage.provenance import run_identity
from trmml.tagging.scorer import Scorer

logger = logging.getLogger(__name__)

# Of a part, before it is left for the next time.
ATTEMPTS = 2


@dataclass(frozen=True)
class Loading:
    """How workers load the run and read images; the same everywhere.

    Args:
        run: absolute folder of the run.
        device: "cpu", "cuda", ...
        encoder: see `Tagger.load`, as `trust`.
        trust: whether a factory may run.
        storage: how objects are read.
    """

    run: Path
    device: str
    encoder: str | None
    trust: bool
    storage: Storage

    def scorer(self, what: Collection[str], precision: str, by: str | None) -> Scorer:
        """The run, as the job began with it; `by` is None where it begins.

        Raises:
            CheckpointError: no finished run there.
            ConfigError: the job began with ONNX Runtime, which cannot be used any more.
        """
        found = load_scorer(
            self.run, features="features" in what or by == "torch", device=self.device,
            precision=precision, encoder=self.encoder, trust=self.trust,
        )  # fmt: skip
        if by not in (None, found.by):
            raise ConfigError(
                "the job began with ONNX Runtime on the processor, which does not serve now: use"
                " the same --device, --what and --encoder, and a cache that can be written; or name"
                " a new folder"
            )
        return found


# An engine: parts in, and out comes each with why it failed, or None; `progress` counts images.
Drive = Callable[[Iterable[pl.DataFrame]], Iterator[tuple[pl.DataFrame, str | None]]]


def tag_manifest(
    run: Path | str,
    manifest: Path | str,
    out: Path | str,
    *,
    what: Sequence[str] = ("tags", "probabilities"),
    engine: Engine = "local",
    address: str | None = None,
    workers: int = 1,
    device: str = "auto",
    precision: str = "fp32",
    batch: int = 64,
    part: int = 10_000,
    files: BatchFormat = "parquet",
    retry_errors: bool = False,
    encoder: str | None = None,
    trust: bool = False,
    storage: Storage | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Status:
    """Tag the images of a manifest into a folder of files; how far that came.

    A part's file is written whole; one that is there is not done again. So the same call goes on
    after whatever stopped the one before. A part that fails twice is listed in failed.jsonl, and
    the others go on. The images are only read.

    Args:
        run: folder of a finished run.
        manifest: by `write_manifest`.
        out: folder of the job.
        what: of "tags", "probabilities", "features" and "maps".
        engine: "local" is this process; "ray" is a cluster, or Ray's processes on this machine.
        address: of a Ray cluster; None starts Ray here.
        workers: of Ray.
        device: "auto", "cpu", "cuda", ...; of Ray each worker has a card where it is "cuda", and
            of a cluster it must be said.
        precision: of the encoder.
        batch: images that are scored together.
        part: rows of a part.
        files: Parquet, one a part, or one Lance table.
        retry_errors: also do parts again in which an image could not be read.
        encoder: see `Tagger.load`, as `trust`.
        trust: whether a factory may run.
        storage: how URLs are read.
        progress: called with ("tag", done, total).

    Raises:
        CheckpointError: no finished run, or the folder holds another job.
        ConfigError: an option has a wrong value.
        DataError: the manifest cannot be read, or the first image's storage does not answer.
        MissingExtraError: pylance or Ray is asked for and not installed.
    """
    run, out = Path(run), Path(out)
    if re.match(r"[a-z][a-z0-9+.-]+:/", str(out)):
        raise ConfigError(
            f"{out} is in object storage, and a job writes to a folder: mount the bucket, or name a"
            " folder here and copy its parts when the job is done"
        )
    asked, rows = ordered(what), read_manifest(manifest)
    if min(batch, part) < 1 or precision == "auto":
        raise ConfigError("expected --batch and --part from 1 and a --precision other than auto")
    if files == "lance":
        lance()  # is missed before any work
    chosen = _device(device, engine, address)
    loading = Loading(run.absolute(), chosen, encoder, trust, storage or Storage())
    with held_folder(out):
        there = read_job(out)
        scorer = _scorer(loading, engine, asked, precision, there)
        job = _job(run, rows, scorer, asked, precision=precision, batch=batch, part=part,
                   files=files, device=chosen.partition(":")[0])  # fmt: skip
        if there is not None:
            job = job if there.device else replace(job, device="")
            refuse_other(out, there, job)
        slices = list(rows.iter_slices(part))
        paths = [part_path(out, each, job) for each in slices]
        cards = map(part_card, paths)
        todo = [
            each
            for each, card in zip(slices, cards, strict=True)
            if card is None or (retry_errors and card["errors"])
        ]
        _probe(todo, loading.storage)
        if there is None:
            begin(out, job)
        if files == "lance":
            begin_table(out, job)
        counted = _Counted(progress, rows.height - sum(map(len, todo)), rows.height)
        drive = _drive(engine, job, out, loading, scorer, counted, address, workers)
        _do(todo, out, drive)
        if files == "lance":
            join(out, job, [card for path in paths if (card := part_card(path))])
        return status(out)


def _device(device: str, engine: Engine, address: str | None) -> str:
    """The device that "auto" stands for; the processor needs no torch.

    Raises:
        ConfigError: it is not here, or none that Ray's workers can have.
    """
    if engine == "ray" and device.startswith("cuda:"):
        raise ConfigError(
            f"Ray gives each worker a card and shows it no other, so {device} names none; say"
            " --device cuda"
        )
    if engine == "ray" and address and device == "auto":
        raise ConfigError(
            "this machine cannot tell what the cluster's workers have; say --device cuda or cpu"
        )
    if device == "cpu" or (device == "cuda" and engine == "ray" and address):
        return device
    from trmml.training.fabric import pick_device  # torch takes seconds to import

    return pick_device(device)


def _scorer(
    loading: Loading, engine: Engine, what: list[str], precision: str, there: Job | None
) -> Scorer:
    """The run on this machine: to score or, before Ray's workers with cards, to say what it is."""
    by = None if there is None else there.by
    if engine == "ray" and loading.device != "cpu":  # where this machine may have no card to spare
        return replace(loading, device="cpu").scorer(["features"], "fp32", by)
    return loading.scorer(what, precision, by)


def _job(
    run: Path,
    rows: pl.DataFrame,
    scorer: Scorer,
    what: list[str],
    *,
    precision: str,
    batch: int,
    part: int,
    files: BatchFormat,
    device: str,
) -> Job:
    from importlib.metadata import version

    card = parse_object((run / "model.json").read_bytes())
    return Job(
        format=FORMAT,
        run=run_identity(run),
        encoder=card["encoder"],
        category_names=list(scorer.category_names),
        thresholds=[float(value) for value in scorer.thresholds],
        what=what,
        batch=batch,
        part=part,
        precision=precision,
        by=scorer.by,
        grid=list(scorer.grid),
        feature_size=scorer.feature_size if "features" in what else 0,
        rows=rows.height,
        manifest=rows_checksum(rows),
        trmml=version("trmml"),
        files=files,
        device=device,
    )


def _probe(todo: Sequence[pl.DataFrame], storage: Storage) -> None:
    """Raise before any work where the storage of the first image does not answer."""
    if todo:
        uri = todo[0]["uri"][0]
        try:
            storage.read(uri, todo[0]["size"][0])
        except UnreachableError:
            raise
        except DataError as error:  # the image's own; its row will say so
            if "://" in uri and isinstance(error.__cause__, PermissionError):
                raise UnreachableError(
                    f"{error} The first image may not be read, so nothing was begun; check the"
                    " credentials in the environment"
                ) from error
            logger.info("%s", error)


class _Counted:
    """Adds images up for a progress that counts to a total."""

    def __init__(
        self, progress: Callable[[str, int, int], None] | None, done: int, total: int
    ) -> None:
        self._progress, self._done, self._total = progress, done, total

    def __call__(self, images: int) -> None:
        """Take note of further images."""
        self._done += images
        if self._progress is not None:
            self._progress("tag", self._done, self._total)


def _drive(
    engine: Engine,
    job: Job,
    out: Path,
    loading: Loading,
    scorer: Scorer,
    counted: Callable[[int], None],
    address: str | None,
    workers: int,
) -> Drive:
    """What does parts: this process, or Ray."""
    if engine == "local":
        return partial(_local, job, out, scorer, loading.storage, counted)
    from trmml.scale.ray_engine import drive

    return partial(drive, job, out.absolute(), loading, counted, address, workers)


def _local(
    job: Job,
    out: Path,
    scorer: Scorer,
    storage: Storage,
    counted: Callable[[int], None],
    parts: Iterable[pl.DataFrame],
) -> Iterator[tuple[pl.DataFrame, str | None]]:
    """Do parts here, one after the other."""
    for rows in parts:
        yield rows, why_failed(job, out, rows, scorer, storage, counted)


def _do(todo: Sequence[pl.DataFrame], out: Path, drive: Drive) -> None:
    """Do parts, those that fail once more at the end, and list what failed twice."""
    (out / FAILED).unlink(missing_ok=True)
    failed: list[tuple[pl.DataFrame, str]] = []
    for _ in range(ATTEMPTS):
        failed = [(rows, why) for rows, why in drive(todo) if why is not None]
        todo = [rows for rows, _ in failed]
        if not todo:
            return
    lines = (
        json.dumps({"first": rows["id"][0], "rows": len(rows), "error": why}) + "\n"
        for rows, why in failed
    )
    write_text(out / FAILED, "".join(lines))
