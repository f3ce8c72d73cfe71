"""The files in which other projects keep what they knew of each image.

| file | made by | what a row and a value are |
|---|---|---|
| `partial_label_0.50.pt` | DualCoOp, CLSL | (N, C), (N, 1, C) or (N, 3, C); 1 known, 0 unknown |
| a tensor with -1 in it | DualCoOp's targets | the same; 1 present, 0 absent, -1 unknown |
| `train_proportion_0.5.txt` | TaI-DPT | `0,-1,1,...`; 1 present, -1 absent, 0 unknown |
| `coco_train_singlelabel.txt`, `voc_train.txt` | SPLC, SCPNet | `name.jpg,12 4`: present |
| `formatted_train_labels_obs.npy` | Cole et al. | (N, C); 1 present, -1 absent, 0 unknown |
| `formatted_train_labels.npy` | Cole et al. | (N, C); 1 present, 0 absent |
| `known.safetensors` of a run | trmml | see `LabelMatrix.save` |

Sources: dataloaders/ of sunxm2357/DualCoOp, datasets/voc2007_partial.py of guozix/TaI-DPT, utils.py
of jameslahm/SCPNet, dataset/ of xinyu1205/robust-loss-mlml, preproc/ and datasets.py of
elijahcole/single-positive-multi-label.
"""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from trmml.datasets.files import read_array
from trmml.datasets.tables.table import read_text
from trmml.errors import DataError
from trmml.labels.matrix import LabelMatrix
from trmml.storage.json_text import parse_json

logger = logging.getLogger(__name__)

_COLE = re.compile(r"(?P<split>formatted_[a-z]+)_([a-z]+_)?labels(?P<observed>_obs)?\.npy")
_ZIP, _PICKLE, _NUMPY = b"PK\x03\x04", b"\x80", b"\x93NUMPY"  # how files begin


@dataclass(frozen=True)
class MaskFile:
    """The content of a file.

    Args:
        known: a row per image, a column per category.
        labels: None where the file holds only which pairs are known.
        images: the name of each row's image; None where rows are in the order of the data.
    """

    known: Bool[Tensor, "N C"]
    labels: Bool[Tensor, "N C"] | None
    images: Sequence[str] | None


def read_mask_file(path: Path, width: int) -> MaskFile:
    """Return the content of a file, whose format shows in its first bytes. No code in it is run.

    Args:
        path: one of the files that the module lists.
        width: how many categories to expect; text is read by it, matrices are not checked.

    Raises:
        DataError: the file cannot be read or is none of these.
        CheckpointError: a safetensors file holds something else.
    """
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}. Name a file of labels.") from error
    if start[:4] == _ZIP or start[:1] == _PICKLE:
        return _read_torch(path)
    if start[:6] == _NUMPY:
        return _read_cole(path)
    if start[8:] == b"{" and b"\0" in start:  # eight bytes of length, then JSON
        matrix = LabelMatrix.load(path)
        return MaskFile(matrix.known, matrix.labels, None)
    lines = read_text(path, "the labels of an image").splitlines()
    filled = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if set(filled[0][1].replace(" ", "").split(",")) <= {"-1", "0", "1"}:
        return _read_rows(path, filled, width)
    return _read_lists(path, filled, width)


def _from_codes(
    path: Path, codes: np.ndarray, *, unknown: int, absent: int, images: Sequence[str] | None
) -> MaskFile:
    """Return the mask of a matrix of numbers in which 1 means present."""
    wrong = codes[~((codes == 1) | (codes == unknown) | (codes == absent))]
    if wrong.size:
        raise DataError(f"{path} holds {wrong[0]}, not only 1, 0 and -1. It is no file of labels.")
    known = torch.from_numpy(np.asarray(codes != unknown))
    return MaskFile(known, torch.from_numpy(np.asarray(codes == 1)), images)


def _read_torch(path: Path) -> MaskFile:
    """Return a tensor of torch.save; the unpickler calls only torch's own functions."""
    try:
        value = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle raises whatever it runs into
        first = str(error).strip().partition("\n")[0][:120]
        raise DataError(
            f"{path} is no plain tensor written by torch.save, or is damaged ({first}). Anything "
            "else in such a file could run code, so it is not opened. Save the tensor alone."
        ) from error
    if not isinstance(value, Tensor) or not _is_plain(value):
        raise DataError(f"{path} holds a {type(value).__name__}, not one plain tensor of labels.")
    if value.ndim == 3 and value.shape[1] > 0:  # DualCoOp has a copy for each size of objects
        if bool((value != value[:, :1]).any()):
            raise DataError(f"{path}: the {value.shape[1]} matrices along axis 1 must be equal.")
        value = value[:, 0]
    if value.ndim != 2:
        raise DataError(
            f"{path} holds {value.dtype} of shape {tuple(value.shape)}, not images x categories."
        )
    images = _dualcoop_order(path)
    if images is None:
        logger.warning("%s names no images: its rows are taken in the order of the data", path.name)
    codes = value.detach().double().numpy()
    if (codes < 0).any():
        return _from_codes(path, codes, unknown=-1, absent=0, images=images)
    mask = _from_codes(path, codes, unknown=0, absent=0, images=images)
    return MaskFile(mask.known, None, images)


def _is_plain(value: Tensor) -> bool:
    """Return whether the file holds every entry: no sparse form, no row repeated by its strides."""
    if value.layout != torch.strided or value.is_quantized or value.is_complex() or value.is_meta:
        return False
    return value.numel() * value.element_size() <= value.untyped_storage().nbytes()


def _dualcoop_order(path: Path) -> list[str] | None:
    """Return the images in DualCoOp's order, where the set's own files are beside the mask."""
    annotations = path.parent / "instances_train2014.json"
    if annotations.is_file():
        try:
            tree = parse_json(annotations.read_bytes())
            names = {image["id"]: str(image["file_name"]) for image in tree["images"]}
            return [names[i] for i in dict.fromkeys(a["image_id"] for a in tree["annotations"])]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{annotations} is no file of COCO annotations, or damaged ({error!r}). The order "
                f"of the rows of {path.name} comes from it; unpack it again."
            ) from error
    trainval = path.parent.parent / "ImageSets" / "Main" / "trainval.txt"
    return read_text(trainval, "an image's name").split() if trainval.is_file() else None


def _read_rows(path: Path, lines: Sequence[tuple[int, str]], width: int) -> MaskFile:
    """Return TaI-DPT's text: a line per image, a number per category."""
    codes = np.zeros((len(lines), width), dtype=np.int8)
    for row, (number, line) in enumerate(lines):
        cells = line.split(",")
        if len(cells) != width:
            raise DataError(
                f"{path} line {number} has {len(cells)} numbers, but the data has {width} "
                "categories. Read the data with the categories that the file was made for."
            )
        codes[row] = [_whole(cell, path, number, range(-1, 2)) for cell in cells]
    return _from_codes(path, codes, unknown=0, absent=-1, images=None)


def _read_lists(path: Path, lines: Sequence[tuple[int, str]], width: int) -> MaskFile:
    """Return SPLC's and SCPNet's text: an image and the indices of what is present per line."""
    images, present = [], torch.zeros(len(lines), width, dtype=torch.bool)
    for row, (number, line) in enumerate(lines):
        name, comma, listed = line.rpartition(",")
        if not comma or not name.strip():
            raise DataError(
                f"{path} line {number} is {line[:60]!r}. Expected `image.jpg,3 17`: a name, a "
                "comma and indices of categories from 0; or a 1, 0 or -1 per category with commas."
            )
        images.append(name.strip())
        for cell in listed.split():
            present[row, _whole(cell, path, number, range(width))] = True
    return MaskFile(known=present, labels=present, images=images)


def _whole(cell: str, path: Path, line: int, allowed: range) -> int:
    try:
        value = int(cell)
    except ValueError:
        value = allowed.stop
    if value not in allowed:
        raise DataError(
            f"{path} line {line}: {cell.strip()!r} is no whole number from {allowed.start} to "
            f"{allowed.stop - 1}. The data may have been read with other categories."
        )
    return value


def _read_cole(path: Path) -> MaskFile:
    """Return Cole et al.'s matrix, and the names of the images from the file beside it."""
    match = _COLE.fullmatch(path.name)
    if match is None:
        raise DataError(
            f"{path} is not called formatted_train_labels_obs.npy or formatted_train_labels.npy. "
            "The name decides what 0 means: unknown in the first, absent in the second."
        )
    codes, beside = read_array(path), path.with_name(f"{match['split']}_images.npy")
    if codes.ndim != 2 or codes.dtype.kind not in "iufb":
        raise DataError(
            f"{path} holds {codes.dtype} of shape {codes.shape}, not images x categories."
        )
    if not beside.is_file():
        raise DataError(f"{beside} is missing. It names the image of each row of {path.name}.")
    names = read_array(beside)
    if names.ndim != 1 or names.dtype.kind != "U":
        raise DataError(
            f"{beside} holds {names.dtype} of shape {names.shape}, not a list of names."
        )
    unknown, absent = (0, -1) if match["observed"] else (-1, 0)
    if not match["observed"] and (codes == unknown).any():
        raise DataError(f"{path} holds -1; complete labels are 1 and 0. Name the file _obs.npy.")
    return _from_codes(path, codes, unknown=unknown, absent=absent, images=names.tolist())
