"""What scores with labels must be before anything is measured or calibrated on them."""

import torch
from torch import Tensor

from trmml.errors import DataError


def check_pairs(scores: Tensor, labels: Tensor, known: Tensor) -> None:
    """Refuse anything but finite floats with bool labels and known of the same, non-empty shape.

    Raises:
        DataError: naming what is wrong, and the first entry that is not finite.
    """
    if not scores.is_floating_point():
        raise DataError(f"Scores must be floating point, got {scores.dtype}.")
    for name, part in (("labels", labels), ("known", known)):
        if part.dtype != torch.bool:
            raise DataError(f"{name} must be a bool tensor, got {part.dtype}.")
        if part.shape != scores.shape:
            raise DataError(
                f"{name} must have the shape of the scores, {tuple(scores.shape)}, "
                f"got {tuple(part.shape)}."
            )
    if scores.numel() == 0:
        raise DataError(f"Expected at least one image and one category, got {tuple(scores.shape)}.")
    _refuse_where(~torch.isfinite(scores), scores, "be finite")


def check_scores(scores: Tensor, labels: Tensor, known: Tensor) -> None:
    """`check_pairs`, and scores must lie in [0, 1].

    Raises:
        DataError: naming what is wrong, and the first entry out of range.
    """
    check_pairs(scores, labels, known)
    wrong = (scores < 0) | (scores > 1)
    _refuse_where(wrong, scores, "lie in [0, 1]; for logits, apply torch.sigmoid first")


def _refuse_where(wrong: Tensor, scores: Tensor, rule: str) -> None:
    if bool(wrong.any()):
        place = wrong.nonzero()[0].tolist()
        value = scores[tuple(place)].item()
        raise DataError(f"Scores must {rule}. Got {value:g} at index {place}.")
