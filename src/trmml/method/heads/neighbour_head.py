"""A head on the training images that look most alike; beyond the paper, and an option."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from trmml.labels.matrix import LabelMatrix
from trmml.labels.statistics import known_positive_share, lacking_negatives
from trmml.method.layers import principal_directions, signed_root
from trmml.settings.sections import NeighbourHeadSettings

# Variance to this power scales each principal direction: between as it is (0) and whitening (-0.5).
SPECTRUM_POWER = -0.125
# What is tried for the sharpness, by factors of the square root of two.
SHARPNESS = tuple(2 ** (step / 2) for step in range(2, 13))
# Directions of a smaller share of the widest one's variance than this are left out.
LEAST_SHARE = 1e-6
# With fewer than two images nothing can be left out, and this stays.
DEFAULT_SHARPNESS = 8.0
# Remembered images that are left out in turn to choose the sharpness, and how many at a time.
LEFT_OUT, BATCH = 2048, 256
# Above this cosine two images are the same one: half precision leaves it 0.9997. Its place in the
# softmax is that of a cosine that none has, which weighs nothing.
SAME, NOWHERE = 0.999, -30.0


class NeighbourHead(nn.Module):
    """Logits of the whole image, from the known labels of the training images most like it.

    a_i = softmax_i(s <u, u_i>),  u = unit(E (root(mean_p h_p) - m))
    p_c = (sum_i a_i w_ic y_ic + share_c / N) / (sum_i a_i w_ic + 1 / N),  logit_c = log p_c/(1-p_c)

    root is the signed square root, m its mean over the N remembered images, and E their first
    principal directions, each scaled by a power of its variance. w_ic is 1 where the label is
    known, and what a blank counts for elsewhere. Every neighbour has its say, the nearest most: in
    a series of much the same image those few decide, and an image like no other falls back on the
    share of positives. The sharpness s is what best explains remembered images by the others, their
    blanks included where those count. An image that is remembered is not its own neighbour: what is
    unknown of it would count as absent, and what is known would say nothing new.

    Shapes: mean hidden patches (B, W) -> logits (B, C).
    Trains: nothing; `remember` fills the buffers, which are empty before.
    Source: TagProp (Guillaumin et al. 2009, section 3: weights by distance, by the likelihood of
        each image without itself), with one distance; the share in place of its constant, blanks,
        and the directions are ours.
    """

    mean: Tensor  # (W)
    directions: Tensor  # (W, M)
    keys: Tensor  # (N, M), unit length, in half precision
    labels: Tensor  # (N, C), False where `known` is
    known: Tensor  # (N, C)
    share: Tensor  # (C), of positives
    blank: Tensor  # (C), what an unknown label counts for as a negative
    sharpness: Tensor  # ()

    def __init__(
        self, *, categories: int, hidden_size: int, settings: NeighbourHeadSettings
    ) -> None:
        super().__init__()
        self.settings = settings
        size = min(settings.directions, hidden_size)
        for name, start in {
            "mean": torch.zeros(hidden_size),
            "directions": torch.zeros(hidden_size, size),
            "keys": torch.zeros(0, size, dtype=torch.float16),
            "labels": torch.zeros(0, categories, dtype=torch.bool),
            "known": torch.zeros(0, categories, dtype=torch.bool),
            "share": torch.full((categories,), 0.5),
            "blank": torch.zeros(categories),
            "sharpness": torch.tensor(DEFAULT_SHARPNESS),
        }.items():
            self.register_buffer(name, start)

    def forward(self, pooled: Float[Tensor, "B W"]) -> Float[Tensor, "B C"]:
        """Finite logits; those of the shares where no image is remembered."""
        cosines = self._cosines(self._looks(signed_root(pooled)))
        return self._logits(cosines, self.sharpness, self._answers())

    @torch.no_grad()
    def remember(self, pooled: Float[Tensor, "N W"], matrix: LabelMatrix) -> None:
        """Keep what images look like and what is known of them; choose the sharpness.

        Args:
            pooled: mean hidden patches, in any precision.
            matrix: their labels, on the CPU. Images without a known label are left out, and of
                more than `settings.images` the rest is thinned out evenly.
        """
        chosen = _thinned(matrix.answered, self.settings.images)
        device, rows = self.mean.device, matrix.subset(chosen)
        self.labels, self.known = (rows.labels & rows.known).to(device), rows.known.to(device)
        self.share.copy_(known_positive_share(matrix))
        self.blank.copy_(lacking_negatives(matrix))
        self.keys = self.keys.new_zeros(len(chosen), self.keys.shape[1])
        if len(chosen):
            rooted = signed_root(pooled[chosen].to(device).float())
            self._measure(rooted)
            self.keys.copy_(self._looks(rooted))
            self.sharpness.fill_(self._best_sharpness())

    def _measure(self, rooted: Float[Tensor, "N W"]) -> None:
        """Find the mean and the principal directions."""
        self.mean.copy_(rooted.mean(dim=0))
        variance, directions = principal_directions([rooted - self.mean])
        size = self.directions.shape[1]
        share = variance[:size] / variance[0]
        # Images differ in no more directions than there are images.
        scale = torch.where(share > LEAST_SHARE, share**SPECTRUM_POWER, 0.0)
        self.directions.copy_(directions[:, :size] * scale)

    def _best_sharpness(self) -> float:
        """What explains the known labels of some images best by those of all others."""
        if len(self.keys) < 2:
            return DEFAULT_SHARPNESS
        costs, answers = [0.0] * len(SHARPNESS), self._answers()
        for part in torch.split(_thinned(torch.arange(len(self.keys)), LEFT_OUT), BATCH):
            cosines = self._cosines(self.keys[part].float())
            cosines[torch.arange(len(part)), part] = NOWHERE
            weights = torch.where(self.known[part], 1.0, self.blank)
            for number, sharpness in enumerate(SHARPNESS):
                logits = self._logits(cosines, self.sharpness.new_tensor(sharpness), answers)
                costs[number] += float(
                    F.binary_cross_entropy_with_logits(
                        logits, self.labels[part].float(), weights, reduction="sum"
                    )
                )
        return SHARPNESS[costs.index(min(costs))]

    def _answers(self) -> tuple[Float[Tensor, "N C"], Float[Tensor, "N C"]]:
        """1 where a category is known to be present, and 1 where it is known to be absent."""
        return self.labels.float(), (self.known & ~self.labels).float()

    def _looks(self, rooted: Float[Tensor, "N W"]) -> Float[Tensor, "N M"]:
        """What is compared of an image, with unit length."""
        return F.normalize((rooted - self.mean) @ self.directions, dim=1)

    def _cosines(self, looks: Float[Tensor, "B M"]) -> Float[Tensor, "B N"]:
        """With all remembered images, but for an image that is the same one."""
        cosines = looks @ self.keys.float().T
        return torch.where(cosines > SAME, NOWHERE, cosines)

    def _logits(
        self,
        cosines: Float[Tensor, "B N"],
        sharpness: Float[Tensor, ""],
        answers: tuple[Float[Tensor, "N C"], Float[Tensor, "N C"]],
    ) -> Float[Tensor, "B C"]:
        """Logits from the cosines and from what `_answers` gives."""
        # Zero at `NOWHERE`: where all remembered images are copies of this one, none is near.
        near = (sharpness * cosines).softmax(dim=1) * (cosines > NOWHERE)
        present, absent = (near @ answer for answer in answers)
        unknown = (near.sum(dim=1, keepdim=True) - present - absent).clamp(min=0)
        prior = 1 / max(1, len(self.known))
        positive = present + prior * self.share
        negative = absent + self.blank * unknown + prior * (1 - self.share)
        return positive.log() - negative.log()

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        """Make room for as many images as the state has; see `nn.Module`."""
        count = len(state_dict.get(prefix + "keys", self.keys))
        for name in ("keys", "labels", "known"):
            own: Tensor = getattr(self, name)
            setattr(self, name, own.new_zeros(count, own.shape[1]))
        super()._load_from_state_dict(state_dict, prefix, *rest)


def _thinned(indices: Int[Tensor, " N"], most: int) -> Int[Tensor, " M"]:
    """All, or as many as are allowed, spread evenly."""
    if len(indices) <= most:
        return indices
    return indices[torch.linspace(0, len(indices) - 1, most).long()]
