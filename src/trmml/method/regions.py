"""Category-aware region learning: gather, for each category, the patches that speak for it."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from trmml.method.interface import Output
from trmml.method.layers import Dropout, zero_linear
from trmml.settings.sections import RegionSettings

# Squared lengths below this count as zero.
TINY = 1e-12


@dataclass  # not frozen: Fabric casts the fields of what leaves a model
class Regions:
    """One region per image and category, held as what it is made of.

    region = unit(g / |g| + out hidden),  g = attention value

    All that is asked of every region is its cosine with a text, which is a ratio of sums over
    patches: `matching.match` needs no (B, K, D) tensor, by far the largest of a step.
    `features` makes the regions of those categories that need them.

    Attributes:
        attention: over patches, rows sum to 1.
        value: what is gathered.
        gathered_length: |g|.
        length: |g / |g| + out hidden|; 1 without a residual.
        hidden: of the residual MLP, or None without one.
        out: its last layer.
    """

    attention: Float[Tensor, "B K P"]
    value: Float[Tensor, "B P D"]
    gathered_length: Float[Tensor, "B K"]
    length: Float[Tensor, "B K"]
    hidden: Float[Tensor, "B K M"] | None = None
    out: Float[Tensor, "D M"] | None = None

    def features(self, categories: Int[Tensor, " k"] | None = None) -> Float[Tensor, "B k D"]:
        """Region features of some categories, or of all; unit length."""

        def chosen(part: Tensor) -> Tensor:
            return part if categories is None else part.index_select(1, categories)

        length = chosen(self.length)[..., None]
        # Lengths are divided out before, so the large product is not read again for it.
        share = chosen(self.attention) / (length * chosen(self.gathered_length)[..., None])
        if self.hidden is None or self.out is None:
            return torch.matmul(share, self.value)
        residual = F.linear(chosen(self.hidden) / length, self.out)
        return torch.baddbmm(residual, share, self.value)


def gather_regions(
    query: Float[Tensor, "K D"],
    key: Float[Tensor, "B P D"],
    value: Float[Tensor, "B P D"],
    scale: Float[Tensor, ""],
    mlp: "RegionMlp | None" = None,
) -> Regions:
    """Softmax attention of all category queries over the patches of each image.

    Args:
        query: unit length.
        key: any length; only its direction counts.
        value: any length.
        scale: 1 / temperature, positive.
        mlp: adds a residual to each gathered region.
    """
    # Patch by category in memory, so that all images are one product; the smaller is divided.
    inverse = 1 / key.norm(dim=-1, keepdim=True).clamp(min=TINY)
    few = len(query) < key.shape[-1]
    match = F.linear(key if few else inverse * key, scale * query)  # (B, P, K)
    attention = (inverse * match if few else match).softmax(dim=1).transpose(1, 2)
    # For the length of g either <g, v_p> or g itself is gathered, whichever is smaller.
    by_patch = value.shape[1] <= value.shape[2]
    whole = torch.matmul(
        attention, torch.matmul(value, value.transpose(1, 2)) if by_patch else value
    )
    gathered_length = _root((whole * (attention if by_patch else whole)).sum(dim=-1))
    del match, whole  # without gradients nothing else holds them
    if mlp is None:
        return Regions(attention, value, gathered_length, torch.ones_like(gathered_length))
    # W1 r and 2 W2' r of r = g / |g|: the weights are divided, for they are far fewer numbers.
    share, out = attention / gathered_length[..., None], mlp.out.weight
    hidden = mlp.hide(torch.matmul(share, F.linear(value, mlp.from_region.weight)), query)
    twice = torch.matmul(share, torch.matmul(value, 2 * out))
    longer = (twice + torch.matmul(hidden, out.T @ out)) * hidden  # |r + o|^2 - 1 = 2ro + oo
    length = _root(1 + longer.sum(dim=-1))
    return Regions(attention, value, gathered_length, length, hidden, out)


def _root(squared: Float[Tensor, "B K"]) -> Float[Tensor, "B K"]:
    """Lengths from squared ones, in fp32 at least, and never zero."""
    wide = torch.promote_types(squared.dtype, torch.float32)
    return squared.to(wide).clamp(min=TINY).sqrt()


@dataclass  # not frozen: Fabric casts the fields of what leaves a model
class RegionOutput(Output):
    """What a model that has regions gives for a batch.

    Attributes:
        regions: one per category, with the attention over patches that made it.
    """

    regions: Regions

    @property
    def attention(self) -> Float[Tensor, "B C P"]:
        """Over patches, rows sum to 1."""
        return self.regions.attention


class RegionAttention(nn.Module):
    """One region per category, by cross-attention from category queries to the patches.

    region_c = unit(g_c / |g_c| + MLP(g_c / |g_c|, q_c)),  g_c = softmax_P(s <q_c, k_p>) v_p
    q = unit(text anchor + category_queries), k = unit(V + K(h)), v = V + U(h), h = A(H)

    V are the patch features and H the normalised hidden patches, read through a bottleneck A, which
    costs a fraction of a full map; or k = v = V + U(H). K, U and the MLP's last layer start at zero
    and so do the learned category_queries, so that step 0 gathers exactly as frozen CLIP would:
    attention by cosine with the text, values as they are. A name that was never trained still has
    a query: its text anchor.

    Shapes: hidden_patches (B, P, W), patch_features (B, P, D) -> Regions of K categories.
    Trains: category_queries (C, D), A (W -> R), K and U (R -> D) or U (W -> D), the MLP and the
        attention's scale; nothing of the encoder.
    Source: method.md section 2.3; the zero starts and the residual path from H are ours.
    """

    def __init__(
        self, *, categories: int, feature_size: int, hidden_size: int, settings: RegionSettings
    ) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(math.log(settings.attention_scale)))
        self.category_queries = nn.Parameter(torch.zeros(categories, feature_size))
        self.hidden = _reader(settings, hidden_size, feature_size)
        self.mlp = (
            RegionMlp(feature_size, settings.mlp_size, settings.dropout)
            if settings.mlp_size
            else None
        )
        if not settings.learn:
            self.requires_grad_(False)

    def forward(
        self,
        hidden_patches: Float[Tensor, "B P W"],
        patch_features: Float[Tensor, "B P D"],
        anchors: Float[Tensor, "K D"],
        extra: int = 0,
    ) -> Regions:
        """Regions of the categories whose text anchors are given.

        Args:
            hidden_patches: the encoder's last feature map.
            patch_features: its projection into the joint space.
            anchors: unit-length text features; the first K - extra are the trained categories.
            extra: how many anchors at the end are new names, without a learned query.
        """
        queries = F.pad(self.category_queries, (0, 0, 0, extra))
        query = F.normalize(anchors + queries, dim=-1)  # (K, D)
        key, value = patch_features, patch_features
        if self.hidden is not None:
            # The additions learn on V's own scale, image by image.
            length = patch_features.norm(dim=-1).mean(dim=1)[:, None, None]  # (B, 1, 1)
            key, value = self.hidden(hidden_patches, patch_features, length)
        return gather_regions(query, key, value, self.log_scale.exp(), self.mlp)


class FullReader(nn.Module):
    """Adds to the patch features one full-width map of the hidden patches, for keys and values.

    k = v = V + length U(LN(H)); U (W -> D) is zero at the start. As in CSRA, what is gathered also
    says where to gather it from.
    """

    def __init__(self, hidden_size: int, feature_size: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.value = zero_linear(hidden_size, feature_size, bias=False)

    def forward(
        self,
        hidden_patches: Float[Tensor, "B P W"],
        patch_features: Float[Tensor, "B P D"],
        length: Float[Tensor, "B 1 1"],
    ) -> tuple[Float[Tensor, "B P D"], Float[Tensor, "B P D"]]:
        """Keys and values, the same tensor; the keys not normalised."""
        normal = F.layer_norm(hidden_patches, hidden_patches.shape[-1:])
        read = _drop_channels(self.dropout, length, normal)
        value = _add_map(patch_features, read, self.value)
        return value, value


class BottleneckReader(nn.Module):
    """Adds to the patch features what keys and values take from the hidden patches.

    V + length K(A(LN(H))) and V + length U(A(LN(H))); K and U are zero at the start.
    """

    def __init__(self, hidden_size: int, rank: int, feature_size: int, dropout: float) -> None:
        super().__init__()
        self.down = nn.Linear(hidden_size, rank, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.key = zero_linear(rank, feature_size, bias=False)
        self.value = zero_linear(rank, feature_size, bias=False)

    def forward(
        self,
        hidden_patches: Float[Tensor, "B P W"],
        patch_features: Float[Tensor, "B P D"],
        length: Float[Tensor, "B 1 1"],
    ) -> tuple[Float[Tensor, "B P D"], Float[Tensor, "B P D"]]:
        """Keys and values, the keys not normalised."""
        normal = F.layer_norm(hidden_patches, hidden_patches.shape[-1:])
        read = _drop_channels(self.dropout, length, self.down(normal))
        return (
            _add_map(patch_features, read, self.key),
            _add_map(patch_features, read, self.value),
        )


def _drop_channels(
    dropout: nn.Dropout, length: Float[Tensor, "B 1 1"], values: Float[Tensor, "B P R"]
) -> Float[Tensor, "B P R"]:
    """Values times `length`, with the same channels dropped in all patches of an image.

    Drawn apart, the noise of the patches would average away in what is gathered of them.
    """
    scale: Tensor = dropout(length.expand(-1, 1, values.shape[-1]))
    return scale * values


def _add_map(
    base: Float[Tensor, "B P D"], read: Float[Tensor, "B P R"], layer: nn.Linear
) -> Float[Tensor, "B P D"]:
    """Base plus layer(read); the sum is part of the product: a fifth of the time of both apart."""
    added = torch.addmm(base.flatten(0, 1), read.flatten(0, 1), layer.weight.T)
    return added.view_as(base)


def _reader(
    settings: RegionSettings, hidden_size: int, feature_size: int
) -> FullReader | BottleneckReader | None:
    if settings.hidden_rank == "full":
        return FullReader(hidden_size, feature_size, settings.dropout)
    if not settings.hidden_rank:
        return None
    return BottleneckReader(hidden_size, settings.hidden_rank, feature_size, settings.dropout)


class RegionMlp(nn.Module):
    """Residual of a region, given whose it is: W2 GELU(W1 region + Wq query); starts at zero.

    `gather_regions` applies W1 and W2 itself, to the patches, before it gathers them.
    """

    def __init__(self, feature_size: int, mlp_size: int, dropout: float) -> None:
        super().__init__()
        self.from_region = nn.Linear(feature_size, mlp_size)
        self.from_query = nn.Linear(feature_size, mlp_size, bias=False)
        self.dropout = Dropout(dropout)
        self.out = zero_linear(mlp_size, feature_size, bias=False)

    def hide(
        self, reach: Float[Tensor, "B K M"], query: Float[Tensor, "K D"]
    ) -> Float[Tensor, "B K M"]:
        """The hidden layer, from W1 region and the query."""
        whose = self.from_query(query) + self.from_region.bias  # (K, M)
        hidden: Tensor = self.dropout(F.gelu(reach + whose))
        return hidden
