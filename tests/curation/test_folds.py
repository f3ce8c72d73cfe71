"""Folds: near-duplicates together, equal sizes, any encoder."""

import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from trmml.curation.folds import BLOCK, FOLDS, NEAR, PAIRS, image_folds, near_groups


def _series(series: int, length: int, noise: float = 0.001) -> torch.Tensor:
    """Features of some series of nearly equal images, one series after the other."""
    centres = torch.randn(series, 64).repeat_interleave(length, dim=0)
    return F.normalize(centres + noise * torch.randn(series * length, 64), dim=1)


def test_copies_and_series_share_a_fold() -> None:
    folds = image_folds(_series(40, 3))
    assert (folds.view(40, 3) == folds.view(40, 3)[:, :1]).all()
    assert folds.bincount().tolist() == [24] * FOLDS


def test_series_are_found_across_blocks_as_by_a_slow_loop() -> None:
    features = _series(BLOCK // 2 + 10, 3, noise=0.05)[torch.randperm(3 * (BLOCK // 2 + 10))]
    unit = F.normalize(features - features.mean(dim=0), dim=1)
    near = unit @ unit.T >= NEAR
    group = near_groups(features)
    assert torch.equal(group, near.int().argmax(dim=1))  # the first image of each series
    assert near.fill_diagonal_(False).any()


def test_chains_are_one_group() -> None:
    angles = torch.linspace(0, 1, 8)  # neighbours are near, both ends are not
    chain = torch.stack([angles.cos(), angles.sin(), 0 * angles], dim=1)
    others = torch.randn(100, 3)
    assert near_groups(F.pad(torch.cat([chain, others]), (0, 1)))[:8].unique().tolist() == [0]


def test_images_that_an_encoder_hardly_tells_apart_still_fill_all_folds() -> None:
    folds = image_folds(torch.ones(50, 8) + 1e-7 * torch.randn(50, 8).round())
    assert folds.bincount().tolist() == [10] * FOLDS


def test_seeds_and_few_images() -> None:
    features = torch.randn(100, 8)
    assert torch.equal(image_folds(features), image_folds(features))
    assert not torch.equal(image_folds(features), image_folds(features, seed=1))
    assert image_folds(features[:2]).tolist() in ([0, 2], [2, 0])


class _Largest(TorchDispatchMode):
    """Notes how many numbers the largest tensor holds."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for each in tree_leaves(result):
            if isinstance(each, torch.Tensor):
                self.numbers = max(self.numbers, each.numel())
        return result


def test_a_long_series_takes_little_memory() -> None:
    features = torch.randn(2000, 256)
    features[:1500] = features[0] + 0.001 * torch.randn(1500, 256)
    features[1600:1900] = features[1600] + 0.001 * torch.randn(300, 256)
    with _Largest() as largest:
        groups = near_groups(features)
    expected = torch.arange(2000)
    expected[1600:1900] = 1600  # and the longer one is no series
    assert torch.equal(groups, expected)
    assert largest.numbers <= PAIRS * 256  # all pairs of a block: 512 * 1,500 * 256
