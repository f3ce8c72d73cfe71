"""The logits of several heads in one, each weighted by how well it explains held-out labels."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from trmml.features import ranks
from trmml.metrics.calibration import MOST_PAIRS, some_pairs

# Momentum of the running mean and spread of each head.
MOMENTUM = 0.98
# A head whose logits spread less than this has learned nothing yet, and adds nothing.
LEAST_SPREAD = 1e-3
# How strongly each head's own slope is held to its start, in pairs.
SLOPE_STRENGTH = 1.0
# What a head is worth alone: its slope to this power, so that a weak head counts for little.
SLOPE_POWER = 3.0
# How strongly the weights of all together are held to what each is worth alone, in pairs.
JOINT_STRENGTH = 30.0
# From so many images on, a category's own ratio of spreads counts more than that of all. A head
# that is sure in a category spreads wide there, and should not be divided by all of it.
STEADY_IMAGES = 200


class Stacking(nn.Module):
    """A weighted sum of the heads' logits, standardised in each category.

    sum_c = mean_0c + spread_0c * sum_k weight_k (logit_kc - mean_kc) / spread_kc
    combined_c = slope_c sum_c + offset_c

    The first head is the match with the texts. It sets the scale. Before the others have learned
    anything it is all there is, so that step 0 stays frozen CLIP. Each head learns by a loss of its
    own, and no gradient crosses the sum: with a shared loss one head starves the others.

    Shapes: K heads' logits (B, C) -> (B, C).
    Trains: nothing; `track`, `measure` and `fit_weights` move the buffers. Slopes are 1 and offsets
        0 until `fit_weights` has found the log-odds of the sum, which compare across categories.
    Source: stacking (Wolpert 1992); the standardisation and the weights' prior are ours.

    Args:
        categories: C.
        weights: of each head until `fit_weights` is called; the first is 1.
    """

    mean: Tensor  # (K, C)
    spread: Tensor  # (K, C)
    weights: Tensor  # (K)
    slope: Tensor  # (C)
    offset: Tensor  # (C)

    def __init__(self, *, categories: int, weights: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(len(weights), categories))
        self.register_buffer("spread", torch.zeros(len(weights), categories))
        self.register_buffer("weights", torch.tensor(weights))
        self.register_buffer("slope", torch.ones(categories))
        self.register_buffer("offset", torch.zeros(categories))

    def forward(self, heads: Sequence[Float[Tensor, "B C"]]) -> Float[Tensor, "B C"]:
        """The logits of all heads in one, without gradient."""
        first, *others = heads
        total = self.weights[0] * first + (1 - self.weights[0]) * self.mean[0]
        for number, logits in enumerate(others, start=1):
            scaled = self._standardised(number, logits)
            total = total + self.weights[number] * self.spread[0] * scaled
        return (self.slope * total + self.offset).detach()

    def _standardised(self, number: int, logits: Float[Tensor, "N C"]) -> Float[Tensor, "N C"]:
        """A head's logits with mean 0 and spread 1; 0 where it has learned nothing."""
        spread = self.spread[number]
        scaled = (logits - self.mean[number]) / spread.clamp(min=LEAST_SPREAD)
        return torch.where(spread > LEAST_SPREAD, scaled, 0.0)

    @torch.no_grad()
    def track(self, heads: Sequence[Float[Tensor, "B C"]]) -> None:
        """Move mean and spread towards those of a training batch.

        Args:
            heads: logits of all, or without the last ones, which then keep their own.
        """
        stack = torch.stack([ranks.joined(logits.to(self.mean)) for logits in heads])
        if stack.shape[1] > 1:
            keep = MOMENTUM if bool(self.spread[0].any()) else 0.0
            self.mean[: len(stack)].lerp_(stack.mean(dim=1), 1 - keep)
            self.spread[: len(stack)].lerp_(stack.std(dim=1), 1 - keep)

    @torch.no_grad()
    def measure(self, heads: Float[Tensor, "K N C"]) -> None:
        """Take mean and spread from images that were not trained on."""
        if heads.shape[1] > 1:
            self.mean.copy_(heads.mean(dim=1))
            self.spread.copy_(_steadied(heads.std(dim=1), heads.shape[1]))

    @torch.no_grad()
    def rescale(
        self, number: int, before: Float[Tensor, "N C"], after: Float[Tensor, "N C"]
    ) -> None:
        """Adapt mean and spread to a head that was trained again, so that it counts as before.

        Args:
            number: of the head.
            before: its logits of some images when mean and spread were measured.
            after: its logits of the same images now; a single one has no spread, nor changes it.
        """
        if len(before) < 2:
            return
        ratio = after.std(dim=0) / before.std(dim=0).clamp(min=LEAST_SPREAD)
        centred = self.mean[number] - before.mean(dim=0)
        self.mean[number] = centred * ratio + after.mean(dim=0)
        self.spread[number] *= ratio

    @torch.no_grad()
    def adapt(self, before: Float[Tensor, "K N C"], after: Float[Tensor, "K N C"]) -> None:
        """Adapt to heads that were all trained again, so that the sum stays on its scale.

        Args:
            before: logits of some images when the weights were fitted.
            after: logits of the same images now; see `rescale`.
        """
        if before.shape[1] < 2:
            return
        mean, spread = self.mean[0].clone(), self.spread[0].clone()
        for number in range(len(before)):
            self.rescale(number, before[number], after[number])
        slope = self.slope * spread / self.spread[0].clamp(min=LEAST_SPREAD)
        self.offset += self.slope * mean - slope * self.mean[0]
        self.slope.copy_(slope)

    def fit_weights(
        self,
        heads: Float[Tensor, "K N C"],
        targets: Float[Tensor, "N C"],
        weights: Float[Tensor, "N C"],
        positive_share: Float[Tensor, " C"],
    ) -> None:
        """Find the weights with which the heads together best explain held-out labels.

        Each head has one weight for all categories, at least 0. It comes from a logistic regression
        on the standardised logits, with the log-odds of each category's share as offset. Heads that
        mostly agree can trade their weights at almost no cost, so that chance would decide.
        Therefore the weights are held to what each head is worth alone.

        Without a held-out positive the weights stay.

        Args:
            heads: logits of the held-out images.
            targets: 1 where a category is present.
            weights: of each pair; 0 where nothing is known.
            positive_share: of each category among the known training labels, strictly between 0
                and 1.
        """
        if float((targets * weights).sum()) == 0:
            return
        scaled = torch.stack([self._standardised(k, each) for k, each in enumerate(heads)])
        # Most pairs are unknown: only the others are used, and of them no more than help.
        counted = weights > 0
        used = some_pairs(counted, MOST_PAIRS)
        weights = weights * (int(counted.sum()) / int(used.sum()))  # as many pairs as there are
        offset = positive_share.logit().expand_as(used)
        pairs = _Pairs(scaled[:, used], targets[used], weights[used], offset[used])
        worth = _worth_alone(pairs, self.weights)
        if not worth.any():
            return
        together, shift = _weights_together(pairs, worth / worth.max())
        self.weights.copy_(together / together.sum() * len(together))
        # Until now the sum has the scale of the first head in each category; that of the fit is
        # the same in all.
        self.slope.copy_(together.mean() / self.spread[0].clamp(min=LEAST_SPREAD))
        self.offset.copy_(positive_share.logit() + shift - self.slope * self.mean[0])


class _Pairs(NamedTuple):
    """Known pairs U in one list, with the standardised logits of K heads."""

    scaled: Float[Tensor, "K U"]
    targets: Float[Tensor, " U"]
    weights: Float[Tensor, " U"]
    offset: Float[Tensor, " U"]

    def entropy(self, logits: Float[Tensor, "... U"]) -> Tensor:
        """Summed cross-entropy of logits beside the offset."""
        logits = logits + self.offset
        return F.binary_cross_entropy_with_logits(
            logits, self.targets.expand_as(logits), self.weights, reduction="sum"
        )


def _worth_alone(pairs: _Pairs, start: Float[Tensor, " K"]) -> Float[Tensor, " K"]:
    """The logistic slope of each head by itself, to a power; 0 where it is no help."""
    slope = start.clone().requires_grad_()
    shifts = torch.zeros(len(start), 1, requires_grad=True)

    def cost() -> Tensor:
        held = SLOPE_STRENGTH * (slope - start).square().sum()
        return pairs.entropy(slope[:, None] * pairs.scaled + shifts) + held

    _minimise(cost, [slope, shifts])
    return slope.detach().clamp(min=0) ** SLOPE_POWER


def _weights_together(
    pairs: _Pairs, worth: Float[Tensor, " K"]
) -> tuple[Float[Tensor, " K"], Float[Tensor, ""]]:
    """Positive weights of all at once, held to a multiple of their worth alone; and the shift."""
    free = torch.full_like(worth, 0.5).requires_grad_()
    scale, shift = (torch.zeros((), requires_grad=True) for _ in range(2))

    def cost() -> Tensor:
        size = F.softplus(free)
        held = JOINT_STRENGTH * (size - F.softplus(scale) * worth).square().sum()
        return pairs.entropy(size @ pairs.scaled + shift) + held

    _minimise(cost, [free, scale, shift])
    return F.softplus(free.detach()), shift.detach()


def _steadied(spread: Float[Tensor, "K C"], images: int) -> Float[Tensor, "K C"]:
    """Spreads whose ratios to the first head's do not come from the chance of a few images.

    The ratio is what a head counts for in a category. The fewer images there are, the more its
    logarithm is drawn to its mean over the categories.
    """
    usable = spread > LEAST_SPREAD
    usable = usable & usable[0]
    ratio = (spread / spread[0]).log()
    mean = torch.where(usable, ratio, 0).sum(dim=1, keepdim=True) / usable.sum(dim=1, keepdim=True)
    drawn = (images * ratio + STEADY_IMAGES * mean) / (images + STEADY_IMAGES)
    return torch.where(usable, spread[0] * drawn.exp(), spread)


def _minimise(cost: Callable[[], Tensor], parameters: list[Tensor]) -> None:
    """Bring a smooth cost to its minimum, in place."""
    optimizer = torch.optim.LBFGS(parameters, max_iter=100, line_search_fn="strong_wolfe")

    def step() -> Tensor:
        optimizer.zero_grad()
        value = cost()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    with torch.enable_grad():
        optimizer.step(step)  # type: ignore[no-untyped-call]
