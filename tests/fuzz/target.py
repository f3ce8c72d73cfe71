"""What is fuzzed: a reader, a valid file, and a way to make nearly valid ones."""

import atexit
import functools
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from tests.fuzz.damage import Damage
from tests.sets import write
from trmml.datasets.catalog import read_named
from trmml.errors import TrmmlError


class Target(NamedTuple):
    """A reader of one kind of file.

    Attributes:
        name: how `make fuzz TARGET=name` calls it.
        valid: a file that the reader takes.
        read: gives the reader a file of these bytes.
        damage: a file that is not valid, or not quite.
    """

    name: str
    valid: bytes
    read: Callable[[bytes], object]
    damage: Damage

    def attempt(self, data: bytes) -> bool:
        """Whether the reader takes the file; any error but ours goes through."""
        try:
            self.read(data)
        except TrmmlError:
            return False
        return True


def in_folder(
    name: str,
    file: str,
    files: Mapping[str, str | bytes],
    read: Callable[[Path], object],
    damage: Damage,
) -> Target:
    """A target that damages one file of a valid folder, which is written once."""

    @functools.cache
    def folder() -> Path:
        root = Path(tempfile.mkdtemp(prefix="trmml-fuzz-"))
        atexit.register(_remove, root, os.getpid())
        write(root, files)
        return root

    def read_with(data: bytes) -> object:
        write(folder(), {file: data})
        return read(folder())

    content = files[file]
    valid = content if isinstance(content, bytes) else content.encode()
    return Target(name, valid, read_with, damage)


def of_data_set(
    name: str,
    reader: str,
    file: str,
    files: Mapping[str, str | bytes],
    damage: Damage,
    **options: str,
) -> Target:
    """A target that damages one file of a data set, read by its name."""
    return in_folder(
        name, file, files, lambda root: read_named(reader, root, "train", options), damage
    )


def _remove(root: Path, owner: int) -> None:
    if os.getpid() == owner:  # not a child that was forked
        shutil.rmtree(root, ignore_errors=True)
