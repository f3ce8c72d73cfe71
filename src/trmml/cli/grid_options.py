"""The options of grids, and what they mean: masks, seeds, methods and their settings."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trmml.cli import options
from trmml.cli.output import say
from trmml.settings import choices

if TYPE_CHECKING:
    from trmml.benchmark.catalog import Method
    from trmml.benchmark.method_settings import MethodSettings
    from trmml.datasets import Dataset
    from trmml.labels.masks import MaskRule

# `--known 10..90` goes in steps of so many percent, as the field does.
STEP = 10

GridOut = Annotated[
    Path,
    typer.Option(
        help="Folder of the grid; the same one continues it.",
        show_default=False,
        callback=options.writable_folder,
    ),
]
Methods = Annotated[str, typer.Option(metavar="KEYS", help="Keys with commas between, or all.")]
Shares = Annotated[
    str | None,
    typer.Option(
        metavar="PERCENT",
        help="Known labels in percent: 10..90 (in tens), or a list as 10,50,90."
        " [default: 10..90, unless another kind of mask is asked for]",
    ),
]
Masks = Annotated[
    list[Path] | None,
    typer.Option("--mask", help="A file of known labels, as a run keeps; may be repeated."),
]
Seeds = Annotated[
    str,
    typer.Option(
        metavar="N|LIST", help="So many seeds, from 0, or a list as 0,5,7: of masks and training."
    ),
]
SettingsFolder = Annotated[
    Path | None,
    typer.Option(
        "--settings",
        metavar="DIR",
        help="Folder with KEY.toml per method, as --tune writes; defaults where there is none.",
    ),
]
EpochOption = Annotated[
    choices.EpochRule,
    typer.Option(help="Which epoch is reported: chosen on held-out training labels, or the last."),
]
BestOnTest = Annotated[
    bool,
    typer.Option(
        "--best-on-test",
        help="Also say what choosing the epoch on the test images would report, labelled so.",
    ),
]
Refit = Annotated[
    bool,
    typer.Option(
        "--refit",
        help="Also train each method again on all known images, and give that mAP beside the"
        " other; twice the time.",
    ),
]
Tune = Annotated[
    int | None,
    typer.Option(
        metavar="TRIALS",
        help="First search settings on held-out training images, with so many trials a method.",
    ),
]
Folds = Annotated[int, typer.Option(help="Random splits that --tune scores each trial on.")]
Views = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=16,
        help="Views of each image that every method trains on, and is scored by at once.",
    ),
]
PrecisionForAll = Annotated[
    choices.Precision | None, typer.Option(help="Sets training.precision for every method.")
]
ReportOnly = Annotated[
    bool, typer.Option("--report-only", help="Run nothing: write tables and plots anew.")
]
Draws = Annotated[
    int, typer.Option(min=0, help="Draws of the test images for intervals; 0 leaves them out.")
]


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
    rules: "Sequence[MaskRule]",
    folder: Path | None,
    views: int | None,
    precision: choices.Precision | None,
) -> "dict[str, MethodSettings]":
    """Each method's of the folder or its defaults; `--views` and `--precision` are for all.

    A method that can be tuned and has no settings for a protocol of the rules is named.
    """
    from trmml.benchmark.method_settings import (
        default_settings,
        read_settings,
        shared_changes,
        with_changes,
    )

    settings, shared = {}, shared_changes(views, precision)
    for method in methods:
        start = default_settings(method)
        own = start if folder is None else read_settings(method, folder)
        settings[method.key] = with_changes(own, shared)
        if folder is None or not method.space:
            continue
        for protocol in protocols_of(method, rules):
            if own.provenance[protocol] == start.provenance[protocol]:
                say(
                    f"{folder} has no [{protocol}] settings of {method.key}, which runs with its"
                    " defaults there"
                )
    return settings


def protocols_of(method: "Method", rules: "Sequence[MaskRule]") -> "list[choices.Protocol]":
    """Whose settings a method needs; an upper bound one, for its labels are always the same."""
    return ["partial"] if method.full_labels else list(dict.fromkeys(r.protocol for r in rules))
