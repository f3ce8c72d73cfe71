"""A folder to write in before all of it takes its place; those of killed processes are removed."""

import glob
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from trmml.storage.atomic import told_if_full

_LOCK = ".lock"
_UNLOCKED_SECONDS = 60.0  # a folder without a lock may be one that is just being made


@contextmanager
def draft_folder(out: Path) -> Iterator[Path]:
    """Make a new folder beside `out`, on the same disk, and remove it at the end.

    A process that is killed leaves its folder behind, but not its lock: the next draft of the same
    `out` removes such folders.

    Raises:
        OSError: the folder cannot be made, or the disk is full.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned_drafts(out)
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".draft", dir=out.parent))
    with FileLock(folder / _LOCK):
        try:
            inside = folder / "draft"
            inside.mkdir()
            with told_if_full(out, part=inside):
                yield inside
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def remove_abandoned_drafts(out: Path) -> None:
    """Remove what killed processes left beside `out`."""
    for folder in out.parent.glob(f".{glob.escape(out.name)}.*.draft"):
        _remove_abandoned(folder)


def _remove_abandoned(folder: Path) -> None:
    """Remove a draft unless a process holds it."""
    try:
        if not (folder / _LOCK).exists():
            if time.time() - folder.stat().st_mtime > _UNLOCKED_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)
            return
        with FileLock(folder / _LOCK).acquire(timeout=0):
            shutil.rmtree(folder, ignore_errors=True)
    except (Timeout, OSError):  # in use, or just removed by another process
        return
