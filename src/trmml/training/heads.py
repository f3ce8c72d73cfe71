"""Training of the image head: many passes over the mean patches, before the first epoch.

With `spectrum_power` p the input is turned by T before it is learned from:

    T = k U diag(v^p) U',  U diag(v) U' = covariance of the prepared means over all given images

Those are the images that are not held out; without pseudo-labels, only those with a known label.
Early in training, or held by weight decay, a linear map prefers directions of much variance; p
above 0 makes it do so more, below 0 less, and -0.5 is whitening. Which is right depends on whether
images mostly differ in what their labels name. k keeps the mean variance at 1. At the end T is
multiplied into the weights, so that tagging knows nothing of it.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from trmml.errors import TrainingError
from trmml.features.base import FeatureSource, Progress, read_features
from trmml.labels.matrix import LabelMatrix
from trmml.labels.statistics import known_positive_share, lacking_negatives
from trmml.method.classification import matrix_weights, weighted_bce
from trmml.method.heads.image_head import ImageHead
from trmml.method.layers import principal_directions, signed_root
from trmml.settings.sections import TrainingSettings
from trmml.training.schedule import learning_rate

# Steps that are made at least: few images make few in the passes that thousands need.
LEAST_STEPS = 200
# Principal directions of less variance than this are taken to have it (the mean is 1).
LEAST_VARIANCE = 1e-2
# Mean patches that are computed with at a time: those of many images are kept in half precision.
MEANS_BATCH = 1024


def train_image_head(
    head: ImageHead,
    pooled: Float[Tensor, "V N W"],
    matrix: LabelMatrix,
    training: TrainingSettings,
    progress: Progress | None = None,
) -> None:
    """Train by binary cross-entropy over known pairs, from a random view of each image.

    Blanks count as negatives where a category lacks known ones. The two parts of the head share
    nothing but the data; each has a rate of its own. Images without a known label take no part.

    Args:
        head: starts again from nothing.
        pooled: mean hidden patches of V views of N images.
        matrix: their labels, on the CPU.
        training: seed, weight decay, precision, and the shape of the schedule.
        progress: called with ("image head", done, total) after each pass, in images.

    Raises:
        TrainingError: the loss is not finite.
    """
    answered = matrix.answered
    if not len(answered):
        return  # there is nothing to learn from
    device = head.standard.mean.device
    with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.enable_grad():
        torch.manual_seed(training.seed)
        turn = start_image_head(head, pooled.flatten(0, 1), known_positive_share(matrix))
        head.requires_grad_(True).train()
        _passes(head, pooled, matrix, answered, training, turn, progress)
        head.requires_grad_(False).eval()
    if turn is not None:
        head.absorb(turn)


def mean_patches(
    source: FeatureSource, views: int, progress: Progress | None
) -> Float[Tensor, "V N W"]:
    """Mean hidden patches of all views of some images, in fp16: 2 W bytes each."""
    kind = torch.float16
    hidden, _ = read_features(source, pooled=True, views=views, dtype=kind, progress=progress)
    return hidden[:, :, 0]


def start_image_head(
    head: ImageHead, pooled: Float[Tensor, "M W"], positive_share: Float[Tensor, " C"]
) -> Float[Tensor, "W W"] | None:
    """Measure the standardisation, start the weights, and make T where one is asked for."""
    device = head.standard.mean.device
    parts = torch.split(pooled, MEANS_BATCH)
    head.standard.measure(signed_root(part.to(device).float()) for part in parts)
    head.start(positive_share)
    return _turn(head, pooled) if head.settings.spectrum_power else None


def _passes(
    head: ImageHead,
    pooled: Float[Tensor, "V N W"],
    matrix: LabelMatrix,
    answered: Int[Tensor, " M"],
    training: TrainingSettings,
    turn: Float[Tensor, "W W"] | None,
    progress: Progress | None,
) -> None:
    """All passes over the answered images; at least LEAST_STEPS steps."""
    settings, device = head.settings, head.standard.mean.device
    optimizer, rates = _optimizer(head, training)
    blank = lacking_negatives(matrix)
    batches = math.ceil(len(answered) / settings.batch_size)
    passes = max(settings.epochs, math.ceil(LEAST_STEPS / batches))
    shares = _shares(passes * batches, training)
    generator = torch.Generator().manual_seed(training.seed)
    # In fp16 gradients could vanish without a scaler, so half is bf16 here.
    half = torch.autocast(device.type, torch.bfloat16, enabled=training.precision != "32-true")
    for done in range(1, passes + 1):
        order = answered[torch.randperm(len(answered), generator=generator)]
        for part in torch.split(order, settings.batch_size):
            share = next(shares)
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = share * rate
            view = torch.randint(len(pooled), (len(part),), generator=generator)
            prepared = head.prepared(pooled[view, part].to(device, torch.float32))
            with half:
                logits = head.logits(prepared if turn is None else prepared @ turn)
            loss = _loss(logits, matrix.subset(part), blank)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()
        if not loss.isfinite():  # and never is again once it was not
            raise TrainingError(
                f"the loss of the image head is {loss.item():g} after pass {done} of {passes};"
                " lower image_head.learning_rate and image_head.linear_rate, or set"
                " image_head.use=false"
            )
        if progress is not None:
            progress("image head", done * len(answered), passes * len(answered))


def _shares(steps: int, training: TrainingSettings) -> Iterator[float]:
    """The learning rate of each step as a share of the highest."""
    for step in range(steps):
        yield learning_rate(step, steps, training) / training.learning_rate


def _optimizer(
    head: ImageHead, training: TrainingSettings
) -> tuple[torch.optim.AdamW, list[float]]:
    """Weights, with decay, and biases, without and faster; the highest rate of each group."""
    settings, layers = head.settings, head.layers
    parts = [(settings.learning_rate, layers.out, [layers.into.weight, layers.out.weight])]
    if head.linear is not None:
        parts.append((settings.linear_rate, head.linear, [head.linear.weight]))
    groups, rates = list[dict[str, Any]](), list[float]()
    for rate, last, weights in parts:
        groups.append({"params": weights, "weight_decay": training.weight_decay})
        groups.append({"params": [last.bias], "weight_decay": 0.0})
        rates += [rate, training.fast_factor * rate]
    return torch.optim.AdamW(groups), rates


@torch.no_grad()
def _turn(head: ImageHead, pooled: Float[Tensor, "M W"]) -> Float[Tensor, "W W"]:
    """T: each principal direction of the prepared means by its variance to the power p."""
    device = head.standard.mean.device
    parts = torch.split(pooled, MEANS_BATCH)
    variance, directions = principal_directions(
        head.prepared(part.to(device).float()) for part in parts
    )
    variance = variance.clamp(min=LEAST_VARIANCE * float(variance.mean()))
    scale = variance**head.settings.spectrum_power
    scale /= (scale.square() * variance).mean().sqrt()
    turn: Tensor = (directions * scale) @ directions.T
    return turn.to(device, torch.float32)


def _loss(
    logits: Mapping[str, Float[Tensor, "B C"]], rows: LabelMatrix, blank: Float[Tensor, " C"]
) -> Tensor:
    """Sum of the parts' own losses; a blank is a negative of the category's weight."""
    terms = []
    for own in logits.values():
        labels = (rows.labels & rows.known).to(own.device)
        weights = matrix_weights(rows, blank).to(own.device)
        terms.append(weighted_bce(own.float(), labels, weights))
    return torch.stack(terms).sum()
