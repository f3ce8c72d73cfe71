"""Any open_clip model as an encoder: `OpenClipEncoder`."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped, UInt8
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.hf_model import HFTextEncoder
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import TextTransformer, VisionTransformer
from PIL import Image
from torch import Tensor, nn

from trmml.encoders.base import freeze
from trmml.encoders.clip.dense import ImageTower, ResNetTower, transformer_tower
from trmml.encoders.clip.preprocess import Preprocessing
from trmml.encoders.clip.text import ClipTextTower, HuggingFaceTextTower, TextTower
from trmml.encoders.clip.timm_towers import timm_tower
from trmml.errors import EncoderError

Tokenizer = Callable[..., Tensor]

# Texts whose first token agrees show that the tokenizer puts a start token there.
START_PROBES = ("", "a", "dog")


class OpenClipEncoder(nn.Module):
    """A frozen open_clip model with features per patch and texts that take learned tokens.

    Always in evaluation mode and without gradient to its weights; moved by `.to(device)`. At the
    model's own size the image feature is that of its `encode_image`, and the text feature that of
    its `encode_text`, both of unit length.

    Args:
        model: open_clip's CLIP, CustomTextCLIP or CoCa in fp32; without a tokenizer only its
            `visual` and `logit_scale` are read.
        tokenizer: texts and `context_length` to ids, as open_clip's tokenizers do; None leaves the
            text tower out, and `token_embeddings` and `encode_text` then raise.
        name: the spec the model came from.
        size: side of the square input in pixels; the model's own by default.
        mean: of the training images per channel, in [0, 1].
        std: of the training images per channel, in [0, 1].
        interpolation: "bicubic" or "bilinear".
        resize_mode: "squash" makes the whole image a square, which loses no object;
            "center-crop" is how CLIP was trained.

    Raises:
        EncoderError: the size does not suit the model, or no patch feature is defined for it.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Tokenizer | None,
        *,
        name: str,
        size: int | None = None,
        mean: Sequence[float] = OPENAI_DATASET_MEAN,
        std: Sequence[float] = OPENAI_DATASET_STD,
        interpolation: str = "bicubic",
        resize_mode: str = "squash",
    ) -> None:
        super().__init__()
        self.name = name
        self.image_tower = image_tower(model.visual, size)
        self.text_tower: TextTower | None = None
        self.context_length: int | None = None
        self.has_text = tokenizer is not None
        if tokenizer is not None:
            self.text_tower = text_tower(model, tokenizer)
            self.context_length = self.text_tower.context_length
            self.context_position = start_tokens(tokenizer)
        self.size = self.image_tower.size
        self.grid = self.image_tower.grid
        self.logit_scale = float(model.logit_scale.detach().exp())
        self._tokenizer = tokenizer
        self._preprocessing = Preprocessing(
            self.size, tuple(mean), tuple(std), interpolation, resize_mode
        )
        self.preprocessing = str(self._preprocessing)
        freeze(self)

    @property
    def patch_positions(self) -> Float[Tensor, "N W"] | None:
        """What a ResNet's pooling adds to the mean of the patches and to each; None elsewhere."""
        tower = self.image_tower
        return tower.positions if isinstance(tower, ResNetTower) else None

    def train(self, mode: bool = True) -> "OpenClipEncoder":
        """Stay in evaluation mode, whatever is asked for: the encoder is frozen."""
        return super().train(False)

    def preprocess(self, image: Image.Image) -> Float[Tensor, "3 S S"]:
        """An RGB image of any size, resized and normalised as the model expects."""
        return self._preprocessing.from_image(image)

    def preprocess_pixels(self, image: UInt8[Tensor, "3 H W"]) -> Float[Tensor, "3 S S"]:
        """The same for a decoded image, on the device it is on; equal up to rounding."""
        return self._preprocessing.decoded(image)

    @torch.no_grad()
    def encode_image(
        self, pixels: Float[Tensor, "B 3 S S"]
    ) -> tuple[Float[Tensor, "B P W"], Float[Tensor, "B D"]]:
        """Hidden patches, row by row, and the unit-length image feature.

        Raises:
            EncoderError: the pixels are not of the encoder's size.
        """
        if pixels.shape[1:] != (3, self.size, self.size):
            raise EncoderError(
                f"{self.name} expects pixels (B, 3, {self.size}, {self.size}), got "
                f"{tuple(pixels.shape)}: use preprocess, or load the encoder with another size"
            )
        hidden_patches, feature = self.image_tower(pixels)
        return hidden_patches, F.normalize(feature, dim=-1)

    def project(self, hidden_patches: Float[Tensor, "... W"]) -> Float[Tensor, "... D"]:
        """Patch features in the joint space, not normalised; see the tower for the formula."""
        return self.image_tower.project(hidden_patches)

    def token_embeddings(
        self, texts: list[str]
    ) -> tuple[Float[Tensor, "C L E"], Int[Tensor, "C L"]]:
        """Embeddings of the tokens, padded to the longest text, and the mask of real tokens.

        Raises:
            EncoderError: no text, one that is longer than the model's context, or the encoder was
                loaded without text.
        """
        if not texts:
            raise EncoderError("texts is empty: pass at least one string")
        tower, tokenizer = self._text()
        limit = tower.context_length
        ids = tokenizer(list(texts), context_length=limit)
        # Tokenizers cut silently; a text was cut if one place more changes what stands before it.
        longer = tokenizer(list(texts), context_length=limit + 1)[:, :limit]
        if bool((cut := (ids != longer).any(dim=1)).any()):
            text = texts[int(cut.int().argmax())]
            raise EncoderError(
                f"text {text[:60]!r} has more than the {limit} tokens of {self.name}: shorten it"
            )
        lengths = tower.lengths(ids)
        ids = ids[:, : int(lengths.max())].to(next(tower.parameters()).device)
        mask = torch.arange(ids.shape[1]) < lengths[:, None]
        return tower.embed(ids), mask.long().to(ids.device)

    def encode_text(
        self, token_embeddings: Float[Tensor, "C L E"], mask: Shaped[Tensor, "C L"]
    ) -> Float[Tensor, "C D"]:
        """Unit-length text features, differentiable in the embeddings.

        Learned tokens may stand anywhere from `context_position` to the end token; the mask must
        be 1 on them. Raises EncoderError when a text then exceeds `context_length`, and where the
        encoder was loaded without text.
        """
        tower, _ = self._text()
        return F.normalize(tower(token_embeddings, mask), dim=-1)

    def _text(self) -> tuple[TextTower, Tokenizer]:
        """What texts need."""
        if self.text_tower is None or self._tokenizer is None:
            raise EncoderError(
                f"{self.name} was loaded without its text tower, so it encodes no text: load it "
                "with load_encoder(spec, text=True)"
            )
        return self.text_tower, self._tokenizer


def image_tower(visual: nn.Module, size: int | None = None) -> ImageTower:
    """The tower with patch features around open_clip's image tower.

    Raises:
        EncoderError: no patch feature is defined for it, or the size does not suit it.
    """
    if isinstance(visual, ModifiedResNet):
        return ResNetTower(visual, size)
    if isinstance(visual, VisionTransformer):
        return transformer_tower(visual, size)
    if isinstance(visual, TimmModel):
        return timm_tower(visual, size)
    raise EncoderError(f"no feature per patch is defined for image tower {type(visual).__name__}")


def text_tower(model: Any, tokenizer: Tokenizer) -> TextTower:
    """The tower that starts from embeddings, around the text side of an open_clip model.

    Raises:
        EncoderError: the tower or the tokenizer is of a kind that takes no inserted tokens.
    """
    if getattr(tokenizer, "tokenizer_mode", ""):
        raise EncoderError(
            f"tokenizer mode {tokenizer.tokenizer_mode!r} puts a class token after the padding: "  # type: ignore[attr-defined]
            "learned tokens cannot be inserted; take another model"
        )
    text = getattr(model, "text", model)
    if isinstance(text, HFTextEncoder):
        length = getattr(tokenizer, "context_length", None) or text.context_length
        return HuggingFaceTextTower(text, int(length))
    if isinstance(text, TextTransformer) or text is model:
        empty = tokenizer([""], context_length=text.context_length + 1)
        return ClipTextTower(text, pad_id=int(empty[0, -1]))
    raise EncoderError(f"learned tokens are not supported in text tower {type(text).__name__}")


def start_tokens(tokenizer: Tokenizer) -> int:
    """How many tokens stand before every text: 1 where the tokenizer has a start token, else 0."""
    first = tokenizer(list(START_PROBES), context_length=8)[:, 0]
    return int(bool((first == first[0]).all()))
