"""Mean patches of images already seen, so that a cheap branch may learn from them again.

A map of patches is dear to read and to match; its mean is not. A branch that needs only the mean
then learns from several times as many images in each step as the rest of the model.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from trmml.features import Features


class Replay:
    """The mean hidden patch of each image, as last seen, and which images were seen.

    It takes 2 W bytes an image: 2 KB at W = 1,024.

    Args:
        images: N, of the training set.
    """

    def __init__(self, images: int) -> None:
        self.pooled: Float[Tensor, "N W"] = torch.zeros(images, 0, dtype=torch.float16)
        self.seen = torch.zeros(images, dtype=torch.bool)

    def add(self, indices: Int[Tensor, " B"], features: Features) -> None:
        """Remember a batch."""
        mean = features.hidden_patches.mean(dim=1)
        if not self.pooled.shape[1]:
            self.pooled = torch.zeros(len(self.seen), mean.shape[1], dtype=torch.float16)
        self.pooled[indices] = mean.to("cpu", torch.float16)
        self.seen[indices] = True

    def draw(self, count: int, generator: torch.Generator) -> Int[Tensor, " R"]:
        """Indices of images that were seen, at random; each at most once."""
        seen = self.seen.nonzero()[:, 0]
        return seen[torch.randperm(len(seen), generator=generator)[:count]]

    def batch(self, indices: Int[Tensor, " R"]) -> Float[Tensor, "R W"]:
        """Their mean patches, in fp32."""
        return self.pooled[indices].float()
