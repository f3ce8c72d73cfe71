"""Where training runs: one process on one device."""

from typing import TYPE_CHECKING

import torch

from trmml.errors import ConfigError
from trmml.settings.choices import Precision

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def pick_device(device: str) -> str:
    """The name of a device: "auto" is the CUDA card where torch finds one, else the processor.

    Raises:
        ConfigError: another kind, or one that torch does not find.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, colon, number = device.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (colon and not number.isdecimal()):
        raise ConfigError(f"expected the device auto, cpu, cuda, cuda:1 or mps, got {device!r}")
    cards = torch.cuda.device_count() if kind == "cuda" else torch.backends.mps.is_available()
    if int(number or 0) >= (1 if kind == "cpu" else cards):
        raise ConfigError(
            f"the device {device} was asked for, but torch finds none of that name here; use cpu,"
            " or auto for the best there is"
        )
    return device


def make_fabric(device: str, precision: Precision) -> "Fabric":
    """A single process on the device that was asked for."""
    from lightning_fabric import Fabric  # imports all of torch.compile

    kind, _, number = pick_device(device).partition(":")
    chosen: list[int] | int = [int(number)] if number and kind != "cpu" else 1
    return Fabric(accelerator=kind, devices=chosen, precision=precision)
