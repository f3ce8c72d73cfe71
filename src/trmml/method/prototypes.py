"""Multimodal category prototypes: what the regions of a category are like."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from trmml.features import ranks
from trmml.settings.sections import PrototypeSettings

# Rows of the table of similarities that are made at a time.
RIVAL_ROWS = 1024


class Prototypes(nn.Module):
    """Running means of region features: of known positives and of known negatives.

    Shapes: visual_positive, visual_negative (C, D), not normalised; seen_* (C), how many regions
        entered each; rivals (C, R), the nearest other categories.
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

        With n regions so far and k new, the weight of the old mean is min(n / (n + k), momentum^k):
        a plain mean at first, so that the first regions are no outsiders, a running one later.
        """
        momentum = self.settings.momentum
        which = torch.stack([labels & known, ~labels & known]).to(region_features)  # (2, B, k)
        sums = torch.matmul(which.permute(2, 0, 1), region_features.transpose(0, 1))  # (k, 2, D)
        sums, new = ranks.total(sums), ranks.total(which.sum(dim=1))  # new: (2, k)
        for index, means, counts in (
            (0, self.visual_positive, self.seen_positive),
            (1, self.visual_negative, self.seen_negative),
        ):
            mean, before, count = means[categories], counts[categories], new[index]
            keep = torch.minimum(before / (before + count).clamp(min=1), momentum**count)[:, None]
            moved = keep * mean + (1 - keep) * sums[:, index] / count.clamp(min=1)[:, None]
            means[categories] = torch.where(count[:, None] > 0, moved, mean)
            counts[categories] = before + count

    @torch.no_grad()
    def choose_rivals(self, text_features: Float[Tensor, "C D"]) -> None:
        """Find the categories nearest to each, by both modalities; once an epoch is enough.

        It is the one thing whose cost grows with the square of C.
        """
        visual = F.normalize(self.visual_positive, dim=-1)
        for start in range(0, len(visual), RIVAL_ROWS):
            rows = slice(start, start + RIVAL_ROWS)
            similarity = visual[rows] @ visual.T + text_features[rows] @ text_features.T
            similarity.diagonal(start).fill_(float("-inf"))
            self.rivals[rows] = similarity.topk(self.rivals.shape[1], dim=1).indices
