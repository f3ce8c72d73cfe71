"""What each process of `test_several.py` runs: twenty steps of training."""

import os
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.toy import COLOURS, WHOLE, kept_encoder
from trmml.encoders.frozen import frozen_encoder
from trmml.features import ranks
from trmml.features.extract import Encoding, encode_images
from trmml.labels.matrix import LabelMatrix
from trmml.method.build import build_trmml
from trmml.settings.sections import Settings
from trmml.training.fabric import make_fabric
from trmml.training.trainer import Trainer

STEPS = 20
# Noise is drawn for each image in its place; without it nothing may depend on the place.
NO_NOISE = {
    "regions": {"dropout": 0.0},
    "image_head": {"dropout": 0.0},
    "csra_head": {"dropout": 0.0},
}


def labels(shown: torch.Tensor) -> LabelMatrix:
    """A tenth of the pairs known: most of them in the even images, hardly any in the odd ones.

    Batches are shuffled and then dealt out, so the two processes have unequal counts in nearly all.
    """
    generator = torch.Generator().manual_seed(1)
    chance = torch.full(shown.shape, 0.02)
    chance[::2] = 0.18
    return LabelMatrix(shown, torch.rand(shown.shape, generator=generator) < chance)


def settings_of(kind: str) -> Settings:
    """Settings of a comparison: the defaults, all parts, sums over images, or no store."""
    parts: dict[str, dict[str, object]] = {
        "default": {},
        "whole": {**WHOLE, "prototypes": {"warm_up_share": 0.0}},
        "images": {"losses": {"reduction": "images"}},
        "live": {},
    }[kind]
    tree = {n: {**NO_NOISE.get(n, {}), **parts.get(n, {})} for n in {*NO_NOISE, *parts}}
    training = {
        "batch_size": 64,
        "epochs": 10 if kind == "live" else 4,
        "held_out_share": 0.2,
        "views": 1,
    }
    return Settings(**tree, training=training)


def train_steps(kind: str, folder: Path, devices: int) -> None:
    """Twenty steps of the toy; writes weights, averages and held-out logits.

    Args:
        kind: of the settings.
        folder: with images and shown.pt.
        devices: processes.
    """
    settings, frozen = settings_of(kind), frozen_encoder(kept_encoder())
    fabric = make_fabric("cpu", "32-true", devices=devices)
    # Of 65 to train on, the last batch has one: fewer than there are processes.
    images, live = sorted((folder / "images").iterdir()), kind == "live"
    images = images[:81] if live else images
    encoded = encode_images(
        images, frozen, encoding=Encoding(store=folder / f"store-{kind}-{devices}", live=live)
    )
    model = build_trmml(frozen, tuple(COLOURS), settings)
    trainer = Trainer(
        model=model,
        source=encoded.source,
        matrix=labels(torch.load(folder / "shown.pt")[: len(images)]),
        truth=None,
        training=settings.training,
        fabric=fabric,
    )
    trainer.begin()
    while trainer.step < STEPS:
        for _ in trainer.run_epoch():
            pass
        trainer.close_epoch(1.0)
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    tensors |= {f"average.{name}": value for name, value in trainer.average.items()}
    tensors["held"] = trainer.predict_held_out()
    plain = {name: value.contiguous().clone() for name, value in tensors.items()}
    save_file(plain, folder / f"{kind}-{devices}-{ranks.number()}.safetensors")


if __name__ == "__main__":
    torch.set_num_threads(1)
    for wanted in sys.argv[2:]:
        train_steps(wanted, Path(sys.argv[1]), int(os.environ["WORLD_SIZE"]))
