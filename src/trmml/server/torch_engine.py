"""A run by torch: for runs that have no kept ONNX file, and for region maps."""

from functools import cached_property, partial
from hashlib import blake2b
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from trmml.errors import DataError
from trmml.features.base import Features, encode_batch
from trmml.features.decoding import view_of
from trmml.features.views import join_views
from trmml.images import augment, read_image
from trmml.tagging.tagger import Tagger


class TorchEngine:
    """See `batching.Engine`.

    Args:
        tagger: of the run.
    """

    def __init__(self, tagger: Tagger) -> None:
        self.tagger, self.category_names = tagger, list(tagger.category_names)

    @cached_property
    def thresholds(self) -> Float[np.ndarray, " K"]:
        """Of each category."""
        found: Float[np.ndarray, " K"] = self.tagger.thresholds().numpy()
        return found

    def read(self, source: Path | bytes) -> Float[np.ndarray, "V 3 S S"] | DataError:
        """The views that the run scores, or why the image cannot be read."""
        preprocess = self.tagger.frozen.encoder.preprocess
        try:
            content = source if isinstance(source, bytes) else source.read_bytes()
            image = read_image(content)
        except OSError as error:
            return DataError(f"the image cannot be read: {error.strerror}. Check the file.")
        except DataError as error:
            return error
        digest = partial(blake2b, digest_size=16)(content).hexdigest()
        seeds = [
            view_of(Path(), digest, self.tagger.seed, view).view_seed
            for view in range(self.tagger.views)
        ]
        seen = [image if seed is None else augment(image, seed) for seed in seeds]
        return np.stack([preprocess(view).numpy() for view in seen])

    def probabilities(self, images: Float[np.ndarray, "B V 3 S S"]) -> Float[np.ndarray, "B K"]:
        """See `batching.Engine`."""
        found: Float[np.ndarray, "B K"]
        found = self.tagger.score(self.features(images)).probabilities.numpy()
        return found

    @torch.no_grad()
    def features(self, images: Float[np.ndarray, "B V 3 S S"]) -> Features:
        """Of images that were read."""
        encoded = encode_batch(self.tagger.frozen, torch.from_numpy(images).flatten(0, 1))
        return encoded if self.tagger.views == 1 else join_views(encoded, self.tagger.views)
