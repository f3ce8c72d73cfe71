"""Sets whose files hold the images themselves: labels in columns, images unpacked once."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import polars as pl
from pydantic import Field

from trmml.datasets.base import Dataset
from trmml.datasets.formats.folder import read_categories
from trmml.datasets.formats.unpack import unpack, unpack_folder
from trmml.datasets.options import ReaderOptions, Split
from trmml.datasets.tables.cells import Meaning, is_long, read_long, read_wide
from trmml.datasets.tables.table import Table, unique_names
from trmml.errors import DataError
from trmml.labels.matrix import LabelMatrix

LIST_COLUMNS = ("present", "labels", "tags", "label")
_NO_COLUMN = ""  # a frame of labels has no column of images to leave out


class LabelColumnOptions(ReaderOptions):
    """How labels in columns are meant."""

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
    blank: Meaning | None = Field(
        None, description="what a name means that an image does not list; must be said for lists"
    )
    minus_one: Meaning | None = Field(None, description="what a label of -1 means")


class PackedOptions(LabelColumnOptions):
    """How packed labels are meant, and where images go."""

    unpack: str = Field(
        "", description="folder that images are unpacked into; in the user's cache when empty"
    )


@dataclass(frozen=True)
class Pack:
    """A file with images and labels.

    Args:
        path: the file.
        labels: its columns without the images, a row per image.
        images: reads the images' bytes in the order of the rows; called only when needed.
        unlabelled: rows of which the file says nothing; they are unknown throughout.
    """

    path: Path
    labels: pl.DataFrame
    images: Callable[[], Iterable[bytes]]
    unlabelled: frozenset[int] = frozenset()


def read_packs(
    root: Path,
    split: Split,
    packs: Mapping[Split, Sequence[Pack]],
    options: PackedOptions,
    *,
    numbered: Sequence[str] = (),
) -> Dataset:
    """Return the images of a split, unpacked, with categories that all splits share.

    Args:
        root: where `options.categories` lies.
        split: to be read; one of the keys of `packs`.
        packs: the files of each split that is there.
        options: what the labels mean.
        numbered: the names of categories that are numbers, where the files give them.

    Raises:
        DataError: labels or images cannot be read, or something must be said first.
    """
    where = packs[split][0].path
    frames = {
        part: _concat(where, [pack.labels for pack in files]) for part, files in packs.items()
    }
    names, matrix = read_label_columns(where, split, frames, root, options, numbered=numbered)
    matrix = _without_answers(matrix, packs[split], _null_rows(where, frames[split], options))
    folder = unpack_folder(options.unpack)
    images = [name for pack in packs[split] for name in unpack(pack.path, pack.images, folder)]
    return Dataset(folder, tuple(images), names, matrix, tuple(range(1, len(images) + 1)))


def _null_rows(where: Path, frame: pl.DataFrame, options: LabelColumnOptions) -> list[int]:
    """Return rows whose lists are null: an empty list is an answer, null is none."""
    column = list_column(frame.columns, options.labels, str(where))
    if not column:
        return []
    said = _column(where, frame, column).is_not_null()
    if "absent" in frame.columns:
        said = said | frame["absent"].is_not_null()
    return [int(row) for row in (~said).arg_true()]


def _without_answers(
    matrix: LabelMatrix, packs: Sequence[Pack], nothing: Sequence[int]
) -> LabelMatrix:
    known, start = matrix.known.clone(), 0
    known[list(nothing)] = False
    for pack in packs:
        known[[start + row for row in pack.unlabelled]] = False
        start += pack.labels.height
    return LabelMatrix(matrix.labels, known)


def read_label_columns(
    where: Path,
    split: Split,
    frames: Mapping[Split, pl.DataFrame],
    root: Path,
    options: LabelColumnOptions,
    *,
    numbered: Sequence[str] = (),
) -> tuple[tuple[str, ...], LabelMatrix]:
    """Return categories and labels of a split from the label columns of all splits.

    Args:
        where: for messages.
        split: to be read.
        frames: label columns of each split that is there, without the images.
        root: where `options.categories` lies.
        options: what the labels mean.
        numbered: the names of categories that are numbers, where the files give them.

    Raises:
        DataError: a column, a name or an answer is missing or has no clear meaning.
    """
    given = tuple(read_categories(root / options.categories)) if options.categories else None
    names = given or (unique_names(numbered, str(where)) if numbered else None)
    order: list[Split] = sorted(frames)
    chosen = [_chosen(where, frames[part], options, names) for part in order]
    frame = _concat(where, chosen)
    rows = tuple(row for part in chosen for row in range(1, part.height + 1))
    columns = unique_names(frame.columns, f"{where}: the columns")
    frame.columns = [str(index) for index in range(frame.width)]
    table = Table(where, columns, frame, rows, "row")
    found, matrix = _read(table, names, options)
    before = sum(part.height for part in chosen[: order.index(split)])
    return found, matrix.rows(range(before, before + frames[split].height))


def _concat(where: Path, frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
    try:
        return pl.concat(frames, how="vertical_relaxed")
    except pl.exceptions.PolarsError as error:
        raise DataError(
            f"{where} and the files that belong to it have different columns: {error}. Write all "
            "alike."
        ) from error


def _read(
    table: Table, names: tuple[str, ...] | None, options: LabelColumnOptions
) -> tuple[tuple[str, ...], LabelMatrix]:
    if not is_long(table):
        return read_wide(table, _NO_COLUMN, names, blank=options.blank, minus_one=options.minus_one)
    if options.blank is None and "absent" not in table.names:
        raise DataError(
            f"{table.path} lists what is present, but not what is absent. Say what a category "
            "means that an image does not list: option blank=absent if every image was checked "
            "for every category, blank=unknown if not."
        )
    return read_long(table, _NO_COLUMN, names, blank=options.blank)


def _chosen(
    where: Path,
    frame: pl.DataFrame,
    options: LabelColumnOptions,
    names: tuple[str, ...] | None,
) -> pl.DataFrame:
    """Return the label columns, a list of names as `present`, a vector as a column per name."""
    column = list_column(frame.columns, options.labels, str(where))
    if not column:
        return frame
    values = _column(where, frame, column)
    kept = [frame[name] for name in ("absent",) if name in frame.columns]
    if not (values.dtype.is_integer() or _lists_numbers(values)):
        return pl.DataFrame([values.rename("present"), *kept])
    if names is None:
        raise DataError(
            f"{where}: the labels in {column!r} are numbers. Give their names in a file, one per "
            "line, as option categories=FILE."
        )
    lists = values.cast(pl.List(pl.Int64)) if values.dtype.is_nested() else values.reshape((-1, 1))
    if options.numbers == "vector":
        return _vector(where, lists.cast(pl.List(pl.Int64)), names)
    kept = [_named(where, each.cast(pl.List(pl.Int64)), names).rename(each.name)
            if _lists_numbers(each) else each for each in kept]  # fmt: skip
    return pl.DataFrame([_named(where, lists.cast(pl.List(pl.Int64)), names), *kept])


def _lists_numbers(values: pl.Series) -> bool:
    return isinstance(values.dtype, pl.List | pl.Array) and values.dtype.inner.is_integer()


def list_column(names: Collection[str], chosen: str, where: str) -> str:
    """Return which column or key holds the lists; "" where each category has one of its own.

    Args:
        names: of all columns or keys.
        chosen: by option labels; "" to look for one.
        where: for messages.

    Raises:
        DataError: none is chosen, and several could be meant.
    """
    found = [name for name in LIST_COLUMNS if name in names]
    if not chosen and len(found) > 1:
        raise DataError(
            f"{where} has both {found[0]!r} and {found[1]!r}. Remove one, or say which counts as "
            "option labels=NAME."
        )
    return chosen or (found[0] if found else "")


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


def _named(where: Path, lists: pl.Series, names: tuple[str, ...]) -> pl.Series:
    """Return lists of names for lists of numbers."""
    numbers = lists.explode().drop_nulls()
    wrong = numbers.filter((numbers < 0) | (numbers >= len(names)))
    if len(wrong):
        raise DataError(
            f"{where}: label {wrong[0]} is none of the {len(names)} names, counted from 0. Correct "
            "it, or take option numbers=vector if the labels answer for each category in turn."
        )
    words = [None if row is None else [names[n] for n in row if n is not None] for row in lists]
    return pl.Series("present", words, dtype=pl.List(pl.String))


def _vector(where: Path, lists: pl.Series, names: tuple[str, ...]) -> pl.DataFrame:
    """Return a column per name from lists with an answer for each."""
    lengths = lists.list.len()
    wrong = lengths.filter(lengths != len(names))
    if len(wrong):
        raise DataError(
            f"{where}: a label vector has {wrong[0]} entries for {len(names)} names. Write an "
            "answer for each, or take option numbers=indices."
        )
    return pl.DataFrame({name: lists.list.get(index) for index, name in enumerate(names)})
