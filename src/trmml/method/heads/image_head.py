"""A head on the whole image, beside the match; beyond the paper, and an option."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from trmml.method.layers import Standardisation, TwoLayers, signed_root, zero_linear
from trmml.settings.sections import ImageHeadSettings


class ImageHead(nn.Module):
    """Logits of the whole image, from the mean hidden patch: two layers, and one linear map.

    h = T standard(root(mean_p h_p)),  root(x) = sign(x) sqrt(|x|)
    image = W2 ReLU(W1 h) + b2,  linear = W h + b

    The root keeps the few strongest channels of a map that is mostly zero from ruling the rest
    (Perronnin et al. 2010, section 3.1: power normalisation). All categories share the hidden
    layer: what one of them learns of the images serves those with few known labels. The linear map
    errs on other images, so that both together are better than either.

    A mean is far cheaper than the map it was taken of. So the head is trained apart from the rest,
    before the first epoch, in many passes over the means (`training/heads.py`, which explains T).
    Then it stays as it is.

    Shapes: mean hidden patches (B, W) -> logits (B, C) by name, "image" and "linear".
    Trains, in `training/heads.py` alone: W1 (W -> M), W2 (M -> C), W (W -> C), b, b2; W2 and W
        start at zero.
    """

    def __init__(self, *, categories: int, hidden_size: int, settings: ImageHeadSettings) -> None:
        super().__init__()
        self.settings = settings
        self.standard = Standardisation(hidden_size)
        self.layers = TwoLayers(hidden_size, settings.width, categories, settings.dropout)
        self.dropout = nn.Dropout(settings.dropout)
        self.linear = zero_linear(hidden_size, categories) if settings.linear else None
        self.requires_grad_(False)  # nothing for the loop to train

    def forward(self, pooled: Float[Tensor, "B W"]) -> dict[str, Float[Tensor, "B C"]]:
        """Unbounded logits."""
        return self.logits(self.prepared(pooled))

    def prepared(self, pooled: Float[Tensor, "B W"]) -> Float[Tensor, "B W"]:
        """The input of both parts: standardised roots."""
        prepared: Tensor = self.standard(signed_root(pooled))
        return prepared

    def logits(self, prepared: Float[Tensor, "B W"]) -> dict[str, Float[Tensor, "B C"]]:
        """Unbounded logits of both parts."""
        logits = {"image": self.layers(prepared)}
        if self.linear is not None:
            logits["linear"] = self.linear(self.dropout(prepared))
        return logits

    @torch.no_grad()
    def start(self, positive_share: Float[Tensor, " C"]) -> None:
        """Start again: new random weights, biases at the known shares of positives."""
        self.layers.into.reset_parameters()
        for layer in (self.layers.out, self.linear):
            if layer is not None:
                nn.init.zeros_(layer.weight)
                layer.bias.copy_(positive_share.to(layer.bias).logit())

    @torch.no_grad()
    def absorb(self, turn: Float[Tensor, "W W"]) -> None:
        """Multiply a symmetric map of the input into the weights."""
        for layer in (self.layers.into, self.linear):
            if layer is not None:
                layer.weight.copy_(layer.weight @ turn)
