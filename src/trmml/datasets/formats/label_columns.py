"""Read labels from the columns of a frame: lists of names or numbers, or a column per category.

Lists are in `present`, `labels`, `tags` or `label`, and perhaps `absent`. Without `absent`, the
meaning of a category that is not listed is required: option blank=absent or blank=unknown. Numbers
need names, of the file or of option categories=FILE. In a column per category null is unknown.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import polars as pl
import torch
from pydantic import Field

from trmml.datasets.formats.folder import read_categories
from trmml.datasets.options import ReaderOptions, Split
from trmml.datasets.tables.cells import is_long
from trmml.datasets.tables.long import read_long
from trmml.datasets.tables.name_lists import are_vectors
from trmml.datasets.tables.names import unique_names
from trmml.datasets.tables.table import Table
from trmml.datasets.tables.wide import read_wide
from trmml.errors import DataError
from trmml.labels.matrix import LabelMatrix
from trmml.settings.choices import Blank

LIST_COLUMNS = ("present", "labels", "tags", "label")
_NO_COLUMN = ""  # a frame of labels has no column of images to leave out

# Floats below this are exact where they are whole.
_EXACT = 2**53


class LabelColumnOptions(ReaderOptions):
    """What labels in columns mean."""

    labels: str = Field(
        "", description="column of the labels, as tags or objects.category; found when empty"
    )
    categories: str = Field(
        "", description="file with the names, one per line, below the root; needed for numbers"
    )
    numbers: Literal["indices", "vector"] = Field(
        "indices",
        description="whether [0, 1] names categories 0 and 1, or answers for each in turn",
    )
    blank: Blank | None = Field(
        None, description="what a name means that an image does not list; required for lists"
    )
    separator: str | None = Field(None, description="between names in a text; ; by default")
    minus_one: Blank | None = Field(None, description="what a label of -1 means")


class _Columns(NamedTuple):
    """Lists as `present` and perhaps `absent`, or a column per category; one row per image.

    `answered` is False where the lists are null: an empty list is an answer, null is none.
    """

    frame: pl.DataFrame
    answered: pl.Series


def read_label_columns(
    where: Path,
    split: Split,
    frames: Mapping[Split, Sequence[pl.DataFrame]],
    root: Path,
    options: LabelColumnOptions,
    *,
    numbered: Sequence[str] = (),
) -> tuple[tuple[str, ...], LabelMatrix]:
    """Return categories, shared by all splits, and the labels of one split.

    Args:
        where: for messages.
        split: to be read.
        frames: label columns of the files of each split that is there, without the images.
        root: where `options.categories` lies.
        options: what the labels mean.
        numbered: the names of categories that are numbers, where the files give them.

    Raises:
        DataError: a column, a name or an answer is missing or has no clear meaning.
    """
    given = tuple(read_categories(root / options.categories)) if options.categories else None
    names = given or (unique_names(numbered, str(where)) if numbered else None)
    order: list[Split] = sorted(frames)
    parts = [_label_columns(where, _concat(where, frames[part]), options, names) for part in order]
    frame = _concat(where, [part.frame for part in parts])
    rows = tuple(row for part in parts for row in range(1, part.frame.height + 1))
    columns = unique_names(frame.columns, f"{where}: the columns")
    frame.columns = [str(index) for index in range(frame.width)]
    categories, matrix = _read(Table(where, columns, frame, rows, "row"), names, options)
    index = order.index(split)
    before = sum(part.frame.height for part in parts[:index])
    answered = torch.from_numpy(parts[index].answered.to_numpy())
    matrix = matrix.subset(range(before, before + len(answered)))
    return categories, LabelMatrix(matrix.labels, matrix.known & answered[:, None])


def _concat(where: Path, frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
    try:
        return pl.concat(frames, how="vertical_relaxed")
    except pl.exceptions.PolarsError as error:
        raise DataError(
            f"{where} and the files that belong to it have different columns: {error}. Write all "
            "alike."
        ) from error


def list_column(names: Collection[str], chosen: str, where: str) -> str:
    """Return which column or key holds the lists; "" where each category has one of its own.

    Args:
        names: of all columns or keys.
        chosen: by option labels; "" to look for one.
        where: for messages.

    Raises:
        DataError: none is chosen, and several could be meant.
    """
    candidates = [name for name in LIST_COLUMNS if name in names]
    if not chosen and len(candidates) > 1:
        raise DataError(
            f"{where} has both {candidates[0]!r} and {candidates[1]!r}. Remove one, or choose one "
            "by option labels=NAME."
        )
    return chosen or (candidates[0] if candidates else "")


def _read(
    table: Table, names: tuple[str, ...] | None, options: LabelColumnOptions
) -> tuple[tuple[str, ...], LabelMatrix]:
    if not is_long(table):
        return read_wide(table, _NO_COLUMN, names, blank=options.blank, minus_one=options.minus_one)
    if options.blank is None and "absent" not in table.names:
        raise DataError(
            f"{table.path} lists what is present, but not what is absent. Choose the meaning of a "
            "category that an image does not list: option blank=absent if every image was checked "
            "for every category, blank=unknown if not."
        )
    return read_long(table, _NO_COLUMN, names, blank=options.blank, separator=options.separator)


def _label_columns(
    where: Path,
    frame: pl.DataFrame,
    options: LabelColumnOptions,
    names: tuple[str, ...] | None,
) -> _Columns:
    column = list_column(frame.columns, options.labels, str(where))
    if not column:
        return _Columns(frame, pl.repeat(True, frame.height, eager=True))
    lists = {"present": _whole(_column(where, frame, column))}
    if "absent" in frame.columns:
        lists["absent"] = _whole(frame["absent"])
    answered = pl.DataFrame(lists).select(pl.any_horizontal(pl.all().is_not_null())).to_series()
    if not _holds_numbers(lists["present"]):
        return _Columns(pl.DataFrame(lists), answered)
    if names is None:
        raise DataError(
            f"{where}: the labels in {column!r} are numbers. Give their names in a file, one per "
            "line, as option categories=FILE."
        )
    if options.numbers == "vector":
        return _Columns(_vector(where, lists["present"], names), answered)
    named = {key: _named(where, values, names) if _holds_numbers(values) else values
             for key, values in lists.items()}  # fmt: skip
    return _Columns(pl.DataFrame(named), answered)


def _column(where: Path, frame: pl.DataFrame, column: str) -> pl.Series:
    """Return a column, or with a dot a field of one."""
    outer, _, field = column.partition(".")
    name = column if column in frame.columns else outer
    if name not in frame.columns:
        raise DataError(
            f"{where} has no column {name!r}, but {', '.join(frame.columns)[:200]}. Name one as "
            "option labels=NAME."
        )
    values = frame[name]
    if name == column:
        return values
    if not isinstance(values.dtype, pl.Struct) or field not in values.struct.fields:
        raise DataError(f"{where}: column {name!r} has no field {field!r}. Check option labels.")
    return values.struct.field(field)


def _inner(values: pl.Series) -> Any:
    """Return polars' type of the values, or of what is in their lists."""
    return values.dtype.inner if isinstance(values.dtype, pl.List | pl.Array) else values.dtype


def _holds_numbers(values: pl.Series) -> bool:
    return bool(_inner(values).is_integer())


def _whole(values: pl.Series) -> pl.Series:
    """Return floats as integers where all are whole, nan as null; other values as they are.

    Label vectors are often stored as floats, for a loss takes them so.
    """
    if not _inner(values).is_float():
        return values
    nested = values.dtype.is_nested()
    flat = (values.explode() if nested else values).fill_nan(None).drop_nulls()
    if not ((flat == flat.round()) & (flat.abs() < _EXACT)).all():
        return values
    if not nested:
        return values.fill_nan(None).cast(pl.Int128)
    lists = values.cast(pl.List(pl.Float64)).list.eval(pl.element().fill_nan(None))
    return lists.cast(pl.List(pl.Int128))


def _number_lists(values: pl.Series) -> pl.Series:
    lists = values if values.dtype.is_nested() else values.reshape((-1, 1))
    return lists.cast(pl.List(pl.Int128))  # no number of a file is too large for it


def _named(where: Path, values: pl.Series, names: tuple[str, ...]) -> pl.Series:
    """Return lists of names for lists of numbers, or for one number each."""
    lists = _number_lists(values)
    if are_vectors(lists, len(names)):
        raise DataError(
            f"{where}: each list of labels has {len(names)} entries of 0, 1 and -1, some more than "
            f"once, for {len(names)} names, as if it answered for each in turn. Take option "
            "numbers=vector; if these are numbers of categories, name none twice."
        )
    numbers = lists.explode().drop_nulls()
    wrong = numbers.filter((numbers < 0) | (numbers >= len(names)))
    if len(wrong):
        raise DataError(
            f"{where}: label {wrong[0]} is none of the {len(names)} names, counted from 0. Correct "
            "it, or take option numbers=vector if the labels answer for each category in turn."
        )
    words = [None if row is None else [names[n] for n in row if n is not None] for row in lists]
    return pl.Series(words, dtype=pl.List(pl.String))


def _vector(where: Path, values: pl.Series, names: tuple[str, ...]) -> pl.DataFrame:
    """Return a column per name from lists with an answer for each."""
    lists = _number_lists(values)
    lengths = lists.list.len()
    wrong = lengths.filter(lengths != len(names))
    if len(wrong):
        raise DataError(
            f"{where}: a label vector has {wrong[0]} entries for {len(names)} names. Write an "
            "answer for each, or take option numbers=indices."
        )
    return pl.DataFrame({name: lists.list.get(index) for index, name in enumerate(names)})
