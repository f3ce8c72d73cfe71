"""Image towers of open_clip that also give a feature per patch.

One rule holds for all of them: a patch feature is what the tower's own pooling would make of that
patch alone. A tower splits this into `forward`, which is heavy and ends at the hidden patches, and
`project`, which is cheap: the part of the pooling that acts on each position for itself.

Axes: B images, P patches (row by row), W hidden width, D joint feature size.
"""

import math
from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from jaxtyping import Float
from open_clip.modified_resnet import ModifiedResNet
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from trmml.encoders.clip.blocks import apply_block, is_plain, read_first
from trmml.errors import EncoderError

# Hidden patches, and the pooled feature.
Seen = tuple[Float[Tensor, "B P W"], Float[Tensor, "B D"]]


class ImageTower(nn.Module, ABC):
    """A frozen image encoder that takes square images of one size.

    Args:
        size: side of the input in pixels, a positive multiple of `stride`; None is `native_size`.
        stride: pixels from one patch to the next.
        native_size: the side that the model was built for.

    Raises:
        EncoderError: the size is not a multiple of the stride.
    """

    def __init__(self, size: int | None, stride: int, native_size: int) -> None:
        super().__init__()
        size = native_size if size is None else size
        if size != native_size:  # some models do not divide their own size
            check_size(size, stride)
        self.size = size
        self.grid = (size // stride, size // stride)

    @abstractmethod
    def forward(self, pixels: Float[Tensor, "B 3 S S"]) -> Seen:
        """Hidden patches and the pooled feature, not normalised."""

    @abstractmethod
    def project(self, hidden_patches: Float[Tensor, "... W"]) -> Float[Tensor, "... D"]:
        """Each hidden patch in the joint space, not normalised."""


class ResNetTower(ImageTower):
    """OpenAI's ResNet: hidden patches are the map of layer 4, pooling is by attention.

    patch feature = c_proj(v_proj(h)): the attention pool with that position as its only key. The
    position embedding is left out, as TaI-DPT (Guo et al., CVPR 2023) does. DenseCLIP (Rao et al.,
    CVPR 2022) and DualCoOp (Sun et al., NeurIPS 2022) add it first; `positions` is there for them.
    """

    project_weight: Tensor
    project_bias: Tensor

    def __init__(self, visual: ModifiedResNet, size: int | None = None) -> None:
        super().__init__(size, stride=32, native_size=square_side(visual.image_size))
        self.visual = visual
        pool = visual.attnpool
        first, second = pool.v_proj, pool.c_proj
        weight, bias = joined(first.weight, first.bias, second)
        self.register_buffer("project_weight", weight, persistent=False)
        self.register_buffer("project_bias", bias, persistent=False)

    @property
    def positions(self) -> Float[Tensor, "N W"]:
        """What the attention pool adds to the mean of the patches and to each of them."""
        return resize_positions(self.visual.attnpool.positional_embedding, self.grid)

    def forward(self, pixels: Float[Tensor, "B 3 S S"]) -> Seen:
        """See `ImageTower.forward`."""
        visual, pool = self.visual, self.visual.attnpool
        feature_map = visual.stem(pixels)
        for layer in (visual.layer1, visual.layer2, visual.layer3, visual.layer4):
            feature_map = layer(feature_map)  # at the end (B, W, rows, columns)
        feature = torch.func.functional_call(
            pool, {"positional_embedding": self.positions}, (feature_map,)
        )
        return feature_map.flatten(2).transpose(1, 2), feature

    def project(self, hidden_patches: Float[Tensor, "... W"]) -> Float[Tensor, "... D"]:
        """The attention pool's value and output projections at each position."""
        return F.linear(hidden_patches, self.project_weight, self.project_bias)


class TransformerTower(ImageTower, ABC):
    """open_clip's vision transformer; the subclasses differ in how the class token is made."""

    before_last: bool  # whether hidden patches enter the last block, or leave it

    def __init__(self, visual: VisionTransformer, size: int | None = None) -> None:
        super().__init__(size, visual.patch_size[0], square_side(visual.image_size))
        self.visual = visual
        self._plain = is_plain(visual.transformer.resblocks)

    def forward(self, pixels: Float[Tensor, "B 3 S S"]) -> Seen:
        """See `ImageTower.forward`."""
        *blocks, last = self.visual.transformer.resblocks
        before = self._embed(pixels)  # (B, 1 + P, W)
        for block in blocks:
            before = self._block(block, before)
        after = self._block(last, before)
        hidden = before if self.before_last else after
        return hidden[:, 1:], self._pool(after) @ self.visual.proj

    def _block(self, block: nn.Module, tokens: Float[Tensor, "B N W"]) -> Float[Tensor, "B N W"]:
        """What leaves a block; CLIP's own blocks are computed with less work."""
        left: Tensor = apply_block(block, tokens) if self._plain else block(tokens)
        return left

    def _embed(self, pixels: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B N W"]:
        visual = self.visual
        patches = visual.conv1(pixels).flatten(2).transpose(1, 2)  # (B, P, W)
        # shape[0], not len(): an exporter would write the latter down as a constant
        class_token = visual.class_embedding.expand(patches.shape[0], 1, -1)
        positions = resize_positions(
            visual.positional_embedding, self.grid, square_grid(visual.grid_size)
        )
        tokens: Tensor = visual.ln_pre(torch.cat([class_token, patches], dim=1) + positions)
        return tokens

    def _pool(self, tokens: Float[Tensor, "B N W"]) -> Float[Tensor, "B V"]:
        visual = self.visual
        if visual.attn_pool is not None:
            return self._global_pool(visual.ln_post(visual.attn_pool(tokens)))
        if visual.final_ln_after_pool:
            pooled: Tensor = visual.ln_post(self._global_pool(tokens))
            return pooled
        return self._global_pool(visual.ln_post(tokens))

    def _global_pool(self, tokens: Float[Tensor, "B N W"]) -> Float[Tensor, "B W"]:
        return tokens[:, 1:].mean(dim=1) if self.visual.pool_type == "avg" else tokens[:, 0]


class ClassTokenTower(TransformerTower):
    """The class token is the image: hidden patches enter the last block.

    patch feature = ln_post(out_proj(v_proj(ln_1(h)))) @ proj: what the last block's attention hands
    to the class token when it looks at this patch only. The residual and the last MLP are left
    out, after MaskCLIP (Zhou et al., ECCV 2022, section 3.2).
    """

    before_last = True
    value_weight: Tensor
    value_bias: Tensor

    def __init__(self, visual: VisionTransformer, size: int | None = None) -> None:
        super().__init__(visual, size)
        if self._plain:
            attention = visual.transformer.resblocks[-1].attn
            width = attention.embed_dim
            weight, bias = attention.in_proj_weight, attention.in_proj_bias
            weight, bias = joined(weight[-width:], bias[-width:], attention.out_proj)
            self.register_buffer("value_weight", weight, persistent=False)
            self.register_buffer("value_bias", bias, persistent=False)

    def forward(self, pixels: Float[Tensor, "B 3 S S"]) -> Seen:
        """See `ImageTower.forward`."""
        visual = self.visual
        if not self._plain or visual.attn_pool is not None or visual.final_ln_after_pool:
            return super().forward(pixels)
        *blocks, last = visual.transformer.resblocks
        tokens = self._embed(pixels)
        for block in blocks:
            tokens = apply_block(block, tokens)
        # Of what leaves the last block only the class token is read.
        return tokens[:, 1:], visual.ln_post(read_first(last, tokens)) @ visual.proj

    def project(self, hidden_patches: Float[Tensor, "... W"]) -> Float[Tensor, "... D"]:
        """The last block's value path, then `ln_post` and the projection."""
        block = self.visual.transformer.resblocks[-1]
        tokens = block.ln_1(hidden_patches)
        if self._plain:
            tokens = F.linear(tokens, self.value_weight, self.value_bias)
        elif isinstance(block.attn, nn.MultiheadAttention):
            tokens = value_path(block.attn, tokens)
        else:  # open_clip's own attention has norms and scales inside
            tokens = block.ln_attn(attend_alone(block.attn, tokens))
        projected: Tensor = self.visual.ln_post(block.ls_1(tokens)) @ self.visual.proj
        return projected


class PooledTower(TransformerTower):
    """The mean of the tokens, or a query's attention to them, is the image.

    Hidden patches leave the last block. Mean: patch feature = ln_post(h) @ proj. Attention
    (CoCa): patch feature = ln_post(out_proj(v_proj(ln_k(h)))) @ proj, whatever the query.
    """

    before_last = False

    def project(self, hidden_patches: Float[Tensor, "... W"]) -> Float[Tensor, "... D"]:
        """Each patch through the pooling as if it were alone."""
        pool, tokens = self.visual.attn_pool, hidden_patches
        if pool is not None:
            tokens = value_path(pool.attn, pool.ln_k(hidden_patches))
        projected: Tensor = self.visual.ln_post(tokens) @ self.visual.proj
        return projected


def transformer_tower(visual: VisionTransformer, size: int | None = None) -> TransformerTower:
    """The tower for the vision transformer's way of pooling.

    Raises:
        EncoderError: no patch feature is defined for this way of pooling.
    """
    if getattr(visual, "attn_pool_contrastive", None) is not None or visual.pool_type == "none":
        raise EncoderError(
            "this vision transformer pools twice or not at all (attentional_pool 'parallel' or "
            "'cascade', pool_type 'none'): no feature per patch is defined for it; take a model "
            "that pools by class token, mean or one attention"
        )
    if visual.attn_pool is None and visual.pool_type == "tok":
        return ClassTokenTower(visual, size)
    return PooledTower(visual, size)


@torch.no_grad()
def joined(
    weight: Float[Tensor, "V W"], bias: Float[Tensor, " V"], second: nn.Linear
) -> tuple[Float[Tensor, "D W"], Float[Tensor, " D"]]:
    """Weight and bias of two frozen linear maps in a row as one, by a product in fp64."""
    after = second.weight.double()
    both = after @ weight.double(), after @ bias.double() + second.bias.double()
    return both[0].to(weight.dtype), both[1].to(weight.dtype)


def value_path(
    attention: nn.MultiheadAttention, tokens: Float[Tensor, "... V"]
) -> Float[Tensor, "... W"]:
    """What attention gives a query that looks at one token only: its value, projected."""
    if attention.in_proj_weight is None:  # values of another width than the queries
        weight: Tensor = attention.v_proj_weight
    else:
        weight = attention.in_proj_weight.chunk(3)[2]
    bias = attention.in_proj_bias.chunk(3)[2] if attention.in_proj_bias is not None else None
    projected: Tensor = attention.out_proj(F.linear(tokens, weight, bias))
    return projected


def attend_alone(attention: nn.Module, tokens: Float[Tensor, "... W"]) -> Float[Tensor, "... D"]:
    """The same for any self-attention or attention pool: each token as a sequence of length 1."""
    alone: Tensor = attention(tokens.reshape(-1, 1, tokens.shape[-1]))
    return alone.reshape(*tokens.shape[:-1], -1)


def resize_positions(
    positions: Float[Tensor, "N W"], grid: tuple[int, int], old_grid: tuple[int, int] | None = None
) -> Float[Tensor, "M W"]:
    """Position embeddings for another grid; the first one belongs to the class token and stays.

    Bicubic with antialiasing, as open_clip does when it loads weights of another size.

    Example:
        >>> import torch
        >>> resize_positions(torch.zeros(1 + 7 * 7, 8), (14, 14)).shape
        torch.Size([197, 8])
    """
    side = math.isqrt(len(positions) - 1)
    rows, columns = old_grid or (side, side)
    if (rows, columns) == grid:
        return positions
    square = positions[1:].reshape(1, rows, columns, -1).permute(0, 3, 1, 2)
    square = F.interpolate(square, grid, mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([positions[:1], square.flatten(2)[0].T])


def check_size(size: int, stride: int) -> None:
    """Refuse a side in pixels that the stride does not divide; EncoderError names the nearest."""
    if size > 0 and size % stride == 0:
        return
    below = max(size // stride, 1) * stride
    nearest = f"{below}" if size < stride else f"{below} or {below + stride}"
    raise EncoderError(
        f"image size {size} does not suit this encoder: it must be a positive multiple of {stride} "
        f"pixels; the nearest is {nearest}"
    )


def square_side(image_size: int | tuple[int, ...]) -> int:
    """The side of open_clip's image size; EncoderError where it is no square."""
    if isinstance(image_size, int):
        return image_size
    if len(set(image_size)) > 1:
        raise EncoderError(f"this encoder takes {image_size} pixels: only squares are supported")
    return int(image_size[0])


def square_grid(grid: int | tuple[int, ...]) -> tuple[int, int]:
    """(rows, columns) of open_clip's grid size."""
    rows, columns = (grid, grid) if isinstance(grid, int) else grid
    return rows, columns
