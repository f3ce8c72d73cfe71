"""What a search over settings may choose from, by `section.name`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class OneOf:
    """A setting that is taken from a list.

    Attributes:
        values: in any order.
    """

    values: tuple[Any, ...]


@dataclass(frozen=True)
class Range:
    """A number that is taken from an interval.

    Attributes:
        low: smallest.
        high: largest.
        log: whether factors count, not differences.
    """

    low: float
    high: float
    log: bool = False


Space = Mapping[str, OneOf | Range]

# Of whatever trains.
RATES: Space = {
    "training.learning_rate": Range(1e-4, 3e-2, log=True),
    "training.weight_decay": Range(1e-3, 1.0, log=True),
}
# Of the asymmetric loss.
FOCUS: Space = {
    "losses.gamma_negative": OneOf((0.0, 1.0, 2.0, 4.0)),
    "losses.gamma_positive": OneOf((0.0, 1.0)),
    "losses.clip": OneOf((0.0, 0.05)),
}
