"""What is fixed before training: which labels are held out, what learns, and at which rate."""

import math
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from trmml.errors import ConfigError, DataError
from trmml.labels.matrix import LabelMatrix
from trmml.method.interface import MultiLabelModel
from trmml.settings.sections import Settings, TrainingSettings

# One-cycle: the first and the last learning rate, as shares of the highest.
FIRST_RATE, LAST_RATE = 0.05, 0.001
# Epochs that are added at most: the same hundred images teach nothing more often than that.
MOST_EPOCHS = 200
# Times a million, and the epochs, a seed must stay below what torch takes.
MOST_SEEDS = 2**43


def planned(settings: Settings, matrix: LabelMatrix) -> TrainingSettings:
    """The settings of the loop with enough epochs for the data; what cannot work is refused.

    The run keeps the settings as they were asked for: with more labels fewer epochs are enough.

    Args:
        settings: of TRM-ML.
        matrix: labels of the images to train on and to hold out.

    Raises:
        ConfigError: see `refuse_contradictions`.
        DataError: too few known labels, or none that is present.
    """
    refuse_contradictions(settings)
    if len(matrix.answered) > 1 and not matrix.labels.any():
        raise DataError(
            f"expected at least one label that is present, got {int(matrix.known.sum())} known"
            " labels that are all absent; nothing is learned from these alone: fill in what the"
            " images show"
        )
    all_images = settings.learns_from_unanswered
    training = enough_epochs(settings.training, matrix, all_images=all_images)
    hold_out(matrix, training.held_out_share, training.seed)
    return training


def refuse_contradictions(settings: Settings) -> None:
    """Refuse settings with which nothing can be trained, each of which is in its range.

    They are read all the same: a run of before may have them.

    Raises:
        ConfigError: naming the two.
    """
    if settings.neighbour_head.use and not settings.stacking.fit_weights:
        raise ConfigError(
            "neighbour_head.use=true needs stacking.fit_weights=true: the head learns nothing in"
            " training, so no other weight than a fitted one is known for it"
        )
    if settings.training.seed >= MOST_SEEDS:
        raise ConfigError(
            f"expected training.seed below {MOST_SEEDS}, got {settings.training.seed}: the seeds of"
            " its epochs would be too large"
        )
    below, above = settings.prototypes.negative_below, settings.prototypes.positive_above
    if below > above:
        raise ConfigError(
            f"prototypes.negative_below is {below} and positive_above {above}: a pair between them"
            " would be both; set the first no higher than the second"
        )


def enough_epochs(
    settings: TrainingSettings, matrix: LabelMatrix, *, all_images: bool
) -> TrainingSettings:
    """The settings with up to `MOST_EPOCHS` where few images make fewer than `least_steps`.

    Args:
        settings: of the loop.
        matrix: labels of the images to train on and to hold out.
        all_images: whether those without a known label take part, see
            `WholeSettings.learns_from_unanswered`.

    Example:
        >>> def epochs(settings, answered, all_images=False):
        ...     known = torch.arange(2000)[:, None] < answered
        ...     matrix = LabelMatrix(torch.zeros_like(known), known)
        ...     return enough_epochs(settings, matrix, all_images=all_images).epochs
        >>> epochs(TrainingSettings(), 1500), epochs(TrainingSettings(), 1500, all_images=True)
        (46, 35)
        >>> epochs(TrainingSettings(), 60)
        200
        >>> epochs(TrainingSettings(epochs=5), 150)
        5
        >>> epochs(TrainingSettings(epochs=5, least_steps=100), 150)
        34
    """
    images = len(matrix) if all_images else len(matrix.answered)
    kept = max(1, round((1 - settings.held_out_share) * images))
    steps = math.ceil(math.ceil(kept / settings.batch_size) / settings.accumulate)
    epochs = max(settings.epochs, min(MOST_EPOCHS, math.ceil(settings.least_steps / steps)))
    return settings.model_copy(update={"epochs": epochs})


def learning_rate(step: int, steps: int, settings: TrainingSettings) -> float:
    """One-cycle: linear warm-up, then a cosine down to almost nothing.

    Example:
        >>> settings = TrainingSettings(learning_rate=1.0, warm_up_share=0.5)
        >>> [round(learning_rate(step, 4, settings), 3) for step in range(4)]
        [0.05, 0.525, 1.0, 0.5]
    """
    warm = round(settings.warm_up_share * steps)
    if step < warm:
        return settings.learning_rate * (FIRST_RATE + (1 - FIRST_RATE) * step / warm)
    done = (step - warm) / max(1, steps - warm)
    share = LAST_RATE + (1 - LAST_RATE) * 0.5 * (1 + math.cos(math.pi * done))
    return settings.learning_rate * share


def hold_out(
    matrix: LabelMatrix, share: float, seed: int
) -> tuple[Int[Tensor, " K"], Int[Tensor, " H"]]:
    """Indices of the images to train on, and of those held out.

    Only images with a known label are drawn; an image's labels are held out together, because
    its pixels must not be seen either. At least one image stays on each side.
    """
    generator = torch.Generator().manual_seed(seed)
    answered = matrix.answered
    if len(answered) < 2:
        raise DataError(
            "expected known labels on at least 2 images, to train on and to choose by, got"
            f" {len(answered)} of {len(matrix)} images with any; fill in what you know: 1 present,"
            " 0 absent"
        )
    count = min(max(1, round(share * len(answered))), len(answered) - 1)
    held = answered[torch.randperm(len(answered), generator=generator)[:count]].sort().values
    kept = torch.ones(len(matrix.labels), dtype=torch.bool)
    kept[held] = False
    return kept.nonzero()[:, 0], held


def parameter_groups(model: MultiLabelModel, settings: TrainingSettings) -> list[dict[str, Any]]:
    """What learns: fast parameters without weight decay, the others with it."""
    fast, factors = set(model.fast_parameters()), model.rate_factors()
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            factor = next((f for part, f in factors.items() if name.startswith(part)), 1.0)
            decay = 0.0 if name in fast else settings.weight_decay
            factor *= settings.fast_factor if name in fast else 1.0
            groups.setdefault((factor, decay), []).append(parameter)
    return [
        {"params": parameters, "factor": factor, "weight_decay": decay}
        for (factor, decay), parameters in groups.items()
    ]
