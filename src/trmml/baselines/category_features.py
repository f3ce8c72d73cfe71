"""One vector per category and image, gathered by attention that the category's text guides."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from trmml.settings.sections import Section


class CategoryFeatureSettings(Section):
    """The vectors per category (`baselines/category_features.py`)."""

    template: str = Field("a photo of a {}", description="prompt whose text guides the attention")
    size: int = Field(128, ge=1, description="R, of a vector")
    dropout: float = Field(0.2, ge=0, lt=1, description="share of the reduced patches dropped")


class CategoryFeatures(nn.Module):
    """Patches gathered per category by attention that its text guides.

    x_p = A norm(h_p),  a_bpc = softmax_P(<x_p, B t_c>),  f_bc = sum_P a_bpc (U x_p + u)

    Shapes: hidden_patches (B, P, W) -> category_features (B, C, R).
    Trains: A (W -> R), B (D -> R), U (R -> R), u (R).
    Source: the semantic decoupling of Pu et al. 2022, section 3.2 (Chen et al. 2019). Its attention
        is a tanh inside a low-rank bilinear form; without the tanh it needs no vector for each
        pair of patch and category. U is its last layer; being linear it may come first.
    """

    text_features: Tensor

    def __init__(
        self,
        text_features: Float[Tensor, "C D"],
        hidden_size: int,
        settings: CategoryFeatureSettings,
    ) -> None:
        super().__init__()
        self.down = nn.Linear(hidden_size, settings.size, bias=False)
        self.query = nn.Linear(text_features.shape[1], settings.size, bias=False)
        self.out = nn.Linear(settings.size, settings.size)
        self.dropout = nn.Dropout(settings.dropout)
        self.register_buffer("text_features", text_features)

    def forward(self, hidden_patches: Float[Tensor, "B P W"]) -> Float[Tensor, "B C R"]:
        """One vector per image and category, any length."""
        normal = F.layer_norm(hidden_patches, hidden_patches.shape[-1:])
        patches = self.dropout(self.down(normal))
        attention = F.linear(patches, self.query(self.text_features)).softmax(dim=1)  # (B, P, C)
        return torch.matmul(attention.transpose(1, 2), self.out(patches))
