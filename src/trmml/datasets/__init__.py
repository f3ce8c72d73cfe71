"""Readers of labelled images, each giving the same `Dataset`."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trmml.datasets.base import Dataset

__all__ = ["Dataset"]


def __getattr__(name: str) -> Any:  # the names and options of readers need no torch
    if name != "Dataset":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from trmml.datasets.base import Dataset

    return Dataset
