"""The rows of a journal as lines of JSON: for people, git and other programs, out and in."""

import json
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, get_args

from trmml.curation.answers import Answer, Reason, State, Verdict
from trmml.datasets.tables.names import clean_name
from trmml.errors import DataError
from trmml.storage.atomic import write_text
from trmml.storage.json_text import parse_json


def lines_of(rows: Sequence[Answer]) -> str:
    """Rows as JSON lines, one object a line with all columns."""
    return "".join(json.dumps(row._asdict(), ensure_ascii=False) + "\n" for row in rows)


def write_lines(rows: Sequence[Answer], path: Path) -> None:
    """Write rows as `lines_of` gives them."""
    write_text(path, lines_of(rows))


def read_lines(path: Path) -> list[Answer]:
    """The rows in a file of JSON lines.

    Raises:
        DataError: it cannot be read, or a line is no row.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8"
        raise DataError(f"cannot read {path}: {reason}. Name lines of JSON in UTF-8.") from error
    return [_row(line, f"{path} line {n}") for n, line in enumerate(lines, 1) if line.strip()]


def _row(line: str, where: str) -> Answer:
    try:
        tree = parse_json(line)
    except ValueError as error:
        raise DataError(f"{where} is no JSON: {error}. Export the answers again.") from error
    if not isinstance(tree, dict) or set(tree) - {*Answer._fields}:
        raise DataError(f"{where} is no answer; expected the keys {', '.join(Answer._fields)}.")
    values: dict[str, Any] = {"who": "", "run": "", "p": None, "answer": None, **tree}
    wrong = [name for name, kind in _KINDS.items() if not _is(values.get(name), kind)]
    wrong = wrong or [name for name, fits in _FITS.items() if not fits(values.get(name))]
    if not wrong and (values["answer"] is None) == (values.get("undoes") is None):
        wrong = ["answer"]  # a row answers, or takes an answer back
    if wrong:
        raise DataError(
            f"{where}: {wrong[0]!r} is {values.get(wrong[0])!r:.80}, which no answer has there."
            " Export the answers again; docs/review.md has the columns."
        )
    return Answer(**values)


_KINDS: dict[str, Any] = {
    **dict.fromkeys(("id", "at", "who", "image", "sha256", "category", "run"), str),
    **{"answer": (*get_args(Verdict), None), "was": get_args(State), "why": get_args(Reason)},
    **{"p": (int, float, type(None)), "ms": (int, type(None)), "undoes": (str, type(None))},
}


def _is_time(text: str) -> bool:
    """Whether a text is a time as `answers.now` writes it, which sorts as it counts."""
    try:
        return f"{datetime.strptime(text, '%Y-%m-%dT%H:%M:%SZ'):%Y-%m-%dT%H:%M:%SZ}" == text
    except ValueError:
        return False


# What else values must be, beside their kind.
_FITS: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("id", "image"), lambda name: bool(name.strip())),
    "category": lambda name: bool(clean_name(name)),
    "at": _is_time,
    "p": lambda p: p is None or 0 <= p <= 1,
    "ms": lambda ms: ms is None or 0 <= ms < 1 << 63,
}


def _is(value: object, kind: Any) -> bool:
    if isinstance(kind, tuple) and not isinstance(kind[0], type):
        return value in kind
    return isinstance(value, kind) and not isinstance(value, bool)
