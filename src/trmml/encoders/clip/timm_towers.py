"""Image towers that open_clip takes from timm, with a feature per patch where one is defined.

The same rule as in `clip_dense`: a patch feature is what the tower's own pooling would make of
that patch alone. timm lets us ask just that, by giving the head one position at a time.

Axes: B images, P patches (row by row), W hidden width, D joint feature size.
"""

from typing import Any, cast

from jaxtyping import Float
from timm.models.convnext import ConvNeXt
from timm.models.eva import Eva
from timm.models.fastvit import FastVit
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from trmml.encoders.clip.dense import ImageTower, attend_alone, square_side
from trmml.errors import EncoderError


class MapTower(ImageTower):
    """ConvNeXt, FastViT (MobileCLIP) or Swin: the mean of a feature map is the image.

    Hidden patches are the last feature map. patch feature = head(h) at each position.

    Args:
        visual: open_clip's `TimmModel` around one of these.
        channels_last: whether the map is (B, rows, columns, W), as Swin's is.
    """

    def __init__(self, visual: Any, size: int | None, *, channels_last: bool) -> None:
        native = square_side(visual.image_size)
        super().__init__(size, visual.trunk.feature_info[-1]["reduction"], native)
        _set_input_size(visual, self.size)
        self.visual = visual
        self.channels_last = channels_last

    def forward(
        self, pixels: Float[Tensor, "B 3 S S"]
    ) -> tuple[Float[Tensor, "B P W"], Float[Tensor, "B D"]]:
        """Hidden patches and the pooled feature, not normalised."""
        trunk = self.visual.trunk
        feature_map = trunk.forward_features(pixels)
        feature = self.visual.head(trunk.forward_head(feature_map))
        if self.channels_last:
            return feature_map.flatten(1, 2), feature
        return feature_map.flatten(2).transpose(1, 2), feature

    def project(self, hidden_patches: Float[Tensor, "... W"]) -> Float[Tensor, "... D"]:
        """The head on a map of one position, for each position."""
        width = hidden_patches.shape[-1]
        shape = (-1, 1, 1, width) if self.channels_last else (-1, width, 1, 1)
        feature: Tensor = self.visual.head(
            self.visual.trunk.forward_head(hidden_patches.reshape(shape))
        )
        return feature.reshape(*hidden_patches.shape[:-1], -1)


class TokenTower(ImageTower):
    """timm's vision transformers: SigLIP, ViTamin, PE, EVA, MobileCLIP-B.

    Attention pooling: hidden patches leave the last norm, patch feature = the pool (its MLP
    included) on that patch as the only key. Mean pooling: the same with the mean of one patch.
    Class token: hidden patches enter the last block, patch feature = that block's attention on the
    patch alone, then the last norm and the head; no residual, no MLP, as in `ClassTokenTower`.
    """

    def __init__(self, visual: Any, size: int | None) -> None:
        native, trunk = square_side(visual.image_size), visual.trunk
        super().__init__(size, _patch_stride(trunk), native)
        _set_input_size(visual, self.size)
        self.visual = visual
        self.prefix = trunk.num_prefix_tokens
        self.pooling = "map" if trunk.attn_pool is not None else trunk.global_pool

    def forward(
        self, pixels: Float[Tensor, "B 3 S S"]
    ) -> tuple[Float[Tensor, "B P W"], Float[Tensor, "B D"]]:
        """Hidden patches and the pooled feature, not normalised."""
        trunk = self.visual.trunk
        if self.pooling == "token":
            before_last = len(trunk.blocks) - 2
            tokens, intermediates = trunk.forward_intermediates(
                pixels, indices=[before_last], output_fmt="NLC"
            )
            hidden = intermediates[0]  # timm has taken the prefix tokens off
        else:
            tokens = trunk.forward_features(pixels)
            hidden = tokens[:, self.prefix :]
        return hidden, self.visual.head(trunk.forward_head(tokens))

    def project(self, hidden_patches: Float[Tensor, "... W"]) -> Float[Tensor, "... D"]:
        """Each patch through the pooling, or the last block's attention, as if it were alone."""
        trunk = self.visual.trunk
        tokens = hidden_patches.reshape(-1, 1, hidden_patches.shape[-1])
        if self.pooling == "map":
            pooled = trunk.head(trunk.fc_norm(trunk.attn_pool(tokens)))
        elif self.pooling == "token":
            block = trunk.blocks[-1]
            pooled = trunk.forward_head(trunk.norm(_attention_branch(block, tokens)))
        else:
            pooled = trunk.forward_head(tokens)
        feature: Tensor = self.visual.head(pooled)
        return feature.reshape(*hidden_patches.shape[:-1], -1)


def timm_tower(visual: Any, size: int | None = None) -> ImageTower:
    """The tower for open_clip's `TimmModel`.

    Raises:
        EncoderError: no patch feature is defined for this kind of tower.
    """
    trunk = visual.trunk
    if "pool" in dict(visual.head.named_children()):
        raise _refusal(trunk, "it pools with a timm attention pool of fixed input size")
    if isinstance(trunk, ConvNeXt | FastVit):
        return MapTower(visual, size, channels_last=False)
    if isinstance(trunk, SwinTransformer):
        return MapTower(visual, size, channels_last=True)
    if not isinstance(trunk, VisionTransformer | Eva):
        raise _refusal(trunk, "its pooling is not one of those we know how to undo per patch")
    if trunk.attn_pool is None and trunk.global_pool not in ("token", "avg"):
        raise _refusal(trunk, f"it pools by {trunk.global_pool!r}")
    if trunk.attn_pool is None and trunk.global_pool == "avg" and trunk.num_prefix_tokens:
        raise _refusal(trunk, "it takes a mean beside class tokens")
    return TokenTower(visual, size)


def _refusal(trunk: Any, reason: str) -> EncoderError:
    return EncoderError(
        f"no feature per patch is defined for the image tower {type(trunk).__name__} of timm: "
        f"{reason}; take a ResNet, ViT, SigLIP, EVA, ConvNeXt or MobileCLIP model of open_clip"
    )


def _attention_branch(block: Any, tokens: Float[Tensor, "N 1 W"]) -> Float[Tensor, "N 1 W"]:
    """What the block's attention adds to each token when it sees only that token."""
    if not hasattr(block, "ls1") and not hasattr(block, "gamma_1"):
        after_norm: Tensor = block.norm1(attend_alone(block.attn, tokens))  # as EVA02-E
        return after_norm
    branch = attend_alone(block.attn, block.norm1(tokens))
    if hasattr(block, "ls1"):
        scaled: Tensor = block.ls1(branch)
        return scaled
    return branch if block.gamma_1 is None else branch * cast(Tensor, block.gamma_1)


def _patch_stride(trunk: Any) -> int:
    patch_embed = trunk.patch_embed
    ratio = patch_embed.feat_ratio() if hasattr(patch_embed, "feat_ratio") else None
    return int(ratio if isinstance(ratio, int) else patch_embed.patch_size[0])


def _set_input_size(visual: Any, size: int) -> None:
    """Resize what depends on the input's size; timm knows how for its transformers."""
    if size != square_side(visual.image_size):
        visual.set_input_size(size)
