"""A run by torch that scores images in memory, on any device."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from trmml.encoders.speed.precision import in_precision
from trmml.features.base import encode_batch
from trmml.features.decoding import REDUCED_MARGIN, view_of
from trmml.features.views import join_views
from trmml.images import augment, read_image
from trmml.tagging.scorer import Scored
from trmml.tagging.tagger import Tagger


class TorchScorer:
    """See `Scorer`.

    Args:
        tagger: of the run.
        precision: of the encoder.
    """

    by = "torch"

    def __init__(self, tagger: Tagger, precision: str = "fp32") -> None:
        self._tagger, self._frozen = tagger, in_precision(tagger.frozen, precision)
        self._at_least = REDUCED_MARGIN * tagger.card.encoder.size if tagger.reduced else None
        self.ahead = tagger.device != "cpu"
        self.category_names = list(tagger.category_names)
        self.thresholds = tagger.thresholds().numpy()
        self.grid = tagger.card.encoder.grid
        self.feature_size = tagger.card.encoder.feature_size

    def prepare(self, source: Path | bytes, name: str = "the image") -> Float[Tensor, "V 3 S S"]:
        """See `Scorer`; the plain view and, in a run of several views, its crops."""
        preprocess, tagger = self._frozen.encoder.preprocess, self._tagger
        plain = preprocess(read_image(source, at_least=self._at_least, name=name))
        if tagger.views == 1:
            return plain[None]
        content = source if isinstance(source, bytes) else source.read_bytes()
        whole = read_image(content, name=name)
        digest = hashlib.blake2b(content, digest_size=16).hexdigest()
        views = [view_of(Path(name), digest, tagger.seed, v) for v in range(1, tagger.views)]
        return torch.stack([plain, *(preprocess(augment(whole, v.view_seed or 0)) for v in views)])

    @torch.no_grad()
    def score(self, prepared: Sequence[Float[Tensor, "V 3 S S"]]) -> Scored:
        """See `Scorer`."""
        features = encode_batch(self._frozen, torch.cat(list(prepared)))
        if self._tagger.views > 1:
            features = join_views(features, self._tagger.views)
        scores = self._tagger.score(features)
        vectors = features.image_feature.cpu().numpy()
        return Scored(scores.probabilities.numpy(), vectors, scores.attention.numpy())
