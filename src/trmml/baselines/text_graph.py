"""A graph of categories by what their names mean, and texts that pass through it (SCPNet)."""

import itertools
import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from trmml.settings.sections import Section

# Width of the hidden layers per joint feature, and their slope below zero: SCPNet's code.
WIDENING, SLOPE = 2, 0.2


class GraphSettings(Section):
    """The graph of categories (`baselines/text_graph.py`)."""

    neighbours: int = Field(16, ge=0, description="categories that each one listens to")
    share: float = Field(0.2, ge=0, le=1, description="weight of the neighbours against itself")
    temperature: float = Field(0.2, gt=0, description="of both softmaxes over the neighbours")


def category_graph(
    text_features: Float[Tensor, "C D"], settings: GraphSettings
) -> Float[Tensor, "C C"]:
    """The structured prior: rows sum to 1, a share of each with the nearest categories.

    The nearest by cosine share `share` by a softmax; the rest is the category's own.

    Args:
        text_features: unit length, of hand-written prompts.
        settings: how many neighbours, and how much they weigh.

    Source: Ding et al. 2023 (SCPNet), section 3.2, and its code for the two shares. Its graphs came
    with the code for four data sets, row-normalised; the softmax makes one for any label set.
    """
    count = min(settings.neighbours, len(text_features) - 1)
    itself = torch.eye(len(text_features), device=text_features.device)
    if count == 0:
        return itself
    cosine = (text_features @ text_features.T).masked_fill(itself.bool(), -math.inf)
    top = cosine.topk(count, dim=1)
    shares = (top.values / settings.temperature).softmax(dim=1)
    near = torch.zeros_like(itself).scatter(1, top.indices, shares)
    return (1 - settings.share) * itself + settings.share * near


def smoothing(graph: Float[Tensor, "C C"], temperature: float) -> Float[Tensor, "C C"]:
    """A flatter graph over the same neighbours: softmax of its rows; rows sum to 1.

    Source: the relation matrix of SCPNet's self-distillation, from its code.
    """
    return (graph / temperature).masked_fill(graph == 0, -math.inf).softmax(dim=1)


class TextGraph(nn.Module):
    """Three graph convolutions over the text features, added to them.

    unit(t + G f(G f(G t W1) W2) W3),  f: leaky ReLU, G: the graph

    Shapes: text_features (C, D), unit length -> (C, D), unit length.
    Trains: W1 (D, 2D), W2 (2D, 2D), W3 (2D, D). W3 starts at zero, so that step 0 is CoOp.
    """

    graph: Tensor

    def __init__(self, graph: Float[Tensor, "C C"], feature_size: int) -> None:
        super().__init__()
        wide = WIDENING * feature_size
        sizes = (feature_size, wide, wide, feature_size)
        self.layers = nn.ModuleList(
            nn.Linear(inputs, outputs, bias=False) for inputs, outputs in itertools.pairwise(sizes)
        )
        nn.init.zeros_(self.layers[-1].weight)  # type: ignore[arg-type]
        self.register_buffer("graph", graph)

    def forward(self, text_features: Float[Tensor, "C D"]) -> Float[Tensor, "C D"]:
        """Text features that have heard of their neighbours."""
        first, second, last = self.layers
        spread = F.leaky_relu(self.graph @ first(text_features), SLOPE)
        spread = F.leaky_relu(self.graph @ second(spread), SLOPE)
        return F.normalize(text_features + self.graph @ last(spread), dim=-1)
