"""Turn the label files of WebDataset samples into columns that all shards share.

A file lists what is there, or has a key per category:

    {"labels": ["cat"]}, {"present": ["cat"], "absent": ["dog"]}, ["cat"], "cat;dog" or .txt, .cls
    {"cat": 1, "dog": 0, "owl": null}

Lists may be called `present`, `labels`, `tags` or `label`, differently in each sample; null is
unknown. But all samples must list names, or all numbers, or all have a key per category: what 0 or
a name that is not listed means is chosen once for a set. A file with nothing of this is refused.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from trmml.datasets.formats.label_columns import LIST_COLUMNS, list_column
from trmml.datasets.tables.name_lists import USUAL, check_separator
from trmml.datasets.tables.table import as_utf8
from trmml.errors import DataError
from trmml.storage.json_text import parse_json

_ABSENT = "absent"
_KEYS = ", ".join(LIST_COLUMNS)
_ALIKE = 'Write all alike, for example as {"present": ["cat"], "absent": ["dog"]}.'
_OTHER_KEY = "If another key holds the lists, name it as option labels=NAME."


class LabelFile(NamedTuple):
    """The label file of an image by key, and its place; `content` is None where there is none."""

    content: Mapping[str, Any] | None
    where: str


def parse_labels(data: bytes, where: str) -> LabelFile:
    """Return what a label file holds by key; a mere list is what is present.

    Args:
        data: the file.
        where: its shard and name, which ends in json, txt or cls.

    Raises:
        DataError: it is no JSON, in another encoding than UTF-8, or holds something else.
    """
    suffix = where.rpartition(".")[2].lower()
    text = as_utf8(Path(where), data).decode().strip()
    try:
        value = {"present": text} if suffix == "txt" else parse_json(text)
    except ValueError as error:
        raise DataError(f"{where} is no JSON: {error}. Write it again.") from error
    if suffix == "cls" and isinstance(value, int):
        value = [value]
    if isinstance(value, list):
        value = {"present": value}
    if isinstance(value, dict):
        return LabelFile(value, where)
    raise DataError(f"{where}: expected an object or a list of names, got {text!r:.60}.")


def _words(text: str, separator: str | None) -> list[str]:
    words = re.split(f"{re.escape(separator or USUAL)}|\n", text)
    return [word.strip() for word in words if word.strip()]


def label_frame(
    files: Sequence[LabelFile], chosen: str, separator: str | None = None
) -> pl.DataFrame:
    """Return the labels of all samples, a row each, as `read_label_columns` reads them.

    Args:
        files: of the samples of all shards.
        chosen: the key of the lists, perhaps with a field after a dot; found when empty.
        separator: between names in a text, beside line breaks; `;` when None.

    Raises:
        DataError: a file holds nothing that can be read, or two are not alike.
    """
    labelled = [file for file in files if file.content is not None]
    if not chosen and not _are_lists(labelled):
        keys = dict.fromkeys(key for file in labelled for key in file.content or {})
        return pl.DataFrame([_answers(files, key) for key in keys])
    lists = {file.where: _lists(file, chosen, separator) for file in labelled}
    if separator is None:
        texts = [value.replace("\n", USUAL) for file in labelled
                 for value in (file.content or {}).values() if isinstance(value, str)]  # fmt: skip
        check_separator("the label files of the shards", texts)
    kind = pl.List(pl.Int64 if _are_numbers(lists) else pl.String)
    keys = dict.fromkeys(key for each in lists.values() for key in each)
    rows = [lists.get(file.where, {}) for file in files]
    return pl.DataFrame([pl.Series(key, [row.get(key) for row in rows], kind) for key in keys])


def _are_lists(files: Sequence[LabelFile]) -> bool:
    """Return whether the labels are lists, rather than a key per category; all must be alike."""
    lists = [file for file in files if _has_lists(file.content or {})]
    others = [file for file in files if not _has_lists(file.content or {})]
    if lists and others:
        raise DataError(
            f"{lists[0].where} lists names, but {others[0].where} has none of the keys {_KEYS}. "
            f"{_ALIKE} {_OTHER_KEY}"
        )
    for file in others:
        values = (file.content or {"": None}).values()
        if all(isinstance(value, list | dict) for value in values):
            raise DataError(
                f"{file.where} should list names under one of the keys {_KEYS}, or hold 1, 0 or "
                f"null for each category, but holds {file.content!r:.80}. {_ALIKE} {_OTHER_KEY}"
            )
    return bool(lists)


def _has_lists(content: Mapping[str, Any]) -> bool:
    listed = any(key in content for key in LIST_COLUMNS)
    return listed or isinstance(content.get(_ABSENT), list)


def _lists(file: LabelFile, chosen: str, separator: str | None) -> dict[str, list[Any] | None]:
    """Return the lists of a file as present (or `chosen`) and perhaps absent."""
    content = file.content or {}
    values = {chosen or LIST_COLUMNS[0]: _present(content, chosen, file.where)}
    if _ABSENT in content:
        values[_ABSENT] = content[_ABSENT]
    return {key: _list(value, file.where, separator) for key, value in values.items()}


def _present(content: Mapping[str, Any], chosen: str, where: str) -> Any:
    key = list_column(content, chosen, where)
    if key in content:
        return content[key]
    outer, _, field = chosen.partition(".")
    inner = content.get(outer)
    if not chosen or (outer in content and inner is None):
        return None
    if isinstance(inner, dict) and field in inner:
        return inner[field]
    raise DataError(
        f"{where} has no key {chosen!r}, but {', '.join(content)[:200]}. Name another as option "
        "labels=NAME, or write null where nothing is known."
    )


def _list(value: Any, where: str, separator: str | None) -> list[Any] | None:
    """Return names or numbers as a list; a text is split as in a .txt, null stays null."""
    if value is None:
        return None
    entries = _words(value, separator) if isinstance(value, str) else value
    entries = entries if isinstance(entries, list) else [entries]
    numbers = all(type(entry) is int and abs(entry) < 2**63 for entry in entries)  # pl.Int64
    if numbers or all(isinstance(entry, str) for entry in entries):
        return entries
    raise DataError(
        f"{where}: expected a list of names, or of numbers, got {value!r:.60}. Write names, as in "
        '["cat", "dog"].'
    )


def _are_numbers(lists: Mapping[str, Mapping[str, list[Any] | None]]) -> bool:
    """Return whether the lists of each place hold numbers, not names; all must be alike."""
    filled = [(where, each) for where, row in lists.items() for each in row.values() if each]
    first = {type(entries[0]): where for where, entries in reversed(filled)}
    if len(first) > 1:
        raise DataError(f"{first[str]} lists names, but {first[int]} lists numbers. {_ALIKE}")
    return int in first


def _answers(files: Sequence[LabelFile], key: str) -> pl.Series:
    """Return the answers for a category, checked to be of one kind; polars would convert them."""
    values = [(file.content or {}).get(key) for file in files]
    first = {_kind(value): file.where
             for value, file in zip(reversed(values), reversed(files), strict=True)
             if value is not None}  # fmt: skip
    if len(first) > 1:
        kinds, places = zip(*sorted(first.items()), strict=True)
        raise DataError(f"{' and '.join(places)}: {key!r} holds {' and '.join(kinds)}. {_ALIKE}")
    return pl.Series(key, [int(value) if isinstance(value, bool) else value for value in values])


def _kind(value: Any) -> str:
    return "numbers" if isinstance(value, int | float) else type(value).__name__
