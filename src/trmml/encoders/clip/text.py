"""Text towers of open_clip that start from token embeddings, so that learned tokens fit in.

A tower embeds ids (`embed`) and encodes embeddings with their mask (`forward`). Between the two a
caller may insert context tokens. Embeddings hold the real tokens, padded to the longest text;
towers that look at padding put back what their training saw.

Axes: C texts, L tokens, E token width, D joint feature size, K = `context_length`.
"""

from abc import ABC, abstractmethod
from math import inf
from typing import Any, cast

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from trmml.encoders.clip.blocks import encode_ends, is_plain
from trmml.errors import EncoderError


class TextTower(nn.Module, ABC):
    """A frozen text encoder.

    Args:
        context_length: K, the most tokens it takes.
    """

    def __init__(self, context_length: int) -> None:
        super().__init__()
        self.context_length = context_length

    @abstractmethod
    def lengths(self, ids: Int[Tensor, "C L"]) -> Int[Tensor, " C"]:
        """Tokens of each text, the end token included."""

    @abstractmethod
    def embed(self, ids: Int[Tensor, "C L"]) -> Float[Tensor, "C L E"]:
        """Embeddings of the tokens, without positions."""

    @abstractmethod
    def forward(
        self, embeddings: Float[Tensor, "C L E"], mask: Shaped[Tensor, "C L"]
    ) -> Float[Tensor, "C D"]:
        """Text features, not normalised, differentiable in the embeddings."""

    def trim(
        self, embeddings: Float[Tensor, "C L E"], mask: Shaped[Tensor, "C L"]
    ) -> tuple[Float[Tensor, "C M E"], Shaped[Tensor, "C M"]]:
        """At most K tokens; only padding may go.

        Raises:
            EncoderError: a text with its inserted tokens is longer than K.
        """
        limit = self.context_length
        if mask.shape[1] > limit and bool(mask[:, limit:].any()):
            longest = int(mask.bool().sum(dim=1).max())
            raise EncoderError(
                f"a text with its context tokens has {longest} tokens, this encoder takes at most "
                f"{limit}: use fewer context tokens or shorter names"
            )
        return embeddings[:, :limit], mask[:, :limit]


class ClipTextTower(TextTower):
    """CLIP's own text transformer, inside `CLIP`, `CustomTextCLIP` and `CoCa`.

    Causal towers that read the end token never see what follows it, so short padding is exact;
    where their blocks are CLIP's own, `clip_blocks` computes them.
    The others attend to padding: the padding token's embedding is put back up to K.

    Args:
        source: open_clip's `CLIP`, or a `TextTransformer`; both name their parts alike.
        pad_id: id of the padding token.
    """

    def __init__(self, source: Any, pad_id: int) -> None:
        super().__init__(source.context_length)
        in_clip = hasattr(source, "text_pool_type")
        self.pool_type = source.text_pool_type if in_clip else source.pool_type
        self.eos_id = int(source.text_eos_id if in_clip else source.eos_id)
        if self.pool_type not in ("argmax", "eos", "last", "first"):
            raise EncoderError(
                f"this text tower has pool_type {self.pool_type!r}: it gives no feature per text"
            )
        self.pad_id = pad_id
        self.token_embedding = source.token_embedding
        self.positional_embedding = source.positional_embedding
        self.transformer = source.transformer
        self.ln_final = source.ln_final
        self.text_projection = source.text_projection
        self.cls_emb = getattr(source, "cls_emb", None)
        self.attn_mask: Tensor | None
        self.register_buffer("attn_mask", source.attn_mask, persistent=False)
        self._plain = not self.sees_padding and is_plain(self.transformer.resblocks)

    @property
    def sees_padding(self) -> bool:
        """Whether tokens after the last real one change the feature."""
        return (
            self.attn_mask is None
            or self.cls_emb is not None
            or self.pool_type in ("last", "first")
        )

    def lengths(self, ids: Int[Tensor, "C L"]) -> Int[Tensor, " C"]:
        """Tokens up to the one that is read, or up to the last that is no padding."""
        if self.pool_type == "argmax":
            return ids.argmax(dim=1) + 1
        if self.pool_type == "eos":
            return torch.eq(ids, self.eos_id).int().argmax(dim=1) + 1
        places = torch.arange(1, ids.shape[1] + 1, device=ids.device)
        return (torch.ne(ids, self.pad_id) * places).amax(dim=1).clamp(min=1)

    def embed(self, ids: Int[Tensor, "C L"]) -> Float[Tensor, "C L E"]:
        """Embeddings of the tokens, without positions."""
        embeddings: Tensor = self.token_embedding(ids)
        return embeddings

    def forward(
        self, embeddings: Float[Tensor, "C L E"], mask: Shaped[Tensor, "C L"]
    ) -> Float[Tensor, "C D"]:
        """Text features, not normalised, differentiable in the embeddings."""
        embeddings, mask = self.trim(embeddings, mask)
        ends = mask.bool().sum(dim=1) - 1
        if self.sees_padding:
            embeddings = self._pad(embeddings, ends + 1)
        if self.cls_emb is not None:
            return self._project(self._class_feature(embeddings, ends + 1))
        length = embeddings.shape[1]
        if self._plain:
            tokens = embeddings + self.positional_embedding[:length]
            read = encode_ends(self.transformer.resblocks, tokens, ends)
            return self._project(self.ln_final(read))
        causal = self.attn_mask[:length, :length] if self.attn_mask is not None else None
        hidden = self.transformer(embeddings + self.positional_embedding[:length], attn_mask=causal)
        hidden = self.ln_final(hidden)
        if self.pool_type in ("argmax", "eos"):
            return self._project(hidden[torch.arange(len(ends), device=ends.device), ends])
        return self._project(hidden[:, 0 if self.pool_type == "first" else -1])

    def _pad(
        self, embeddings: Float[Tensor, "C L E"], lengths: Int[Tensor, " C"]
    ) -> Float[Tensor, "C K E"]:
        """All K tokens, with the padding token's embedding after each text."""
        padding = self.token_embedding.weight[self.pad_id]
        missing = self.context_length - embeddings.shape[1]
        filler = padding.expand(len(embeddings), missing, -1)
        places = torch.arange(self.context_length, device=lengths.device)
        real = (places < lengths[:, None])[..., None]
        return torch.where(real, torch.cat([embeddings, filler], dim=1), padding)

    def _class_feature(
        self, embeddings: Float[Tensor, "C K E"], lengths: Int[Tensor, " C"]
    ) -> Float[Tensor, "C E"]:
        """CoCa: a class token after the padding reads the text, normalised last.

        Its mask hides padding one place late: the token after the end token is attended to, and the
        class token is not. open_clip trained and serves its CoCa weights like this.
        """
        count, keys = len(embeddings), self.context_length + 1
        class_token = cast(Tensor, self.cls_emb).expand(count, 1, -1)
        tokens = torch.cat([embeddings, class_token], dim=1) + self.positional_embedding
        hidden_keys = torch.arange(keys, device=lengths.device) > lengths[:, None]  # (C, K + 1)
        no_key = torch.zeros_like(hidden_keys, dtype=tokens.dtype).masked_fill(hidden_keys, -inf)
        mask = no_key[:, None, :].expand(count, keys, keys)
        if self.attn_mask is not None:
            mask = mask + self.attn_mask
        heads = self.transformer.resblocks[0].attn.num_heads
        hidden = self.transformer(tokens, attn_mask=mask.repeat_interleave(heads, dim=0))
        feature: Tensor = self.ln_final(hidden[:, -1])
        return feature

    def _project(self, feature: Float[Tensor, "C E"]) -> Float[Tensor, "C D"]:
        if self.text_projection is None:
            return feature
        if isinstance(self.text_projection, nn.Linear):
            projected: Tensor = self.text_projection(feature)
            return projected
        return feature @ cast(Tensor, self.text_projection)


class HuggingFaceTextTower(TextTower):
    """A text encoder from the transformers library, with open_clip's pooling and projection.

    Padding is masked out inside, so short padding is exact.

    Args:
        source: open_clip's `HFTextEncoder`.
        context_length: K, from the tokenizer, as the model may know no limit of its own.
    """

    def __init__(self, source: Any, context_length: int) -> None:
        super().__init__(context_length)
        self.text = source
        self.pad_id = source.config.pad_token_id

    def lengths(self, ids: Int[Tensor, "C L"]) -> Int[Tensor, " C"]:
        """Tokens up to the last that is no padding."""
        places = torch.arange(1, ids.shape[1] + 1, device=ids.device)
        return (torch.ne(ids, self.pad_id) * places).amax(dim=1).clamp(min=1)

    def embed(self, ids: Int[Tensor, "C L"]) -> Float[Tensor, "C L E"]:
        """Embeddings of the tokens, without positions."""
        embeddings: Tensor = self.text.transformer.get_input_embeddings()(ids)
        return embeddings

    def forward(
        self, embeddings: Float[Tensor, "C L E"], mask: Shaped[Tensor, "C L"]
    ) -> Float[Tensor, "C D"]:
        """Text features, not normalised, differentiable in the embeddings."""
        embeddings, mask = self.trim(embeddings, mask)
        attended = mask.long()
        output = self.text.transformer(inputs_embeds=embeddings, attention_mask=attended)
        feature: Tensor = self.text.proj(self.text.pooler(output, attended))
        return feature
