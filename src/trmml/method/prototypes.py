"""Multimodal category prototypes, and the pseudo-labels they give to unknown pairs."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from trmml.labels.matrix import LabelMatrix
from trmml.method.matching import match
from trmml.metrics.calibration import fit_calibration, some_pairs
from trmml.settings.sections import PrototypeSettings

# Rows of the table of likenesses that are made at a time.
RIVAL_ROWS = 1024


class Prototypes(nn.Module):
    """Running means of region features: of known positives and of known negatives.

    Shapes: visual_positive, visual_negative (C, D), not normalised; seen_* (C) counts; rivals
        (C, R), the nearest other categories.
    Trains: nothing; `update` moves the buffers.
    Paper letters: p^v is our visual_positive; the text prototype p^t is the text feature itself.
    """

    visual_positive: Tensor
    visual_negative: Tensor
    seen_positive: Tensor
    seen_negative: Tensor
    rivals: Tensor

    def __init__(self, *, categories: int, feature_size: int, settings: PrototypeSettings) -> None:
        super().__init__()
        self.settings = settings
        for name in ("positive", "negative"):
            self.register_buffer(f"visual_{name}", torch.zeros(categories, feature_size))
            self.register_buffer(f"seen_{name}", torch.zeros(categories))
        count = min(settings.neighbours, categories - 1)
        self.register_buffer("rivals", torch.zeros(categories, count, dtype=torch.long))

    @torch.no_grad()
    def update(
        self,
        region_features: Float[Tensor, "B k D"],
        labels: Bool[Tensor, "B k"],
        known: Bool[Tensor, "B k"],
        categories: Int[Tensor, " k"],
    ) -> None:
        """Move the prototypes of some categories towards the mean of this batch's known regions.

        With n seen so far and k new, the weight of the old mean is min(n / (n + k), momentum^k):
        a plain mean at first, so that the first regions are no outsiders, a running one later.
        """
        momentum = self.settings.momentum
        which = torch.stack([labels & known, ~labels & known]).to(region_features)  # (2, B, k)
        sums = torch.matmul(which.permute(2, 0, 1), region_features.transpose(0, 1))  # (k, 2, D)
        new = which.sum(dim=1)  # (2, k)
        for index, means, counts in (
            (0, self.visual_positive, self.seen_positive),
            (1, self.visual_negative, self.seen_negative),
        ):
            mean, seen, count = means[categories], counts[categories], new[index]
            keep = torch.minimum(seen / (seen + count).clamp(min=1), momentum**count)[:, None]
            moved = keep * mean + (1 - keep) * sums[:, index] / count.clamp(min=1)[:, None]
            means[categories] = torch.where(count[:, None] > 0, moved, mean)
            counts[categories] = seen + count

    @torch.no_grad()
    def choose_rivals(self, text_features: Float[Tensor, "C D"]) -> None:
        """Find the categories nearest to each, by both modalities; once an epoch is enough.

        It is the one thing whose cost grows with the square of C.
        """
        visual = F.normalize(self.visual_positive, dim=-1)
        for start in range(0, len(visual), RIVAL_ROWS):
            rows = slice(start, start + RIVAL_ROWS)
            likeness = visual[rows] @ visual.T + text_features[rows] @ text_features.T
            likeness.diagonal(start).fill_(float("-inf"))
            self.rivals[rows] = likeness.topk(self.rivals.shape[1], dim=1).indices

    @torch.no_grad()
    def evidence(
        self,
        region_features: Float[Tensor, "B k D"],
        text_features: Float[Tensor, "C D"],
        categories: Int[Tensor, " k"],
    ) -> Float[Tensor, "B k"]:
        """How much both modalities say that a category is present; unbounded.

        Intra-category: nearness to the positive visual prototype and to the text, less nearness
        to the negative visual prototype. Inter-category: how much nearer the region lies to its
        own category's prototypes than to those of the nearest other categories.

        Args:
            region_features: of some categories, unit length.
            text_features: of all, unit length.
            categories: which.

        Source: method.md section 2.6. Comparing with the few nearest categories instead of all
        keeps the cost linear in C; the equal weights are ours.
        """

        def both(rows: Int[Tensor, "..."]) -> Float[Tensor, "... D"]:
            return F.normalize(self.visual_positive[rows], dim=-1) + text_features[rows]

        near = match(region_features, both(categories))
        negative = F.normalize(self.visual_negative[categories], dim=-1)  # zero stays zero
        intra = near - match(region_features, negative)
        if self.rivals.shape[1] == 0:
            return intra
        others = both(self.rivals[categories])  # (k, R, D)
        regions = region_features.transpose(0, 1)  # (k, B, D)
        rival = torch.matmul(regions, others.transpose(1, 2)).amax(dim=-1).T
        return intra + near - rival


@dataclass(frozen=True)
class PseudoLabels:
    """Estimates for unknown pairs only.

    Attributes:
        labels: read only where `chosen` is True.
        chosen: True where the evidence was strong enough; never where a label is known.
    """

    labels: Bool[Tensor, "N C"]
    chosen: Bool[Tensor, "N C"]

    def right_share(self, truth: LabelMatrix) -> dict[str, float | int]:
        """Counts, and the share that is right where the truth is known (nan where it is not)."""
        row: dict[str, float | int] = {}
        for name, value in (("positive", True), ("negative", False)):
            picked = self.chosen & (self.labels == value)
            checked = picked & truth.known
            right = (truth.labels == value)[checked]
            row[f"pseudo_{name}"] = int(picked.sum())
            row[f"pseudo_{name}_right"] = float(right.float().mean())
        return row


def pseudo_labels(
    evidence: Float[Tensor, "N C"], matrix: LabelMatrix, settings: PrototypeSettings
) -> PseudoLabels:
    """Label the unknown pairs whose evidence is strong.

    The evidence is turned into probabilities by what it was worth on the known pairs, per
    category with a pooled fall-back (`calibration.fit_calibration`): so the thresholds adapt to
    each category. A category without a known negative cannot be calibrated: there a pair is
    pseudo-positive above the median evidence of the known positives, and never pseudo-negative.

    Args:
        evidence: from `Prototypes.evidence`; nan where it was not computed.
        matrix: the training labels.
        settings: the two probabilities.
    """
    present = evidence.isfinite()
    usable = matrix.known & present
    scaled = _standardised(evidence.float(), present)
    both = (usable & matrix.labels).any(dim=0) & (usable & ~matrix.labels).any(dim=0)
    positive = negative = torch.zeros_like(present)
    if both.any():
        calibration = fit_calibration(scaled, matrix.labels, some_pairs(usable))
        probability = calibration.probabilities(scaled)
        positive = probability > settings.positive_above
        negative = probability < settings.negative_below
    known_positive = matrix.labels & usable
    one_sided = (usable & ~matrix.labels).sum(dim=0) == 0  # (C)
    median = torch.where(known_positive, scaled, torch.nan).nanmedian(dim=0).values
    above = scaled >= torch.where(median.isnan(), torch.inf, median)
    positive = torch.where(one_sided, above, positive)
    negative = negative & ~one_sided
    return PseudoLabels(labels=positive, chosen=(positive | negative) & ~matrix.known & present)


def _standardised(
    evidence: Float[Tensor, "N C"], present: Bool[Tensor, "N C"]
) -> Float[Tensor, "N C"]:
    """Evidence with mean 0 and spread 1 in each category; 0 where it was not computed."""
    count = present.sum(dim=0).clamp(min=1)
    finite = torch.where(present, evidence, 0)
    centred = torch.where(present, finite - finite.sum(dim=0) / count, 0)
    return centred / (centred.square().sum(dim=0) / count).sqrt().clamp(min=1e-6)
