"""The field's training loop, as DualCoOp publishes it, on any encoder: what trmml is timed against.

Every step sends the images through the frozen encoder, and two prompts per category, padded to the
text encoder's full length, through the frozen text encoder, forward and backward.

Source: Sun et al., DualCoOp (NeurIPS 2022), and its code (sunxm2357/DualCoOp, models/dualcoop.py):
class-specific context of 16 tokens, positive and negative; out = 20 cos(patch, text); w = softmax
over patches of the positive map; logits = 5 sum(w out), the same w for both; the partial
asymmetric loss on the softmax over (negative, positive) with gammas 1 and 2 and clip 0.05; SGD
with learning rate 0.002 and a cosine schedule. Differences: no augmentation and no decoding (pixels
are handed in, which favours this loop), fp32 as its code runs without a card.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CONTEXT_TOKENS = 16
PATCH_SCALE, LOGIT_SCALE = 20.0, 5.0
GAMMA_NEGATIVE, GAMMA_POSITIVE, CLIP = 2.0, 1.0, 0.05
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 0.002, 0.9, 5e-4


class FieldLoop:
    """DualCoOp's model, loss and optimiser around a frozen encoder.

    Args:
        encoder: keeps the Encoder protocol of trmml.
        names: of C categories.
        steps: of the whole training, for the cosine schedule.
        device: of the encoder.
        precision: autocast to this type; None is fp32.
    """

    def __init__(
        self,
        encoder: Any,
        names: Sequence[str],
        *,
        steps: int,
        device: str = "cpu",
        precision: torch.dtype | None = None,
    ) -> None:
        self.encoder, self.device, self.precision = encoder, device, precision
        with torch.no_grad():
            embeddings, mask = encoder.token_embeddings(list(names))
        limit = getattr(encoder, "context_length", None) or mask.shape[1] + CONTEXT_TOKENS
        room = limit - CONTEXT_TOKENS
        embeddings, mask = embeddings[:, :room], mask[:, :room]
        missing = room - embeddings.shape[1]
        # As published: prompts keep the padding up to the full length.
        self.names = F.pad(embeddings, (0, 0, 0, missing)).to(device).repeat(2, 1, 1)
        self.ends = mask.sum(dim=1).to(device).repeat(2) - 1 + CONTEXT_TOKENS
        self.at = int(getattr(encoder, "context_position", 1))
        start = 0.02 * torch.randn(2 * len(names), CONTEXT_TOKENS, embeddings.shape[2])
        self.context = nn.Parameter(start.to(device))
        self.optimizer = torch.optim.SGD(
            [self.context], LEARNING_RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))
        )

    def texts(self) -> Tensor:
        """(2 C, D) text features of the positive, then the negative prompts."""
        at = self.at
        prompts = torch.cat([self.names[:, :at], self.context, self.names[:, at:]], dim=1)
        tower = getattr(self.encoder, "text_tower", None)
        if hasattr(tower, "transformer") and hasattr(tower, "positional_embedding"):
            return self._full_length(tower, prompts)
        places = torch.arange(prompts.shape[1], device=prompts.device)
        return self.encoder.encode_text(prompts, (places <= self.ends[:, None]).long())

    def _full_length(self, tower: Any, prompts: Tensor) -> Tensor:
        """CLIP's text encoder over all positions, as DualCoOp's TextEncoder runs it."""
        length = prompts.shape[1]
        mask = tower.attn_mask[:length, :length]
        hidden = tower.transformer(prompts + tower.positional_embedding[:length], attn_mask=mask)
        rows = torch.arange(len(prompts), device=prompts.device)
        ended = tower.ln_final(hidden)[rows, self.ends]
        return F.normalize(ended @ tower.text_projection, dim=-1)

    def logits(self, pixels: Tensor) -> Tensor:
        """(B, 2, C): negative and positive logits; runs both encoders."""
        with torch.no_grad():
            hidden, _ = self.encoder.encode_image(pixels)
            patches = F.normalize(self.encoder.project(hidden), dim=-1)  # (B, P, D)
        similarity = PATCH_SCALE * patches @ self.texts().T  # (B, P, 2 C)
        positive, negative = similarity.chunk(2, dim=-1)
        weights = positive.softmax(dim=1)
        pair = torch.stack([negative, positive], dim=1)  # (B, 2, P, C)
        return LOGIT_SCALE * (pair * weights[:, None]).sum(dim=2)

    def step(self, pixels: Tensor, labels: Tensor, known: Tensor) -> float:
        """One optimiser step; returns the loss."""
        kind = torch.device(self.device).type
        with torch.autocast(kind, self.precision, enabled=self.precision is not None):
            probability = self.logits(pixels.to(self.device)).float().softmax(dim=1)[:, 1]
        loss = partial_asymmetric_loss(
            probability, labels.to(self.device), known.to(self.device)
        ) / len(pixels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.schedule.step()
        return float(loss.detach())

    @torch.no_grad()
    def probabilities(self, pixels: Tensor) -> Tensor:
        """(B, C); the text encoder runs for every batch here too, as published."""
        return self.logits(pixels.to(self.device)).softmax(dim=1)[:, 1].cpu()


def partial_asymmetric_loss(probability: Tensor, labels: Tensor, known: Tensor) -> Tensor:
    """DualCoOp's AsymmetricLoss_partial, summed; unknown pairs cost nothing."""
    negative = (1 - probability + CLIP).clamp(max=1)
    positive_term = labels * probability.clamp(min=1e-8).log()
    negative_term = ~labels * negative.clamp(min=1e-8).log()
    with torch.no_grad():
        sure = torch.where(labels, probability, negative)
        focus = (1 - sure) ** torch.where(labels, GAMMA_POSITIVE, GAMMA_NEGATIVE)
    return -((positive_term + negative_term) * focus * known).sum()
