"""The processes that train one run together: who this one is, and what all of them have.

A process alone is number 0 of 1, and every function gives back what it is given. Of several, all
must call the same functions in the same order. Rows of a batch are dealt out like cards: row i goes
to process i modulo their number.
"""

from collections.abc import Iterable
from typing import TypeVar

import torch
import torch.distributed as dist
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce

T = TypeVar("T")


def count() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def number() -> int:
    """Which of them this one is, from 0."""
    return dist.get_rank() if count() > 1 else 0


def share(rows: Shaped[Tensor, "B *rest"]) -> Shaped[Tensor, "b *rest"]:
    """This process's rows of a batch."""
    return rows[number() :: count()]


@torch.no_grad()
def total(value: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The sum over all processes."""
    if count() == 1:
        return value
    value = value.detach().clone().contiguous()
    dist.all_reduce(value)
    return value


def mean(value: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The mean over all processes."""
    return total(value) / count() if count() > 1 else value


def images(here: int) -> float:
    """What a sum over this process's images is divided by: the mean number of images."""
    return float(total(torch.tensor(float(here)))) / count()


def joined(rows: Float[Tensor, "b *rest"]) -> Float[Tensor, "B *rest"]:
    """The rows of all processes in the order from which `share` dealt them."""
    if count() == 1:
        return rows
    size = int(total(torch.tensor(float(len(rows)), device=rows.device)))
    whole = rows.new_zeros(size, *rows.shape[1:])
    whole[number() :: count()] = rows
    return total(whole)


def gathered(rows: Float[Tensor, "b *rest"]) -> Float[Tensor, "B *rest"]:
    """The rows of all processes, one process after the other, with their gradient."""
    if count() == 1:
        return rows
    sizes = of_all(len(rows))
    start = sum(sizes[: number()])
    whole = rows.new_zeros(sum(sizes), *rows.shape[1:])
    whole[start : start + len(rows)] = rows
    summed: Tensor = all_reduce(whole)  # type: ignore[no-untyped-call]
    return summed


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace gradients by their means over all processes; those that are None stay so."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if count() == 1 or not gradients:
        return
    averaged = mean(torch.cat([gradient.flatten() for gradient in gradients]))
    parts = torch.split(averaged, [gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))


@torch.no_grad()
def copy_first(module: nn.Module) -> None:
    """Give all processes the parameters and buffers of the first."""
    for value in module.state_dict().values() if count() > 1 else ():
        dist.broadcast(value, 0)


def of_first(value: T) -> T:
    """What the first process has."""
    if count() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, 0)
    return box[0]


def of_all(value: T) -> list[T]:
    """What each process has, in their order."""
    boxes: list[T] = [value] * count()
    if count() > 1:
        dist.all_gather_object(boxes, value)
    return boxes


def part() -> None:
    """From here on each process is alone."""
    if count() > 1:
        dist.destroy_process_group()
