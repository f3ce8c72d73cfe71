"""All heads beside the match, and the sum of their logits; beyond the paper."""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from trmml.features.base import Features
from trmml.labels.matrix import LabelMatrix
from trmml.method.heads.csra_head import CSRAHead
from trmml.method.heads.image_head import ImageHead
from trmml.method.heads.neighbour_head import NeighbourHead
from trmml.method.heads.stacking import Stacking
from trmml.settings.sections import Settings


class Heads(nn.Module):
    """The heads that are switched on, and what joins them; with none, the match is left alone.

    Head logits are named "match", "image", "linear", "csra", "neighbours" and "zero_shot", in this
    order. The last two learn nothing, and count after training only.

    Trains: what its parts train.
    """

    def __init__(self, *, categories: int, hidden_size: int, settings: Settings) -> None:
        super().__init__()
        sizes = {"categories": categories, "hidden_size": hidden_size}
        image, csra, neighbours = settings.image_head, settings.csra_head, settings.neighbour_head
        self.settings = settings.stacking
        self.image = ImageHead(**sizes, settings=image) if image.use else None
        self.csra = CSRAHead(**sizes, settings=csra) if csra.use else None
        self.neighbours = NeighbourHead(**sizes, settings=neighbours) if neighbours.use else None
        learned = image.use * (1 + image.linear) + csra.use
        weights = [1.0] * (1 + learned) + [0.0] * (neighbours.use + self.settings.zero_shot)
        joins = len(weights) > 1
        self.stacking = Stacking(categories=categories, weights=weights) if joins else None

    @property
    def has_zero_shot(self) -> bool:
        """Whether the frozen encoder's dense scores are a head; it counts after training only."""
        return self.settings.zero_shot and not self.training

    def forward(
        self,
        features: Features,
        match_logits: Float[Tensor, "B C"],
        dense: Float[Tensor, "B C"] | None,
    ) -> dict[str, Float[Tensor, "B C"]]:
        """Logits of all heads by name, the match first.

        Args:
            features: of B images.
            match_logits: of the trained categories.
            dense: the zero-shot head's, where there is one.
        """
        logits = {"match": match_logits}
        if self.image is not None:
            logits |= self.image(features.hidden_patches.mean(dim=1))
        if self.csra is not None:
            logits["csra"] = self.csra(features)
        if self.neighbours is not None and not self.training:  # a training image would find itself
            logits["neighbours"] = self.neighbours(features.hidden_patches.mean(dim=1))
        if dense is not None:
            logits["zero_shot"] = dense
        return logits

    def combined(self, logits: dict[str, Float[Tensor, "B C"]]) -> Float[Tensor, "B C"]:
        """The sum of all heads, without gradient; the match as it is where it is alone."""
        return logits["match"] if self.stacking is None else self.stacking(list(logits.values()))

    @torch.no_grad()
    def start(self, features: Features, positive_share: Float[Tensor, " C"]) -> None:
        """Start the heads that the loop trains."""
        if self.csra is not None:
            self.csra.start(features, positive_share)

    @torch.no_grad()
    def track(self, logits: dict[str, Float[Tensor, "B C"]]) -> None:
        """Move the heads' means and spreads towards those of a training batch."""
        if self.stacking is not None:
            self.stacking.track(list(logits.values()))

    @torch.no_grad()
    def fit(
        self,
        batches: Iterable[dict[str, Float[Tensor, "B C"]]],
        matrix: LabelMatrix,
        weights: Float[Tensor, "N C"],
        positive_share: Float[Tensor, " C"],
    ) -> None:
        """Measure the heads on the held-out images, and fit their weights to the labels.

        Args:
            batches: head logits of the images, in order.
            matrix: their labels.
            weights: what each pair counts for, on the CPU.
            positive_share: see `Stacking.fit_weights`.
        """
        if self.stacking is None:
            return
        stacks = [torch.stack(list(logits.values())).cpu() for logits in batches]
        heads, device = torch.cat(stacks, dim=1).float(), self.stacking.mean.device
        self.stacking.cpu().measure(heads)
        if self.settings.fit_weights:
            self.stacking.fit_weights(heads, matrix.labels.float(), weights, positive_share)
        self.stacking.to(device)

    def held_out_fit(self, logits: dict[str, Float[Tensor, "B C"]]) -> dict[str, Tensor]:
        """How the heads are joined, and their logits of some images; empty for the match alone."""
        if self.stacking is None:
            return {}
        joined = {name: value.clone() for name, value in self.stacking.named_buffers()}
        return {**joined, "heads": torch.stack(list(logits.values()))}

    @torch.no_grad()
    def keep_held_out_fit(
        self, fit: dict[str, Tensor], logits: dict[str, Float[Tensor, "B C"]]
    ) -> None:
        """Join the heads as before, given what `held_out_fit` found and the logits now."""
        if self.stacking is not None:
            joined = {name: value for name, value in fit.items() if name != "heads"}
            self.stacking.load_state_dict(joined)
            self.stacking.adapt(fit["heads"], torch.stack(list(logits.values())))
