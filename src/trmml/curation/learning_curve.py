"""mAP against what it cost: where a session stands, the area under its curve, the way to a goal."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

from trmml.settings.choices import Unit


@dataclass(frozen=True)
class Point:
    """Where a session stands: test mAP in [0, 1], and all that it cost so far."""

    mean_ap: float
    answers: int = 0
    present: int = 0  # answers that a category is present
    questions: int = 0  # blocks, or whole images
    exceptions: int = 0  # marks that were corrected
    seconds: float = 0.0

    def spent(self, unit: Unit) -> float:
        """Answers or seconds so far."""
        return float(self.answers) if unit == "answers" else self.seconds


def area(points: Sequence[Point], unit: Unit, budget: float) -> float:
    """Mean mAP over a budget, straight between points; the last counts for what is left unspent.

    Example:
        >>> round(area([Point(0.2), Point(0.4, answers=50)], "answers", 100.0), 6)
        0.35
    """
    places = torch.tensor([point.spent(unit) for point in points], dtype=torch.float64)
    scores = torch.tensor([point.mean_ap for point in points], dtype=torch.float64)
    inside = places.clamp(max=budget).diff()
    reached = scores[:-1] + scores.diff() * inside / places.diff()
    total = (inside * (scores[:-1] + reached) / 2).sum()
    return float(total + (budget - places[-1]).clamp(min=0) * scores[-1]) / budget


def needed(points: Sequence[Point], unit: Unit, goal: float) -> float | None:
    """Answers or seconds until the mAP first reaches a goal, straight between points; None: never.

    Example:
        >>> round(needed([Point(0.2), Point(0.4, answers=50)], "answers", 0.3), 6)
        25.0
    """
    if points[0].mean_ap >= goal:
        return 0.0
    for before, after in pairwise(points):
        if after.mean_ap >= goal:
            share = (goal - before.mean_ap) / (after.mean_ap - before.mean_ap)
            way = after.spent(unit) - before.spent(unit)
            return before.spent(unit) + share * way
    return None
