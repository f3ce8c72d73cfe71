"""Where training runs: one process on one device."""

from typing import TYPE_CHECKING

import torch

from trmml.errors import ConfigError
from trmml.settings.choices import Precision

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def pick_device(device: str) -> str:
    """The name of a device: "auto" is the CUDA card where torch finds one, else the processor."""
    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


def make_fabric(device: str, precision: Precision) -> "Fabric":
    """A single process on the device that was asked for."""
    from lightning_fabric import Fabric  # imports all of torch.compile

    device = pick_device(device)
    kind, _, number = device.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (number and not number.isdigit()):
        raise ConfigError(f"expected the device auto, cpu, cuda, cuda:1 or mps, got {device!r}")
    if kind == "cuda" and not torch.cuda.is_available():
        raise ConfigError("the device cuda was asked for, but torch finds no CUDA card; use cpu")
    chosen: list[int] | int = [int(number)] if number else 1
    return Fabric(accelerator=kind, devices=chosen, precision=precision)
