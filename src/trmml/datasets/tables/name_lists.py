"""Split cells that list names, as `cat;dog` or `['cat', 'dog']`, and notice another separator."""

import ast
import logging
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import polars as pl

from trmml.datasets.tables.table import Table
from trmml.errors import DataError
from trmml.storage.json_text import parse_json

USUAL = ";"
_ASKED = (",", "|", "#", "\t")
_NOTED = ("/", "&", "+", " ")  # usual within names

_log = logging.getLogger(__name__)


def parse_lists(column: pl.Series) -> pl.Series:
    """Return a text column of lists in JSON's or Python's form as lists; any other as it is.

    Example:
        >>> parse_lists(pl.Series(["['cat', 'dog']", "[]", None])).to_list()
        [['cat', 'dog'], [], None]
    """
    if column.dtype != pl.String:
        return column
    texts = column.drop_nulls()
    texts = texts.filter(texts.str.strip_chars() != "")
    if not len(texts) or not bool(texts.str.strip_chars().str.starts_with("[").all()):
        return column
    try:
        lists = [_parse(text) if text and text.strip() else None for text in column]
        return column if is_deep(lists) else pl.Series(lists)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):  # it begins so
        return column


def _parse(text: str) -> list[object]:
    try:
        value = parse_json(text)
    except ValueError:
        value = ast.literal_eval(text.strip())
    if not isinstance(value, list):
        raise TypeError
    return value


def is_deep(tree: Any, levels: int = 6) -> bool:
    """Return whether lists and objects lie in each other deeper than any label is."""
    inner = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ()
    return any(levels == 0 or is_deep(value, levels - 1) for value in inner)


def listed_words(table: Table, column: str, separator: str | None) -> pl.DataFrame:
    """Return the listed names, not blank, as `row` and `word`.

    Raises:
        DataError: the column holds neither text nor lists.
    """
    lists = parse_lists(table.column(column)).rename("word")
    if isinstance(lists.dtype, pl.List | pl.Array) and not lists.dtype.inner.is_nested():
        lists = lists.cast(pl.List(pl.String))
    elif lists.dtype in (pl.String, pl.Categorical, pl.Enum, pl.Null):
        lists = lists.cast(pl.String).fill_null("").str.split(separator or USUAL)
    else:
        raise DataError(
            f"{table.path}: column {column!r} holds {lists.dtype}, not lists of names as in "
            "'cat;dog'. Write names; for 1 and 0, make one column per category."
        )
    words = lists.to_frame().with_row_index("row").explode("word")
    words = words.with_columns(pl.col("word").fill_null("").str.strip_chars())
    return words.filter(pl.col("word") != "")


def check_separator(where: str, texts: Iterable[str], categories: Collection[str] = ()) -> None:
    """Refuse lists that probably have another separator than `;`, which none of them holds.

    A comma may be part of a name, as in "salt, pepper". Parts that occur in several names show
    that it is not, and so do most names holding it. A space or a slash is usual within names, so
    for it there is only a note in the log.

    Args:
        where: the names are from, for messages.
        texts: the lists.
        categories: names that were asked for are names, whatever they hold.

    Raises:
        DataError: parts between `,`, `|`, `#` or tabs occur in several names, or most hold one.
    """
    distinct = {text.strip() for text in texts} - {""}
    if any(USUAL in text for text in distinct):
        return
    names = sorted(distinct - set(categories))
    for separator in (*_ASKED, *_NOTED):
        joined = [name for name in names if separator in name]
        shared = _shared_parts(names, joined, separator)
        most = len(joined) > 1 and 2 * len(joined) > len(names)
        if not (shared or (most and separator in _ASKED)):
            continue
        parts = f", and {shared[0]!r:.40} is a part of several" if shared else ""
        message = (
            f"{where}: {len(joined)} of {len(names)} names hold {separator!r}, as in "
            f"{joined[0]!r:.80}{parts}. If {separator!r} "
            f"separates names, choose --separator {separator!r}; if it belongs to them, "
            "--separator ';'. In Python: separator=...; of a data set by name: option separator=..."
        )
        if separator in _ASKED:
            raise DataError(message)
        if most:
            _log.warning("%s", message)


def _shared_parts(names: Sequence[str], joined: Sequence[str], separator: str) -> list[str]:
    """Return the parts of the joined names that are in several names, the commonest first."""
    parts = {name: {part.strip() for part in name.split(separator)} - {""} for name in names}
    counts = Counter(part for each in parts.values() for part in each)
    inside = {part for name in joined for part in parts[name]}
    return [part for part, count in counts.most_common() if count > 1 and part in inside]
