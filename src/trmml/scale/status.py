"""How far a job is: read from the ends of its files, also while it runs."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trmml.errors import ConfigError
from trmml.scale.job import FAILED, part_card, part_paths, read_job


@dataclass(frozen=True)
class Status:
    """How far a job is.

    Attributes:
        rows: of the manifest.
        done: rows in the parts that are written.
        errors: rows of images that could not be read.
        parts, parts_done: of the job.
        failed: parts that failed twice in the last call.
        images_per_second: of the parts that are written, each by itself; 0 before the first.
    """

    rows: int
    done: int
    errors: int
    parts: int
    parts_done: int
    failed: int
    images_per_second: float

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def status(out: Path | str) -> Status:
    """How far the job of a folder is; only the ends of its files are read.

    Raises:
        ConfigError: no job was begun there.
        CheckpointError: the job or a part is damaged.
    """
    out = Path(out)
    job = read_job(out)
    if job is None:
        raise ConfigError(f"{out} holds no job; begin one: trmml batch tag RUN MANIFEST {out}")
    cards = [card for path in part_paths(out, job) if (card := part_card(path))]
    done, seconds = sum(c["images"] for c in cards), sum(c["milliseconds"] for c in cards) / 1000
    failed = out / FAILED
    return Status(
        rows=job.rows,
        done=done,
        errors=sum(card["errors"] for card in cards),
        parts=-(-job.rows // job.part),
        parts_done=len(cards),
        failed=len(failed.read_text("utf-8").splitlines()) if failed.is_file() else 0,
        images_per_second=round(done / seconds, 2) if seconds else 0.0,
    )
