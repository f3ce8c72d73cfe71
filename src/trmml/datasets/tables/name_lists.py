"""Split cells that list names, as `cat;dog` or `['cat', 'dog']`, and notice another separator."""

import ast
import csv
import logging
import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import polars as pl

from trmml.datasets.tables.not_categories import kind
from trmml.datasets.tables.table import Table
from trmml.errors import DataError
from trmml.storage.json_text import parse_json

USUAL = ";"
_ASKED = (",", "|", "#", "\t", "\n", "\uff1b", "\uff0c", "、", "،", "•")
# Usual within names.
_NOTED = ("/", "&", "+", " and ", " ", "\xa0", ":", "~", "^", "\\", ".", "_", "-")
# What numpy writes between the words of an array.
_BESIDE = re.compile(r"""(?<=['"])\s+(?=['"])""")

_FLOAT = re.compile(r"\d+\.0+")  # a number as pandas writes it beside blanks

_log = logging.getLogger(__name__)


def parse_lists(column: pl.Series) -> pl.Series:
    """Return a text column of lists in JSON's, Python's or SQL's form as lists; others as they are.

    Example:
        >>> parse_lists(pl.Series(["['cat', 'dog']", "[]", None])).to_list()
        [['cat', 'dog'], [], None]
    """
    if column.dtype != pl.String:
        return column
    texts = column.drop_nulls()
    texts = texts.filter(texts.str.strip_chars() != "")
    if not len(texts) or not bool(texts.str.contains(r"^\s*[\[({]").all()):
        return column
    try:
        lists = [_parse(text) if text and text.strip() else None for text in column]
        return column if is_deep(lists) else pl.Series(lists)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):  # it begins so
        return column


def _parse(text: str) -> list[object]:
    text = text.strip()
    try:
        value = parse_json(text)
    except ValueError:
        try:
            value = ast.literal_eval(_BESIDE.sub(", ", text))
        except (ValueError, SyntaxError):
            if not re.fullmatch(r"\{[^{}]*\}", text):
                raise
            value = next(csv.reader([text[1:-1]]))  # {cat,dog}, as PostgreSQL writes it
    if isinstance(value, set | tuple):
        return sorted(value, key=str)
    if not isinstance(value, list):
        raise TypeError
    return value


def is_deep(tree: Any, levels: int = 6) -> bool:
    """Return whether lists and objects lie in each other deeper than any label is."""
    inner = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ()
    return any(levels == 0 or is_deep(value, levels - 1) for value in inner)


def word_lists(table: Table, column: str, separator: str | None) -> pl.Series:
    """Return the lists of names in a column's cells, of text or lists; parts may be blank or null.

    Raises:
        DataError: the column holds neither text nor lists.
    """
    lists = parse_lists(table.column(column))
    if isinstance(lists.dtype, pl.List | pl.Array) and not lists.dtype.inner.is_nested():
        return lists.cast(pl.List(pl.String))
    if lists.dtype in (pl.String, pl.Categorical, pl.Enum, pl.Null):
        return lists.cast(pl.String).fill_null("").str.split(separator or USUAL)
    raise DataError(
        f"{table.path}: column {column!r} holds {kind(lists)}, not lists of names as in "
        "'cat;dog'. Write names; for 1 and 0, make one column per category."
    )


def listed_words(table: Table, column: str, separator: str | None) -> pl.DataFrame:
    """Return the listed names, not blank, as `row` and `word`.

    Raises:
        DataError: the column holds neither text nor lists.
    """
    lists = word_lists(table, column, separator).rename("word")
    words = lists.to_frame().with_row_index("row").explode("word")
    words = words.with_columns(pl.col("word").fill_null("").str.strip_chars())
    return words.filter(pl.col("word") != "")


def are_vectors(lists: pl.Series, count: int) -> bool:
    """Return whether lists of numbers answer for each of `count` categories, rather than name some.

    Numbers of categories may look alike, but no list of them names one twice: a vector of more than
    two answers does.

    Example:
        >>> are_vectors(pl.Series([[0, 0, 1], [1, 0, 0]]), 3), are_vectors(pl.Series([[0, 1]]), 2)
        (True, False)
    """
    words = lists.drop_nulls().cast(pl.List(pl.String))
    words = words.list.eval(pl.element().str.strip_chars().str.replace(r"\.0+$", ""))
    blank = (words.list.len() == 1) & (words.list.first() == "")  # a text cell without a word
    words = words.filter(~blank.fill_null(False))
    answers = words.list.drop_nulls()
    return (
        bool((words.list.len() == count).all())
        and bool(answers.explode().drop_nulls().is_in(["0", "1", "-1"]).all())
        and bool((answers.list.n_unique() < answers.list.len()).any())
    )


def by_number(
    table: Table, present: pl.DataFrame, absent: pl.DataFrame, categories: Sequence[str]
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return words as categories where all are their numbers, from 0; other words as they are.

    Raises:
        DataError: a number is that of no category.
    """
    words = pl.concat([present, absent])
    digits = words["word"].str.replace(r"\.0+$", "")
    if not digits.str.contains(r"^\d+$").all() or any(map(str.isdecimal, categories)):
        return present, absent
    numbers = digits.cast(pl.UInt32, strict=False).fill_null(len(categories))
    wrong = words.filter(numbers >= len(categories))
    if len(wrong):
        raise DataError(
            f"{table.place(wrong['row'][0])}: {wrong['word'][0]:.40} is the number of none of the "
            f"{len(categories)} categories, counted from 0. Correct it, or the list of names."
        )
    names = pl.Series(categories, dtype=pl.String)[numbers]
    named = words.with_columns(word=names)
    return named[: len(present)], named[len(present) :]


def check_separator(where: str, texts: Iterable[str], categories: Collection[str] = ()) -> None:
    """Refuse lists that probably have another separator than `;`.

    A comma may be part of a name, as in "salt, pepper". Parts that occur in several names show
    that it is not, and so do most names holding it; where `;` separates others, only parts that
    are names themselves do. A space or a slash is usual within names, so for it there is only a
    note in the log, unless it stands between numbers.

    Args:
        where: the names are from, for messages.
        texts: the lists.
        categories: names that were asked for are names, whatever they hold.

    Raises:
        DataError: parts between `,`, `|`, `#` or tabs occur in several names, or most hold one.
    """
    whole = {text.strip() for text in texts} - {""}
    usual = any(USUAL in text for text in whole)
    distinct = {part.strip() for text in whole for part in text.split(USUAL)} - {""}
    names = [name for name in sorted(distinct - {*categories}) if not _FLOAT.fullmatch(name)]
    for separator in (*_ASKED, *_NOTED):
        joined = [name for name in names if separator in name]
        shared = _shared_parts(names, joined, separator)
        most = len(joined) > 1 and 2 * len(joined) > len(names)
        numbers = bool(joined) and all(
            part.isdecimal() for name in joined for part in name.split(separator)
        )
        asked = separator in _ASKED or numbers
        made = _made_of_names(distinct, joined, separator)
        if usual or not asked:
            found = made or (most and shared and not usual)
        else:
            found = shared or numbers or most
        if not found:
            continue
        parts = f", and {shared[0]!r:.40} is a part of several" if shared else ""
        message = (
            f"{where}: {len(joined)} of {len(names)} names hold {separator!r}, as in "
            f"{joined[0]!r:.80}{parts}. If {separator!r} "
            f"separates names, choose --separator {separator!r}; if it belongs to them, "
            "--separator ';'. In Python: separator=...; of a data set by name: option separator=..."
        )
        if asked:
            raise DataError(message)
        _log.warning("%s", message)


def _made_of_names(names: Collection[str], joined: Iterable[str], separator: str) -> bool:
    """Return whether all parts of a joined name are names by themselves."""
    known = set(names)
    parts = ([part.strip() for part in name.split(separator)] for name in joined)
    return any(known.issuperset(each) for each in parts)


def _shared_parts(names: Sequence[str], joined: Sequence[str], separator: str) -> list[str]:
    """Return the parts of the joined names that are in several names, the commonest first."""
    parts = {name: {part.strip() for part in name.split(separator)} - {""} for name in names}
    counts = Counter(part for each in parts.values() for part in each)
    inside = {part for name in joined for part in parts[name]}
    return [part for part, count in counts.most_common() if count > 1 and part in inside]
