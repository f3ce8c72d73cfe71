"""What a job says of images, for an index that then need not compute it again."""

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from trmml.errors import CheckpointError, ConfigError
from trmml.scale.job import part_card, part_paths, read_job
from trmml.scale.lance_table import read_rows
from trmml.search.rows import Described, Known
from trmml.storage.provenance import run_identity

COLUMNS = ("sha256", "image_feature", "probability")


def described_by(out: Path | str, run: Path | str) -> Known:
    """Features and probabilities of images by the SHA-256 of their bytes; see `build_index`.

    Args:
        out: folder of a job with features and probabilities; only what is done of it counts.
        run: that the index is made with.

    Raises:
        CheckpointError: the job is of another run, or damaged.
        ConfigError: no job was begun there, or it computes something else.
    """
    out, job = Path(out), read_job(Path(out))
    if job is None:
        raise ConfigError(f"{out} holds no job; name the folder that `trmml batch tag` wrote")
    if not {"features", "probabilities"} <= set(job.what):
        raise ConfigError(
            f"{out} holds {', '.join(job.what)}; an index needs a job of"
            " --what tags,probabilities,features"
        )
    if job.precision != "fp32":
        raise ConfigError(
            f"{out} was computed in {job.precision}, and an index has features in fp32; leave"
            " --from out, or do the job with --precision fp32"
        )
    if job.run != run_identity(Path(run)):
        raise CheckpointError(f"{out} was tagged with another run than {run}; name that run")

    if job.files == "lance":
        return _known_by_table(out)
    parts = [path for path in part_paths(out, job) if part_card(path)]  # others are damaged
    if not parts:
        return lambda sums: {}
    # Without glob: brackets in the folder's name are no pattern.
    good = pl.scan_parquet(parts, glob=False, include_file_paths="part")
    places = good.filter(pl.col("error").is_null()).select("sha256", "part").collect()

    def known(sums: Sequence[str]) -> dict[str, Described]:
        wanted = pl.col("sha256").is_in(list(sums))
        files = places.filter(wanted)["part"].unique().to_list()
        if not files:
            return {}
        rows = pl.scan_parquet(files, glob=False).filter(wanted & pl.col("error").is_null())
        return _by_sum(rows.select(*COLUMNS).collect())

    return known


def _known_by_table(out: Path) -> Known:
    """The same of a Lance table."""
    places = read_rows(out, ["sha256", "error"]).with_row_index("place")
    places = places.filter(pl.col("error").is_null())

    def known(sums: Sequence[str]) -> dict[str, Described]:
        wanted = places.filter(pl.col("sha256").is_in(list(sums)))["place"].to_list()
        return _by_sum(read_rows(out, COLUMNS, wanted))

    return known


def _by_sum(frame: pl.DataFrame) -> dict[str, Described]:
    columns = [frame[name].to_numpy() for name in COLUMNS[1:]]
    return dict(zip(frame["sha256"], zip(*columns, strict=True), strict=True))
