r"""Read NUS-WIDE with 81 concepts, of which four versions that cannot be compared are in use.

| option | train | test | who |
|---|---|---|---|
| `version=official` | 161,789 | 107,859 | TaI-DPT, DualCoOp reruns |
| `version=official empty=drop` | about 125,449 | about 83,898 | SALGL: without unlabelled ones |
| `version=asl` | 119,103 | 50,720 | ASL, SPLC, SCPNet, HSPNet |
| `version=cole` | 150,000 | 60,260 | Cole et al.: crawled again in 2020 |

Official files: https://lms.comp.nus.edu.sg/wp-content/uploads/2019/research/nuswide/NUS-WIDE.html

    Flickr/actor/0001_2124494179.jpg            also below images/; lists write actor\0001_....jpg
    ImageList/TrainImagelist.txt, TestImagelist.txt
    Concepts81.txt                              also below ConceptsList/
    Groundtruth/TrainTestLabels/Labels_airport_Train.txt ...    81 x 2 files, a 0 or 1 per image
    NUS_WID_Tags/Train_Tags81.txt, Test_Tags81.txt              81 columns, with `labels=tags`

ASL: nus_wid_data.csv of https://github.com/Alibaba-MIIL/ASL (filepath,label,split_name; a label is
"['clouds', 'sky']"), or the lists nus_train_full.txt and nus_val.txt of xinyu1205/robust-loss-mlml
and SCPNet ("images/1.jpg, 13 55"). That full list has 289,460 positives (its README).
Cole: formatted_{train,val}_images.npy and formatted_{train,val}_labels.npy of
https://github.com/elijahcole/single-positive-multi-label, or the same as .txt, beside Flickr/.

Concepts are in alphabetical order, which is the order of Concepts81.txt; that Cole's columns follow
it is unverified. The ground truth asked every concept of every image: what is not marked is absent.
`labels=tags` are the words of the uploaders: a word that was not written is unknown.
"""

import ast
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool
from pydantic import Field

from trmml.datasets.base import Dataset
from trmml.datasets.files import below, find_file, read_array, read_lines, read_plain
from trmml.datasets.formats.folder import read_categories
from trmml.datasets.image_files import locate
from trmml.datasets.options import ReaderOptions, Split
from trmml.datasets.tables.table import read_table
from trmml.errors import DataError
from trmml.labels.matrix import LabelMatrix

NUS_NAMES = tuple(
    "airport animal beach bear birds boats book bridge buildings cars castle cat cityscape clouds "
    "computer coral cow dancing dog earthquake elk fire fish flags flowers food fox frost garden "
    "glacier grass harbor horses house lake leaf map military moon mountain nighttime ocean person "
    "plane plants police protest railroad rainbow reflection road rocks running sand sign sky snow "
    "soccer sports statue street sun sunset surf swimmers tattoo temple tiger tower town toy train "
    "tree valley vehicle water waterfall wedding whales window zebra".split()
)
_FOLDERS = ("Flickr", "images", "")
_CONCEPTS = ("Concepts81.txt", "ConceptsList/Concepts81.txt", "nuswide_labels.txt")
_CSV = "nus_wid_data.csv"
_ONES = ("1", "1.0")
_FIELDS = ("0", "0.0", *_ONES)


class NusWideOptions(ReaderOptions):
    """Choices of `nuswide`."""

    version: Literal["official", "asl", "cole"] = Field(
        "official", description="whose lists of images; they cannot be compared"
    )
    empty: Literal["keep", "drop"] = Field(
        "keep", description="images in which none of the 81 concepts is present"
    )
    labels: Literal["truth", "tags"] = Field(
        "truth", description="ground truth, or the uploaders' tags (official version only)"
    )


class _Part(NamedTuple):
    """A split: image names, their lines, and which concepts are present."""

    images: list[str]
    rows: list[int]
    labels: Bool[np.ndarray, "N C"]


def read_nus_wide(root: Path, split: Split, options: NusWideOptions) -> Dataset:
    """Return a version's training or test images; see the module.

    Raises:
        DataError: a file is missing or damaged, or lists and labels do not fit together.
    """
    if options.labels == "tags" and options.version != "official":
        raise DataError("labels=tags are published for the official lists. Take version=official.")
    names = _names(root)
    if options.version == "official":
        part = _official(root, split, names, options.labels)
    elif options.version == "asl":
        part = _asl(root, split, names)
    else:
        part = _cole(root, split, len(names))
    present = torch.from_numpy(part.labels)
    known = present if options.labels == "tags" else torch.ones_like(present)
    located = locate(root, _FOLDERS, part.images)
    data = Dataset(root, located, names, LabelMatrix(present, known), tuple(part.rows))
    if options.empty == "keep":
        return data
    return data.subset(present.any(1).nonzero()[:, 0].tolist())


def _names(root: Path) -> tuple[str, ...]:
    """Return the concepts, of the files where they are given."""
    given = next((root / place for place in _CONCEPTS if (root / place).is_file()), None)
    if given is None:
        return NUS_NAMES
    names = tuple(read_categories(given))
    if sorted(names) != sorted(NUS_NAMES):
        other = sorted(set(names) ^ set(NUS_NAMES)) or ["a name that is there twice"]
        raise DataError(
            f"{given} should hold the 81 concepts of NUS-WIDE, but differs in {other[0]!r} and "
            f"{len(other) - 1} more. Take Concepts81.txt of the official download."
        )
    return names


def _official(root: Path, split: Split, names: Sequence[str], labels: str) -> _Part:
    part = split.capitalize()
    path = find_file(
        root, [f"ImageList/{part}Imagelist.txt", f"{part}Imagelist.txt"], f"the {split} list"
    )
    lines = read_lines(path)
    images = [below(line, f"{path} line {row}") for row, line in lines]
    if labels == "tags":
        places = [f"{folder}{part}_Tags81.txt" for folder in ("NUS_WID_Tags/", "Tags/", "")]
        marks = _matrix(find_file(root, places, f"the {split} tags"), len(images), len(names))
    else:
        marks = np.stack([_truth(root, name, part, len(images)) for name in names], axis=1)
    return _Part(images, [row for row, _ in lines], marks)


def _truth(root: Path, name: str, part: str, count: int) -> Bool[np.ndarray, " N"]:
    """Return which of a split's images show one concept."""
    folders = ("Groundtruth/TrainTestLabels/", "TrainTestLabels/", "GroundTruth/TrainTestLabels/")
    places = [f"{folder}Labels_{name}_{part}.txt" for folder in folders]
    return _matrix(find_file(root, places, f"the ground truth of {name!r}"), count, 1)[:, 0]


def _matrix(path: Path, count: int, width: int) -> Bool[np.ndarray, "N C"]:
    """Return a file of 0 and 1, a line per image; NUS-WIDE has 13 million of them."""
    text = read_plain(path)
    lines = len(re.findall(r"\S[^\n]*", text))
    fields = np.array(text.split())
    ragged = width > 1 and any(len(line.split()) not in (0, width) for line in text.split("\n"))
    if (
        ragged
        or lines != count
        or len(fields) != count * width
        or not np.isin(fields, _FIELDS).all()
    ):
        raise DataError(_why_no_matrix(path, count, width))
    return np.isin(fields, _ONES).reshape(count, width)


def _why_no_matrix(path: Path, count: int, width: int) -> str:
    """Return what is wrong with a file of 0 and 1."""
    lines = read_lines(path)
    for row, line in lines:
        fields = line.split()
        if len(fields) != width or not set(fields) <= set(_FIELDS):
            return (
                f"{path} line {row}: expected {width} times 0 or 1, got {line!r:.60}. Fetch the "
                "file again."
            )
    return (
        f"{path} has {len(lines)} lines for {count} images of the list. Take lists and labels "
        "from one download."
    )


def _asl(root: Path, split: Split, names: Sequence[str]) -> _Part:
    if (root / _CSV).is_file():
        return _asl_table(root / _CSV, split, names)
    file = {"train": "nus_train_full.txt", "test": "nus_val.txt"}[split]
    places = [file, f"dataset/{file}"]
    path = find_file(root, [_CSV, *places], f"ASL's table or the {split} list")
    images, rows = [], []
    marks = np.zeros((len(read_lines(path)), len(names)), dtype=bool)
    for index, (row, line) in enumerate(read_lines(path)):
        name, _, indices = line.partition(",")
        if not re.fullmatch(r"[\d\s]*", indices) or not _all_below(indices, len(names)):
            raise DataError(
                f"{path} line {row}: expected an image, a comma and indices below {len(names)}, "
                f"got {line!r:.80}. Fetch the list again."
            )
        marks[index, [int(number) for number in indices.split()]] = True
        images.append(below(name, f"{path} line {row}"))
        rows.append(row)
    return _Part(images, rows, marks)


def _all_below(indices: str, limit: int) -> bool:
    return all(int(number) < limit for number in indices.split())


def _asl_table(path: Path, split: Split, names: Sequence[str]) -> _Part:
    wanted = {"train": "train", "test": "val"}[split]
    table = read_table(path)
    lacking = [name for name in ("filepath", "label", "split_name") if name not in table.names]
    if lacking:
        raise DataError(
            f"{path} has no column {lacking[0]!r}, but {', '.join(table.names)}. Take ASL's file."
        )
    images, rows, marks = [], [], []
    files, labels, parts = (table.column(name) for name in ("filepath", "label", "split_name"))
    for index, (file, label, part) in enumerate(zip(files, labels, parts, strict=True)):
        where = table.place(index)
        if part not in ("train", "val"):
            raise DataError(f"{where}: the split is {part!r}, neither train nor val.")
        if part != wanted:
            continue
        listed = _as_list(label or "", where)
        unknown = [name for name in listed if name not in names]
        if unknown:
            raise DataError(f"{where}: {unknown[0]!r} is none of the 81 concepts. Correct it.")
        marks.append([name in listed for name in names])
        images.append(below(file or "", where))
        rows.append(table.rows[index])
    if not images:
        raise DataError(f"{path} has no line whose split_name is {wanted!r}. Fetch it again.")
    return _Part(images, rows, np.array(marks))


def _as_list(text: str, where: str) -> list[str]:
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = None
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise DataError(f"{where}: the label {text!r:.60} is no list as in \"['clouds', 'sky']\".")
    return [name for name in value if name]


def _cole(root: Path, split: Split, width: int) -> _Part:
    part = {"train": "train", "test": "val"}[split]
    stem = f"formatted_{part}_"
    path = find_file(root, [f"{stem}images.npy", f"{stem}images.txt"], f"Cole's {split} images")
    labels_path = path.with_name(path.name.replace("_images", "_labels"))
    find_file(root, [labels_path.name], f"Cole's {split} labels")
    if path.suffix == ".txt":
        lines = read_lines(path)
        images = [below(line, f"{path} line {row}") for row, line in lines]
        marks = _matrix(labels_path, len(images), width)
        return _Part(images, [row for row, _ in lines], marks)
    listed, values = _load(path, "U", 1), _load(labels_path, "fiub", 2)
    if values.shape != (len(listed), width) or not np.isin(values, (0, 1)).all():
        raise DataError(
            f"{labels_path} should hold 0 or 1 for {len(listed)} images and {width} concepts, but "
            f"has the shape {values.shape}. Fetch both files again."
        )
    images = [below(str(name), f"{path}, entry {i}") for i, name in enumerate(listed, start=1)]
    return _Part(images, list(range(1, len(images) + 1)), values == 1)


def _load(path: Path, kinds: str, axes: int) -> np.ndarray:
    """Return an array of a kind and a number of axes."""
    array = read_array(path)
    if array.dtype.kind not in kinds or array.ndim != axes:
        raise DataError(f"{path} holds another kind of array than expected. Fetch it again.")
    return array
