"""A folder in which one process works at a time."""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from trmml.errors import CheckpointError
from trmml.storage.atomic import sweep, told_if_full

LOCK = ".lock"
# Says who holds it. Not the lock itself: where a file system knows no locks, that file says which
# process of which machine must have ended before another one takes it.
WHO = ".who.lock"


@contextmanager
def held_folder(folder: Path) -> Iterator[None]:
    """Hold a folder until the block ends; it is made if need be.

    A killed process holds nothing. Who holds a folder may hold it once more, within.

    Raises:
        CheckpointError: another process holds it, or nothing can be written there.
    """
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"{folder} is a file; name a folder for the run")
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    lock = FileLock(folder / LOCK, is_singleton=True)
    if lock.is_locked:
        yield
        return
    _take(lock, folder)
    try:
        sweep(folder)
        now = datetime.now(UTC).astimezone().isoformat(" ", "seconds")
        who = f"process {os.getpid()} on {platform.node()} since {now}"
        with told_if_full(folder / WHO, len(who)):
            (folder / WHO).write_text(who, "utf-8")
        yield
    finally:
        with suppress(OSError):
            (folder / WHO).unlink(missing_ok=True)
            (folder / LOCK).unlink()
            for each in made:  # where nothing was written
                each.rmdir()
        lock.release()


def _take(lock: BaseFileLock, folder: Path) -> None:
    """Take the lock of a folder, which is made if need be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise CheckpointError(
            f"{folder} is in use by {_holder(folder / WHO)}; wait for it, stop it, or name another"
            " folder"
        ) from None
    except OSError as error:
        raise CheckpointError(
            f"nothing can be written in {folder} ({error.strerror}); name another folder"
        ) from error


def _holder(path: Path) -> str:
    """Who holds a lock, as it says itself."""
    with suppress(OSError, UnicodeDecodeError):  # it may just be written
        return path.read_text("utf-8") or "another process"
    return "another process"
