"""Recognise what a file of labels is that was given in place of a table."""

import re
from pathlib import Path

_HEAD = 1 << 16  # bytes that show what a file is
_COCO = re.compile(rb'"(images|annotations|categories)"\s*:\s*\[')


def is_coco(path: Path) -> bool:
    """Return whether a file is JSON in COCO's form: an object with lists of images and others."""
    head = _start(path)
    return head[:1] == b"{" and bool(_COCO.search(head)) and path.suffix.lower() == ".json"


def _start(path: Path) -> bytes:
    """Return the first bytes of a file, without byte order mark and space; none of a folder."""
    if not path.is_file():
        return b""
    with path.open("rb") as file:
        return file.read(_HEAD).removeprefix(b"\xef\xbb\xbf").lstrip()
