"""The prompt learner: what the frozen text encoder is asked about each category.

Two readings of the paper are selectable. With `train_context` the context tokens in front of a
name are learned, with gradients through the frozen text encoder (its abstract); without, the
hand-written prompt stays as it is (its figure 2). `text_residual` adds a learned vector per
category to the finished text feature: much of the same freedom at the cost of one addition.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from trmml.encoders.base import Encoder
from trmml.errors import ConfigError, EncoderError
from trmml.settings.sections import PromptSettings

# CoOp's start of random context tokens (Zhou et al. 2022, section 3.1).
CONTEXT_STD = 0.02
# Prompts per pass of the text encoder where no gradient is needed.
TEXT_BATCH = 256
# Names per pass behind context tokens. From 32 on, 80 names take as long whatever the number.
CHUNK = 64
# Tokens whose activations are kept for the backward pass, 0.3 MB each in the text tower of
# ViT-B-32. Those of later chunks are computed again when needed: with T = 16, 800 names take 1.7 GB
# and a quarter more time, not 4.7 GB, and 5,000 names 2.0 GB.
KEPT_TOKENS = 4096


def fill(template: str, names: Sequence[str]) -> list[str]:
    """The template with each name in its place.

    Example:
        >>> fill("a photo of a {}", ["dog", "zebra crossing"])
        ['a photo of a dog', 'a photo of a zebra crossing']
    """
    if template.count("{}") != 1:
        raise ConfigError(f"expected a template with one {{}} for the name, got {template!r}")
    return [template.replace("{}", name) for name in names]


@torch.no_grad()
def encode_prompts(encoder: Encoder, texts: Sequence[str]) -> Float[Tensor, "C D"]:
    """Unit-length text features of finished texts, without gradient; equal texts go in once."""
    distinct = sorted(dict.fromkeys(texts), key=len)  # texts of a length share little padding
    features = []
    for start in range(0, len(distinct), TEXT_BATCH):
        embeddings, mask = encoder.token_embeddings(distinct[start : start + TEXT_BATCH])
        features.append(encoder.encode_text(embeddings, mask))
    row = {text: number for number, text in enumerate(distinct)}
    return F.normalize(torch.cat(features)[[row[text] for text in texts]], dim=-1)


def encode_templates(
    encoder: Encoder, templates: Sequence[str], names: Sequence[str]
) -> list[Float[Tensor, "C D"]]:
    """The features of each template's prompts, all in one pass of `encode_prompts`."""
    texts = [text for template in templates for text in fill(template, names)]
    return list(torch.split(encode_prompts(encoder, texts), len(names)))


class PromptLearner(nn.Module):
    """Text features of the categories, from context tokens and names through the frozen encoder.

    text_features_c = unit(encode([context_tokens_c, name_c]) + text_residual_c)

    Shapes: forward() -> text_features (C, D), unit length.
    Trains: context_tokens (C or 1, T, E) and text_residual (C, D), each where switched on.
    Paper letters: our context_tokens are CoOp's v_1..v_T.

    Args:
        encoder: frozen; used, not owned, so its weights are no part of this module.
        category_names: C names.
        start_features: of the template's prompts, from `encode_templates`.
        settings: which parts learn, and how they start.
        generator: for the random start.
    """

    start_features: Tensor  # (C, D) of the template's prompts: where everything starts
    name_order: Tensor  # (C), by length, so that the names of a chunk share little padding
    name_embeddings: Tensor  # (C, L, E), in that order
    name_mask: Tensor  # (C, L), in that order

    def __init__(
        self,
        *,
        encoder: Encoder,
        category_names: Sequence[str],
        start_features: Float[Tensor, "C D"],
        settings: PromptSettings,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.register_buffer("start_features", start_features)
        residual = torch.zeros_like(start_features) if settings.text_residual else None
        self.text_residual = None if residual is None else nn.Parameter(residual)
        self.context_tokens: nn.Parameter | None = None
        if settings.train_context:
            self._start_context(encoder, category_names, settings, generator)

    def _start_context(
        self,
        encoder: Encoder,
        category_names: Sequence[str],
        settings: PromptSettings,
        generator: torch.Generator,
    ) -> None:
        """Set up the learned tokens and the frozen embeddings of the names behind them."""
        names, mask = encoder.token_embeddings(list(category_names))
        if settings.context_start == "template":
            context = template_context(encoder, settings.template)
        else:
            size = (settings.context_tokens, names.shape[-1])
            context = CONTEXT_STD * torch.randn(size, generator=generator).to(names)
        limit = getattr(encoder, "context_length", None)
        needed = int(mask.sum(dim=1).max()) + len(context)
        if limit is not None and needed > limit:
            longest = category_names[int(mask.sum(dim=1).argmax())]
            raise EncoderError(
                f"the encoder reads at most {limit} tokens, but {len(context)} context tokens and"
                f" the name {longest!r} make {needed}; lower prompts.context_tokens or shorten it"
            )
        order = mask.sum(dim=1).argsort(stable=True)
        self.register_buffer("name_order", order, persistent=False)
        self.register_buffer("name_embeddings", names.detach()[order], persistent=False)
        self.register_buffer("name_mask", mask[order], persistent=False)
        ordered = [category_names[c] for c in order.tolist()]
        room = names.shape[1] if limit is None else limit - len(context)
        self._lengths = []  # of each chunk, as the encoder itself pads it
        for start in range(0, len(ordered), CHUNK):
            alone, _ = encoder.token_embeddings(ordered[start : start + CHUNK])
            self._lengths.append(min(alone.shape[1], room))
        copies = 1 if settings.shared_context else len(category_names)
        self.context_tokens = nn.Parameter(context.detach().expand(copies, -1, -1).clone())
        self._position = getattr(encoder, "context_position", 1)
        self._encode_text = encoder.encode_text  # a bound method: no submodule, so never trained
        self._encoded: _Encoded | None = None

    def forward(self) -> Float[Tensor, "C D"]:
        """Text features of all categories, unit length."""
        features = self.start_features if self.context_tokens is None else self._encode_context()
        if self.text_residual is not None:
            features = features + self.text_residual
        return F.normalize(features, dim=-1)

    def _encode_context(self) -> Float[Tensor, "C D"]:
        """What the text encoder makes of context tokens and names, once per state of the tokens."""
        context = cast(nn.Parameter, self.context_tokens)
        if torch.is_grad_enabled() and context.requires_grad:
            return self._encode_chunks(context)
        if self._encoded is None or not self._encoded.holds(context):
            with torch.inference_mode(False), torch.no_grad():  # its features may meet a gradient
                self._encoded = _Encoded(
                    context.detach().clone(), _autocast(context), self._encode_chunks(context)
                )
        return self._encoded.features

    def _encode_chunks(self, context: Float[Tensor, "copies T E"]) -> Float[Tensor, "C D"]:
        """Chunk by chunk; from KEPT_TOKENS on, activations are computed again for the gradient."""
        context = context.expand(len(self.name_order), -1, -1)[self.name_order]
        features, tokens = [], 0
        for number, own in enumerate(torch.split(context, CHUNK)):
            start, length = number * CHUNK, self._lengths[number]
            part = slice(start, start + len(own))
            names, mask = self.name_embeddings[part, :length], self.name_mask[part, :length]
            tokens += len(own) * (own.shape[1] + length)
            if tokens <= KEPT_TOKENS or not torch.is_grad_enabled():
                features.append(self._encode_chunk(own, names, mask))
            else:
                made = checkpoint(
                    self._encode_chunk,
                    *(own, names, mask),
                    use_reentrant=False,
                    preserve_rng_state=False,  # a frozen encoder draws nothing
                )
                features.append(made)
        return torch.cat(features)[self.name_order.argsort()]

    def _encode_chunk(
        self,
        context: Float[Tensor, "K T E"],
        names: Float[Tensor, "K L E"],
        mask: Shaped[Tensor, "K L"],
    ) -> Float[Tensor, "K D"]:
        """Pass some names behind their context tokens through the frozen text encoder."""
        at, context = self._position, context.to(names)
        embeddings = torch.cat([names[:, :at], context, names[:, at:]], dim=1)
        ones = torch.ones(context.shape[:2], dtype=mask.dtype, device=mask.device)
        with _attention_for_gradients(embeddings):
            return self._encode_text(
                embeddings, torch.cat([mask[:, :at], ones, mask[:, at:]], dim=1)
            )


@dataclass(frozen=True)
class _Encoded:
    """Text features and what they were made of.

    Values are compared, not version counters: fused optimisers do not count what they change.
    """

    context: Float[Tensor, "copies T E"]
    precision: torch.dtype | None
    features: Float[Tensor, "C D"]

    def holds(self, context: Float[Tensor, "copies T E"]) -> bool:
        """Whether the features are those of these tokens, in this precision."""
        same_place = self.context.device == context.device and self.context.dtype == context.dtype
        same_precision = self.precision == _autocast(context)
        return same_place and same_precision and torch.equal(self.context, context)


def _autocast(tensor: Tensor) -> torch.dtype | None:
    """The precision that operations on a tensor are cast to, if any."""
    kind = tensor.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None


def _attention_for_gradients(tensor: Tensor) -> AbstractContextManager[None]:
    """Plain attention where the fused one is slow: with gradients, in half precision, on a CPU.

    Its backward pass takes up to 8 times as long on sequences as short as prompts (PyTorch 2.15).
    The switch is the whole process's, so trainings in threads of one process would turn it for each
    other.
    """
    slow = tensor.device.type == "cpu" and _autocast(tensor) is not None
    plain: AbstractContextManager[None] = sdpa_kernel(SDPBackend.MATH)
    return plain if slow and torch.is_grad_enabled() else nullcontext()


def build_prompts(
    encoder: Encoder,
    category_names: Sequence[str],
    settings: PromptSettings,
    generator: torch.Generator,
) -> tuple[PromptLearner, PromptLearner | None]:
    """The prompt learner of the settings, and that of the negative prompts where there are any."""
    templates = [settings.template]
    if settings.negative_template is not None:
        templates.append(settings.negative_template)
    starts = encode_templates(encoder, templates, category_names)
    positive, *negative = [
        PromptLearner(
            encoder=encoder,
            category_names=category_names,
            start_features=start,
            settings=settings.model_copy(update={"template": template}),
            generator=generator,
        )
        for template, start in zip(templates, starts, strict=True)
    ]
    return positive, negative[0] if negative else None


class StoredPrompts(nn.Module):
    """Stands in for a prompt learner where its text features are already computed and stored.

    Shapes: start_features (C, D), loaded with the model.
    Trains: nothing.
    """

    start_features: Tensor

    def __init__(self, *, categories: int, feature_size: int) -> None:
        super().__init__()
        self.register_buffer("start_features", torch.zeros(categories, feature_size))

    def forward(self) -> Float[Tensor, "C D"]:
        """The features everything started from; a model with frozen texts uses no others."""
        return self.start_features


def template_context(encoder: Encoder, template: str) -> Float[Tensor, "T E"]:
    """Token embeddings of the words that stand before the name in a template.

    Found by comparing a prompt with its bare name, so that no knowledge of the tokenizer is needed.
    """
    if not template.endswith("{}"):
        raise ConfigError(
            "context tokens start from the words before the name, so prompts.template must end with"
            f" {{}}, got {template!r}; choose another or prompts.context_start=random"
        )
    (prompt,) = fill(template, ["dog"])
    embeddings, mask = encoder.token_embeddings([prompt])
    _, bare_mask = encoder.token_embeddings(["dog"])
    length = int(mask.sum()) - int(bare_mask.sum())
    position = getattr(encoder, "context_position", 1)
    if length < 1:
        raise ConfigError(
            f"expected words before the name in prompts.template, got {template!r};"
            " use prompts.context_start=random"
        )
    return embeddings[0, position : position + length]
