"""Read Label Studio's short exports, JSON-MIN and CSV, as the tasks that its JSON export holds.

A row is an annotation: the task's data, and what was answered under the name of each control.
Rows with the same `id` are those of several annotators.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from trmml.datasets.files import read_json, read_plain
from trmml.errors import DataError
from trmml.storage.json_text import parse_json

_OWN = {"id", "annotator", "annotation_id", "created_at", "updated_at", "lead_time", "agreement"}
_KINDS = re.compile(r"choices|taxonomy|[a-z]*labels")


def read_tree(path: Path, kinds: Mapping[str, str]) -> Any:
    """Return an export as its JSON form has it, whichever form it is.

    Args:
        path: of the export.
        kinds: the kind of each control by its name, as the interface tells. Without it a lone text
            is the answer of a choice only where other rows hold `{"choices": [...]}` there.

    Raises:
        DataError: it is damaged.
    """
    text = read_plain(path).lstrip()
    tree = read_json(path) if text[:1] in ("[", "{") else _csv_rows(path, text)
    short = isinstance(tree, list) and all(isinstance(row, dict) for row in tree)
    return _tasks(tree, kinds) if short and not any("data" in row for row in tree) else tree


def _csv_rows(path: Path, text: str) -> list[dict[str, Any]]:
    try:
        rows = pl.read_csv(text.encode(), infer_schema=False).to_dicts()
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise DataError(
            f"{path} is neither JSON nor CSV: {str(error).partition(chr(10))[0]}. Export it again."
        ) from error
    return [{name: _cell(value) for name, value in row.items()} for row in rows]


def _cell(text: str | None) -> Any:
    if text is not None and text[:1] in ("[", "{"):
        try:
            return parse_json(text)
        except ValueError:
            return text
    return text


def _tasks(rows: Sequence[dict[str, Any]], kinds: Mapping[str, str]) -> list[dict[str, Any]]:
    choices = {name for name, kind in kinds.items() if kind == "choices"}
    choices |= {name for row in rows for name, value in row.items()
                if isinstance(value, dict) and "choices" in value}  # fmt: skip
    tasks: dict[Any, dict[str, Any]] = {}
    for number, row in enumerate(rows):
        key = str(row.get("id", f"row {number}"))
        task = tasks.setdefault(key, {"data": row, "annotations": []})
        results = [result for name, value in row.items() if name not in _OWN
                   for result in _results(name, value, choices)]  # fmt: skip
        task["annotations"].append({"result": results})
    return list(tasks.values())


def _results(name: str, value: Any, choices: set[str]) -> list[dict[str, Any]]:
    """Return what a control's cell holds as results; none where it is data of the task."""
    if name in choices and isinstance(value, str | list) and value:
        value = {"choices": [value] if isinstance(value, str) else value}
    elif isinstance(value, list) and all(isinstance(each, list) for each in value):
        value = {"taxonomy": value}
    values = [each for each in (value if isinstance(value, list) else [value])
              if isinstance(each, dict)]  # fmt: skip
    return [each | {"type": kind, "from_name": name, "value": each}
            for each in values for kind in each if _KINDS.fullmatch(kind)]  # fmt: skip
