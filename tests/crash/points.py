"""Points at which a process changes files; at one of them it can be made to die.

`arm` wraps what opens a file for writing, writes tensors, renames, links, removes and forces to
disk. A file that is opened has a point before it and one after it, when nothing has been written;
a file of tensors has one before it and one when half of it is on disk.
"""

import builtins
import io
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.numpy
import safetensors.torch

_CALLS = ("replace", "rename", "unlink", "remove", "rmdir", "mkdir", "symlink", "link", "fsync")


class Points:
    """Counts points, writes them down, and kills the process at one of them.

    Args:
        root: only changes below this folder count.
        kill_at: the point at which to die, from 1; 0 lives on.
        journal: gets a line for each point; None writes nothing down.
    """

    def __init__(self, root: Path, kill_at: int, journal: Path | None) -> None:
        self._root, self._kill_at = str(root.resolve()), kill_at
        self._count, self._lock = 0, threading.Lock()
        self._journal = None if journal is None else os.open(journal, os.O_WRONLY | os.O_CREAT)

    def passed(self, what: str, path: object) -> None:
        """Say that something is about to happen to a path, and die if it is time to."""
        if not isinstance(path, str | os.PathLike) or not self._below(path):
            return
        with self._lock:
            self._count += 1
            if self._journal is not None:
                os.write(self._journal, f"{what} {os.fspath(path)}\n".encode())
            if self._count == self._kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    def _below(self, path: "str | os.PathLike[str]") -> bool:
        return os.path.abspath(os.fspath(path)).startswith(self._root)


def arm(points: Points) -> None:
    """Wrap everything by which trmml and its libraries change files in this process."""
    for name in _CALLS:
        setattr(os, name, _wrapped(getattr(os, name), name, points))
    builtins.open = io.open = _opening(builtins.open, points)  # type: ignore[assignment]
    os.open = _opening_low(os.open, points)  # type: ignore[assignment]
    for module in (safetensors.torch, safetensors.numpy):
        module.serialize_file = _half_first(module.serialize_file, points)


def _wrapped(call: Callable[..., Any], name: str, points: Points) -> Callable[..., Any]:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        path = args[1] if name == "symlink" else args[0]
        points.passed(name, _path_of(path, kwargs.get("dir_fd")))
        return call(*args, **kwargs)

    return wrapper


def _path_of(path: Any, folder: int | None = None) -> Any:
    """The path of an open file, or of a name in an open folder."""
    try:
        if isinstance(path, int):
            return os.readlink(f"/proc/self/fd/{path}")
        if folder is not None:
            return os.path.join(os.readlink(f"/proc/self/fd/{folder}"), path)
    except OSError:
        return ""
    return path


def _opening(opened: Callable[..., Any], points: Points) -> Callable[..., Any]:
    def wrapper(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if not set(mode) & set("wax+"):
            return opened(file, mode, *args, **kwargs)
        points.passed(f"open-{mode}", file)
        stream = opened(file, mode, *args, **kwargs)
        points.passed(f"opened-{mode}", file)
        return stream

    return wrapper


def _opening_low(opened: Callable[..., int], points: Points) -> Callable[..., int]:
    def wrapper(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            points.passed("open", _path_of(path, kwargs.get("dir_fd")))
        return opened(path, flags, *args, **kwargs)

    return wrapper


def _half_first(write: Callable[..., Any], points: Points) -> Callable[..., Any]:
    """Safetensors writes in Rust: a point before it, and one when half of the file is there."""

    def wrapper(tensors: Any, filename: Any, *args: Any, **kwargs: Any) -> Any:
        points.passed("tensors", filename)
        write(tensors, filename, *args, **kwargs)
        whole = Path(filename).read_bytes()
        Path(filename).write_bytes(whole[: len(whole) // 2])
        points.passed("half-of-the-tensors", filename)
        Path(filename).write_bytes(whole)

    return wrapper
