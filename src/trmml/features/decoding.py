"""From one image file to the pixels an encoder takes: by Pillow, or JPEGs by a card.

Two shortcuts save time: Pillow decodes large JPEGs smaller, and a card decodes them itself. Either
is taken only where a check on a few of the images finds the same features.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from math import ceil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from trmml.encoders.base import Encoder
from trmml.encoders.frozen import FrozenEncoder
from trmml.errors import DataError
from trmml.images import augment, is_special, read_image
from trmml.storage.hashes import content_hash, file_state
from trmml.storage.sessions import cores
from trmml.synthetic import draw_scene

# Images that a card decodes at a time: 12 megapixels each are 0.6 GB.
ON_CARD = 16
# A JPEG is decoded smaller while both sides keep this many times the encoder's.
REDUCED_MARGIN = 2
# Least cosine of features from the shortcut with those of the whole image decoded by Pillow.
LEAST_COSINE = 0.995
# Images on which that is checked, and among how many they are searched for.
CHECKED = 4
SEARCHED = 64
# Longer side of the images that are kept for showing regions.
KEPT_PIXELS = 1024
# Of Exif 2.3, table 4: 1 stands for upright.
ORIENTATION_TAG = 0x0112


@dataclass(frozen=True)
class Decoding:
    """Which shortcuts are taken from files to pixels.

    Attributes:
        reduced: large JPEGs are decoded smaller, views apart; see `reduced_holds`.
        on_card: the device decodes upright RGB JPEGs; see `on_card_holds`.
    """

    reduced: bool = False
    on_card: bool = False


@dataclass(frozen=True)
class ImageView:
    """A view of an image to prepare.

    Attributes:
        path: of the file.
        view_seed: of a random crop and flip; None is the image as it is.
        state: of the file whose content is known, see `file_state`; None takes what is there.
        content: its hash, see `content_hash`.
    """

    path: Path
    view_seed: int | None = None
    state: tuple[int, int, int] | None = None
    content: str = ""


# The pixels of a view, or the content of a JPEG that the card decodes; the image if kept.
Prepared = tuple[Tensor, Image.Image | None]


def view_of(
    path: Path, content: str, seed: int, view: int, state: tuple[int, int, int] | None = None
) -> ImageView:
    """A view of an image: the plain one, or a crop seeded by its content, not name or place."""
    if view == 0:
        return ImageView(path, None, state, content)
    digest = hashlib.sha256(f"{seed}:{content}:{view}".encode()).digest()
    return ImageView(path, int.from_bytes(digest[:8], "big"), state, content)


def workers() -> int:
    """Threads that decode: Pillow lets other threads run while it decodes and resizes."""
    return max(2, cores())


def prepare(view: ImageView, encoder: Encoder, *, reduced: bool, keep: bool) -> Prepared:
    """Pixels decoded by Pillow, and the image itself where it is kept.

    Raises:
        DataError: the file cannot be read, or has changed since its content was known.
    """
    # A crop of a smaller image has other features: down to a cosine of 0.97, measured.
    smaller = reduced and view.view_seed is None
    image = read_image(view.path, at_least=REDUCED_MARGIN * encoder.size if smaller else None)
    _refuse_changed(view)
    if view.view_seed is not None:
        image = augment(image, view.view_seed)
    pixels = encoder.preprocess(image)
    if keep:
        image.thumbnail((KEPT_PIXELS, KEPT_PIXELS))
    return pixels, image if keep else None


def load_for_card(view: ImageView, encoder: Encoder, *, reduced: bool, keep: bool) -> Prepared:
    """The content of a file that the card can decode as it is; pixels of any other."""
    if view.view_seed is None and is_plain_jpeg(view.path):
        content = torch.frombuffer(bytearray(view.path.read_bytes()), dtype=torch.uint8)
        _refuse_changed(view)
        return content, None
    return prepare(view, encoder, reduced=reduced, keep=keep)


def _refuse_changed(view: ImageView) -> None:
    """Raise where a file was read whose bytes are no longer those of the content that is known.

    On another machine, and on some network file systems, a file may have another state and the same
    bytes.
    """
    try:
        same = view.state is None or file_state(view.path) == view.state
        same = same or content_hash(view.path) == view.content
    except OSError:
        same = False
    if not same:
        raise DataError(
            f"{view.path} has changed since its content was read, so its features are not kept; let"
            " the program that writes it finish, and run again"
        )


def is_plain_jpeg(path: Path) -> bool:
    """Whether a file is an upright RGB JPEG within Pillow's limit of size."""
    if is_special(path):
        return False
    try:
        with Image.open(path, formats=("JPEG",)) as file:
            return file.mode == "RGB" and file.getexif().get(ORIENTATION_TAG, 1) == 1
    except Exception:  # Pillow raises almost anything; the plain path says what is wrong
        return False


def decode_on_card(
    contents: Mapping[int, UInt8[Tensor, " bytes"]], frozen: FrozenEncoder
) -> dict[int, Float[Tensor, "3 S S"]]:
    """Pixels of JPEGs that the encoder's device decodes and preprocesses.

    Raises:
        RuntimeError: one is damaged, or of a kind that the device does not know.
    """
    from torchvision.io import ImageReadMode, decode_jpeg  # slow to import; cards only

    preprocess = cast(Any, frozen.encoder).preprocess_pixels
    made, numbers = dict[int, Tensor](), list(contents)
    for part in (numbers[i : i + ON_CARD] for i in range(0, len(numbers), ON_CARD)):
        jpegs = [contents[n] for n in part]
        decoded = decode_jpeg(jpegs, mode=ImageReadMode.RGB, device=frozen.device)
        made |= {n: preprocess(image) for n, image in zip(part, decoded, strict=True)}
    return made


def reduced_holds(paths: Sequence[Path], frozen: FrozenEncoder) -> bool | None:
    """Whether large JPEGs may be decoded smaller: features stay those of the whole image.

    The first few images that are large enough are encoded both ways; image feature and projected
    patches must agree to a cosine of `LEAST_COSINE`. None where none of the first is large enough.
    """

    def both(path: Path) -> tuple[Tensor, Tensor]:
        short, plain = (
            prepare(ImageView(path), frozen.encoder, reduced=reduced, keep=False)[0]
            for reduced in (True, False)
        )
        return short, plain

    large = partial(is_large, size=frozen.encoder.size)
    return _same_features(paths, large, both, frozen)


def is_large(path: Path, size: int) -> bool:
    """Whether a file is a JPEG that may be decoded smaller, for an encoder of this size."""
    if is_special(path):
        return False
    try:
        with Image.open(path, formats=("JPEG",)) as file:
            return min(file.size) >= 2 * REDUCED_MARGIN * size
    except Exception:  # Pillow raises almost anything; it is reported when its turn comes
        return False


def drawn_reduced_holds(frozen: FrozenEncoder) -> bool:
    """`reduced_holds` on drawn scenes, whose sharp edges lose more than photographs do.

    So it depends on the encoder alone, and an image is decoded alike in whatever company.
    """
    rng, side = np.random.default_rng(0), 2 * REDUCED_MARGIN * frozen.encoder.size
    with TemporaryDirectory() as folder:
        paths = [Path(folder, f"{number}.jpg") for number in range(CHECKED)]
        for path in paths:
            scene = draw_scene(rng).image
            scale = side / min(scene.size)
            larger = scene.resize((ceil(scale * scene.width), ceil(scale * scene.height)))
            larger.save(path, quality=90)
        return bool(reduced_holds(paths, frozen))


def on_card_holds(paths: Sequence[Path], frozen: FrozenEncoder) -> bool | None:
    """Whether a card may decode JPEGs: features stay those of Pillow and `preprocess`.

    Checked as `reduced_holds` does; False without a card or without `preprocess_pixels`.
    """
    if not frozen.device.startswith("cuda") or not hasattr(frozen.encoder, "preprocess_pixels"):
        return False

    def both(path: Path) -> tuple[Tensor, Tensor]:
        plain, content = (
            make(ImageView(path), frozen.encoder, reduced=False, keep=False)[0]
            for make in (prepare, load_for_card)
        )
        return decode_on_card({0: content}, frozen)[0], plain

    return _same_features(paths, is_plain_jpeg, both, frozen)


def _same_features(
    paths: Sequence[Path],
    applies: Callable[[Path], bool],
    both: Callable[[Path], tuple[Tensor, Tensor]],
    frozen: FrozenEncoder,
) -> bool | None:
    """Whether two ways to the pixels lead to the same features, on the first few images."""
    pairs = _first_pairs(paths, applies, both)
    if not pairs:
        return None
    short, plain = (
        torch.stack([pixels.to(frozen.device) for pixels in way])
        for way in zip(*pairs, strict=True)
    )
    project = frozen.encoder.project
    with torch.no_grad():
        (hidden, image), (plain_hidden, plain_image) = frozen.encode(short), frozen.encode(plain)
        patches, plain_patches = project(hidden), project(plain_hidden)
    of_images = F.cosine_similarity(image, plain_image, dim=-1)
    of_patches = F.cosine_similarity(patches, plain_patches, dim=-1).mean(dim=1)
    return float(torch.cat([of_images, of_patches]).min()) >= LEAST_COSINE


def _first_pairs(
    paths: Sequence[Path],
    applies: Callable[[Path], bool],
    both: Callable[[Path], tuple[Tensor, Tensor]],
) -> list[tuple[Tensor, Tensor]]:
    """Pixels made both ways of the first few images to which the shortcut applies."""

    def pair(path: Path) -> tuple[Tensor, Tensor] | None:
        try:
            return both(path) if applies(path) else None
        except Exception:  # Pillow raises almost anything; it is reported when its turn comes
            return None

    pairs: list[tuple[Tensor, Tensor]] = []
    searched = list(paths[:SEARCHED])
    with ThreadPoolExecutor(workers(), thread_name_prefix="decode") as pool:
        for start in range(0, len(searched), CHECKED):
            if len(pairs) >= CHECKED:
                break
            made = pool.map(pair, searched[start : start + CHECKED])
            pairs += [one for one in made if one is not None]
    return pairs
