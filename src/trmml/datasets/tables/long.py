"""Read a table that lists names, as in `cat;dog`, into categories and a label matrix."""

import difflib
import logging
from collections import Counter
from collections.abc import Sequence

import numpy as np
import polars as pl
import torch

from trmml.datasets.tables.cells import ABSENT_COLUMN, CHOICE, MEANING, present_columns
from trmml.datasets.tables.name_lists import (
    are_vectors,
    by_number,
    check_separator,
    listed_words,
    parse_lists,
    word_lists,
)
from trmml.datasets.tables.names import clean_name, refuse_look_alikes, refuse_too_many, suggest
from trmml.datasets.tables.not_categories import refuse_no_names
from trmml.datasets.tables.table import Table
from trmml.errors import DataError
from trmml.labels.matrix import LabelMatrix
from trmml.settings.choices import Blank

_log = logging.getLogger(__name__)


def read_long(
    table: Table,
    image_column: str,
    categories: Sequence[str] | None,
    *,
    blank: Blank | None,
    separator: str | None = None,
) -> tuple[tuple[str, ...], LabelMatrix]:
    """Return the categories and the labels of a table that lists names, as in `cat;dog`.

    Args:
        table: has one column of what is present and perhaps one of what is absent.
        image_column: the column of the images.
        categories: the names to keep, in this order; the sorted union when None.
        blank: what a name means that a row does not list. Without a column of absent names it
            is required.

        separator: between names; `;` when None, and then another one in use is refused.

    Raises:
        DataError: `blank` is needed, a row contradicts itself, or no name is left.
    """
    present_column, absent_column = _list_columns(table, image_column, categories)
    if absent_column is None and blank is None:
        raise DataError(
            f"{table.path} lists in {present_column!r} what is present, but not what is absent. "
            "Say what a name means that a row does not list: absent (--blank absent) if every "
            "image was checked for every category, unknown (--blank unknown) if not; or add a "
            "column 'absent'. In Python: blank='absent' or blank='unknown'; of a data set by name: "
            "option blank=absent or blank=unknown."
        )
    present = listed_words(table, present_column, separator)
    absent = (
        present.clear() if absent_column is None else listed_words(table, absent_column, separator)
    )
    if separator is None:
        check_separator(
            str(table.path), _texts(table, present_column, absent_column), categories or ()
        )
    if categories is not None:
        _refuse_vectors(table, present_column, separator, present, len(categories))
        present, absent = by_number(table, present, absent, categories)
    names = _long_names(table, present_column, pl.concat([present, absent]), categories)
    yes, no = (_pairs(words, names) for words in (present, absent))
    both = np.intersect1d(yes, no)
    if len(both):
        row, column = divmod(int(both[0]), len(names))
        raise DataError(
            f"{table.place(row)}: {names[column]!r} is both present and absent "
            f"({len(both)} such pairs). Remove it from one of the two lists."
        )
    labels = torch.zeros(len(table.rows), len(names), dtype=torch.bool)
    labels.view(-1)[torch.tensor(yes)] = True
    if blank == "absent":  # one value for all pairs: the matrix of a large table takes 200 MB
        return names, LabelMatrix(labels, torch.tensor(True).expand_as(labels))
    known = labels.clone() if len(no) else labels
    known.view(-1)[torch.tensor(no)] = True
    return names, LabelMatrix(labels, known)


def _list_columns(
    table: Table, image_column: str, categories: Sequence[str] | None
) -> tuple[str, str | None]:
    lists = present_columns(table, categories)
    if len(lists) > 1:
        raise DataError(
            f"{table.path} has the columns {lists[0]!r} and {lists[1]!r}, which both list what "
            "is present. Remove or rename one."
        )
    absent = [name for name in table.names if name.casefold() == ABSENT_COLUMN]
    ignored = set(table.names) - {image_column, lists[0], *absent[:1]}
    for name in sorted(ignored):
        if difflib.get_close_matches(name.casefold(), [ABSENT_COLUMN], cutoff=0.8):
            raise DataError(
                f"{table.path}: column {name!r} is unknown; did you mean {ABSENT_COLUMN!r}? "
                "Rename or remove it."
            )
    if ignored:
        _log.warning("%s: the columns %s are not read", table.path, sorted(ignored))
    return lists[0], absent[0] if absent else None


def _refuse_vectors(
    table: Table, column: str, separator: str | None, words: pl.DataFrame, count: int
) -> None:
    """Refuse lists as [0, 0, 1, 1], which `by_number` would take for the categories 0 and 1."""
    if not all(word in MEANING for word in words["word"].unique()):
        return
    if are_vectors(word_lists(table, column, separator), count):
        raise DataError(
            f"{table.path}: column {column!r} should list what is present, but each list has "
            f"{count} entries of 0, 1 and -1, some more than once, for {count} categories, as if "
            "it answered for each in turn. Make a column per category of it; if these are numbers "
            "of categories, name none twice."
        )


def _texts(table: Table, *columns: str | None) -> set[str]:
    """Return the cells of the columns that hold texts and not lists."""
    lists = [parse_lists(table.column(column)) for column in columns if column is not None]
    return {
        text for each in lists if each.dtype == pl.String for text in each.drop_nulls().unique()
    }


def _long_names(
    table: Table, column: str, words: pl.DataFrame, categories: Sequence[str] | None
) -> tuple[str, ...]:
    listed: Counter[str] = Counter()
    for word, count in words["word"].value_counts().iter_rows():
        listed[clean_name(word)] += count
    if listed and all(word.casefold() in MEANING for word in listed):
        raise DataError(
            f"{table.path}: column {column!r} should list names as in 'cat;dog', but holds only "
            f"{', '.join(sorted(listed))}. If {column!r} is a category, or these are numbers of "
            f"categories, name the categories: {CHOICE}."
        )
    if categories is None:
        if not listed:
            raise DataError(
                f"{table.path} lists no category in {column!r}. Write names as in 'cat;dog', or "
                "give categories."
            )
        refuse_no_names(listed, f"{table.path}: column {column!r}", CHOICE)
        refuse_too_many(len(listed), f"{table.path} lists", "names")
        refuse_look_alikes(listed, listed, str(table.path))
        return tuple(sorted(listed))
    strange = Counter({name: count for name, count in listed.items() if name not in categories})
    unused = [name for name in categories if name not in listed]
    if listed and len(unused) == len(categories):
        raise DataError(
            f"{table.path} lists none of the {len(categories)} categories: {unused[0]!r} does not "
            f"occur{suggest(unused[0], sorted(listed))} Check that both use the same words."
        )
    refuse_look_alikes(strange, categories, str(table.path))
    if unused:
        _log.warning("%s never lists %d categories: %s", table.path, len(unused), unused[:10])
    if strange:
        most = [f"{name!r} ({count} times){suggest(name, categories)[:-1]}"
                for name, count in strange.most_common(3)]  # fmt: skip
        _log.warning("%s lists %d names that are none of the %d categories and are left out: %s",
                     table.path, len(strange), len(categories), ", ".join(most))  # fmt: skip
    return tuple(categories)


def _pairs(words: pl.DataFrame, names: tuple[str, ...]) -> np.ndarray:
    """Return row * C + column for each word that is a name; a pair may come twice."""
    position = {name: index for index, name in enumerate(names)}
    columns = {word: position.get(clean_name(word)) for word in words["word"].unique()}
    columns = {word: column for word, column in columns.items() if column is not None}
    if not columns:
        return np.empty(0, np.int64)
    listed = words.filter(pl.col("word").is_in(list(columns)))
    column = listed["word"].replace_strict(columns, return_dtype=pl.Int64)
    return (listed["row"].cast(pl.Int64) * len(names) + column).to_numpy()
