"""Data sets by name, as `trmml benchmark --data NAME ROOT` reads them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from trmml.datasets.base import Dataset
from trmml.datasets.folder import read_categories, read_folder
from trmml.errors import ConfigError


def read_named(
    name: str, root: Path, split: Literal["train", "test"], options: Mapping[str, str]
) -> Dataset:
    """A data set by its name.

    Args:
        name: of the form, as "folder".
        root: where it lies.
        split: which part of it.
        options: choices of the reader, by name.

    Raises:
        ConfigError: the name or an option is unknown.
        DataError: the files are not what the name says.
    """
    if name != "folder":
        raise ConfigError(f"expected --data folder, got {name!r}")
    if options:
        raise ConfigError(f"data of the form 'folder' has no option {next(iter(options))!r}")
    names = read_categories(root / "categories.txt")
    return read_folder(root / "images", root / f"{split}.csv", blank="absent", categories=names)
