"""Rules that say which training labels stay known, as the field hides them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from trmml.errors import ConfigError, DataError
from trmml.labels.matrix import LabelMatrix
from trmml.settings.choices import Protocol

# What tables call the mean over all shares; no mask may be called so.
MEAN = "mean"


@dataclass(frozen=True, eq=False)
class MaskRule:
    """A rule that hides labels, by a seed; made by the functions below.

    Attributes:
        name: as in tables, for example "10 %".
        protocol: whose settings apply.
        share: of the labels that stay known, in (0, 1]; None for another rule.
        quota: of known positives and negatives of each category; None for another rule.
        mask: what is known, whatever the seed; None for another rule.
    """

    name: str
    protocol: Protocol
    share: float | None = None
    quota: tuple[int, int] | None = None
    mask: LabelMatrix | None = None

    def apply(self, labels: LabelMatrix, seed: int) -> LabelMatrix:
        """The labels with those hidden that the rule hides.

        Raises:
            DataError: a fixed mask is of other images or categories.
        """
        if self.share is not None:
            return labels.hide(self.share, seed)
        if self.quota is not None:
            return labels.keep_quota(*self.quota, seed)
        if self.mask is None:
            return labels.keep_single_positive(seed)
        if self.mask.known.shape != labels.known.shape:
            raise DataError(
                f"the mask {self.name!r} is of {_shape(self.mask)}, the training labels are of "
                f"{_shape(labels)}. Take the mask of the same images and categories."
            )
        return LabelMatrix(labels.labels, labels.known & self.mask.known)

    def subset(self, indices: Sequence[int]) -> "MaskRule":
        """The same rule for some of the images."""
        if self.mask is None:
            return self
        return replace(self, mask=self.mask.subset(torch.tensor(indices, dtype=torch.long)))


def share_known(share: float) -> MaskRule:
    """Each label stays known with one probability: the rule of SST and SARB.

    Args:
        share: in (0, 1].

    Raises:
        ConfigError: it is out of range.

    Example:
        >>> share_known(0.1).name
        '10 %'
    """
    if not 0 < share <= 1:
        raise ConfigError(
            f"the share of known labels must be above 0 and at most 1, got {share:g}; "
            "to keep 10 percent, write 0.1"
        )
    return MaskRule(f"{100 * share:g} %", "partial", share=share)


def single_positive() -> MaskRule:
    """One present category per image is known, and nothing else."""
    return MaskRule("single positive", "single_positive")


def quota(positives: int, negatives: int) -> MaskRule:
    """So many present and absent labels of each category are known; see `keep_quota`.

    Example:
        >>> quota(10, 40).name
        'quota 10 + 40'
    """
    protocol: Protocol = "partial" if negatives else "single_positive"
    return MaskRule(f"quota {positives} + {negatives}", protocol, quota=(positives, negatives))


def fixed(name: str, mask: LabelMatrix) -> MaskRule:
    """A mask from elsewhere; without a known negative it counts as single positive.

    Args:
        name: for tables.
        mask: which pairs are known; of its labels only whether any of these is absent.

    Raises:
        ConfigError: tables call something else so.
    """
    if name == MEAN:
        raise ConfigError(
            f"expected a name of the mask's own, got {name!r}, as tables call the mean over shares"
            " of known labels; give the mask, or its file, another name"
        )
    protocol: Protocol = "partial" if bool((mask.known & ~mask.labels).any()) else "single_positive"
    return MaskRule(name, protocol, mask=mask)


def _shape(matrix: LabelMatrix) -> str:
    return f"{matrix.known.shape[0]} images and {matrix.known.shape[1]} categories"
