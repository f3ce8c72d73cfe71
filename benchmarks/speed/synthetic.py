"""An encoder of any shape that costs nothing, and a store filled with random features for it."""

import zlib
from pathlib import Path

import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from PIL import Image
from torch import Tensor, nn

from trmml.encoders.base import EncoderIdentity
from trmml.encoders.frozen import frozen_encoder
from trmml.features.base import Features, FeatureSource
from trmml.features.store import FeatureStore, StoreKey
from trmml.labels.matrix import LabelMatrix
from trmml.method.build import build_trmml
from trmml.settings.choices import StoreForm
from trmml.settings.sections import Settings
from trmml.training.trainer import Trainer

PRESENT_LABELS, KNOWN_SHARE = 3, 0.1
TOKEN_SIZE = 8


class SyntheticEncoder(nn.Module):
    """Random features of the shapes of a real encoder; texts are known by their checksum.

    Args:
        patches: P, in one row.
        hidden_size: W.
        feature_size: D.
    """

    size = 32

    def __init__(self, patches: int, hidden_size: int, feature_size: int) -> None:
        super().__init__()
        self.grid = (1, patches)
        generator = torch.Generator().manual_seed(0)
        weight = torch.randn(hidden_size, feature_size, generator=generator) / hidden_size**0.5
        self.projection = nn.Parameter(weight)
        self.text = nn.Parameter(torch.randn(TOKEN_SIZE, feature_size, generator=generator))
        self.patches = nn.Parameter(torch.randn(patches, hidden_size, generator=generator))
        self.requires_grad_(False).eval()

    def preprocess(self, image: Image.Image) -> Tensor:
        """A image of one value."""
        level = image.resize((1, 1)).convert("L").getpixel((0, 0))
        assert isinstance(level, int)
        return torch.full((3, self.size, self.size), level / 255)

    @torch.no_grad()
    def encode_image(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """The same patches for every image."""
        hidden = self.patches.expand(len(pixels), -1, -1)
        return hidden, F.normalize(self.project(hidden).mean(dim=1), dim=-1)

    def project(self, hidden_patches: Tensor) -> Tensor:
        """See `Encoder.project`."""
        return hidden_patches @ self.projection

    def token_embeddings(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """Three random tokens for each text, the same ones every time."""
        generators = (torch.Generator().manual_seed(zlib.crc32(text.encode())) for text in texts)
        tokens = [torch.randn(3, TOKEN_SIZE, generator=generator) for generator in generators]
        return torch.stack(tokens), torch.ones(len(texts), 3, dtype=torch.long)

    def encode_text(self, token_embeddings: Tensor, mask: Tensor) -> Tensor:
        """See `Encoder.encode_text`."""
        return F.normalize(token_embeddings.mean(dim=1) @ self.text, dim=-1)


def open_store(root: Path, identity: EncoderIdentity, form: StoreForm) -> FeatureStore:
    """A store on disk for features of a synthetic encoder."""
    key = StoreKey(
        encoder="synthetic",
        image_checksum=identity.image_checksum,
        size=identity.size,
        preprocessing="",
        decoder="",
        precision="fp32",
        form=form,
        patches=identity.patches,
        hidden_size=identity.hidden_size,
        feature_size=identity.feature_size,
    )
    return FeatureStore(root, key)


def filled_store(
    root: Path, identity: EncoderIdentity, images: int, form: StoreForm = "fp16"
) -> FeatureSource:
    """A store on disk with random features of so many images, written shard by shard."""
    store, names = open_store(root, identity, form), [str(number) for number in range(images)]
    for start in range(0, images, store.shard_rows):
        part = names[start : start + store.shard_rows]
        store.add(part, random_features(identity, len(part), seed=start))
    return store.features([names])


def random_features(identity: EncoderIdentity, images: int, seed: int = 0) -> Features:
    """Seeded features of so many images."""
    generator = torch.Generator().manual_seed(seed)
    shape = (images, identity.patches, identity.hidden_size)
    image = torch.randn(images, identity.feature_size, generator=generator)
    return Features(torch.randn(shape, generator=generator), F.normalize(image, dim=-1))


def make_trainer(
    encoder: nn.Module,
    source: FeatureSource,
    categories: int,
    batch: int,
    steps: int | None = None,
) -> Trainer:
    """The trainer of trmml on random labels; whole batches only, all of them or so many steps."""
    generator = torch.Generator().manual_seed(0)
    present = torch.rand(len(source), categories, generator=generator) < PRESENT_LABELS / categories
    known = torch.rand(present.shape, generator=generator) < KNOWN_SHARE
    settings = Settings(
        training={"batch_size": batch, "epochs": 1000, "held_out_share": 0.05},
        prototypes={"warm_up_share": 0},  # so that every part of the method takes part
    )
    names = [f"thing {number}" for number in range(categories)]
    trainer = Trainer(
        model=build_trmml(frozen_encoder(encoder), names, settings),  # type: ignore[arg-type]
        source=source,
        matrix=LabelMatrix(present, known),
        truth=None,
        training=settings.training,
        fabric=Fabric(accelerator="cpu", devices=1),
    )
    trainer.batches = len(source) // batch if steps is None else steps
    trainer.kept = torch.arange(trainer.batches * batch)
    return trainer


def run_epoch(trainer: Trainer) -> None:
    """One epoch: its steps, the score of the held-out labels, and the next pseudo-labels."""
    trainer.model.train()
    for _ in trainer.run_epoch():
        pass
    trainer.close_epoch(0.0)
