"""Read images sorted into a folder per category.

    train/cat/a.jpg, test/dog/b.jpg     the test folder may also be called val, valid, validation
    cat/a.jpg, dog/b.jpg                a training set alone

Beside categories with images of their own, a folder called train is a category too, if it has such.

An image that lies in several folders, with the same bytes under any name, has all their categories.
Of other categories a folder says nothing: `blank=unknown` keeps them open (one present label each,
as in the single-positive setting), `blank=absent` takes each image as checked for all.
"""

from collections.abc import Iterable
from pathlib import Path

import torch
from pydantic import Field

from trmml.datasets.base import Dataset
from trmml.datasets.files import find_file
from trmml.datasets.options import SPLIT_NAMES, ReaderOptions, Split
from trmml.datasets.tables.names import clean_name, refuse_look_alikes
from trmml.errors import DataError
from trmml.image_search import SUFFIXES, find_images
from trmml.labels.matrix import LabelMatrix
from trmml.settings.choices import Blank
from trmml.storage.hashes import hash_file


class ClassFolderOptions(ReaderOptions):
    """Choices of `class-folders`."""

    blank: Blank | None = Field(
        None, description="what the other categories of an image are; required"
    )


def read_class_folders(root: Path, split: Split, options: ClassFolderOptions) -> Dataset:
    """Return the images of a split, each once, with the folders they lie in; see the module.

    Raises:
        DataError: there are no such folders, or `blank` is not chosen.
    """
    places = _places(root)
    wanted = [f"{name}/CATEGORY/IMAGE" for name in SPLIT_NAMES[split]]
    folder = places[split] or find_file(root, wanted, f"the {split} set", split)
    if options.blank is None:
        raise DataError(
            f"{folder}: a folder says what its images show, but not what they do not. Choose "
            "option blank=absent if every image was checked for every category, blank=unknown if "
            "not."
        )
    names = _category_names(place for place in places.values() if place is not None)
    columns = {name: column for column, name in enumerate(names)}
    images = find_images([folder])
    first = _first_of_equals(images)
    kept = [image for image in images if first[image] == image]
    rows = {image: row for row, image in enumerate(kept)}
    labels = torch.zeros(len(kept), len(names), dtype=torch.bool)
    for image in images:
        category, *rest = image.relative_to(folder).parts
        if not rest:
            raise DataError(f"{image} lies in no category's folder. Move it into one, or away.")
        labels[rows[first[image]], columns[clean_name(category)]] = True
    known = torch.ones_like(labels) if options.blank == "absent" else labels.clone()
    listed = tuple(image.relative_to(root).as_posix() for image in kept)
    return Dataset(root, listed, names, LabelMatrix(labels, known), tuple(range(1, len(kept) + 1)))


def _places(root: Path) -> dict[Split, Path | None]:
    """Return the folder of each split; the root itself where its folders are categories."""
    names = [name for names in SPLIT_NAMES.values() for name in names]
    splits = [root / name for name in names if (root / name).is_dir()]
    others = [entry for entry in sorted(root.iterdir())
              if entry.is_dir() and entry.name not in names and entry.name[0] != "."]  # fmt: skip
    unclear = [folder.name for folder in splits if not _has_images(folder)]
    if splits:
        others = [folder for folder in others if _has_images(folder)]
    if len(unclear) == len(splits) > 1:
        others = []  # no categories: images lie in folders below them
    if not others:
        return {part: next((root / name for name in names if root / name in splits), None)
                for part, names in SPLIT_NAMES.items()}  # fmt: skip
    if unclear:
        raise DataError(
            f"{root}: images lie in {others[0].name}/, as in a category's folder, but in"
            f" {unclear[0]}/ none do, as in a split's. If {unclear[0]} is a category, move its"
            f" images into it; if it is a split, move {others[0].name}/ away."
        )
    return {"train": root, "test": None}


def _has_images(folder: Path) -> bool:
    """Return whether images lie in a folder itself, as in a category's; not if it is closed."""
    try:
        names = [entry.name for entry in folder.iterdir()]
    except OSError:  # as of lost+found
        return False
    return any(name.lower().endswith(SUFFIXES) and not name.startswith(".") for name in names)


def _category_names(places: Iterable[Path]) -> tuple[str, ...]:
    """Return the names of all splits' folders, sorted."""
    folders = (entry for place in places for entry in place.iterdir()
               if entry.is_dir() and not entry.name.startswith("."))  # fmt: skip
    names = {clean_name(folder.name): 1 for folder in folders}
    refuse_look_alikes(names, names, "the set of folders")
    return tuple(sorted(names))


def _first_of_equals(images: Iterable[Path]) -> dict[Path, Path]:
    """Return for each image the first one with the same bytes; only equal sizes are read."""
    by_size: dict[int, list[Path]] = {}
    for image in images:
        by_size.setdefault(image.stat().st_size, []).append(image)
    first: dict[Path, Path] = {}
    for equal in by_size.values():
        seen: dict[str, Path] = {}
        for image in equal:
            first[image] = seen.setdefault(hash_file(image), image) if equal[1:] else image
    return first
