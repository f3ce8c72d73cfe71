"""Join the rows of a table that has a row per image and label, as in `image,label`."""

import logging
from collections.abc import Sequence

import polars as pl

from trmml.datasets.tables.cells import LABEL_COLUMNS, is_category
from trmml.datasets.tables.name_lists import word_lists
from trmml.datasets.tables.table import Table
from trmml.errors import DataError

_CONFIDENCE = "confidence"  # Open Images: 1 for a label that people saw, 0 for one they denied

_log = logging.getLogger(__name__)


def join_rows(
    table: Table,
    image_column: str,
    separator: str | None,
    categories: Sequence[str] | None = None,
) -> Table:
    """Return a row per image with lists of its names; a table of another form as it is.

    Args:
        table: with several rows of an image, and names in a column `label` or one alike. A column
            `confidence` says by 1 and 0 whether a name is present or absent.
        image_column: the column of the images.
        separator: between several names in a cell; `;` when None.
        categories: whose numbers the column may hold.

    Raises:
        DataError: a confidence is neither 1 nor 0.
    """
    images, names = table.column(image_column), {name.casefold(): name for name in table.names}
    label = next((names[each] for each in LABEL_COLUMNS if each in names), None)
    if label is None or is_category(table, label, categories):
        return table
    confidence = names.get(_CONFIDENCE)
    if confidence is None and not images.is_duplicated().any():
        return table
    ignored = sorted(set(table.names) - {image_column, label, confidence})
    if ignored:
        _log.warning("%s: the columns %s are not read", table.path, ignored)
    columns = {"image": images, "name": word_lists(table, label, separator), "line": table.rows}
    word = pl.col("name")
    lists = {label: word.explode()}
    if confidence is not None:
        columns["seen"] = _seen(table, confidence)
        lists = {label: word.filter("seen").explode()}
        lists["absent"] = word.filter(~pl.col("seen")).explode()
    rows = pl.DataFrame(columns).group_by("image", maintain_order=True)
    joined = rows.agg(pl.col("line").first(), **lists)
    frame = joined.select("image", *lists)
    frame.columns = [str(index) for index in range(frame.width)]
    return Table(table.path, (image_column, *lists), frame, tuple(joined["line"]), table.unit)


def _seen(table: Table, column: str) -> pl.Series:
    """Return where a confidence is 1, checked to be 0 elsewhere."""
    numbers = table.column(column).cast(pl.Float64, strict=False)
    wrong = (~numbers.is_in([0.0, 1.0])).fill_null(True).arg_true()
    if len(wrong):
        row = int(wrong[0])
        raise DataError(
            f"{table.place(row)}, column {column!r}: expected 1 for a label that is present and 0 "
            f"for one that is absent, got {table.column(column)[row]!r:.40} ({len(wrong)} such "
            "rows). Leave such rows out; where all the rest are present, the column as well."
        )
    return numbers == 1
