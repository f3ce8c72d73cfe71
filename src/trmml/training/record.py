"""The record of each epoch of training."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class EpochRecord:
    """What `fit` yields after each epoch, and a line of log.jsonl.

    Attributes:
        epoch: counted from 1.
        losses: mean of each term, unweighted; `weighted` has the same after weighting.
        held_out_map: mean AP over the held-out known labels, in [0, 1]; nan where none is defined.
        held_out_error: its standard error over the categories; nan with fewer than two.
        held_out_categories: over how many categories that mean is taken: those of which both a
            present and an absent label are held out.
        gradient_shares: each term's share of the gradient norm, at the epoch's first batch, on the
            parts that the classification trains; empty where no other term trains them.
        pseudo: counts of pseudo-labels in use, and their right share where the truth is known.
    """

    epoch: int
    epochs: int
    step: int
    seconds: float
    images_per_second: float
    seconds_left: float
    learning_rate: float
    losses: dict[str, float]
    weighted: dict[str, float]
    held_out_map: float
    held_out_error: float
    held_out_categories: int
    gradient_shares: dict[str, float] = field(default_factory=dict)
    pseudo: dict[str, float | int] = field(default_factory=dict)

    def __str__(self) -> str:
        terms = "  ".join(f"{name} {value:.4f}" for name, value in self.losses.items())
        scored = self.held_out_categories > 0
        held_out = f"{100 * self.held_out_map:.1f}" if scored else "- (nothing to score)"
        return (
            f"epoch {self.epoch}/{self.epochs}  held-out mAP {held_out}"
            f"  {terms}  {self.images_per_second:.0f} images/s  {self.seconds_left:.0f} s left"
        )
