"""Folds of images in which near-duplicates stay together, so that none gives another away."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

FOLDS = 5
# Cosine of centred features from which two images count as one: bursts, and photos of one series.
NEAR = 0.98
# Leading directions in which distances are compared first: none grows by leaving others out.
DIRECTIONS = 32
BLOCK = 2048


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
    left, right = _near_pairs(unit)
    first = torch.arange(len(unit))
    while True:  # each image takes the least first image of its neighbours, until none changes
        least = first.scatter_reduce(0, right, first[left], "amin")
        least = least.scatter_reduce(0, left, least[right], "amin")
        if torch.equal(least, first):
            break
        first = least[least]
    size = first.bincount(minlength=len(unit))[first]
    return torch.where(size * FOLDS > len(unit), torch.arange(len(unit)), first)


def _near_pairs(unit: Float[Tensor, "N D"]) -> tuple[Int[Tensor, " M"], Int[Tensor, " M"]]:
    """Both images of each near pair, the earlier first."""
    _, directions = torch.linalg.eigh(unit.T @ unit)
    short = unit @ directions[:, -DIRECTIONS:]
    # |a - b|^2 = 2 - 2 cos for unit vectors, and no projection makes a distance longer.
    half = short.square().sum(dim=1) / 2 - (1 - NEAR) / 2
    pairs = []
    for start in range(0, len(unit), BLOCK):
        rows = slice(start, start + BLOCK)
        close = short[rows] @ short[start:].T >= half[rows, None] + half[None, start:]
        found = close.triu(1).nonzero() + start
        cosine = (unit[found[:, 0]] * unit[found[:, 1]]).sum(dim=1)
        pairs.append(found[cosine >= NEAR])
    left, right = torch.cat(pairs).unbind(1)
    return left, right
