"""Tensors in safetensors files; apart from `atomic`, so that whoever needs no torch loads none."""

import os
from collections.abc import Mapping
from pathlib import Path

from jaxtyping import Shaped
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from trmml.errors import CheckpointError
from trmml.storage.atomic import whole_file


def save_tensors(
    path: Path,
    tensors: Mapping[str, Shaped[Tensor, "..."]],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a safetensors file, forced to disk; it appears whole or not at all."""
    plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    with whole_file(path) as part:
        part.touch()
        mode = part.stat().st_mode  # as the user's umask has it; save_file makes it private
        save_file(plain, part, None if metadata is None else dict(metadata))
        part.chmod(mode)
        with part.open("rb+") as file:
            os.fsync(file.fileno())


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
