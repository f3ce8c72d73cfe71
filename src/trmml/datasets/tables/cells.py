"""Tell a table with a column per category from one that lists names, by its columns and cells."""

from collections.abc import Sequence

import polars as pl

from trmml.datasets.tables.name_lists import listed_words
from trmml.datasets.tables.names import clean_name
from trmml.datasets.tables.not_categories import edges
from trmml.datasets.tables.table import Table, image_columns

PRESENT_COLUMNS = ("present", "labels", "tags")
# Columns that list names unless all their cells are answers.
LABEL_COLUMNS = (
    *("label", "tag", "class", "category", "target", "classes", "categories", "targets"),
    *("class_name", "label_name", "labelname", "category_name"),
)
ABSENT_COLUMN = "absent"
NO, ZERO, YES, MINUS_ONE, BLANK, WRONG = range(6)
MEANING = {
    **dict.fromkeys(("1", "1.0", "yes", "true"), YES),
    **dict.fromkeys(("0", "0.0"), ZERO),
    **dict.fromkeys(("no", "false"), NO),
    **dict.fromkeys(("-1", "-1.0"), MINUS_ONE),
    "": BLANK,
}

# A table may be named itself, with options of its own, or belong to a data set by name.
CHOICE = "--categories FILE; of a data set by name, option categories=FILE or its categories.txt"


def is_long(table: Table, categories: Sequence[str] | None = None) -> bool:
    """Return whether the table lists names per image, rather than having a column per category.

    Where categories are given and all have a column, these hold their answers. Where none has one,
    1 and 0 may be their numbers.
    """
    named = categories is not None and set(categories) <= set(table.names)
    return not named and bool(present_columns(table, categories))


def present_columns(table: Table, categories: Sequence[str] | None = None) -> list[str]:
    """Return the columns that list names; one, but for a table that contradicts itself."""
    lists = [name for name in table.names if name.casefold() in PRESENT_COLUMNS]
    named = [name for name in table.names if name.casefold() in LABEL_COLUMNS]
    if lists or not named or is_category(table, named[0], categories):
        return lists
    others = {*table.names} - {named[0], *image_columns(table.names), *edges(table.names)}
    return [] if any(holds_answers(table.column(name)) for name in others) else named[:1]


def is_category(table: Table, label: str, categories: Sequence[str] | None) -> bool:
    """Return whether a column called `label` or alike is a category, and lists none."""
    numbers = categories is not None and set(categories).isdisjoint(table.names)
    return holds_answers(table.column(label)) and not numbers


def holds_answers(column: pl.Series) -> bool:
    """Return whether all cells are answers as in a column of a category: 1, 0, no, blank ..."""
    if not (is_text(column) or column.dtype == pl.Boolean or column.dtype.is_numeric()):
        return False
    words = column.cast(pl.String).fill_null("").str.strip_chars().str.to_lowercase()
    return bool(words.is_in([*MEANING]).all())


def names_in(table: Table, separator: str | None = None) -> set[str]:
    """Return every name that a table may mean as a category: its columns, or what it lists."""
    if not is_long(table):
        return set(table.names)
    absent = [name for name in table.names if name.casefold() == ABSENT_COLUMN]
    lists = [*present_columns(table), *absent]
    words = (listed_words(table, name, separator)["word"].unique() for name in lists)
    return {clean_name(word) for each in words for word in each}


def is_text(column: pl.Series) -> bool:
    """Return whether a column holds texts, or nothing."""
    return column.dtype in (pl.String, pl.Categorical, pl.Enum, pl.Null)
