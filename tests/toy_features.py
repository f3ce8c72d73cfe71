"""Encoded images that need no encoder: random features, and some that show their labels."""

import torch
import torch.nn.functional as F

from tests.toy import COLOURS, ToyEncoder
from trmml.features.base import Features, MemoryFeatures
from trmml.labels.matrix import LabelMatrix
from trmml.method.interface import Targets

ENCODER = ToyEncoder()
NAMES = list(COLOURS)


def random_features(images: int = 5, patches: int = 9, seed: int = 0) -> Features:
    generator = torch.Generator().manual_seed(seed)
    return encoded(torch.randn(images, patches, 12, generator=generator))


def encoded(hidden: torch.Tensor) -> Features:
    return Features(hidden, F.normalize(ENCODER.project(hidden).mean(dim=1), dim=-1))


def random_targets(images: int = 5, categories: int = 4, seed: int = 0) -> Targets:
    """Half of the labels known; no pseudo-labels."""
    draws = torch.rand(2, images, categories, generator=torch.Generator().manual_seed(seed))
    blank = torch.zeros(images, categories, dtype=torch.bool)
    return Targets(draws[0] < 0.4, draws[1] < 0.5, blank, blank)


def flipped(targets: Targets) -> Targets:
    """The same with other labels behind what is unknown."""
    labels = torch.where(targets.known, targets.labels, ~targets.labels)
    return Targets(labels, targets.known, targets.pseudo_labels, targets.pseudo)


def separable(images: int = 160, seed: int = 0) -> tuple[MemoryFeatures, LabelMatrix]:
    """ToyImages in which each present category puts its own direction into one patch.

    All other patches are much alike, as a background is.
    """
    generator = torch.Generator().manual_seed(seed)
    directions = torch.linalg.qr(torch.randn(12, 12, generator=torch.Generator().manual_seed(9)))[0]
    shown = torch.rand(images, len(NAMES), generator=generator) < 0.35
    hidden = 2 * directions[-1] + 0.1 * torch.randn(images, 9, 12, generator=generator)
    for category in range(len(NAMES)):
        place = torch.randint(9, (images,), generator=generator)
        hidden[torch.arange(images), place] += 4 * shown[:, [category]] * directions[category]
    features = encoded(hidden)
    source = MemoryFeatures(hidden[None], features.image_feature[None])
    return source, LabelMatrix(shown, torch.ones_like(shown))
