"""Read CUB-200-2011: 11,788 birds with 312 attributes.

https://data.caltech.edu/records/65de6-vp158, CUB_200_2011.tgz, unpacked:

    attributes.txt                                      "1 has_bill_shape::curved_(up_or_down)"
                                                        also in the folder attributes/
    CUB_200_2011/images.txt                             "1 001.Black_footed_Albatross/....jpg"
    CUB_200_2011/train_test_split.txt                   "1 0"; 1 is train
    CUB_200_2011/attributes/image_attribute_labels.txt  "1 2 0 3 27.7": image, attribute, present,
                                                        certainty, seconds
    CUB_200_2011/images/001.Black_footed_Albatross/...

Train 5,994, test 5,794 images; 3,677,856 label lines, one for each pair: 1,870,128 of the training
set, 1,807,728 of the test set (312 for each image). Some of these lines have more than five fields;
the first four are right in all, and only they are read.

`certainty=ignore` takes "present" as it stands, as everybody in the field does. `certainty=use`
makes a pair unknown where the annotator wrote that the part is not visible (1) or that they were
guessing (2). A pair without a line is unknown. "has_wing_color::blue" becomes "wing color: blue".
"""

import logging
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
import torch
from pydantic import Field

from trmml.datasets.base import Dataset
from trmml.datasets.files import below, find_file, read_lines
from trmml.datasets.image_files import locate
from trmml.datasets.options import ReaderOptions, Split
from trmml.datasets.tables.names import unique_names
from trmml.datasets.tables.table import as_utf8
from trmml.errors import DataError
from trmml.labels.matrix import LabelMatrix

_DIGITS = 18  # of the largest number
_GUESSING = 2  # of certainties.txt: 1 not visible, 2 guessing, 3 probably, 4 definitely
_FIELDS = r"^\s*(\d+)\s+(\d+)\s+([01])\s+([1-4])(?:\s|$)"

_log = logging.getLogger(__name__)


class CubOptions(ReaderOptions):
    """Choices of `cub`."""

    certainty: Literal["ignore", "use"] = Field(
        "ignore", description="use: unknown where the annotator did not see the part or guessed"
    )


def read_cub(root: Path, split: Split, options: CubOptions) -> Dataset:
    """Return the suggested training or test split with its attributes; see the module.

    Raises:
        DataError: a file is missing or damaged, or two of them contradict each other.
    """
    places = [f"{place}images.txt" for place in ("CUB_200_2011/", "", "CUB_200_2011/" * 2)]
    list_path = find_file(root, places, "the image list of CUB")
    folder = list_path.parent
    names = _attribute_names(folder)
    images = _numbered(list_path)
    parts = _numbered(find_file(folder, ["train_test_split.txt"], "the split of CUB"))
    chosen = [key for key in sorted(images) if _part(parts, key, folder) == split]
    if not chosen:
        raise DataError(f"{folder / 'train_test_split.txt'} has no {split} image. Fetch it again.")
    labels, known = _labels(folder, sorted(images), len(names), options.certainty)
    rank = {key: row for row, key in enumerate(sorted(images))}
    rows = torch.tensor([rank[key] for key in chosen])
    listed = [below(images[key], f"{list_path}, image {key}") for key in chosen]
    located = locate(root, [(folder / "images").relative_to(root).as_posix()], listed)
    return Dataset(root, located, names, LabelMatrix(labels[rows], known[rows]), tuple(chosen))


def _attribute_names(folder: Path) -> tuple[str, ...]:
    places = ["attributes/attributes.txt", "../attributes.txt", "attributes.txt"]
    path = find_file(folder, places, "the attribute names of CUB")
    numbered = _numbered(path)
    if sorted(numbered) != list(range(1, len(numbered) + 1)):
        raise DataError(f"{path} should number the attributes from 1 on, but does not.")
    names = [_readable(numbered[key]) for key in sorted(numbered)]
    return unique_names(names, str(path))


def _readable(name: str) -> str:
    """Return an attribute's name as words.

    Example:
        >>> _readable("has_bill_shape::hooked_seabird")
        'bill shape: hooked seabird'
    """
    part, _, value = name.removeprefix("has_").partition("::")
    return f"{part}: {value}".replace("_", " ")


def _numbered(path: Path) -> dict[int, str]:
    """Return the text that stands behind each number; numbers may come in any order."""
    entries: dict[int, str] = {}
    for row, line in read_lines(path):
        number, _, text = line.partition(" ")
        if not number.isdecimal() or len(number) > _DIGITS or not text.strip():
            raise DataError(f"{path} line {row}: expected a number and a text, got {line!r:.80}.")
        if int(number) in entries:
            raise DataError(f"{path} line {row}: the number {number} is there twice.")
        entries[int(number)] = text.strip()
    return entries


def _part(parts: dict[int, str], key: int, folder: Path) -> Split:
    if parts.get(key) not in ("0", "1"):
        raise DataError(
            f"{folder / 'train_test_split.txt'}: image {key} of images.txt should be 1 (train) or "
            f"0 (test), but is {parts.get(key)!r}. Take both files from one download."
        )
    return "train" if parts[key] == "1" else "test"


def _labels(
    folder: Path, keys: list[int], width: int, certainty: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return present and known for all images, in the order of `keys`."""
    path = find_file(folder, ["attributes/image_attribute_labels.txt"], "the labels of CUB")
    numbers = _label_lines(path)
    image, attribute = np.searchsorted(keys, numbers[:, 0]), numbers[:, 1] - 1
    wrong = (image >= len(keys)) | (attribute < 0) | (attribute >= width)
    wrong |= np.asarray(keys)[np.minimum(image, len(keys) - 1)] != numbers[:, 0]
    if wrong.any():
        entry = numbers[wrong.argmax()]
        raise DataError(
            f"{path} labels image {entry[0]} with attribute {entry[1]} ({wrong.sum()} such lines), "
            f"but images.txt and attributes.txt have {len(keys)} images and {width} attributes "
            "and not this pair. Take all files from one download."
        )
    labels, known = (np.zeros((len(keys), width), dtype=bool) for _ in range(2))
    labels[image, attribute] = numbers[:, 2] == 1
    other = labels[image, attribute] != (numbers[:, 2] == 1)
    if other.any():
        entry = numbers[other.argmax()]
        raise DataError(
            f"{path} says both 0 and 1 of image {entry[0]}, attribute {entry[1]}. Fetch it again."
        )
    known[image, attribute] = True
    without = int((~known).sum())
    if without:  # the published file has none; with certainty=use no count shows it
        _log.warning("%s: %d of %d pairs have no line and are unknown", path, without, known.size)
    known[image, attribute] = (numbers[:, 3] > _GUESSING) if certainty == "use" else True
    return torch.from_numpy(labels), torch.from_numpy(known)


def _label_lines(path: Path) -> np.ndarray:
    """Return image, attribute, present and certainty of each line."""
    lines = pl.Series("line", as_utf8(path, path.read_bytes()).decode().split("\n"))
    filled = lines.filter(lines.str.strip_chars() != "").to_frame()
    fields = filled.select(
        pl.col("line").str.extract(_FIELDS, place).cast(pl.Int64, strict=False).alias(str(place))
        for place in range(1, 5)
    )
    bad = fields.select(pl.any_horizontal(pl.all().is_null())).to_series()
    if bad.any():
        row = int(bad.arg_true()[0])
        raise DataError(
            f"{path}, filled line {row + 1}: {filled['line'][row]!r:.80} does not begin with "
            f"image, attribute, 0 or 1, and a certainty of 1 to 4 ({bad.sum()} such lines). "
            "Fetch the file again."
        )
    if not len(fields):
        raise DataError(f"{path} is empty. Fetch it again.")
    longer = int((filled["line"].str.count_matches(r"\S+") > 5).sum())
    if longer:
        _log.info("%s: %d lines have more than five fields; the first four are read", path, longer)
    return fields.to_numpy()
