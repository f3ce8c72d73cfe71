"""Files that appear whole or not at all, whatever stops the process that writes them."""

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path to write to; the file takes the place of `path` when the block ends without error.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "new.txt"
        >>> with whole_file(path) as part:
        ...     _ = part.write_text("all of it")
        >>> path.read_text()
        'all of it'
    """
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        yield part
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file, forced to disk: a reader sees the old file or the new one, never a part."""
    with whole_file(path) as part, part.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8; see `write_bytes`."""
    write_bytes(path, text.encode())


def write_json(path: Path, tree: Any, *, indent: int | None = 1) -> None:
    """Write a JSON file; see `write_bytes`.

    Args:
        path: of the file.
        tree: JSON values.
        indent: of each level; None writes one line, several times as fast.
    """
    write_text(path, json.dumps(tree, indent=indent, ensure_ascii=False) + "\n")
