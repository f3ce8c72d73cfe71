"""Files that say which labels are known."""

import io
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch

from tests.fuzz.damage import as_text, bits, json_head, one_of, words
from tests.fuzz.target import Target, in_folder
from tests.fuzz.text_sets import npy, other_array
from trmml.datasets.tables.mask_files import read_mask_file
from trmml.labels.matrix import LabelMatrix

_CODES = torch.tensor([[1, 0, -1], [0, 0, 1]])


def _saved(value: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def _matrix() -> bytes:
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        path = Path(folder) / "known.safetensors"
        LabelMatrix(_CODES == 1, _CODES >= 0).save(path)
        return path.read_bytes()


def other_tensor(data: bytes, random: Random) -> bytes:
    """What torch.save makes of another tensor, or of something else."""
    kinds = (torch.bool, torch.uint8, torch.int64, torch.float16, torch.float64, torch.complex64,
             torch.bfloat16)  # fmt: skip
    shape = random.choice(((), (0,), (3,), (2, 3), (2, 1, 3), (2, 3, 3), (2, 0, 3), (0, 3), (2, 0)))
    tensor = torch.ones(shape, dtype=random.choice(kinds))
    other = (
        tensor, tensor, tensor, tensor.requires_grad_(tensor.is_floating_point()),
        tensor.to_sparse() if tensor.ndim else tensor, torch.ones(1).expand(2, 3), [tensor],
        {"a": tensor}, None, torch.nn.Parameter(torch.ones(2, 3)), torch.full((2, 3), torch.nan),
        torch.empty(2, 3, device="meta"),
        torch.quantize_per_tensor(torch.ones(2, 3), 1, 0, torch.qint8),
    )  # fmt: skip
    return _saved(random.choice(other))


def _of(name: str, file: str, valid: str | bytes, damage: Any, beside: Any = None) -> Target:
    return in_folder(
        name, file, {file: valid, **(beside or {})},
        lambda root: read_mask_file(root / file, 3), damage,
    )  # fmt: skip


_LABELS = "formatted_train_labels_obs.npy"
_NAMES = {"formatted_train_images.npy": npy(np.array(["a.jpg", "b.jpg"]))}
_COCO = {
    "instances_train2014.json": '{"images": [{"id": 1, "file_name": "a.jpg"}],'
    ' "annotations": [{"image_id": 1}]}'
}
TARGETS = (
    _of("mask-rows", "train_proportion_0.5.txt", "0,-1,1\n1,0,0\n", as_text),
    _of("mask-lists", "voc_train.txt", "a.jpg,0 2\nb.jpg,\n", as_text),
    _of("mask-tensor", "partial_label_0.50.pt", _saved(_CODES), one_of(bits, other_tensor)),
    _of("mask-tensor-coco", "m.pt", _saved(_CODES), other_tensor, _COCO),
    _of("mask-cole", _LABELS, npy(_CODES.numpy()), one_of(bits, words, other_array), _NAMES),
    _of("mask-own", "known.safetensors", _matrix(), one_of(bits, json_head)),
    in_folder(
        "mask-order", "instances_train2014.json", {"m.pt": _saved(_CODES), **_COCO},
        lambda root: read_mask_file(root / "m.pt", 3), words,
    ),
)  # fmt: skip
