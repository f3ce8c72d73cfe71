"""Where training runs: one process on one device, or several that share each batch."""

import os
from datetime import timedelta
from typing import TYPE_CHECKING

import torch
from torch import nn

from trmml.errors import ConfigError
from trmml.settings.choices import Precision

if TYPE_CHECKING:
    from lightning_fabric import Fabric

# The first process may test, report or wait for another's store as long as it takes.
PATIENCE = timedelta(days=7)


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


def make_fabric(device: str, precision: Precision, *, devices: int = 1, nodes: int = 1) -> "Fabric":
    """A single process on the device that was asked for, or the first of several.

    The others begin the same command anew and come here, too; under `torchrun` it has begun them.

    Raises:
        ConfigError: see `pick_device`; one device has a number, and several are asked for; or there
            are fewer cards, or torchrun begins another number.
    """
    from lightning_fabric import Fabric  # imports all of torch.compile

    kind, _, number = pick_device(device).partition(":")
    if "TORCHELASTIC_RUN_ID" in os.environ:  # torchrun says it all
        asked, devices = devices, int(os.environ["LOCAL_WORLD_SIZE"])
        if asked not in (1, devices):
            raise ConfigError(
                f"--devices {asked} was asked for, and torchrun begins {devices} on each machine;"
                " leave --devices out"
            )
        nodes = int(os.environ["WORLD_SIZE"]) // devices
    elif nodes > 1 and not {"MASTER_ADDR", "SLURM_NTASKS"} & set(os.environ):
        raise ConfigError(
            f"--nodes {nodes} needs to know where the first machine is: begin trmml under torchrun"
            " on each (docs/scale.md), or set MASTER_ADDR, MASTER_PORT and NODE_RANK"
        )
    if devices * nodes > 1:
        return _launched(kind, precision, devices, nodes, named=bool(number))
    chosen: list[int] | int = [int(number)] if number and kind != "cpu" else 1
    return Fabric(accelerator=kind, devices=chosen, precision=precision)


def _launched(
    kind: str, precision: Precision, devices: int, nodes: int, *, named: bool
) -> "Fabric":
    """Processes that are joined; `ranks` sums their gradients, so the model is not wrapped.

    A step goes backward once for each term where it measures what the terms weigh, and a head may
    get no gradient at all. DistributedDataParallel allows neither.
    """
    from lightning_fabric import Fabric
    from lightning_fabric.strategies.ddp import DDPStrategy

    class Joined(DDPStrategy):
        """Launches and joins processes as its parent does."""

        def setup_module(self, module: nn.Module) -> nn.Module:  # type: ignore[override]
            """The model as it is."""
            return module

    if kind == "mps" or named:
        raise ConfigError("--devices takes several cards or processes: say --device cpu or cuda")
    if kind == "cuda" and devices > (cards := torch.cuda.device_count()):
        raise ConfigError(
            f"{devices} processes need a card each, and torch finds {cards} here; ask for fewer"
            " --devices, or say --device cpu"
        )
    # Counts and held-out logits lie in the memory of the processor, also with cards.
    backend = "gloo" if kind == "cpu" else "cpu:gloo,cuda:nccl"
    joined = Joined(process_group_backend=backend, timeout=PATIENCE)
    fabric = Fabric(
        accelerator=kind, devices=devices, num_nodes=nodes, strategy=joined, precision=precision
    )
    fabric.launch()
    return fabric
