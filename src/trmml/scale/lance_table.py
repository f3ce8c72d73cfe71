"""The parts of a job as one Lance table: each is written by itself, and one commit joins them.

OUT/images.lance           the table: what the last call found done, in the manifest's order
OUT/part-<hash>.json       what a part is: its card, and the fragments of the table with its rows

A fragment that no part names is no row. A kill may leave some; Lance's clean-up removes them.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from trmml.errors import MissingExtraError

if TYPE_CHECKING:
    from trmml.scale.job import Job

TABLE = "images.lance"


def lance() -> Any:
    """The module.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import lance
    except ImportError:
        raise MissingExtraError("--format lance", "lance") from None
    return lance


def begin_table(out: Path, job: "Job") -> None:
    """Make an empty table where there is none."""
    if not any((out / TABLE / "_versions").glob("*.manifest")):  # a kill may leave less
        _commit(out, job, [])


def write_fragments(out: Path, frame: pl.DataFrame) -> list[dict[str, Any]]:
    """Write rows beside the table; what `join` makes them rows of it by."""
    lance()
    from lance.fragment import write_fragments

    made = write_fragments(frame.to_arrow(), str(out / TABLE))
    return [fragment.to_json() for fragment in made]


def are_whole(out: Path, fragments: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the files of fragments are there, in full length."""
    files = [file for fragment in fragments for file in fragment["files"]]
    paths = {out / TABLE / "data" / file["path"]: file["file_size_bytes"] for file in files}
    return all(path.is_file() and path.stat().st_size == size for path, size in paths.items())


def join(out: Path, job: "Job", cards: Sequence[Mapping[str, Any]]) -> None:
    """Make the table consist of parts, where it does not yet.

    Args:
        out: folder of the job.
        job: whose metadata the table's schema has.
        cards: of the parts that are done, in order.
    """
    fragments = [fragment for card in cards for fragment in card["fragments"]]
    names = [[file["path"] for file in fragment["files"]] for fragment in fragments]
    there = lance().dataset(out / TABLE).get_fragments()
    if [[file.path for file in fragment.data_files()] for fragment in there] != names:
        _commit(out, job, fragments)


def read_rows(out: Path, columns: Sequence[str], rows: Sequence[int] | None = None) -> pl.DataFrame:
    """Columns of the table.

    Args:
        out: folder of the job.
        columns: their names.
        rows: which, by their place; None for all.
    """
    table = lance().dataset(out / TABLE)
    names = list(columns)
    found = table.to_table(names) if rows is None else table.take(list(rows), names)
    frame = pl.from_arrow(found)
    assert isinstance(frame, pl.DataFrame)
    return frame


def _commit(out: Path, job: "Job", fragments: Sequence[Mapping[str, Any]]) -> None:
    module, about = lance(), {"trmml": json.dumps(job.to_dict())}
    schema = pl.DataFrame(schema=job.schema).to_arrow().schema.with_metadata(about)
    made = [module.FragmentMetadata.from_json(json.dumps(fragment)) for fragment in fragments]
    module.LanceDataset.commit(str(out / TABLE), module.LanceOperation.Overwrite(schema, made))
