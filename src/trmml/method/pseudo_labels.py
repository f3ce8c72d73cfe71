"""Pseudo-labels: the evidence for unknown pairs, and when it is strong enough to train on."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from trmml.labels.matrix import LabelMatrix
from trmml.labels.statistics import lacking_negatives
from trmml.method.prototypes import Prototypes
from trmml.metrics.calibration import fit_calibration, some_of_both
from trmml.settings.sections import PrototypeSettings


@torch.no_grad()
def evidence_of(
    region_features: Float[Tensor, "B k D"],
    text_features: Float[Tensor, "C D"],
    prototypes: Prototypes,
    categories: Int[Tensor, " k"],
) -> Float[Tensor, "B k"]:
    """How strongly both modalities speak for each category's presence; unbounded.

    Intra-category: nearness to the positive visual prototype and to the text, less nearness to the
    negative visual prototype. Inter-category: how much nearer the region lies to its own category's
    prototypes than to those of the nearest other categories.

    Args:
        region_features: of some categories, unit length.
        text_features: of all, unit length.
        prototypes: of all.
        categories: which.

    Source: method.md section 2.6. Comparing with the few nearest categories instead of all keeps
    the cost linear in C; the equal weights are ours.
    """

    def both(rows: Int[Tensor, "..."]) -> Float[Tensor, "... D"]:
        return F.normalize(prototypes.visual_positive[rows], dim=-1) + text_features[rows]

    negative = F.normalize(prototypes.visual_negative[categories], dim=-1)  # zero stays zero
    own = torch.stack([both(categories), negative], dim=1)
    rows = torch.cat([own, both(prototypes.rivals[categories])], dim=1)  # (k, 2 + R, D)
    # One product of each category's regions and rows: (B, k, 2 + R).
    products = torch.matmul(region_features.transpose(0, 1), rows.mT).transpose(0, 1)
    near, far, rivals = products[..., 0], products[..., 1], products[..., 2:]
    intra = near - far
    return intra + near - rivals.amax(dim=-1) if rivals.shape[-1] else intra


@dataclass(frozen=True)
class PseudoLabels:
    """Estimates for unknown pairs only.

    Attributes:
        labels: read only where `chosen` is True.
        chosen: True where the evidence was strong enough; never where a label is known.
    """

    labels: Bool[Tensor, "N C"]
    chosen: Bool[Tensor, "N C"]

    @classmethod
    def none(cls, matrix: LabelMatrix) -> "PseudoLabels":
        """No pseudo-label for any pair of a matrix."""
        nothing = torch.zeros_like(matrix.known)
        return cls(labels=nothing, chosen=nothing)

    def right_share(self, truth: LabelMatrix) -> dict[str, float | int]:
        """Counts, and the share that is right where the truth is known (nan where it is not)."""
        counts: dict[str, float | int] = {}
        for name, value in (("positive", True), ("negative", False)):
            picked = self.chosen & (self.labels == value)
            checked = picked & truth.known
            right = (truth.labels == value)[checked]
            counts[f"pseudo_{name}"] = int(picked.sum())
            counts[f"pseudo_{name}_right"] = float(right.float().mean())
        return counts


class PseudoLabeller:
    """Gathers the evidence of an epoch, and chooses from it the pseudo-labels of the next.

    Args:
        matrix: labels of all N images.
        held: images whose labels are held out: they calibrate nothing.
        settings: warm-up and thresholds.
        epochs: of the whole training.

    Attributes:
        evidence: of all pairs, in half precision; nan where none was gathered yet.
        labels: the pseudo-labels in use; none at first.
    """

    def __init__(
        self,
        matrix: LabelMatrix,
        held: Int[Tensor, " H"],
        *,
        settings: PrototypeSettings,
        epochs: int,
    ) -> None:
        self._matrix, self._held = matrix, held
        self._settings, self._epochs = settings, epochs
        self.evidence = torch.full(matrix.known.shape, torch.nan, dtype=torch.float16)
        self.labels = PseudoLabels.none(matrix)

    def gathers(self, epoch: int) -> bool:
        """Whether an epoch, counted from 0, gathers evidence: the next uses pseudo-labels."""
        return self._settings.warm_up_share * self._epochs <= epoch + 1 < self._epochs

    def gather(self, images: Int[Tensor, " B"], evidence: Float[Tensor, "B C"]) -> None:
        """Keep the evidence of a batch."""
        self.evidence[images] = evidence.to("cpu", torch.float16)

    def choose(self) -> None:
        """Choose the pseudo-labels from all evidence so far; without any they stay."""
        if not self.evidence.isfinite().any():
            return
        known = self._matrix.known.clone()
        known[self._held] = False
        visible = LabelMatrix(self._matrix.labels, known)
        self.labels = choose_pseudo_labels(self.evidence.float(), visible, self._settings)

    def tensors(self) -> dict[str, Tensor]:
        """All that continuing needs."""
        labels, chosen = self.labels.labels, self.labels.chosen
        return {"evidence": self.evidence, "pseudo.labels": labels, "pseudo.chosen": chosen}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue from what `tensors` gave."""
        self.evidence = tensors["evidence"]
        self.labels = PseudoLabels(tensors["pseudo.labels"], tensors["pseudo.chosen"])


def choose_pseudo_labels(
    evidence: Float[Tensor, "N C"], matrix: LabelMatrix, settings: PrototypeSettings
) -> PseudoLabels:
    """Label the unknown pairs whose evidence is strong.

    The evidence is turned into probabilities by a calibration on the known pairs, per category with
    a pooled fall-back (`calibration.fit_calibration`), so the thresholds adapt to each category. A
    category without a known positive gets none, nor one whose known negatives are fewer than a
    tenth of its positives.

    Args:
        evidence: from `evidence_of`; nan where it was not computed.
        matrix: the training labels.
        settings: the two probabilities.
    """
    present = evidence.isfinite()
    usable = matrix.known & present
    scaled = _standardised(evidence.float(), present)
    seen = LabelMatrix(matrix.labels, usable)
    checked = (seen.positives > 0) & (seen.negatives > 0) & (lacking_negatives(seen) == 0)  # (C)
    if not checked.any():
        return PseudoLabels.none(matrix)
    some = some_of_both(usable, matrix.labels)
    calibration = fit_calibration(scaled, matrix.labels, some.kept)
    # Where fewer negatives than positives were looked at, log-odds came out too high by that.
    drawn = math.log(some.positive / some.negative)
    probability = (calibration.logits(scaled) - drawn).sigmoid()
    positive = probability > settings.positive_above
    strong = positive | (probability < settings.negative_below)
    return PseudoLabels(labels=positive, chosen=strong & checked & ~matrix.known & present)


def _standardised(
    evidence: Float[Tensor, "N C"], present: Bool[Tensor, "N C"]
) -> Float[Tensor, "N C"]:
    """Evidence with mean 0 and spread 1 in each category; 0 where it was not computed."""
    count = present.sum(dim=0).clamp(min=1)
    finite = torch.where(present, evidence, 0)
    centred = torch.where(present, finite - finite.sum(dim=0) / count, 0)
    return centred / (centred.square().sum(dim=0) / count).sqrt().clamp(min=1e-6)
