"""Read VG-200: Visual Genome with the 200 most frequent categories, as the SST/SARB line uses it.

Images: https://homes.cs.washington.edu/~ranjay/visualgenome/api.html, images.zip and images2.zip.
Lists and labels: data.zip of https://github.com/HCPLab-SYSU/HCP-MLR-PL, or the folder data/VG of
https://github.com/HCPLab-SYSU/SSGRL (lists and the 500-category file):

    VG_100K/2.jpg ..., VG_100K_2/...        images; one folder or two, also below images/
    train_list_500.txt, test_list_500.txt   image names, one a line
    vg_category_200_labels_index.json       {"2.jpg": [0, 17], ...}, indices from 0
    vg_category_200.txt                     our addition: the 200 names, one per line

Train 98,249, test 10,000 images; unverified beyond the size of SSGRL's test list. Where the file of
200 is missing, vg_category_500_labels_index.json serves: HCP-MLR-PL made the former by keeping
indices below 200. Neither file names the categories, and we know of no public list of names in the
order of the indices: ask the authors, or count the objects of Visual Genome. Without
a file of names they are called "category 0" and so on, which says nothing to a text encoder. The
set counts as exhaustively labelled: what an image does not list is absent.
"""

import logging
from pathlib import Path
from typing import Any

import torch
from pydantic import Field

from trmml.datasets.base import Dataset
from trmml.datasets.files import below, find_file, read_json, read_lines
from trmml.datasets.formats.folder import read_categories
from trmml.datasets.image_files import locate
from trmml.datasets.options import ReaderOptions, Split
from trmml.errors import DataError
from trmml.labels.matrix import LabelMatrix

CATEGORIES = 200
_LABELS = ("vg_category_200_labels_index.json", "vg_category_500_labels_index.json")
_FOLDERS = ("VG_100K", "VG_100K_2", "images/VG_100K", "images/VG_100K_2", "images", "")

_log = logging.getLogger(__name__)


class Vg200Options(ReaderOptions):
    """Choices of `vg200`."""

    names: str = Field(
        "vg_category_200.txt", description="file with the 200 category names, one per line"
    )


def read_vg200(root: Path, split: Split, options: Vg200Options) -> Dataset:
    """Return the training or test list of VG-200; see the module.

    Raises:
        DataError: a file is missing or damaged, or an image of the list has no labels.
    """
    places = [f"{folder}{split}_list_500.txt" for folder in ("", "data/VG/", "annotations/")]
    path = find_file(root, places, f"the {split} list of VG-200")
    labels_path = find_file(
        root, [f"{f}{name}" for name in _LABELS for f in ("", "data/VG/", "annotations/")],
        "the labels of VG-200",
    )  # fmt: skip
    listed = read_json(labels_path)
    if not isinstance(listed, dict):
        raise DataError(f"{labels_path} should map image names to lists of indices, but does not.")
    lines = read_lines(path)
    images = [below(line, f"{path} line {row}") for row, line in lines]
    labels = torch.zeros(len(images), CATEGORIES, dtype=torch.bool)
    first: dict[str, int] = {}
    for index, (row, _) in enumerate(lines):
        name = images[index]
        if name in first:
            raise DataError(f"{path} line {row}: {name!r} is in line {first[name]} already.")
        first[name] = row
        if name not in listed:
            raise DataError(
                f"{path} line {row}: {labels_path} has no labels of {name!r}. List and labels "
                "come from different downloads; fetch both again."
            )
        labels[index, _indices(listed[name], name, labels_path)] = True
    matrix = LabelMatrix(labels, torch.ones_like(labels))
    rows = tuple(row for row, _ in lines)
    return Dataset(root, locate(root, _FOLDERS, images), _names(root, options), matrix, rows)


def _indices(entry: Any, name: str, path: Path) -> list[int]:
    """Return an image's category indices; in the file of 500 those from 200 on are left out."""
    limit = 500 if path.name == _LABELS[1] else CATEGORIES
    if not isinstance(entry, list) or not all(
        isinstance(index, int) and 0 <= index < limit for index in entry
    ):
        raise DataError(
            f"{path}: {name!r} has {entry!r:.80}, not a list of indices from 0 to {limit - 1}. "
            "Fetch the file again."
        )
    return [index for index in entry if index < CATEGORIES]


def _names(root: Path, options: Vg200Options) -> tuple[str, ...]:
    path = root / options.names
    if not path.is_file():
        _log.warning(
            "%s is not there, so the categories have numbers for names; a text encoder can do "
            "nothing with them",
            path,
        )
        return tuple(f"category {index}" for index in range(CATEGORIES))
    names = tuple(read_categories(path))
    if len(names) != CATEGORIES:
        raise DataError(f"{path} holds {len(names)} names, not {CATEGORIES}. Write one per line.")
    return names
