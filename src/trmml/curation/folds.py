"""Folds of images in which near-duplicates stay together, so that none gives another away."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

FOLDS = 5
# Cosine of centred features from which two images count as one: bursts, and photos of one series.
NEAR = 0.98
# Leading directions in which distances are compared first: none grows by leaving others out.
DIRECTIONS = 32
# Images by images that are compared at a time: their products stay in a processor's cache.
BLOCK, WIDE = 512, 2048
# Pairs whose features are compared in full at a time.
PAIRS = 8192


def image_folds(features: Float[Tensor, "N D"], seed: int = 0) -> Int[Tensor, " N"]:
    """A fold in [0, FOLDS) for each image: of about equal size, near-duplicates in one.

    Args:
        features: of whole images, of any length; copies of a file have equal ones.
        seed: of the order in which groups go to folds.

    Example:
        >>> folds = image_folds(torch.eye(11)[[*range(11), 0]])
        >>> bool(folds[0] == folds[11]), len(folds.unique())
        (True, 5)
    """
    firsts = near_groups(features)
    _, group, size = torch.unique(firsts, return_inverse=True, return_counts=True)
    order = torch.randperm(len(size), generator=torch.Generator().manual_seed(seed))
    before = torch.empty_like(size)
    before[order] = size[order].cumsum(0) - size[order]
    return (before * FOLDS // max(len(features), 1))[group]


def near_groups(features: Float[Tensor, "N D"]) -> Int[Tensor, " N"]:
    """The first image of each image's group of near-duplicates; itself where it has none.

    Two images are near if the cosine of their features, less the mean of all, is at least NEAR;
    groups are what chains of near images join. A group larger than a fold is no series, so its
    images are told apart again.
    """
    unit = F.normalize(features.float() - features.float().mean(dim=0), dim=1)
    first = torch.arange(len(unit))
    for pairs in _close_pairs(unit):
        for some in torch.split(pairs, PAIRS):
            some = some[first[some[:, 0]] != first[some[:, 1]]]  # of one group already: no matter
            left, right = some.unbind(1)
            near = (unit[left] * unit[right]).sum(dim=1) >= NEAR
            first = _joined(first, left[near], right[near])
    size = first.bincount(minlength=len(unit))[first]
    return torch.where(size * FOLDS > len(unit), torch.arange(len(unit)), first)


def _joined(
    first: Int[Tensor, " N"], left: Int[Tensor, " M"], right: Int[Tensor, " M"]
) -> Int[Tensor, " N"]:
    """The first image of each image's group, once the groups of each left and right are one."""
    while True:
        ends = torch.stack([first[left], first[right]])
        least, most = ends.amin(dim=0), ends.amax(dim=0)
        if torch.equal(least, most):
            return first
        first = first.scatter_reduce(0, most, least, "amin")  # a group's first follows a lesser one
        while not torch.equal(first[first], first):
            first = first[first]


def _close_pairs(unit: Float[Tensor, "N D"]) -> Iterator[Int[Tensor, "M 2"]]:
    """Pairs that may be near, the earlier first, of at most BLOCK by WIDE images at a time.

    |a - b|^2 = 2 - 2 cos for unit vectors, and no projection makes a distance longer. So a product
    of two short rows, each with half its excess in it, is negative wherever a pair is too far.
    """
    _, directions = torch.linalg.eigh(unit.T @ unit)
    short = unit @ directions[:, -DIRECTIONS:]
    excess = short.square().sum(dim=1, keepdim=True) / 2 - (1 - NEAR) / 2
    one = torch.ones_like(excess)
    rows = torch.cat([short, -excess, one], dim=1)
    columns = torch.cat([short, one, -excess], dim=1).T.contiguous()
    for start in range(0, len(rows), BLOCK):
        for begin in range(start, len(rows), WIDE):
            product = rows[start : start + BLOCK] @ columns[:, begin : begin + WIDE]
            some = (product.amax(dim=1) >= 0).nonzero()[:, 0]  # one pass over what is mostly far
            pairs = (product[some] >= 0).nonzero()
            pairs = torch.stack([some[pairs[:, 0]] + start, pairs[:, 1] + begin], dim=1)
            yield pairs[pairs[:, 1] > pairs[:, 0]]
