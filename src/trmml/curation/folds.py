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
# Images by images that are compared at a time: their products stay in a processor's cache.
BLOCK, WIDE = 512, 2048


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
    """Both images of each near pair, the earlier first.

    |a - b|^2 = 2 - 2 cos for unit vectors, and no projection makes a distance longer. So a product
    of two short rows, each with half its excess in it, is negative wherever a pair is too far.
    """
    _, directions = torch.linalg.eigh(unit.T @ unit)
    short = unit @ directions[:, -DIRECTIONS:]
    excess = short.square().sum(dim=1, keepdim=True) / 2 - (1 - NEAR) / 2
    one = torch.ones_like(excess)
    rows = torch.split(torch.cat([short, -excess, one], dim=1), BLOCK)
    columns = torch.cat([short, one, -excess], dim=1).T.contiguous()
    found = [_close(row, columns, start * BLOCK) for start, row in enumerate(rows)]
    cosines = [(unit[pairs[:, 0]] * unit[pairs[:, 1]]).sum(dim=1) for pairs in found]
    near = [pairs[cosine >= NEAR] for pairs, cosine in zip(found, cosines, strict=True)]
    left, right = torch.cat(near).unbind(1)
    return left, right


def _close(
    rows: Float[Tensor, "B E"], columns: Float[Tensor, "E N"], start: int
) -> Int[Tensor, "M 2"]:
    """Pairs of which the product is not negative, of the rows with all that come later."""
    found = []
    for begin in range(start, columns.shape[1], WIDE):
        product = rows @ columns[:, begin : begin + WIDE]
        some = (product.amax(dim=1) >= 0).nonzero()[:, 0]  # one pass over what is mostly far
        pairs = (product[some] >= 0).nonzero()
        found.append(torch.stack([some[pairs[:, 0]] + start, pairs[:, 1] + begin], dim=1))
    pairs = torch.cat(found)
    return pairs[pairs[:, 1] > pairs[:, 0]]
