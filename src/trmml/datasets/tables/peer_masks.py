"""Align the masks of other projects with a data set, to compare figures with theirs.

`mask_files.py` explains the formats. Which image a row belongs to:

- SPLC's and SCPNet's lists name it in each line. Cole's lie beside `formatted_train_images.npy`.
- DualCoOp's rows follow COCO's images by their first annotation, which is read from
  `instances_train2014.json` beside the file, or VOC's `../ImageSets/Main/trainval.txt`. Where
  neither is there, rows are taken in the order of the data, and a warning says so.
- TaI-DPT's follow VOC 2007's trainval.txt and a run's its data: both are taken in the order of the
  data. They hold labels, which in another order would contradict those of the data.

Columns are the data's categories in its order: COCO by id, VOC and NUS-WIDE by name, CUB by number.
"""

import logging
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from trmml.datasets.base import Dataset
from trmml.datasets.tables.mask_files import MaskFile, read_mask_file
from trmml.errors import DataError
from trmml.labels.matrix import LabelMatrix

logger = logging.getLogger(__name__)

_EXTENSION = re.compile(r"\.(jpe?g|png)$", flags=re.IGNORECASE)


def read_mask(path: Path | str, data: Dataset) -> LabelMatrix:
    """Return the labels that a file of this or another project holds for the images of `data`.

    Where the file holds only which pairs are known, their labels are those of `data`, and a pair
    that is unknown there stays unknown. The content decides the format. No code in it is run.

    Args:
        path: one of the files that `mask_files.py` lists.
        data: the images and categories to align it with, and the labels that are right.

    Raises:
        DataError: the file cannot be read, has another shape, lacks an image of `data`, or
            contradicts a label that is known there.
        CheckpointError: a safetensors file holds something else.

    Example:
        >>> read_mask("partial-labels/train_proportion_0.1.txt", data).known_share  # doctest: +SKIP
        0.1
    """
    path, width = Path(path), len(data.category_names)
    mask = read_mask_file(path, width)
    if mask.known.shape[1] != width:
        raise DataError(
            f"{path} has {mask.known.shape[1]} columns, but the data has {width} categories. "
            "Read the data with the categories that the file was made for, in their order."
        )
    rows = _rows(mask, data, path)
    known = mask.known[rows]
    if mask.labels is None:
        return LabelMatrix(data.matrix.labels, known & data.matrix.known)
    given = LabelMatrix(mask.labels[rows], known)
    _check_agreement(given, data, path)
    return given


def _rows(mask: MaskFile, data: Dataset, path: Path) -> Tensor:
    """Return the mask's row of each image of the data."""
    count = len(mask.known)
    if mask.images is None:
        if count != len(data):
            raise DataError(
                f"{path} has {count} rows, but the data has {len(data)} images. The file names no "
                "images: its rows must be those of the data, all of them and in their order."
                + _annotated_alone(count == int(data.matrix.labels.any(dim=1).sum()))
            )
        return torch.arange(count)
    if len(mask.images) != count:
        raise DataError(
            f"{path} has {count} rows, but {len(mask.images)} images belong to it. Use the files "
            "that were written together."
        )
    whole = any(_repeats(names, whole=False) for names in (mask.images, data.images))
    if twice := _repeats(mask.images, whole=whole):
        raise DataError(f"{path} names the image {twice[0]!r} twice. Keep one row for each.")
    places = {_key(name, whole=whole): row for row, name in enumerate(mask.images)}
    missing = [name for name in data.images if _key(name, whole=whole) not in places]
    if missing:
        raise DataError(
            f"{path} lacks {len(missing)} of the data's {len(data)} images, first {missing[0]!r}; "
            f"its own are named like {mask.images[0]!r}. Read the data as the file's makers did: "
            "the same version of the set, the same split, the same images left out."
            + _annotated_alone(_lack_labels(missing, data))
        )
    if len(places) > len(data):
        logger.warning("%s: %d images are not in the data", path.name, len(places) - len(data))
    return torch.tensor([places[_key(name, whole=whole)] for name in data.images])


def _lack_labels(images: Iterable[str], data: Dataset) -> bool:
    """Whether no label is present in these images; of others, crowds alone may be dropped."""
    labelled = data.matrix.labels.any(dim=1).tolist()
    present = {name for name, any_ in zip(data.images, labelled, strict=True) if any_}
    return present.isdisjoint(images)


def _annotated_alone(found: bool) -> str:
    """The end of a message where a file was made for the annotated images alone."""
    if not found:
        return ""
    return (
        " It seems to leave out the images without a present label, as the masks of DualCoOp's"
        " code do: read COCO with `--data-option images=annotated`."
    )


def _key(name: str, *, whole: bool) -> str:
    """Return a name without its extension, and without folders unless `whole`."""
    plain = _EXTENSION.sub("", name.strip().replace("\\", "/"))
    return plain if whole else plain.rpartition("/")[2]


def _repeats(names: Iterable[str], *, whole: bool) -> list[str]:
    counts = Counter(_key(name, whole=whole) for name in names)
    return [name for name, count in counts.items() if count > 1]


def _check_agreement(given: LabelMatrix, data: Dataset, path: Path) -> None:
    """Refuse labels that contradict the data's, where both are known."""
    wrong = (given.labels != data.matrix.labels) & given.known & data.matrix.known
    if not bool(wrong.any()):
        return
    count, both = int(wrong.sum()), int((given.known & data.matrix.known).sum())
    image, category = wrong.nonzero()[0].tolist()
    state = "present" if given.labels[image, category] else "absent"
    raise DataError(
        f"{path} contradicts {count} of {both} labels known in both: it calls "
        f"{data.category_names[category]!r} {state} in {data.images[image]!r}. If there are many, "
        "the images or categories are in another order, or -1 and 0 mean something else; if "
        "few, the data was read with other choices, such as VOC's difficult objects."
    )
