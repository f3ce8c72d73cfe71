"""Which store features belong in: the key of an encoder, its code and who decodes its images."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from trmml.encoders.frozen import FrozenEncoder
from trmml.features import ranks
from trmml.features.decoding import SEARCHED, on_card_holds
from trmml.features.store import StoreKey, code_version
from trmml.settings.choices import StoreForm


def key_of(
    root: Path, frozen: FrozenEncoder, form: StoreForm, paths: Sequence[Path], *, keep: bool
) -> StoreKey:
    """What the features of an encoder depend on; the first process finds it for all.

    Args:
        root: of all stores.
        frozen: in the precision that it computes in.
        form: in which the features are kept.
        paths: of images, on the first of which a card's decoder is tried.
        keep: whether to remember a new version of an encoder's code.
    """
    key = _key(frozen, form)
    if not ranks.number():
        key = _with_version(root, key, frozen, keep=keep)
        key = _with_decoder(root, key, paths[:SEARCHED], frozen)
    return ranks.of_first(key)


def _with_decoder(
    root: Path, key: StoreKey, paths: Sequence[Path], frozen: FrozenEncoder
) -> StoreKey:
    """The key with who decodes JPEGs: as in a store that is there, else by a check.

    It must not depend on which images are asked for, or they would be encoded again.
    """
    if not frozen.device.startswith("cuda"):
        return key
    card = replace(key, decoder="card")
    for there in (card, key):
        if (root / there.name).is_dir():
            return there
    return card if on_card_holds(paths, frozen) else key


def _with_version(root: Path, key: StoreKey, frozen: FrozenEncoder, *, keep: bool) -> StoreKey:
    """The key with the version of the code, where the encoder is one of the user's own.

    Its checksum knows weights and modules, but not what its methods do with them: that is known by
    what they make of a test image, in fp32.
    """
    encoder = frozen.encoder
    if type(encoder).__module__.partition(".")[0] == "trmml":
        return key
    with torch.no_grad():
        hidden, feature = encoder.encode_image(
            encoder.preprocess(_test_image())[None].to(frozen.device)
        )
        parts = hidden, feature, encoder.project(hidden)
    made = [[float(f"{number:.5g}") for number in _some(part)] for part in parts]
    return replace(key, version=code_version(root, key, made, keep=keep))


def _some(values: Tensor) -> list[float]:
    """Some thousand of the values; their distance is odd, so that they are of every channel."""
    numbers: list[float] = values.flatten()[:: values.numel() // 2048 | 1].tolist()
    return numbers


def _key(frozen: FrozenEncoder, form: StoreForm) -> StoreKey:
    """What the features depend on where Pillow decodes.

    `preprocess` is known by what it makes of a test image.
    """
    identity, precision = frozen.identity, frozen.precision
    if precision == "compile":  # see `speed.precision`
        precision = "compile-bf16" if frozen.device.startswith("cuda") else "compile-fp32"
    pixels = (frozen.encoder.preprocess(_test_image()) * 1000).round().int()
    made = hashlib.sha256(pixels.numpy().tobytes()).hexdigest()[:16]
    words = getattr(frozen.encoder, "preprocessing", "")
    return StoreKey(
        encoder=identity.name,
        image_checksum=identity.image_checksum,
        size=identity.size,
        preprocessing=f"{words} [{made}]".strip(),
        precision=precision,
        decoder="pillow",
        form=form,
        patches=identity.patches,
        hidden_size=identity.hidden_size,
        feature_size=identity.feature_size,
    )


def _test_image() -> Image.Image:
    """An image with slopes and edges, no square, larger than most inputs and always the same."""
    y, x, channel = np.ogrid[:479, :613, :3]
    return Image.fromarray(((x * y // 7 + 40 * channel) % 256).astype(np.uint8))
