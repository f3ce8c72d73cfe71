"""What a grid of cells says: means over seeds and shares, and how sure a difference is.

The test images are the sample: the paired bootstrap draws them anew, with replacement, scores two
methods on the same draw in every cell, and takes the difference of the means over all shares.
Seeds and masks are not drawn anew; their spread stands beside it as a deviation.
"""

import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag

from trmml.benchmark.records import Cell, Ranks
from trmml.errors import ConfigError
from trmml.labels.matrix import LabelMatrix

# Both ends of the interval leave out half of what is not covered.
COVERED = 0.95


@dataclass(frozen=True)
class Spread:
    """Mean and sample deviation over `count` values; the deviation of a single one is nan."""

    mean: float
    deviation: float
    count: int


class Difference(NamedTuple):
    """How far one mean lies above another, and the interval that holds 95 % of the draws."""

    mean: float
    low: float
    high: float


def spread_of(values: Sequence[float]) -> Spread:
    """Mean and deviation of at least one value.

    Example:
        >>> spread_of([1.0, 3.0])
        Spread(mean=2.0, deviation=1.4142135623730951, count=2)
    """
    deviation = statistics.stdev(values) if len(values) > 1 else math.nan
    return Spread(statistics.fmean(values), deviation, len(values))


def over_seeds(cells: Iterable[Cell], value: Callable[[Cell], float | None]) -> Spread | None:
    """Mean and deviation of a figure over cells that differ in the seed; None without any.

    A cell in which the figure is undefined does not count.
    """
    values = [found for cell in cells if (found := value(cell)) is not None]
    return spread_of(values) if values else None


def over_shares(
    cells: Sequence[Cell], value: Callable[[Cell], float | None], shares: Sequence[float]
) -> Spread | None:
    """The headline: the mean over all shares, for each seed, then over the seeds.

    Args:
        cells: of one method.
        value: the figure; it must be defined in every cell that counts.
        shares: that must all be there; a seed that lacks one does not count.
    """
    means = []
    for seed in sorted({cell.seed for cell in cells}):
        found = {cell.share: value(cell) for cell in cells if cell.seed == seed}
        values = [found.get(share) for share in shares]
        defined = [each for each in values if each is not None]
        if values and len(defined) == len(values):
            means.append(statistics.fmean(defined))
    return spread_of(means) if means else None


def draws(images: int, count: int, seed: int = 0) -> Int[Tensor, "B N"]:
    """How often each of N images is in each of `count` draws of N with replacement.

    Raises:
        ConfigError: fewer than 1 draw.
    """
    if count < 1:
        raise ConfigError(f"expected at least 1 draw for the bootstrap, got {count}")
    generator = np.random.default_rng(seed)
    even = np.full(images, 1 / images)
    return torch.from_numpy(generator.multinomial(images, even, size=count))


def resampled_map(
    ranks: Ranks, labels: LabelMatrix, counts: Int[Tensor, "B N"]
) -> Float[Tensor, " B"]:
    """The mAP of one cell in each draw: the mean over categories with a positive in that draw.

    An image that is drawn k times counts k times, tied with itself, as in
    `metrics.average_precision` on the drawn images.

    Args:
        ranks: (N, C), 0 for the highest score, ties share one.
        labels: of the N test images.
        counts: see `draws`.
    """
    weights = counts.T.float().contiguous()  # (N, B), whole numbers far below 2^24
    columns = torch.from_numpy(ranks.T.astype(np.int64, order="C"))
    parts = (labels.labels.T, labels.known.T)
    aps = [_resampled_ap(*each, weights) for each in zip(columns, *parts, strict=True)]
    return torch.stack(aps).double().nanmean(dim=0)


def _resampled_ap(
    ranks: Int[Tensor, " N"],
    labels: Bool[Tensor, " N"],
    known: Bool[Tensor, " N"],
    weights: Float[Tensor, "N B"],
) -> Float[Tensor, " B"]:
    """AP of one category in each draw; nan where no positive is drawn.

    Precision is looked at only where a positive ranks, so images are first added up between two
    positives, and running sums are made of these few rows, not of all N.
    """
    positive = labels & known
    if not positive.any():
        return torch.full((weights.shape[1],), torch.nan)
    levels = torch.unique(ranks[positive])  # the G ranks at which a positive stands, best first
    level = torch.searchsorted(levels, ranks)  # the first that counts the image; G for none
    drawn = _summed_by(level, positive, weights, len(levels))
    seen = _summed_by(level, known & (level < len(levels)), weights, len(levels))
    precision = drawn.cumsum(dim=0) / seen.cumsum(dim=0).clamp(min=1)
    return (drawn * precision).sum(dim=0) / drawn.sum(dim=0)


def _summed_by(
    level: Int[Tensor, " N"], chosen: Bool[Tensor, " N"], weights: Float[Tensor, "N B"], count: int
) -> Float[Tensor, "G B"]:
    """The sum of the chosen rows of each of `count` levels."""
    rows = chosen.nonzero()[:, 0]
    rows = rows[level[rows].argsort()]
    sizes = torch.bincount(level[rows], minlength=count)
    # It adds rows where they are: no (N, B) copy in the order of the ranks.
    return embedding_bag(rows, weights, sizes.cumsum(dim=0) - sizes, mode="sum")


def mean_over_cells(
    cells: Sequence[Cell], drawn: Mapping[str, Float[Tensor, " B"]]
) -> Float[Tensor, " B"]:
    """Per draw, the mean over the rules that hide labels of the mean over seeds.

    Args:
        cells: of one method; a seed that lacks a rule is left out, as in `over_shares`.
        drawn: mAP per draw by the fingerprint of a cell.
    """
    rules: dict[str, list[Tensor]] = {}
    wanted = len({cell.known for cell in cells})
    counts = Counter(cell.seed for cell in cells)
    for cell in cells:
        if counts[cell.seed] < wanted:
            continue
        rules.setdefault(cell.known, []).append(drawn[cell.fingerprint])
    means = [torch.stack(parts).mean(dim=0) for parts in rules.values()]
    return torch.stack(means).mean(dim=0)


def difference_interval(
    mean: float, first: Float[Tensor, " B"], second: Float[Tensor, " B"]
) -> Difference:
    """The percentile interval around a difference of two means, its draws centred on it.

    An image that is drawn twice is tied with itself, which lifts the AP of rare categories, and
    so every difference: on Corel5k, with 1 to 3 test positives in half of the categories, draws
    of a difference of 13.4 had a mean of 15. Only their spread is taken, so that no interval
    excludes zero by that. Draws without any test positive have no mAP and are left out.

    Args:
        mean: the difference on the test images as they are.
        first: the mean of one method per draw, nan where it has none.
        second: that of the other, on the same draws.
    """
    drawn = (first - second).double()
    drawn = drawn[drawn.isfinite()]
    if not len(drawn):
        return Difference(mean, math.nan, math.nan)
    drawn = drawn - drawn.mean() + mean
    outside = (1 - COVERED) / 2
    edges = torch.tensor([outside, 1 - outside], dtype=torch.float64)
    low, high = torch.quantile(drawn, edges).tolist()
    return Difference(mean, low, high)
