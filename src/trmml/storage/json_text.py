"""JSON text from any source: read with one kind of error, whatever is wrong with it."""

import functools
import json
import re
from typing import Any

from pydantic import TypeAdapter, ValidationError

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_adapter = functools.cache(TypeAdapter)


def parse_json(text: str | bytes) -> Any:
    r"""Return what a JSON text holds.

    Raises:
        ValueError: it is no JSON (`json.JSONDecodeError`), is nested too deeply, names a key of an
            object twice, or holds a number of over 4,300 digits or half of a surrogate pair, which
            no file can hold as UTF-8.

    Example:
        >>> parse_json('{"name": "\\ud800"}')
        Traceback (most recent call last):
        ValueError: it holds half of a surrogate pair, which is no character
    """
    text = text.decode() if isinstance(text, bytes) else text
    try:
        tree = json.loads(text, object_pairs_hook=_unique)
        if _SURROGATE.search(text):
            json.dumps(tree, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except UnicodeEncodeError:
        raise ValueError("it holds half of a surrogate pair, which is no character") from None
    return tree


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    tree = dict(pairs)
    if len(tree) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"it names {twice!r:.80} twice in one object; keep one")
    return tree


def parse_object(text: str | bytes) -> dict[str, Any]:
    """Return what a JSON text holds where that is an object.

    Raises:
        ValueError: as `parse_json`, or it is no object.
    """
    tree = parse_json(text)
    if not isinstance(tree, dict):
        raise ValueError(f"an object was expected, not {tree!r:.60}")
    return tree


def of_kind(kind: Any, tree: Any) -> Any:
    """Return what JSON values say as a value of a type, as `list[int]` or a dataclass.

    Keys that a dataclass lacks are left out.

    Raises:
        ValueError: they are of another form; it says which and where.

    Example:
        >>> of_kind(dict[str, list[int]], {"a": [1, "2"]})
        Traceback (most recent call last):
        ValueError: a.1: Input should be a valid integer
    """
    try:
        return _adapter(kind).validate_json(json.dumps(tree), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(f"{place}: {first['msg']}" if place else first["msg"]) from None
