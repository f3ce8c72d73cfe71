"""Tensors in safetensors files; apart from `atomic`, so that whoever needs no torch loads none."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Shaped
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from trmml.errors import CheckpointError
from trmml.storage.atomic import write_bytes


def save_tensors(
    path: Path,
    tensors: Mapping[str, Shaped[Tensor, "..."]],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a safetensors file, forced to disk; it appears whole or not at all."""
    plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    # Not by `save_file`, whose own temporary file nobody would remove after a kill.
    write_bytes(path, save(plain, None if metadata is None else dict(metadata)))


def load_tensors(path: Path) -> tuple[dict[str, Shaped[Tensor, "..."]], dict[str, str]]:
    """Tensors and metadata of a safetensors file.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    if not path.is_file():
        raise CheckpointError(f"expected the file {path}, which does not exist")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is damaged or no safetensors file ({error}); restore it or train again"
        ) from None


def sum_of(tensors: Mapping[str, Shaped[Tensor, "..."]], metadata: Mapping[str, str]) -> str:
    """SHA-256, in hex, of the names, types, shapes and values of tensors, and of metadata."""
    digest = hashlib.sha256(json.dumps(dict(metadata), sort_keys=True).encode())
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        plain = value.detach().cpu().contiguous().reshape(-1)
        digest.update(plain.view(torch.uint8).numpy().data)
    return digest.hexdigest()
