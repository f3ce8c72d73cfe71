"""Turn the label files of WebDataset samples into columns that all shards share.

A file lists what is there, or has a key per category:

    {"labels": ["cat"]}, {"present": ["cat"], "absent": ["dog"]}, ["cat"], "cat;dog" or .txt, .cls
    {"cat": 1, "dog": 0, "owl": null}

Lists may be called `present`, `labels`, `tags` or `label`, differently in each sample; null says
nothing. But all samples must list names, or all numbers, or all have a key per category: what 0 or
a name that is not listed means is said once for a set. A file with nothing of this is refused.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from trmml.datasets.formats.packed import LIST_COLUMNS, list_column
from trmml.datasets.tables.table import as_utf8
from trmml.errors import DataError

_ABSENT = "absent"
_KEYS = ", ".join(LIST_COLUMNS)
_ALIKE = 'Write all alike, for example as {"present": ["cat"], "absent": ["dog"]}.'


class Told(NamedTuple):
    """What the label file of an image says, and where it stands; None where there is no file."""

    labels: dict[str, Any] | None
    where: str


def parse_labels(data: bytes, suffix: str, where: str) -> dict[str, Any]:
    """Return what a label file holds by key; a mere list is what is present.

    Args:
        data: the file.
        suffix: "json", "txt" or "cls".
        where: for messages.

    Raises:
        DataError: it is no JSON, in another encoding than UTF-8, or holds something else.
    """
    text = as_utf8(Path(where), data).decode().strip()
    if suffix == "txt":
        return {"present": _words(text)}
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{where} is no JSON: {error.msg}. Write it again.") from error
    if suffix == "cls" and isinstance(value, int):
        return {"label": [value]}
    if isinstance(value, list):
        return {"present": value}
    if isinstance(value, dict):
        return value
    raise DataError(f"{where}: expected an object or a list of names, got {text!r:.60}.")


def _words(text: str) -> list[str]:
    return [word.strip() for word in re.split("[;\n]", text) if word.strip()]


def label_frames(shards: Mapping[Path, Sequence[Told]], chosen: str) -> Mapping[Path, pl.DataFrame]:
    """Return the labels of each shard, a row per sample, as `packed.read_packs` reads them.

    Args:
        shards: the samples of each.
        chosen: the key of the lists, perhaps with a field after a dot; found when empty.

    Raises:
        DataError: a file says nothing that can be read, or two are not alike.
    """
    told = [each for shard in shards.values() for each in shard if each.labels is not None]
    if not chosen and not _are_lists(told):
        keys = dict.fromkeys(key for each in told for key in each.labels or {})
        return {
            path: pl.DataFrame([_answers(path, shard, key) for key in keys])
            for path, shard in shards.items()
        }
    lists = {path: [_lists(each, chosen) for each in shard] for path, shard in shards.items()}
    numbers = _are_numbers([each for shard in lists.values() for each in shard])
    kind = pl.List(pl.Int64 if numbers else pl.String)
    keys = dict.fromkeys(key for shard in lists.values() for each in shard
                         for key in each.labels or {})  # fmt: skip
    return {
        path: pl.DataFrame(
            [pl.Series(key, [(each.labels or {}).get(key) for each in shard], kind) for key in keys]
        )
        for path, shard in lists.items()
    }


def _are_lists(told: Sequence[Told]) -> bool:
    """Return whether the labels are lists, rather than a key per category; all must be alike."""
    lists: list[Told] = []
    others: list[Told] = []
    for each in told:
        labels = each.labels or {}
        is_list = any(key in labels for key in LIST_COLUMNS) or isinstance(
            labels.get(_ABSENT), list
        )
        (lists if is_list else others).append(each)
    if lists and others:
        raise DataError(
            f"{lists[0].where} lists names, but {others[0].where} has none of the keys "
            f"{_KEYS}. {_ALIKE} If another key holds the lists, name it as option labels=NAME."
        )
    for each in others:
        values = (each.labels or {"": None}).values()
        if all(isinstance(value, list | dict) for value in values):
            raise DataError(
                f"{each.where} should list names under one of the keys {_KEYS}, or hold 1, 0 or "
                f"null for each category, but holds {each.labels!r:.80}. {_ALIKE} If another key "
                "holds the lists, name it as option labels=NAME."
            )
    return bool(lists)


def _lists(told: Told, chosen: str) -> Told:
    """Return what is told as lists of present and perhaps absent, whatever they are called."""
    if told.labels is None:
        return told
    present = _present(told.labels, chosen, told.where)
    lists = {chosen or LIST_COLUMNS[0]: _list(present, told.where)}
    if _ABSENT in told.labels:
        lists[_ABSENT] = _list(told.labels[_ABSENT], told.where)
    return Told(lists, told.where)


def _present(labels: Mapping[str, Any], chosen: str, where: str) -> Any:
    key = list_column(labels, chosen, where)
    if key in labels:
        return labels[key]
    outer, _, field = chosen.partition(".")
    inner = labels.get(outer)
    if not chosen or (outer in labels and inner is None):
        return None
    if isinstance(inner, dict) and field in inner:
        return inner[field]
    raise DataError(
        f"{where} has no key {chosen!r}, but {', '.join(labels)[:200]}. Name another as option "
        "labels=NAME, or write null where nothing is known."
    )


def _list(value: Any, where: str) -> list[Any] | None:
    """Return names or numbers as a list; a text lists names as in a .txt, null says nothing."""
    if value is None:
        return None
    entries = _words(value) if isinstance(value, str) else value
    entries = entries if isinstance(entries, list) else [entries]
    numbers = all(type(entry) is int and abs(entry) < 2**63 for entry in entries)  # pl.Int64
    if numbers or all(isinstance(entry, str) for entry in entries):
        return entries
    raise DataError(
        f"{where}: expected a list of names, or of numbers, got {value!r:.60}. Write names, as in "
        '["cat", "dog"].'
    )


def _are_numbers(told: Sequence[Told]) -> bool:
    """Return whether the lists hold numbers, rather than names; all must be alike."""
    first: dict[type, str] = {}
    for each in told:
        for entries in (each.labels or {}).values():
            if entries:
                first.setdefault(type(entries[0]), each.where)
    if len(first) > 1:
        raise DataError(f"{first[str]} lists names, but {first[int]} lists numbers. {_ALIKE}")
    return int in first


def _answers(path: Path, shard: Sequence[Told], key: str) -> pl.Series:
    """Return the answers for a category, checked to be of one kind; polars would make them one."""
    values = [(each.labels or {}).get(key) for each in shard]
    kinds = {"numbers" if isinstance(value, int | float) else type(value).__name__
             for value in values if value is not None}  # fmt: skip
    if len(kinds) > 1:
        raise DataError(f"{path}: {key!r} holds {' and '.join(sorted(kinds))}. {_ALIKE}")
    return pl.Series(key, [int(value) if isinstance(value, bool) else value for value in values])
