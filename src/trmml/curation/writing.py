"""A completed collection as a table, as JSON lines, and with the reasons of each probability."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import compress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int
from torch import Tensor

from trmml.curation.complete import MODEL, Completed
from trmml.datasets.base import Dataset
from trmml.datasets.formats.other_forms import read_other_form
from trmml.datasets.tables.cells import is_long
from trmml.datasets.tables.changed import Cells, as_table, signs_of, with_cells
from trmml.datasets.tables.table import read_table
from trmml.errors import DataError
from trmml.settings.choices import Blank, CompletedFormat
from trmml.storage.atomic import refuse_old, whole_file, write_bytes

# Names of files that a program for tables would refuse to open as what they are.
SPREADSHEETS = (".xlsx", ".xlsm", ".xls", ".ods", ".numbers")
# Known labels that a probability is explained by.
REASONS = 3
# Images that are explained at once.
PROVENANCE_IMAGES = 512


def write_completed(
    completed: Completed,
    out: Path,
    table: Path | None,
    style: CompletedFormat,
    *,
    minus_one: Blank | None = None,
    answered: Cells | None = None,
) -> None:
    """Write the given and the decided labels; what was open and is not decided stays open.

    Args:
        completed: from `complete`.
        out: new file; it is written whole or not at all.
        table: the labels that were completed; the form "wide" is a copy of it.
        style: "wide", "long" (image, present, absent) or "jsonl", which has probabilities too.
        minus_one: what -1 means in the table; where it means absent, -1 is written for absent.
        answered: cells of the table that people answered otherwise, from `changed_cells`.

    Raises:
        DataError: `out` is there already, or the table cannot be copied.
    """
    refuse_to_overwrite(out, table)
    refuse_spreadsheets(out)
    refuse_other_forms(table, style, completed.asked)
    if style == "jsonl":
        with whole_file(out) as part, part.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(
                json.dumps(one, ensure_ascii=False) + "\n" for one in _objects(completed)
            )
    elif style == "long":
        write_bytes(out, as_table(_asked(completed), "long"))
    else:
        assert table is not None
        decided = _cells(completed, minus_one)
        write_bytes(out, with_cells(table, *filter(None, (answered, decided))))


def own_form(table: Path | None, categories: Sequence[str] | None = None) -> CompletedFormat:
    """The form of a completed table: "wide" where it can be a copy of `table`, else "long".

    Args:
        table: the labels.
        categories: those that were asked for when it was read.
    """
    return "long" if table is None or _no_copy(table, categories) else "wide"


def refuse_spreadsheets(out: Path) -> None:
    """Refuse a name that a program for tables would take for a spreadsheet.

    Raises:
        DataError: it is one.
    """
    if out.suffix.lower() in SPREADSHEETS:
        raise DataError(f"{out} would be no spreadsheet but CSV or JSON lines; name it so")


def refuse_other_forms(
    table: Path | None, style: CompletedFormat, categories: Sequence[str] | None = None
) -> None:
    """Refuse a copy of what is no CSV file with a column for each category.

    Args:
        table: the labels.
        style: of the result; only "wide" is a copy.
        categories: those that were asked for when the table was read.

    Raises:
        DataError: it would be one.
    """
    if style != "wide":
        return
    why = "only a table of --labels can be copied"
    if table is not None:
        why = _no_copy(table, categories)
    if why:
        raise DataError(f"{why}; name another form of the result: --format long or --format jsonl")


def _no_copy(table: Path, categories: Sequence[str] | None) -> str:
    """Why a table cannot be copied with its blanks filled; "" where it can, or is not there."""
    if not table.is_file():
        return ""
    with table.open("rb") as file:
        packed = file.read(4) == b"PAR1"
    if packed or table.suffix.lower() not in (".csv", ".tsv", ".txt"):
        return f"{table} is no CSV table, so it cannot be copied"
    if read_other_form(table, categories) is not None:
        return f"{table} is no CSV table with a header, so it cannot be copied"
    if is_long(read_table(table), categories):
        return f"{table} lists names and has no column for each category"
    return ""


def refuse_to_overwrite(out: Path, table: Path | None) -> None:
    """Refuse a place where something is already, the table that is read in words of its own.

    Raises:
        DataError: there is something.
    """
    if table is not None and out.exists() and table.exists() and out.samefile(table):
        raise DataError(f"{out} is the table itself, which is never written; name a new file")
    refuse_old(out)


def write_provenance(completed: Completed, out: Path) -> None:
    """Write a Parquet file with a row for each open pair that was asked for.

    Columns: image, category, probability, image_only (the probability without evidence),
    evidence (what that added to the log-odds), decided (present, absent or null), and because:
    the known labels that added or took most, as in "+0.8 beach" or "-0.5 not sky".
    """
    numbers = torch.arange(len(completed.collection.data))
    names = completed.collection.category_names
    wanted = torch.tensor([name in completed.asked for name in names])
    with TemporaryDirectory(prefix=".trmml-", dir=out.absolute().parent) as folder:
        parts = [Path(folder) / "0000000.parquet"]
        pl.DataFrame(schema=_SCHEMA).write_parquet(parts[0])
        for some in torch.split(numbers, PROVENANCE_IMAGES):  # all rows at once fill the memory
            parts.append(Path(folder) / f"{len(parts):07}.parquet")
            _reasons(completed, some.tolist(), wanted).write_parquet(parts[-1])
        with whole_file(out) as part:
            pl.scan_parquet(parts, glob=False).sink_parquet(part)


_NUMBERS = ("probability", "image_only", "evidence")
_SCHEMA: dict[str, pl.DataType] = {
    **{name: pl.String() for name in ("image", "category")},
    **{name: pl.Float32() for name in _NUMBERS},
    "decided": pl.String(),
    "because": pl.List(pl.String()),
}


def _reasons(
    completed: Completed, numbers: Sequence[int], wanted: Bool[Tensor, " C"]
) -> pl.DataFrame:
    """The rows of some images, about the categories that are wanted."""
    names, given = completed.collection.category_names, completed.collection.matrix
    asked = ~given.known[numbers] & wanted
    (image, column), counts = asked.nonzero(as_tuple=True), asked.sum(dim=1).tolist()
    image = torch.tensor(numbers)[image]
    here = image, column
    decided = completed.matrix.known[here].int() * (1 + completed.matrix.labels[here].int())
    images = completed.collection.data.images
    by_image = zip(numbers, torch.split(column, counts), strict=True)
    speaks = completed.weighed.evidence.speaks
    said = [words for each in by_image if speaks for words in _because(completed, *each)]
    columns = {
        "image": [images[number] for number in image.tolist()],
        "category": [names[c] for c in column.tolist()],
        "probability": completed.probability[here].float().numpy(),
        "image_only": completed.collection.logits[here].sigmoid().float().numpy(),
        "evidence": completed.added[here].float().numpy(),
        "decided": [(None, "absent", "present")[state] for state in decided.tolist()],
        "because": _lists(said, len(image)),
    }
    return pl.DataFrame(columns, schema=_SCHEMA)


def _because(completed: Completed, number: int, columns: Int[Tensor, " K"]) -> Iterator[str | None]:
    """The `REASONS` largest terms of each pair's sum in an image; None for one that is zero."""
    names, given = completed.collection.category_names, completed.collection.matrix
    known, terms = completed.weighed.evidence.terms(
        given.labels[number], given.known[number], completed.expected[number]
    )
    said = [f"{'' if given.labels[number, c] else 'not '}{names[c]}" for c in known.tolist()]
    terms = F.pad(terms[:, columns], (0, 0, 0, REASONS))
    most = terms.abs().topk(REASONS, dim=0).indices
    values = terms.gather(0, most).T.flatten().tolist()
    for value, place in zip(values, most.T.flatten().tolist(), strict=True):
        yield f"{value:+.2f} {said[place]}" if value else None


def _lists(said: list[str | None], count: int) -> pl.Series:
    """Texts as a list for each of so many rows; polars takes a list of lists much more slowly."""
    flat = pl.Series(said or [None] * (count * REASONS), dtype=pl.String)
    return flat.reshape((count, REASONS)).arr.to_list().list.drop_nulls()


def _cells(completed: Completed, minus_one: Blank | None) -> Cells:
    """What is written into the table's blanks."""
    data = completed.collection.data
    row, column = (completed.source >= MODEL).nonzero(as_tuple=True)
    signs = 1 + completed.matrix.labels[row, column].byte()
    lines = np.array(data.rows, dtype=np.int64)[row.numpy()]
    names = completed.collection.category_names
    return Cells(lines, column.numpy(), signs.numpy(), names, signs_of(minus_one))


def _asked(completed: Completed) -> Dataset:
    """The images with what is known of the categories that were asked for."""
    names, data = completed.collection.category_names, completed.collection.data
    matrix = completed.matrix.columns([names.index(name) for name in completed.asked])
    return replace(data, category_names=completed.asked, matrix=matrix)


def _objects(completed: Completed) -> Iterator[dict[str, Any]]:
    """An object for each image: what is present and absent, and probabilities of what was open."""
    names, matrix = completed.asked, completed.matrix
    columns = [completed.collection.category_names.index(name) for name in names]
    chance = completed.probability.double().round(decimals=6)
    parts = (matrix.known & matrix.labels, matrix.known & ~matrix.labels,
             ~completed.collection.matrix.known, chance)  # fmt: skip
    rows = zip(*(part[:, columns] for part in parts), strict=True)
    for image, row in zip(completed.collection.data.images, rows, strict=True):
        present, absent, was_open, chances = (each.tolist() for each in row)
        yield {
            "image": image,
            "present": [*compress(names, present)],
            "absent": [*compress(names, absent)],
            "probabilities": dict(compress(zip(names, chances, strict=True), was_open)),
        }
