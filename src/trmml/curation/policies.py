"""Which open pairs to ask about next: policies by name, for the live queue and its simulation.

A pair's `info` is 4 p (1 - p), 1 where the tagger is in two minds and 0 where it is sure.

| policy | asks first |
|---|---|
| random | any |
| uncertain | most info |
| likely | highest probability |
| balanced | most info within its category, every category as often |
| balanced-likely | highest probability within its category, every category as often |
| trmml | as balanced, but what resembles an image asked about before it comes later |
"""

import math
import random
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from trmml.curation.costs import EXCEPTION, image_seconds
from trmml.settings.choices import Policy

WITHOUT_QUOTA: tuple[Policy, ...] = ("random", "uncertain", "likely")
# How much of a pair's value an equal image that is asked about before it takes.
LIKENESS_COST = 0.7
# Candidates of a category for each question it gets: unlike images are looked for among these.
CANDIDATES = 6
# Entries of the largest tensor that is made at a time.
MAX_ENTRIES = 2**25
# One screen of thumbnails.
BLOCK = 30


@dataclass(frozen=True, eq=False)
class Pool:
    """What a policy chooses from.

    Attributes:
        logits: of the present head.
        open: pairs that may be asked about; restrict it to ask about some categories alone.
        features: of whole images, unit length.
    """

    logits: Float[Tensor, "N C"]
    open: Bool[Tensor, "N C"]
    features: Float[Tensor, "N D"]


@dataclass(frozen=True, eq=False)
class Block:
    """At most `BLOCK` images to ask about one category, most worth asking first."""

    category: int
    images: Int[Tensor, " K"]


def choose_pairs(policy: Policy, pool: Pool, count: int, *, seed: int) -> Int[Tensor, "Q 2"]:
    """The next pairs (image, category) to ask about, first to last; fewer where few are open.

    With a quota, the first of every category come before the second of any.

    Args:
        policy: see the table above.
        pool: what to choose from.
        count: how many, at least 0.
        seed: of `random`.
    """
    value = _value(policy, pool, seed).masked_fill(~pool.open, -1)
    count = min(count, int(pool.open.sum()))
    if policy in WITHOUT_QUOTA:
        flat = value.flatten().topk(count).indices
        categories = value.shape[1]
        return torch.stack([flat // categories, flat % categories], dim=1)
    quota = _equal_quota(pool.open.sum(dim=0), count)
    if policy == "trmml":
        order, kept = _unlike(value, pool.features, quota)
    else:
        kept, order = value.topk(int(quota.max()), dim=0)
    return _dealt(order, kept, quota)[:count]


def choose_images(policy: Policy, pool: Pool, count: int, *, seed: int) -> Int[Tensor, " K"]:
    """The next images to ask about whole, first to last; fewer where few have an open pair.

    An image is worth the sum over its open pairs of what the policy makes of a pair. With a quota,
    a pair counts relative to the best of its category, and less the more the images before it
    have covered of that category. `trmml` takes the root of a pair's value, so that many pairs in
    slight doubt count, and divides by the seconds that the image will probably take.

    Args:
        policy: see the table above.
        pool: what to choose from.
        count: how many, at least 0.
        seed: of `random`.
    """
    pairs = pool.open.sum(dim=1, dtype=torch.int32)
    free = pairs > 0
    count = min(count, int(free.sum()))
    if policy == "random":
        draw = torch.randn(len(pairs), generator=torch.Generator().manual_seed(seed))
        # So a draw from [0, 1] for each open pair sums up.
        return (pairs / 2 + (pairs / 12).sqrt() * draw).masked_fill(~free, -math.inf).topk(count)[1]
    value = _value(policy, pool, seed) * pool.open
    if policy in WITHOUT_QUOTA:
        return value.sum(dim=1).masked_fill(~free, -1).topk(count).indices
    value = value / value.amax(dim=0).clamp(min=1e-12)
    price, like = torch.ones(len(value)), 0.0
    if policy == "trmml":
        value, price, like = value.sqrt(), _expected_seconds(pool), LIKENESS_COST
    covered, likest, chosen = value.new_zeros(value.shape[1]), value.new_zeros(len(value)), []
    for _ in range(count):
        worth = value @ (1 / (1 + covered)) * (1 - like * likest) / price
        best = int(worth.masked_fill(~free, -1).argmax())
        chosen.append(best)
        free[best] = False
        covered += value[best]
        likest = torch.maximum(likest, pool.features @ pool.features[best])
    return torch.tensor(chosen, dtype=torch.long)


def blocks(pairs: Int[Tensor, "Q 2"], logits: Float[Tensor, "N C"]) -> list[Block]:
    """Chosen pairs as blocks of one category, those of the greatest summed info first."""
    found = [
        Block(category, part)
        for category in torch.unique(pairs[:, 1]).tolist()
        for part in torch.split(pairs[pairs[:, 1] == category, 0], BLOCK)
    ]
    return sorted(found, key=lambda b: -float(info(logits[b.images, b.category]).sum()))


def info(logits: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """How undecided a pair is, 4 p (1 - p), in [0, 1]."""
    probability = logits.sigmoid()
    return 4 * probability * (1 - probability)


def _expected_seconds(pool: Pool) -> Float[Tensor, " N"]:
    """What each image probably takes, if the tagger's probabilities are right."""
    wrong = (-pool.logits.abs()).sigmoid() * pool.open
    base = image_seconds(1, pool.logits.shape[1], 0)
    return base + EXCEPTION * wrong.sum(dim=1)


def _value(policy: Policy, pool: Pool, seed: int) -> Float[Tensor, "N C"]:
    match policy:
        case "random":
            return torch.rand(pool.logits.shape, generator=torch.Generator().manual_seed(seed))
        case "likely" | "balanced-likely":
            return pool.logits.sigmoid()
        case "uncertain" | "balanced" | "trmml":
            return info(pool.logits)


def _equal_quota(open_count: Int[Tensor, " C"], count: int) -> Int[Tensor, " C"]:
    """Questions for each category, `count` in all or up to C more, as equal as open pairs allow."""
    low, high = 0, count
    while low < high:  # the least level at which there are enough
        level = (low + high) // 2
        if int(open_count.clamp(max=level).sum()) < count:
            low = level + 1
        else:
            high = level
    return open_count.clamp(max=low)


def _unlike(
    value: Float[Tensor, "N C"], features: Float[Tensor, "N D"], quota: Int[Tensor, " C"]
) -> tuple[Int[Tensor, "Q C"], Float[Tensor, "Q C"]]:
    """Images of each category in order and their values; each costs those after it that resemble.

    Greedy: the next is the one of greatest value x (1 - LIKENESS_COST x its cosine to the likest
    image before it). A near-duplicate of one keeps less than a third of its value.
    """
    most = int(quota.max())
    if not most:
        return quota.new_zeros(0, len(quota)), value[:0]
    kept, order = value.topk(min(len(value), CANDIDATES * most + BLOCK), dim=0)
    width = max(1, MAX_ENTRIES // (len(order) * max(len(order), features.shape[1])))
    parts = [
        _greedy(column, candidates, features, most)
        for column, candidates in zip(
            torch.split(kept.T, width), torch.split(order.T, width), strict=True
        )
    ]
    first, second = (torch.cat(each).T for each in zip(*parts, strict=True))
    return first, second


def _greedy(
    value: Float[Tensor, "C K"],
    images: Int[Tensor, "C K"],
    features: Float[Tensor, "N D"],
    count: int,
) -> tuple[Int[Tensor, "C Q"], Float[Tensor, "C Q"]]:
    own = features[images]  # (C, K, D)
    cosine = (own @ own.mT).clamp(min=0)
    likest, rows = torch.zeros_like(value), torch.arange(len(value))
    left, picked = value.clone(), []
    for _ in range(count):
        best = torch.where(left >= 0, left * (1 - LIKENESS_COST * likest), -1).argmax(dim=1)
        picked.append(best)
        likest = torch.maximum(likest, cosine[rows, best])
        left[rows, best] = -1
    places = torch.stack(picked, dim=1)
    return images.gather(1, places), value.gather(1, places)


def _dealt(
    order: Int[Tensor, "Q C"], value: Float[Tensor, "Q C"], quota: Int[Tensor, " C"]
) -> Int[Tensor, "M 2"]:
    """Pairs by rank, within a rank by value."""
    ranks = torch.arange(len(order))[:, None]
    taken = (ranks < quota) & (value >= 0)
    rank, category = taken.nonzero(as_tuple=True)
    worth = value[rank, category]
    place = torch.argsort(-worth, stable=True)
    place = place[torch.argsort(rank[place], stable=True)]
    return torch.stack([order[rank, category][place], category[place]], dim=1)


def drawn(best: list[int], count: int, draw: random.Random) -> list[int]:
    """So many of the best, in their order."""
    if len(best) <= count:
        return best
    return [best[place] for place in sorted(draw.sample(range(len(best)), count))]
