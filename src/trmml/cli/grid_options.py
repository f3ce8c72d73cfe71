"""What the options of `trmml benchmark` mean: masks, seeds, methods and their settings."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trmml.settings import choices

if TYPE_CHECKING:
    from trmml.benchmark.catalog import Method
    from trmml.benchmark.method_settings import MethodSettings
    from trmml.datasets import Dataset
    from trmml.labels.masks import MaskRule

# `--known 10..90` goes in steps of so many percent, as the field does.
STEP = 10


def mask_rules(
    known: str | None, single_positive: bool, quota: tuple[int, int] | None, masked: bool
) -> "list[MaskRule]":
    """What the options on known labels add up to; 10 to 90 percent where none is given."""
    from trmml.labels import masks

    if known is None and not single_positive and quota is None and not masked:
        known = "10..90"
    shares = [] if known is None else percentages(known)
    rules = [masks.share_known(percent / 100) for percent in shares]
    rules += [masks.single_positive()] if single_positive else []
    return rules if quota is None else [*rules, masks.quota(*quota)]


def read_masks(paths: Sequence[Path], train: "Dataset") -> "list[MaskRule]":
    """Masks from files, those of other projects too."""
    from trmml.datasets.tables.peer_masks import read_mask
    from trmml.labels import masks

    return [masks.fixed(path.stem, read_mask(path, train)) for path in paths]


def percentages(text: str) -> list[float]:
    """The shares of `--known` in percent.

    Raises:
        ConfigError: it is neither a range nor a list, or a share is out of range.

    Example:
        >>> percentages("10..30"), percentages("5,50")
        ([10.0, 20.0, 30.0], [5.0, 50.0])
    """
    from trmml.errors import ConfigError

    first, dots, last = text.partition("..")
    try:
        if dots:
            shares = [float(p) for p in range(int(first), int(last) + 1, STEP)]
            if shares and shares[-1] != float(last):
                raise ConfigError(
                    f"--known {text} goes by steps of {STEP} and misses {last}; write the shares"
                    " out, as 10,50,95"
                )
        else:
            shares = [float(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"expected --known 10..90 or a list as 10,50,90, got {text!r}") from None
    wrong = [percent for percent in shares if not 1 <= percent <= 100]
    if wrong or not shares:
        what = f"{wrong[0]:g}" if wrong else text
        raise ConfigError(
            f"expected shares of known labels from 1 to 100 percent, got {what} in --known {text};"
            " to keep a tenth, write 10"
        )
    return shares


def seed_list(text: str) -> list[int]:
    """The seeds of `--seeds`: so many from 0, or a list.

    Raises:
        ConfigError: there is none, or it is neither.

    Example:
        >>> seed_list("3"), seed_list("5,7"), seed_list("4,")
        ([0, 1, 2], [5, 7], [4])
    """
    from trmml.errors import ConfigError

    parts = [part.strip() for part in text.split(",")]
    listed = [part for part in parts if part]
    if not all(part.isdecimal() for part in listed):
        raise ConfigError(f"expected --seeds 3 (so many, from 0) or a list as 0,5,7, got {text!r}")
    seeds = [int(part) for part in listed]
    seeds = seeds if len(parts) > 1 else list(range(seeds[0] if seeds else 0))
    if not seeds:
        raise ConfigError(f"expected at least 1 seed, got --seeds {text}; 3 is usual")
    return seeds


def method_keys(text: str) -> list[str]:
    """The keys of `--methods`."""
    from trmml.benchmark.catalog import METHODS

    return list(METHODS) if text == "all" else [part.strip() for part in text.split(",")]


def title_of(data: tuple[str, Path], choices: Mapping[str, str]) -> str:
    """What tables call the data: a set of the field by its name, and the choices made."""
    from trmml.datasets.catalog import find_reader

    name, root = data
    title = name if find_reader(name).counts else root.resolve().name
    made = ", ".join(f"{option}={value}" for option, value in choices.items())
    return f"{title} ({made})" if made else title


def method_settings(
    methods: "Sequence[Method]",
    folder: Path | None,
    views: int | None,
    precision: choices.Precision | None,
) -> "dict[str, MethodSettings]":
    """Each method's of the folder or its defaults; `--views` and `--precision` are for all."""
    from trmml.benchmark.method_settings import (
        default_settings,
        read_settings,
        shared_changes,
        with_changes,
    )

    settings, shared = {}, shared_changes(views, precision)
    for method in methods:
        own = default_settings(method) if folder is None else read_settings(method, folder)
        settings[method.key] = with_changes(own, shared)
    return settings
