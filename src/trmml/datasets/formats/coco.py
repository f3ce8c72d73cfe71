"""Read MS-COCO 2014 and any other set in COCO's JSON form.

MS-COCO 2014 is at https://cocodataset.org/#download: train2014.zip, val2014.zip and
annotations_trainval2014.zip, unpacked into one folder:

    annotations/instances_train2014.json    images, annotations, categories; 80 categories
    annotations/instances_val2014.json      the field tests on val2014
    train2014/COCO_train2014_000000000009.jpg ...       also below images/
    val2014/COCO_val2014_000000000042.jpg ...

| | train | test | who |
|---|---|---|---|
| `images=all` | 82,783 | 40,504 | HCP-MLR-PL (SST, SARB), TaI-DPT, the first author's loaders |
| `images=annotated` | 82,081 | 40,137 | ASL, DualCoOp, SCPNet, ML-Decoder, Cole et al. |

Papers often print one number of each row. The 702 and 367 images between have no annotation; they
add negatives only. `crowd=drop` leaves out regions marked `iscrowd`, as TaI-DPT does; the others
count them. Which images count as annotated does not depend on `crowd`. The 82,081 images have
241,035 positives (README of xinyu1205/robust-loss-mlml).

A category's index is the rank of its id. Images keep the order of the JSON file: it is that of
HCP-MLR-PL, so a mask drawn by their rule falls on the same pairs. All 80 categories were checked in
every image, so what is not annotated is absent.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field

from trmml.datasets.base import Boxes, Dataset
from trmml.datasets.files import below_folder, find_file, read_json
from trmml.datasets.formats.coco_json import (
    ImageEntry,
    annotation_entries,
    box_rows,
    category_columns,
    image_entries,
    known_pairs,
    unused_roots,
)
from trmml.datasets.image_files import locate
from trmml.datasets.options import ReaderOptions, Split
from trmml.errors import DataError
from trmml.labels.matrix import LabelMatrix
from trmml.settings.choices import Blank

_log = logging.getLogger(__name__)

_PARTS = {"train": "train2014", "test": "val2014"}


class Coco2014Options(ReaderOptions):
    """Choices of `coco2014`, which `coco` has as well."""

    images: Literal["annotated", "all"] = Field(
        "all", description="those with at least one annotation, or all"
    )
    crowd: Literal["keep", "drop"] = Field(
        "keep", description="whether regions marked iscrowd make a category present"
    )


class CocoJsonOptions(Coco2014Options):
    """Choices of `coco`: any set in this form."""

    train: str = Field("train.json", description="the training set's JSON below the root")
    test: str = Field("test.json", description="the test set's JSON below the root")
    train_images: str = Field("images", description="the folder of its file_name entries")
    test_images: str = Field("images", description="the same for the test set")
    blank: Literal["absent", "unknown"] | None = Field(
        None,
        description="what a category means that an image has no annotation of; absent where every"
        " image has an annotation, else required",
    )


def read_coco2014(root: Path, split: Split, options: Coco2014Options) -> Dataset:
    """Return train2014 or, as test set, val2014.

    Raises:
        DataError: the JSON file is missing, damaged or contradicts itself.
    """
    part = _PARTS[split]
    path = find_file(root, [f"annotations/instances_{part}.json", f"instances_{part}.json"],
                     f"the annotations of {part}")  # fmt: skip
    folders = [part, f"images/{part}", "images", ""]
    return _read(root, path, read_json(path), folders, options.images, options.crowd, "absent")


def read_coco_json(root: Path, split: Split, options: CocoJsonOptions) -> Dataset:
    """Return a set in COCO's JSON form, for example an export of an annotation tool.

    An image with `neg_category_ids` is labelled as in LVIS: these categories are absent, what is
    neither annotated nor named there is unknown, whatever `blank` says.

    Raises:
        DataError: the JSON file is missing, damaged or contradicts itself.
    """
    file, folder = (
        (options.train, options.train_images)
        if split == "train"
        else (options.test, options.test_images)
    )
    path = find_file(root, [file], f"the {split} set's COCO JSON (option {split}=FILE)", split)
    folder = below_folder(folder, f"{split}_images", root)
    return _read(
        root, path, read_json(path), [folder, ""], options.images, options.crowd, options.blank
    )


def read_coco_file(images: Path, path: Path, blank: Blank | None) -> Dataset:
    """Return the images of a folder that a file in COCO's form lists.

    Raises:
        DataError: the file is damaged, contradicts itself or needs `blank`.
    """
    return _read(images, path, read_json(path), [""], "all", "keep", blank)


def read_roboflow_coco(path: Path, files: Sequence[Path], blank: Blank | None) -> Dataset:
    """Return the images beside one of an export's files, without the category that Roboflow adds.

    It is the name of the project, above all others, and may be that of one of them.

    Args:
        path: one of `files`.
        files: of all splits, for an annotation in any of them shows that a category is meant.
        blank: see `read_coco_file`.

    Raises:
        DataError: as `read_coco_file`.
    """
    trees = {file: read_json(file) for file in files}
    tree, added = trees[path], unused_roots(trees, path)
    if added:
        names = ", ".join(repr(entry.get("name")) for entry in added)
        _log.info("%s: %s is above all categories, never annotated, and left out", path, names)
        tree["categories"] = [entry for entry in tree["categories"] if entry not in added]
    return _read(path.parent, path, tree, [""], "all", "keep", blank)


def _read(
    root: Path,
    path: Path,
    tree: Any,
    folders: Sequence[str],
    images: str,
    crowd: str,
    blank: str | None,
) -> Dataset:
    names, columns = category_columns(tree, path)
    listed = image_entries(tree, path, root, folders)
    annotations = annotation_entries(tree, path, listed, columns)
    annotated = {annotation["image_id"] for annotation in annotations}
    if images == "annotated":
        listed = {key: image for key, image in listed.items() if key in annotated}
    if not listed:
        raise DataError(f"{path} has no image left. Check the file, or take option images=all.")
    if blank is None:
        _refuse_open_images(path, [e for key, e in listed.items() if key not in annotated], listed)
    if crowd == "drop":
        annotations = [entry for entry in annotations if not entry.get("iscrowd", 0)]
    rows = {key: row for row, key in enumerate(listed)}
    labels = torch.zeros(len(listed), len(names), dtype=torch.bool)
    for entry in annotations:
        labels[rows[entry["image_id"]], columns[entry["category_id"]]] = True
    known = known_pairs(labels, listed, columns, blank or "absent", path)
    names_on_disk = locate(root, folders, [image.name for image in listed.values()])
    boxes = Boxes.collect(box_rows(annotations, listed, rows, columns, path))
    places = tuple(image.row for image in listed.values())
    return Dataset(root, names_on_disk, names, LabelMatrix(labels, known), places, boxes)


def _refuse_open_images(
    path: Path, empty: Sequence[ImageEntry], listed: Mapping[Any, ImageEntry]
) -> None:
    """Refuse images without annotation, which may be empty or never have been opened."""
    open_images = [image for image in empty if image.entry.get("neg_category_ids") is None]
    if open_images:
        raise DataError(
            f"{path}: {len(open_images)} of {len(listed)} images have no annotation, first "
            f"{open_images[0].name}. The file does not say whether anybody checked them. Choose "
            "blank=absent if every image was checked for every category, blank=unknown if not "
            "(--blank; of a data set by name, option blank), or there images=annotated to leave "
            "these images out."
        )
