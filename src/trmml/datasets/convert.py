"""Write a data set in the plain form: images, tables with 1, 0 and blank, boxes, names."""

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from trmml.datasets.base import Dataset
from trmml.datasets.catalog import read_named
from trmml.datasets.formats.folder import read_categories, read_folder
from trmml.datasets.formats.plain import EDGES
from trmml.datasets.formats.unpack import unpack_folder
from trmml.datasets.options import Split
from trmml.datasets.tables.changed import table_rows, write_csv
from trmml.errors import DataError
from trmml.settings.choices import ImageTransfer
from trmml.storage.drafts import draft_folder, remove_abandoned_drafts


@dataclass(frozen=True)
class Converted:
    """What was written.

    Args:
        folder: where.
        images: how many in each split.
        categories: how many.
        boxes: how many in all.
    """

    folder: Path
    images: Mapping[Split, int]
    categories: int
    boxes: int


def convert(
    name: str,
    root: Path,
    out: Path,
    options: Mapping[str, str],
    *,
    splits: Sequence[Split] = ("train", "test"),
    images: ImageTransfer | None = None,
) -> Converted:
    """Write a data set as a folder that `read_folder` and the name `folder` read.

    The folder holds images/train/ and images/test/, train.csv and test.csv with a column per
    category, categories.txt, and boxes.csv where boxes are known. It appears whole or not at all,
    after each table has been read back and found equal.

    Args:
        name: one of `catalog.READERS`.
        root: the data set's folder.
        out: must not exist or be empty, and is not the current folder, which cannot be replaced.
        options: the reader's choices.
        splits: what to write.
        images: "link" writes symbolic links to the images where they are, "copy" copies them. By
            default images are linked, but those unpacked from packed files are copied: a link into
            the user's cache breaks when that is cleared.

    Raises:
        ConfigError: there is no such name or option.
        DataError: the set cannot be read, `out` is in use, or a name cannot be written.
    """
    remove_abandoned_drafts(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} is there already. Name another folder, or empty it first.")
    if out.exists() and out.samefile(Path.cwd()):
        raise DataError(
            f"{out} is the current folder, which cannot be replaced. Name a new folder in it."
        )
    parts = {split: read_named(name, root, split, options) for split in splits}
    unpacked = unpack_folder(options.get("unpack", ""))
    names = _names(parts)
    with draft_folder(out) as draft:
        (draft / "categories.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
        written = {}
        for split, data in parts.items():
            how = images or ("copy" if data.root == unpacked else "link")
            written[split] = place_images(draft / "images", split, data, how)
            labelled = replace(data, images=tuple(written[split]))
            write_csv(draft / f"{split}.csv", table_rows(labelled, "wide"))
        boxes = _write_boxes(draft / "boxes.csv", parts, written)
        for split, data in parts.items():
            _compare(draft, split, data)
        if out.exists():
            out.rmdir()
        draft.rename(out)
    sizes = {split: len(data) for split, data in parts.items()}
    return Converted(out, sizes, len(names), boxes)


def _names(parts: Mapping[Split, Dataset]) -> tuple[str, ...]:
    """Return the categories of all splits, which must be the same."""
    listed = {data.category_names for data in parts.values()}
    if len(listed) != 1:
        raise DataError(
            "train and test have different categories, so they cannot share a table. Give both "
            "the same list, or convert one with --split."
        )
    names = listed.pop()
    bad = [name for name in names if "\n" in name or "\r" in name]
    if bad:
        raise DataError(f"category {bad[0]!r} holds a line break, so it fits no list. Rename it.")
    return names


def place_images(folder: Path, split: Split, data: Dataset, images: ImageTransfer) -> list[str]:
    """Link or copy the images; their names below `folder`, none twice."""
    taken: set[str] = set()
    names = []
    for index, (name, source) in enumerate(zip(data.images, data.paths, strict=True)):
        head, dot, suffix = name.rpartition(".")
        number = index
        while name in taken:  # the same image may be listed twice, as two rows of a Parquet file
            name = f"{head}-{number}{dot}{suffix}"
            number += 1
        taken.add(name)
        names.append(f"{split}/{name}")
        target = folder / split / name
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            if images == "link":
                target.symlink_to(os.path.abspath(source))
            else:
                shutil.copyfile(source, target)
        except OSError as error:
            needed = sum(path.stat().st_size for path in data.paths if path.is_file())
            raise DataError(
                f"cannot {images} {source}: {error.strerror} (the images of {split} are {needed} "
                "bytes). Make room, or "
                f"{'copy' if images == 'link' else 'link to'} the images."
            ) from error
    return names


def _write_boxes(
    path: Path, parts: Mapping[Split, Dataset], written: Mapping[Split, Sequence[str]]
) -> int:
    """Write the boxes of all splits; how many. Without any there is no file."""
    boxes = [
        [written[split][image], data.category_names[category], *edges]
        for split, data in parts.items()
        if data.boxes is not None
        for image, category, edges in data.boxes.rows()
    ]
    if boxes:
        write_csv(path, [["image", "category", *EDGES], *boxes])
    return len(boxes)


def _compare(draft: Path, split: Split, data: Dataset) -> None:
    """Read a table back and compare; it must hold the same labels."""
    names = read_categories(draft / "categories.txt")
    try:
        again = read_folder(draft / "images", draft / f"{split}.csv", categories=names)
    except DataError as error:
        raise DataError(
            f"the {split} table cannot be read back: {error} A category may have the name of the "
            "column of images; rename it."
        ) from error
    same = torch.equal(again.matrix.known, data.matrix.known)
    if not same or not torch.equal(again.matrix.labels, data.matrix.labels):
        raise DataError(f"the {split} table read back differs from the labels. Please report this.")
