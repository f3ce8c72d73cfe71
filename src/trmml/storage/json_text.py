"""JSON text from any source: read with one kind of error, whatever is wrong with it."""

import json
import re
from typing import Any

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def parse_json(text: str | bytes) -> Any:
    r"""Return what a JSON text holds.

    Raises:
        ValueError: it is no JSON (`json.JSONDecodeError`), is nested too deeply, or holds a number
            of over 4,300 digits or half of a surrogate pair, which no file can hold as UTF-8.

    Example:
        >>> parse_json('{"name": "\\ud800"}')
        Traceback (most recent call last):
        ValueError: it holds half of a surrogate pair, which is no character
    """
    text = text.decode() if isinstance(text, bytes) else text
    try:
        tree = json.loads(text)
        if _SURROGATE.search(text):
            json.dumps(tree, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except UnicodeEncodeError:
        raise ValueError("it holds half of a surrogate pair, which is no character") from None
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
