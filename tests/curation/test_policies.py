"""Policies choose open pairs, each once, in the order that their name says."""

from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from trmml.curation.policies import (
    BLOCK,
    Pool,
    blocks,
    choose_images,
    choose_pairs,
    info,
)
from trmml.settings.choices import Policy

POLICIES: tuple[Policy, ...] = get_args(Policy)
BALANCED: tuple[Policy, ...] = ("balanced", "balanced-likely", "trmml")


def make_pool(logits: Tensor, shown: Tensor | None = None, features: Tensor | None = None) -> Pool:
    images = len(logits)
    made = torch.eye(images) if features is None else features
    return Pool(
        logits=logits,
        open=torch.ones_like(logits, dtype=torch.bool) if shown is None else shown,
        features=made,
    )


def random_pool(images: int = 40, categories: int = 7) -> Pool:
    draw = torch.Generator().manual_seed(3)
    logits = torch.randn(images, categories, generator=draw)
    features = F.normalize(torch.randn(images, 5, generator=draw), dim=1)
    shown = torch.rand(images, categories, generator=draw) < 0.4
    return Pool(logits=logits, open=shown, features=features)


def test_orders_by_hand() -> None:
    pool = make_pool(torch.tensor([[0.1, 3.0], [-0.2, 4.0], [1.0, -6.0]]))
    chosen = {
        policy: choose_pairs(policy, pool, 4, seed=0).tolist()
        for policy in POLICIES
        if policy != "random"
    }
    assert chosen["uncertain"] == [[0, 0], [1, 0], [2, 0], [0, 1]]
    assert chosen["likely"] == [[1, 1], [0, 1], [2, 0], [0, 0]]
    assert chosen["balanced"] == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert chosen["balanced-likely"] == [[1, 1], [2, 0], [0, 1], [0, 0]]
    assert chosen["trmml"] == chosen["balanced"]  # no image resembles another


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("count", [0, 1, 30, 10_000])
def test_only_open_pairs_each_once(policy: Policy, count: int) -> None:
    pool = random_pool()
    images, categories = choose_pairs(policy, pool, count, seed=0).T
    assert len(images) == min(count, int(pool.open.sum()))
    assert pool.open[images, categories].all()
    assert len(torch.stack([images, categories]).unique(dim=1).T) == len(images)


@pytest.mark.parametrize("policy", BALANCED)
def test_categories_are_asked_equally_and_a_short_one_leaves_its_share(policy: Policy) -> None:
    logits = torch.linspace(-4, 4, 120).view(40, 3)
    shown = torch.ones(40, 3, dtype=torch.bool)
    shown[5:, 2] = False
    chosen = choose_pairs(policy, make_pool(logits, shown), 45, seed=0)
    assert chosen[:, 1].bincount().tolist() == [20, 20, 5]
    assert sorted(chosen[:3, 1].tolist()) == [0, 1, 2]  # first one of each


def test_trmml_leaves_near_duplicates_for_later() -> None:
    logits = torch.tensor([[0.0], [0.1], [0.5]])
    features = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    chosen = choose_pairs("trmml", make_pool(logits, features=features), 3, seed=0)
    assert chosen[:, 0].tolist() == [0, 2, 1]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("count", [0, 1, 10, 100])
def test_only_images_with_an_open_pair_each_once(policy: Policy, count: int) -> None:
    pool = random_pool()
    pool.open[5:12] = False
    chosen = choose_images(policy, pool, count, seed=0).tolist()
    free = pool.open.any(dim=1)
    assert len(chosen) == len(set(chosen)) == min(count, int(free.sum()))
    assert free[chosen].all()


def test_whole_images_by_hand() -> None:
    # The first two are undecided of one category, the third a little of the other.
    pool = make_pool(torch.tensor([[0.0, -9.0], [0.0, -9.0], [-9.0, -4.0], [-9.0, -9.0]]))
    assert choose_images("uncertain", pool, 4, seed=0)[:2].sort().values.tolist() == [0, 1]
    assert choose_images("balanced", pool, 2, seed=0).tolist() == [0, 2]
    assert choose_images("likely", pool, 3, seed=0)[-1] == 2


def test_trmml_asks_of_two_images_the_quicker_and_of_like_ones_one() -> None:
    doubts = torch.zeros(1, 30)
    sure = torch.full((1, 30), -4.0)
    pool = make_pool(torch.cat([doubts, sure]))
    worth = [float(info(row).sqrt().sum()) for row in (doubts, sure)]
    seconds = [2 + 0.9 + 30 * 0.9 * 0.5, 2 + 0.9 + 30 * 0.9 * float(sure[0, 0].sigmoid())]
    first = choose_images("trmml", pool, 1, seed=0)
    assert (first == 0) == (worth[0] / seconds[0] > worth[1] / seconds[1])
    like = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.6, 0.8]])
    pool = make_pool(torch.zeros(3, 1), features=like)
    assert choose_images("trmml", pool, 3, seed=0)[:2].tolist() == [0, 2]


def test_a_permutation_of_categories_permutes_the_questions() -> None:
    pool, order = random_pool(), torch.tensor([3, 1, 6, 0, 2, 5, 4])
    turned = Pool(pool.logits[:, order], pool.open[:, order], pool.features)
    for policy in BALANCED:
        plain = choose_pairs(policy, pool, 30, seed=0)
        other = choose_pairs(policy, turned, 30, seed=0)
        other[:, 1] = order[other[:, 1]]
        assert sorted(plain.tolist()) == sorted(other.tolist())


def test_random_needs_its_seed() -> None:
    pool = random_pool()
    first, again, other = (choose_pairs("random", pool, 20, seed=s) for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_blocks_are_of_one_category_and_in_order() -> None:
    logits = torch.stack([torch.ones(70), torch.zeros(70)], dim=1)
    pairs = torch.tensor([[i, 0] for i in range(65)] + [[i, 1] for i in range(10)])
    made = blocks(pairs, logits)
    assert [(b.category, len(b.images)) for b in made] == [(0, 30), (0, 30), (1, 10), (0, 5)]
    assert made[0].images.tolist() == list(range(BLOCK))
    assert blocks(pairs[:0], logits) == []
    assert info(logits)[0, 1] == 1
