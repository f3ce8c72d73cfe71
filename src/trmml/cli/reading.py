"""The labelled images that options name, for every command that takes them."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from trmml.cli import options
from trmml.cli.output import say
from trmml.settings import choices

if TYPE_CHECKING:
    from trmml.datasets.base import Dataset
    from trmml.datasets.options import Split


@dataclass(frozen=True)
class TableOptions:
    """What the cells of a table mean, as `--categories`, `--blank` and the others say."""

    categories: Sequence[str] | None
    blank: choices.Blank | None
    minus_one: choices.Blank | None
    separator: str | None


def read_images(images: Path, labels: Path, table: TableOptions) -> "Dataset":
    """The images of a folder with the labels of a file."""
    from trmml.datasets.formats.folder import read_folder

    return read_folder(
        images,
        labels,
        blank=table.blank,
        minus_one=table.minus_one,
        categories=table.categories,
        separator=table.separator,
    )


def read_either(
    images: Path | None,
    labels: Path | None,
    data: tuple[str, Path] | None,
    data_option: Sequence[str] | None,
    table: TableOptions,
    split: "Split | None" = None,
    usual: "Split" = "train",
) -> "Dataset":
    """The images of a folder with their labels, or a split of a data set by its name.

    Args:
        images: folder, with a table.
        labels: the table.
        data: name and folder of a data set, in the place of both.
        data_option: its choices.
        table: what the table's cells mean.
        split: of the data set.
        usual: the split where none is asked for.

    Raises:
        BadParameter: something is missing, or explains what was not given.
    """
    if data is None:
        if images is None or labels is None:
            raise typer.BadParameter("give --images and --labels, or --data NAME ROOT")
        if data_option:
            raise typer.BadParameter(
                "--data-option goes with --data; --blank, --minus-one, --categories and --separator"
                " explain the table of --labels"
            )
        if split is not None:
            raise typer.BadParameter("--split goes with --data; --labels is taken whole")
        return read_images(images, labels, table)
    if images is not None or labels is not None:
        raise typer.BadParameter("give --images and --labels, or --data NAME ROOT, not both")
    if table != TableOptions(None, None, None, None):
        raise typer.BadParameter(
            "--categories, --blank, --minus-one and --separator explain the table of --labels; "
            "for --data take --data-option NAME=VALUE"
        )
    from trmml.datasets.catalog import read_named

    return read_named(*data, split or usual, options.named_values(data_option, "--data-option"))


def with_answers(data: "Dataset", labels: Path | None, answers: Path | None) -> "Dataset":
    """The data with what people answered since; hashes of both files go into a run's card."""
    if answers is None:
        return data
    import hashlib

    from trmml.curation.answers import existing
    from trmml.curation.journal_lines import lines_of
    from trmml.curation.standing import apply_answers
    from trmml.storage.hashes import hash_file

    with existing(answers) as journal:
        rows = journal.rows()
    applied = apply_answers(data, rows)
    for line in applied.lines():
        say(line)
    sources = {"answers": hashlib.sha256(lines_of(rows).encode()).hexdigest()}
    if labels is not None:
        sources["labels"] = hash_file(labels)
    return replace(applied.data, sources=sources)


def read_test_split(data: tuple[str, Path], data_option: Sequence[str] | None) -> "Dataset | None":
    """The test set of a data set by its name; None, and a line for people, where it has none."""
    from trmml.datasets.catalog import read_named
    from trmml.errors import MissingSplitError

    try:
        return read_named(*data, "test", options.named_values(data_option, "--data-option"))
    except MissingSplitError:
        say(
            f"{data[1]} has no test set. --test-share 0.2 would keep training images aside for one."
        )
        return None


def read_names(categories: Path | None) -> list[str] | None:
    """The names in a file, or None without one."""
    if categories is None:
        return None
    from trmml.datasets.formats.folder import read_categories  # torch takes seconds to import

    return read_categories(categories)


def named_paths(images: Sequence[str], null: bool = False) -> list[str]:
    """The arguments, with the names on stdin in the place of "-".

    Raises:
        BadParameter: there is none but an empty list: "no images" would read as "all of them".
    """
    named: list[str] = []
    for image in images:
        named += names_on_stdin(null) if image == "-" else [image]
    if images and not named:
        raise typer.BadParameter("- reads names from stdin, and there is none; give at least one")
    return named


def names_on_stdin(null: bool) -> list[str]:
    """Names that end with a zero byte or, else, a line end; no other character ends one."""
    content = sys.stdin.buffer.read().removeprefix(b"\xef\xbb\xbf")
    if null:
        names = content.split(b"\0")
    elif b"\0" in content:
        raise typer.BadParameter("names on stdin end with zero bytes; give -0 to read them so")
    else:
        names = [name.removesuffix(b"\r") for name in content.split(b"\n")]
    return [os.fsdecode(name) for name in names if name]
