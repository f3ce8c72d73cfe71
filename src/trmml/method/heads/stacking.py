"""The logits of several heads in one, each weighted by how well it explains held-out labels."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from trmml.features import ranks
from trmml.metrics.calibration import MOST_PAIRS, some_of_both

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
# How strongly the scale of all weights is held to 1, and the log-odds of all pairs together to
# those of the known shares, in pairs: else they have no bound where few labels are held out.
SCALE_STRENGTH = 1.0
# From so many images on, what is measured on them counts more than what training batches had.
TRACKED_IMAGES = 50
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

    @property
    def fitted(self) -> bool:
        """Whether the sum is log-odds by a fit to held-out labels."""
        return bool((self.slope != 1).any())

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
        keep = MOMENTUM if bool(self.spread[0].any()) else 0.0
        mean, spread = self.mean[: len(stack)], self.spread[: len(stack)]
        if stack.shape[1] > 1:
            mean.lerp_(stack.mean(dim=1), 1 - keep)
            spread.lerp_(stack.std(dim=1), 1 - keep)
        elif bool(self.mean[0].any()):  # one image has no spread but from the mean of others
            one = stack[:, 0]
            spread.copy_(spread.square().lerp((one - mean).square(), 1 - keep).sqrt())
            mean.lerp_(one, 1 - MOMENTUM)
        else:
            mean.copy_(stack[:, 0])

    @torch.no_grad()
    def measure(self, heads: Float[Tensor, "K N C"]) -> None:
        """Take mean and spread from images that were not trained on.

        In a few images they are mostly chance. So the fewer there are, the more a category's are
        drawn to those of the training batches, which differ by about the same in all categories.
        """
        images = heads.shape[1]
        if images < 2:
            return
        mean, spread = heads.mean(dim=1), heads.std(dim=1)
        tracked = (self.spread > LEAST_SPREAD) & (spread > LEAST_SPREAD)
        moved = (mean - self.mean) / self.spread
        moved = _drawn_together(moved, tracked, images, TRACKED_IMAGES)
        wider = _drawn_together((spread / self.spread).log(), tracked, images, TRACKED_IMAGES)
        self.mean.copy_(torch.where(tracked, self.mean + moved * self.spread, mean))
        first = torch.where(tracked[0], self.spread[0] * wider[0].exp(), spread[0])
        # A head's ratio to the first is what it counts for in a category.
        usable = (spread > LEAST_SPREAD) & (spread[0] > LEAST_SPREAD)
        ratio = _drawn_together((spread / spread[0]).log(), usable, images, STEADY_IMAGES)
        self.spread.copy_(torch.where(usable, first * ratio.exp(), spread))

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

        Where no positive or no negative is held out, the weights stay: the log-odds of all pairs
        would have no bound.

        Args:
            heads: logits of the held-out images.
            targets: 1 where a category is present.
            weights: of each pair; 0 where nothing is known.
            positive_share: of each category among the known training labels, strictly between 0
                and 1.
        """
        if not all(float((side * weights).sum()) > 0 for side in (targets, 1 - targets)):
            return
        scaled = torch.stack([self._standardised(k, each) for k, each in enumerate(heads)])
        # Most pairs are unknown: only the others are used, and of them no more than help.
        some = some_of_both(weights > 0, targets > 0, MOST_PAIRS)
        used = some.kept  # each stands for as many as there are
        weights = weights / torch.where(targets > 0, some.positive, some.negative)
        offset = positive_share.logit().expand_as(used)
        pairs = _Pairs(scaled[:, used], targets[used], weights[used], offset[used])
        worth = _worth_alone(pairs, self.weights)
        if not worth.any():
            return
        together, shift = _weights_together(pairs, worth / worth.max())
        self.weights.copy_(together / together.sum() * len(together))
        # Until now the sum has the scale of the first head in each category; that of the fit is
        # the same in all.
        measured, spread = self.spread[0] > LEAST_SPREAD, self.spread[0].clamp(min=LEAST_SPREAD)
        self.slope.copy_(torch.where(measured, together.mean() / spread, 1.0))
        offset = positive_share.logit() + shift - self.slope * self.mean[0]
        self.offset.copy_(torch.where(measured, offset, 0.0))


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
        held = held + SCALE_STRENGTH * (shift.square() + (F.softplus(scale) - 1).square())
        return pairs.entropy(size @ pairs.scaled + shift) + held

    _minimise(cost, [free, scale, shift])
    return F.softplus(free.detach()), shift.detach()


def _drawn_together(
    values: Float[Tensor, "K C"], usable: Bool[Tensor, "K C"], images: int, strength: int
) -> Float[Tensor, "K C"]:
    """Values drawn to their mean over a head's usable categories, the more the fewer images."""
    count = usable.sum(dim=1, keepdim=True)
    mean = torch.where(usable, values, 0).sum(dim=1, keepdim=True) / count
    return (images * values + strength * mean) / (images + strength)


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
