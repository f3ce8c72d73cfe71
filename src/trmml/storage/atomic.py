"""Files that appear whole or not at all, whatever stops the process that writes them."""

import errno
import functools
import json
import os
import platform
import re
import shutil
import time
import uuid
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trmml.errors import DataError

# The disk, a quota or the largest size of a file is reached.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# What another machine or container, or an older version, left is removed when it is this old.
ABANDONED_SECONDS = 86_400.0
# The start of a name that a part keeps: a file's name ends at 255 bytes.
_NAME_CHARACTERS = 50
_PART = re.compile(r"\.(?:([0-9a-f]{8})-(\d+)-)?[0-9a-f]{8}\.part")


@contextmanager
def whole_file(path: Path, size: int = 0) -> Iterator[Path]:
    """A path to write to; the file takes the place of `path` when the block ends without error.

    A pipe or a device is written as it is. What killed processes left in the folder is removed.

    Args:
        path: of the file.
        size: bytes that will be written, for the message where the disk is full; 0 says nothing.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "new.txt"
        >>> with whole_file(path) as part:
        ...     _ = part.write_text("all of it")
        >>> path.read_text()
        'all of it'
    """
    if path.exists() and not path.is_file():
        yield path
        return
    _sweep_once(path.parent)
    writer = f"{_host()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    part = path.with_name(f".{path.name[:_NAME_CHARACTERS]}.{writer}.part")
    try:
        with told_if_full(path, size, part):
            yield part
            os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


@contextmanager
def told_if_full(path: Path, size: int = 0, part: Path | None = None) -> Iterator[None]:
    """Where the block fills the disk, the error names the file, what it needs and what is free.

    Args:
        path: of what is written.
        size: its bytes; 0 where nobody knows.
        part: the file or folder that is written in its place and removed after an error.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        inside = [] if part is None else [part, *part.rglob("*")]
        written = sum(each.stat().st_size for each in inside if each.is_file())
        needed = f"{size}" if size else f"more than {written}"
        free = shutil.disk_usage(path.parent).free + written
        reason = f"{os.strerror(error.errno)}: {needed} bytes are needed and {free} are free"
        raise OSError(error.errno, reason, str(path)) from error


def sweep(folder: Path) -> None:
    """Remove the parts of files that killed processes left in a folder."""
    for part in folder.glob(".*.part"):
        found = _PART.search(part.name)
        try:
            if found and (
                (found[1] == _host() and not _is_alive(int(found[2])))
                or time.time() - part.stat().st_mtime > ABANDONED_SECONDS
            ):
                part.unlink()
        except OSError:  # removed by another process just now, or not ours to remove
            continue


_sweep_once = functools.cache(sweep)


def _host() -> str:
    """Where a number names one process: this machine, and the container in it.

    Containers may share the name of the machine; each counts its own processes.
    """
    try:
        processes = os.readlink("/proc/self/ns/pid")
    except OSError:  # no Linux
        processes = ""
    return f"{zlib.crc32(f'{platform.node()}{processes}'.encode()):08x}"


def _is_alive(process: int) -> bool:
    """Whether a process of this host runs; Windows, where signal 0 is no question, says so."""
    if os.name == "nt":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # another user's
        return True
    return True


def refuse_old(path: Path) -> None:
    """Refuse a place where something is already that writing would replace.

    A link that leads nowhere is something; a pipe and a device are written to and stay.

    Raises:
        DataError: there is something.
    """
    if path.is_file() or path.is_dir() or (path.is_symlink() and not path.exists()):
        raise DataError(f"{path} is there already, and nothing is written over. Name a new one.")


def refuse_other(path: Path, is_ours: Callable[[Path], bool], what: str) -> None:
    """Refuse a place where another file is than writing may replace; an empty one may be replaced.

    Args:
        path: of what will be written.
        is_ours: whether a file that is there was written by the same command.
        what: such a file, for the message.

    Raises:
        DataError: another file is there.
    """
    if path.is_file() and path.stat().st_size and not is_ours(path):
        raise DataError(f"{path} is there already and no {what}; name a new file")


def begins_with(path: Path, start: bytes) -> bool:
    """Whether a file begins with these bytes."""
    with path.open("rb") as file:
        return file.read(len(start)) == start


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file, forced to disk: a reader sees the old file or the new one, never a part."""
    with whole_file(path, len(content)) as part, part.open("wb") as file:
        file.write(content)
        file.flush()
        if part.is_file():  # a pipe cannot be forced
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
