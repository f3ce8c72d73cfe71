"""A job in its folder: what is computed, cut into parts, and which of them are done.

OUT/job.json               what is computed, by which run, of which manifest
OUT/part-<hash>.parquet    a row for each image of a part; named by what goes into it
OUT/part-<hash>.json       in its place where the rows are in a Lance table, see `lance_table`
OUT/failed.jsonl           parts that failed twice, where there are any
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from trmml.errors import CheckpointError, ConfigError
from trmml.scale.lance_table import are_whole
from trmml.settings.choices import BATCH_OUTPUTS, BatchFormat
from trmml.storage.atomic import write_json
from trmml.storage.json_text import of_kind, parse_object

FORMAT = 1
CARD, FAILED = "job.json", "failed.jsonl"
_SUFFIX = {"parquet": ".parquet", "lance": ".json"}
_COLUMNS = {
    "tags": "present",
    "probabilities": "probability",
    "features": "image_feature",
    "maps": "maps",
}


@dataclass(frozen=True)
class Job:
    """What is computed of each image, the same in all parts.

    Attributes:
        format: of the files.
        run: SHA-256 of the run's model.json.
        encoder: name and checksums of the run's encoder.
        category_names, thresholds: in the order of `probability`.
        what: outputs, in the order of `BATCH_OUTPUTS`.
        batch: images that are scored together.
        part: rows of a part.
        precision: of the encoder.
        by: "onnxruntime" or "torch".
        grid: rows and columns of a map.
        feature_size: D; 0 where no features are written.
        rows, manifest: number and checksum of the manifest's rows.
        trmml: version that began the job.
        files: of which kind the output is.
        device: kind of it, as "cpu" or "cuda"; "" in jobs that were begun before it was noted.
    """

    format: int
    run: str
    encoder: dict[str, Any]
    category_names: list[str]
    thresholds: list[float]
    what: list[str]
    batch: int
    part: int
    precision: str
    by: str
    grid: list[int]
    feature_size: int
    rows: int
    manifest: str
    trmml: str
    files: BatchFormat = "parquet"
    device: str = ""

    @property
    def columns(self) -> list[str]:
        """Names of the columns that were asked for."""
        return [_COLUMNS[name] for name in self.what]

    @property
    def schema(self) -> dict[str, Any]:
        """The columns of a part."""
        patches = self.grid[0] * self.grid[1]
        asked = {
            "present": pl.List(pl.String),
            "probability": pl.Array(pl.Float16, len(self.category_names)),
            "image_feature": pl.Array(pl.Float16, self.feature_size),
            "maps": pl.List(pl.Array(pl.UInt8, patches)),
        }
        return {
            **{name: pl.String for name in ("id", "uri", "sha256")},
            **{name: pl.Int32 for name in ("width", "height")},
            **{name: asked[name] for name in self.columns},
            "error": pl.String,
        }

    @cached_property
    def checksum(self) -> str:
        """Of all but the version that began it."""
        tree = {name: value for name, value in asdict(self).items() if name != "trmml"}
        if self.files == "parquet":  # as before there was a choice
            del tree["files"]
        if not self.device:
            del tree["device"]
        return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def ordered(what: Sequence[str]) -> list[str]:
    """The outputs asked for, each once, in one order.

    Raises:
        ConfigError: one is unknown, or there is none.
    """
    if not what or (unknown := [name for name in what if name not in BATCH_OUTPUTS]):
        came = ", ".join(unknown) if what else "nothing"
        raise ConfigError(f"--what takes {', '.join(BATCH_OUTPUTS)} with commas, got {came}")
    return [name for name in BATCH_OUTPUTS if name in what]


def read_job(out: Path) -> Job | None:
    """The job of a folder; None where none was begun.

    Raises:
        CheckpointError: the folder's job is damaged or of another format.
    """
    try:
        tree = parse_object((out / CARD).read_bytes())
        if tree.get("format", FORMAT) != FORMAT:
            raise CheckpointError(
                f"{out} is a job of format {tree['format']}, this trmml reads {FORMAT}; install the"
                " trmml that began it"
            )
        job: Job = of_kind(Job, tree)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{out / CARD} is damaged ({error}); restore it, or name another folder"
        ) from None
    return job


def begin(out: Path, job: Job) -> None:
    """Write down what is computed."""
    write_json(out / CARD, job.to_dict())


def refuse_other(out: Path, there: Job, job: Job) -> None:
    """See that the folder's job is the one to do.

    Raises:
        CheckpointError: it is another job.
    """
    if there.checksum != job.checksum:
        old, new = there.to_dict(), job.to_dict()
        other = [name for name in old if name != "trmml" and old[name] != new[name]]
        raise CheckpointError(
            f"{out} holds another job: {', '.join(other)} differ; repeat its options, or name"
            " another folder"
        )


def rows_checksum(rows: pl.DataFrame, begin: str = "") -> str:
    """SHA-256 of some rows of a manifest, in hex, after a beginning of one's own."""
    made = hashlib.sha256(begin.encode())
    for name in rows.columns:
        made.update(json.dumps([name, rows[name].to_list()]).encode())
    return made.hexdigest()


def part_path(out: Path, rows: pl.DataFrame, job: Job) -> Path:
    """The file of a part, named by its rows and the job: another content has another name."""
    return out / f"part-{rows_checksum(rows, job.checksum)[:32]}{_SUFFIX[job.files]}"


def part_paths(out: Path, job: Job) -> list[Path]:
    """The files of parts that are there."""
    return sorted(out.glob(f"part-*{_SUFFIX[job.files]}"))


def part_card(path: Path) -> Mapping[str, Any] | None:
    """What a part's file says of itself; None where it is missing or its rows cannot be read."""
    try:
        if path.suffix == ".json":
            tree = parse_object(path.read_bytes())
            return tree if are_whole(path.parent, tree["fragments"]) else None
        card: Mapping[str, Any] = json.loads(pl.read_parquet_metadata(path)["trmml"])
    except (OSError, KeyError, ValueError, pl.exceptions.PolarsError):
        return None
    return card
