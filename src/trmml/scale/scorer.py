"""What a job computes of an image: by the run's ONNX file without torch, or by torch."""

import hashlib
import io
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from trmml.deploy.kept import keep, open_kept
from trmml.errors import ConfigError, DataError
from trmml.images import augment, read_image, shown_size
from trmml.tagging.onnx_tagger import OnnxTagger


@dataclass(frozen=True)
class Scored:
    """What is known of a batch of images.

    Attributes:
        probabilities: calibrated.
        features: the encoder's image features, unit length; None where not asked for.
        maps: of regions, over the patches row by row; each sums to 1.
    """

    probabilities: Float[np.ndarray, "B K"]
    features: Float[np.ndarray, "B D"] | None
    maps: Float[np.ndarray, "B K P"]


@runtime_checkable
class Scorer(Protocol):
    """A loaded run.

    Attributes:
        by: "onnxruntime" or "torch"; their numbers differ in the last digits.
        ahead: whether images are prepared while others are scored: only a card leaves cores free.
        category_names, thresholds, grid, feature_size: of the run.
    """

    by: str
    ahead: bool
    category_names: list[str]
    thresholds: Float[np.ndarray, " K"]
    grid: tuple[int, int]
    feature_size: int

    def prepare(self, content: bytes, name: str) -> Any:
        """One image as `score` takes it.

        Raises:
            DataError: it cannot be read.
        """
        ...

    def score(self, prepared: Sequence[Any]) -> Scored:
        """Scores of some images."""
        ...


def load_scorer(
    run: Path,
    what: Collection[str],
    *,
    device: str,
    precision: str,
    trust: bool = False,
    by: str | None = None,
) -> Scorer:
    """A run, ready to score: by ONNX Runtime on the processor, unless features are asked for.

    Args:
        run: folder of a finished run.
        what: is computed, of `BATCH_OUTPUTS`.
        device: "auto", "cpu", "cuda", ...
        precision: of the encoder; "fp32" or "int8" by ONNX Runtime.
        trust: see `Tagger.load`.
        by: what the job began with; None where it begins.

    Raises:
        CheckpointError: no finished run there.
        ConfigError: the job began with ONNX Runtime, which cannot be used any more.
    """
    plain = device == "cpu" and "features" not in what and precision in ("fp32", "int8")
    if by != "torch" and plain:
        keep(run)
        kept = open_kept(run, "int8" if precision == "int8" else "fp32")
        if kept is not None:
            return OnnxScorer(kept)
    if by == "onnxruntime":
        raise ConfigError(
            "the job began with ONNX Runtime on the processor, which does not serve now: use the"
            " same --device and --what, and a cache that can be written; or name a new folder"
        )
    return TorchScorer(run, device=device, precision=precision, trust=trust)


class OnnxScorer:
    """Scores by the ONNX file that the cache keeps.

    Args:
        tagger: with that file.
    """

    by, ahead, feature_size = "onnxruntime", False, 0

    def __init__(self, tagger: OnnxTagger) -> None:
        self._tagger = tagger
        self.category_names, self.thresholds = tagger.category_names, tagger.thresholds
        self.grid = tagger.grid

    def prepare(self, content: bytes, name: str) -> Any:
        """See `Scorer`."""
        return self._tagger.prepare(content, name)

    def score(self, prepared: Sequence[Any]) -> Scored:
        """See `Scorer`."""
        probabilities, maps = self._tagger.run(np.stack(prepared))
        return Scored(probabilities, None, maps.reshape(*maps.shape[:2], -1))


class TorchScorer:
    """Scores by torch, on any device.

    Args:
        run, device, precision, trust: see `load_scorer`.
    """

    by = "torch"

    def __init__(self, run: Path, *, device: str, precision: str, trust: bool) -> None:
        from trmml.encoders.speed.precision import in_precision
        from trmml.tagging.tagger import Tagger  # torch takes seconds to import

        self._tagger = Tagger.load(run, device=device, trust=trust)
        self._frozen = in_precision(self._tagger.frozen, precision)
        self.ahead = self._tagger.device != "cpu"
        self.category_names = list(self._tagger.category_names)
        self.thresholds = self._tagger.thresholds().numpy()
        self.grid = self._tagger.card.encoder.grid
        self.feature_size = self._tagger.card.encoder.feature_size

    def prepare(self, content: bytes, name: str) -> Any:
        """See `Scorer`; the plain view and, in a run of several views, its crops."""
        import torch

        from trmml.features.decoding import REDUCED_MARGIN, view_of

        tagger, encoder = self._tagger, self._frozen.encoder
        at_least = REDUCED_MARGIN * encoder.size if tagger.reduced else None
        plain = encoder.preprocess(read_image(content, at_least=at_least, name=name))
        if tagger.views == 1:
            return plain[None]
        whole = read_image(content, name=name)
        digest = hashlib.blake2b(content, digest_size=16).hexdigest()
        views = [view_of(Path(name), digest, tagger.seed, v) for v in range(1, tagger.views)]
        crops = [encoder.preprocess(augment(whole, view.view_seed or 0)) for view in views]
        return torch.stack([plain, *crops])

    def score(self, prepared: Sequence[Any]) -> Scored:
        """See `Scorer`."""
        import torch

        from trmml.features.base import encode_batch
        from trmml.features.views import join_views

        features = encode_batch(self._frozen, torch.cat(list(prepared)))
        if self._tagger.views > 1:
            features = join_views(features, self._tagger.views)
        scores = self._tagger.score(features)
        vectors = features.image_feature.cpu().numpy()
        return Scored(scores.probabilities.numpy(), vectors, scores.attention.numpy())


def sides(content: bytes) -> tuple[int, int] | None:
    """Width and height in pixels as the image is meant to be shown; None where its head is odd."""
    with suppress(DataError):
        return shown_size(io.BytesIO(content))
    return None
