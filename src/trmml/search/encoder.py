"""Vectors of texts, images and parts of images, by the encoder that made the index."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from trmml.encoders.base import Encoder
from trmml.encoders.needed import needed_encoder
from trmml.errors import CheckpointError, DataError
from trmml.features.extract import Encoding, encode_images
from trmml.method.prompts import encode_templates
from trmml.search.query import Edges
from trmml.search.table import IndexCard

BATCH = 64


class EncoderEmbedder:
    """What an index cannot say itself, by its encoder.

    Args:
        card: of the index.
        encoder: the one it was made with, or what `load_encoder` takes; as the card says when None.
        trust: whether a factory that the card names may run; see docs/security.md.
        encoding: how features are made and kept; by default in the user's store.
        where: the index, for messages.

    Raises:
        CheckpointError: another encoder, or one that is code.
        ConfigError: the card does not say which encoder it needs.
    """

    def __init__(
        self,
        card: IndexCard,
        *,
        encoder: Encoder | str | None = None,
        trust: bool = False,
        encoding: Encoding | None = None,
        where: Path | str = "the index",
    ) -> None:
        name, size = card.encoder["name"], card.encoder["size"]
        self._frozen = needed_encoder(
            where, card.encoder_spec, encoder, name=name, size=size, trust=trust
        )
        self._card, self._encoding, self._where = card, encoding, where
        given, checksum = self._frozen.identity, card.encoder["image_checksum"]
        if (given.image_checksum, given.size) != (checksum, size):
            raise CheckpointError(
                f"{where} was made with encoder {name} at {size} px ({checksum[:12]}), got"
                f" {given.name} at {given.size} px ({given.image_checksum[:12]}); pass the same"
                " encoder"
            )

    def texts(self, texts: Sequence[str]) -> Float[np.ndarray, "T D"]:
        """See `index.Embedder.texts`.

        Raises:
            CheckpointError: another text tower than that of the index.
            DataError: the encoder reads no text.
        """
        if not self._frozen.identity.token_size:
            raise DataError(
                f"the encoder {self._frozen.identity.name} has no text tower: search with --like"
                " images and --tag categories"
            )
        given, wanted = self._frozen.identity.checksum, self._card.encoder["checksum"]
        if wanted and given != wanted:  # "" where the index was made without a text tower
            raise CheckpointError(
                f"{self._where} was made with another text tower ({wanted[:12]}) than this encoder"
                f" {self._frozen.identity.name} has ({given[:12]}); pass the same encoder, or make"
                " the index anew with a run of this one: trmml index --replace"
            )
        (features,) = encode_templates(self._frozen.encoder, [self._card.template], list(texts))
        return np.asarray(features.float().cpu())

    def images(self, paths: Sequence[Path], box: Edges | None) -> Float[np.ndarray, "K D"]:
        """See `index.Embedder.images`.

        Raises:
            DataError: an image cannot be read.
        """
        encoded = encode_images(paths, self._frozen, encoding=self._encoding)
        features = encoded.source.batch(torch.arange(len(paths)))
        if box is None:
            return np.asarray(features.image_feature)
        weights = patches_under(box, self._frozen.identity.grid)
        mean = torch.einsum("p,kpw->kw", weights, features.hidden_patches)
        return np.asarray(self._projected(mean))

    def best_parts(
        self, paths: Sequence[Path], vector: Float[np.ndarray, " D"]
    ) -> Float[np.ndarray, " K"]:
        """See `index.Embedder.best_parts`."""
        best = np.full(len(paths), np.nan, np.float32)
        if not paths:
            return best
        encoded = encode_images(paths, self._frozen, encoding=self._encoding, on_bad_image="skip")
        wanted = torch.from_numpy(vector)
        for part in torch.split(torch.arange(len(encoded.kept)), BATCH):
            patches = self._projected(encoded.source.batch(part).hidden_patches)
            rows = [encoded.kept[i] for i in part.tolist()]
            best[rows] = np.asarray((patches @ wanted).amax(dim=1))
        return best

    @torch.no_grad()
    def _projected(self, hidden: Float[Tensor, "... W"]) -> Float[Tensor, "... D"]:
        projected = self._frozen.encoder.project(hidden.to(self._frozen.device))
        return F.normalize(projected.float(), dim=-1).cpu()


def patches_under(box: Edges, grid: tuple[int, int]) -> Float[Tensor, " P"]:
    """How much of a box lies in each patch, row by row; the sum is 1.

    Example:
        >>> patches_under((0.0, 0.0, 0.5, 1.0), (1, 4)).tolist()
        [0.5, 0.5, 0.0, 0.0]
    """
    left, top, right, bottom = box
    sides = []
    for count, low, high in ((grid[0], top, bottom), (grid[1], left, right)):
        edges = torch.linspace(0, 1, count + 1)
        sides.append((edges[1:].clamp(max=high) - edges[:-1].clamp(min=low)).clamp(min=0))
    cover = torch.outer(*sides).flatten()
    return cover / cover.sum()
