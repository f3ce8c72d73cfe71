"""How long do the intervals of one cell of a benchmark take, at the sizes of known test sets?

    python -m benchmarks.speed.bootstrap [--draws 1000] [--rounds 3]

The mAP of random ranks in each draw of the test images: as trmml takes it, and in two plainer ways,
running sums over all images in the order of their ranks, and a product of the matrix that says
which image ranks no lower than which positive with how often each image is drawn. Each row does
`timed` of the categories, in turn within one process; seconds of a cell are of all of them. The
ways must agree. Prints a table and writes benchmarks/results/bootstrap.json.
"""

import argparse
import statistics
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from benchmarks.record import write_results
from benchmarks.speed.timing import in_turn
from torch import Tensor

from trmml.benchmark.bootstrap import draws, resampled_map
from trmml.labels.matrix import LabelMatrix

# Entries of a matrix of zeros and ones that is made at a time: 64 MiB.
MAX_ENTRIES = 2**24


class Size(NamedTuple):
    """Of a test set."""

    images: int
    categories: int
    positives: float  # mean share of the images that have a category
    timed: int  # categories that are timed


SIZES = {
    "COCO 2014": Size(40_137, 80, 0.036, 10),
    "VOC 2007": Size(4_952, 20, 0.073, 20),
    "Corel5k": Size(499, 242, 0.014, 242),
    "scenes": Size(1_000, 24, 0.14, 24),
}


def main() -> None:
    """Print the table and write benchmarks/results/bootstrap.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    found = {}
    print("seconds of a cell  trmml  running sums  product")
    for name, size in SIZES.items():
        ranks, labels = random_cell(size, given.seed)
        counts = draws(size.images, given.draws, given.seed)
        ways = {
            "trmml": partial(resampled_map, ranks, labels, counts),
            "running sums": partial(plainly, ranks, labels, counts, running_sums),
            "product": partial(plainly, ranks, labels, counts, product),
        }
        maps = [way() for way in ways.values()]
        for other in maps[1:]:
            torch.testing.assert_close(other, maps[0], rtol=1e-4, atol=1e-5)
        share = size.categories / size.timed
        seconds = {
            way: share * statistics.median(taken)
            for way, taken in in_turn(ways, given.rounds).items()
        }
        found[name] = {**size._asdict(), "seconds": seconds}
        print(f"{name:17} " + " ".join(f"{value:8.2f}" for value in seconds.values()))
    print(write_results("bootstrap", {**vars(given), "threads": torch.get_num_threads(),
                                      "sizes": found}))  # fmt: skip


def random_cell(size: Size, seed: int) -> tuple[np.ndarray, LabelMatrix]:
    """Ranks in which positives stand higher, and labels of the categories that are timed."""
    draw = np.random.default_rng(seed)
    labels = draw.random((size.images, size.timed)) < size.positives
    labels[0] = True
    scores = draw.normal(size=labels.shape) + 2 * labels
    ranks = (-scores).argsort(axis=0).argsort(axis=0)
    return ranks, LabelMatrix(torch.from_numpy(labels), torch.ones(labels.shape).bool())


def plainly(
    ranks: np.ndarray, labels: LabelMatrix, counts: Tensor, way: Callable[..., Tensor]
) -> Tensor:
    """The mean over categories of AP in each draw. No two images may share a rank."""
    weights = counts.T.float().contiguous()
    aps = [
        way(torch.from_numpy(ranks[:, c]), labels.labels[:, c], weights)
        for c in range(ranks.shape[1])
    ]
    return torch.stack(aps).double().nanmean(dim=0)


def running_sums(ranks: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """AP of a category in each draw, by sums over all images, best first."""
    order = ranks.argsort()
    ordered = weights[order]
    positive = ordered * labels[order, None]
    precision = positive.cumsum(dim=0) / ordered.cumsum(dim=0).clamp(min=1)
    return (positive * precision).sum(dim=0) / positive.sum(dim=0)


def product(ranks: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """AP of a category in each draw, by who ranks no lower than each positive."""
    positive = labels.nonzero()[:, 0]
    total = torch.zeros(weights.shape[1])
    for part in torch.split(positive, max(1, MAX_ENTRIES // len(ranks))):
        ahead = ranks <= ranks[part, None]
        seen = ahead.float() @ weights
        found = ahead[:, positive].float() @ weights[positive]
        total += (weights[part] * found / seen.clamp(min=1)).sum(dim=0)
    return total / weights[positive].sum(dim=0)


if __name__ == "__main__":
    main()
