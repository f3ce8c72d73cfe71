"""From files to the pixels an encoder takes: decoded ahead of whoever consumes them."""

import hashlib
import logging
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from trmml.encoders.base import Encoder
from trmml.encoders.speed.precision import EncodeImage, batch_size
from trmml.errors import DataError
from trmml.images import augment, read_image
from trmml.settings.choices import OnBadImage

logger = logging.getLogger(__name__)

# Pictures that a card decodes at a time: 12 megapixels each are 0.6 GB.
ON_CARD = 16
# Batches that are decoded while a card encodes. A processor that encodes has no core to spare:
# decoding beside it took a quarter of the rate on two cores (benchmarks/README.md).
AHEAD = 2
# A JPEG is decoded smaller while both sides keep this many times the encoder's.
REDUCED_MARGIN = 2
# Least cosine of features from the smaller picture with those from the whole one.
LEAST_COSINE = 0.995
# Pictures on which that is checked, and among how many they are looked for.
CHECKED = 4
LOOKED_AT = 64
# Longer side of the pictures that are kept for showing regions.
KEPT_PIXELS = 1024
# Of Exif 2.3, table 4: 1 stands for upright.
ORIENTATION_TAG = 0x0112


@dataclass(frozen=True)
class Picture:
    """A picture to prepare.

    Attributes:
        path: of the file.
        view_seed: of a random crop and flip; None is the picture as it is.
    """

    path: Path
    view_seed: int | None = None


@dataclass(frozen=True)
class Batch:
    """Pictures that are ready for the encoder.

    Attributes:
        numbers: positions of the readable ones in what was asked for.
        pixels: of those; (0, 3, S, S) where none is readable.
        bad: positions of the others, with the reason.
        images: the decoded pictures, where asked for, at most `KEPT_PIXELS` long.
    """

    numbers: list[int]
    pixels: Float[Tensor, "B 3 S S"]
    bad: dict[int, str]
    images: list[Image.Image]


def view_of(path: Path, content: str, seed: int, view: int) -> Picture:
    """A view of a picture: the plain one, or a crop seeded by its content, not name or place."""
    if view == 0:
        return Picture(path)
    digest = hashlib.sha256(f"{seed}:{content}:{view}".encode()).digest()
    return Picture(path, int.from_bytes(digest[:8], "big"))


def workers() -> int:
    """Threads that decode: Pillow lets other threads run while it decodes and resizes."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(2, cores or 2)


def prepared(
    pictures: Sequence[Picture],
    encoder: Encoder,
    *,
    device: str = "cpu",
    reduced: bool = False,
    on_card: bool = False,
    on_bad_image: OnBadImage = "error",
    keep_images: bool = False,
) -> Iterator[Batch]:
    """Batches of pictures in order, decoded and preprocessed by threads, for a card ahead of it.

    Args:
        pictures: what to prepare.
        encoder: its `preprocess` is used, and its size.
        device: where the pixels will be needed; for a card they are pinned, and batches larger.
        reduced: decode large JPEGs smaller, views apart; see `shortcut_holds`.
        on_card: decode upright RGB JPEGs on the device; see `card_decoding_holds`.
        on_bad_image: "error" raises at the first unreadable file; "skip" reports it in its batch.
        keep_images: give the decoded pictures too.

    Raises:
        DataError: an unreadable picture under "error".
    """
    size, cuda = batch_size(device), device.startswith("cuda")
    ahead = AHEAD if cuda else 0
    chunks = [range(i, min(i + size, len(pictures))) for i in range(0, len(pictures), size)]
    cores = on_card and not keep_images

    def submit(numbers: range) -> Future[Batch]:
        made = [
            pool.submit(_load if cores else _prepare, pictures[i], encoder, reduced, keep_images)
            for i in numbers
        ]
        return collector.submit(collected, numbers, made)

    def collected(numbers: range, made: list[Future[Prepared]]) -> Batch:
        batch = _collect(numbers, made, pictures, encoder, device, on_bad_image)
        if cuda and not batch.pixels.is_cuda:
            batch = Batch(batch.numbers, batch.pixels.pin_memory(), batch.bad, batch.images)
        return batch

    pool = ThreadPoolExecutor(workers(), thread_name_prefix="decode")
    # Stacks, pins, and drives a card's decoder while the batch before is encoded.
    collector = ThreadPoolExecutor(1, thread_name_prefix="collect")
    try:
        waiting = deque(submit(numbers) for numbers in chunks[:ahead])
        for place in range(len(chunks)):
            if place + ahead < len(chunks):
                waiting.append(submit(chunks[place + ahead]))
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        collector.shutdown(wait=True, cancel_futures=True)
        pool.shutdown(wait=True)


# The pixels of a picture, or the content of a JPEG that the card decodes; the picture if kept.
Prepared = tuple[Tensor, Image.Image | None]


def _prepare(picture: Picture, encoder: Encoder, reduced: bool, keep: bool) -> Prepared:
    # A crop of a smaller picture has other features: down to a cosine of 0.97, measured.
    smaller = reduced and picture.view_seed is None
    image = read_image(picture.path, at_least=REDUCED_MARGIN * encoder.size if smaller else None)
    if picture.view_seed is not None:
        image = augment(image, picture.view_seed)
    pixels = encoder.preprocess(image)
    if keep:
        image.thumbnail((KEPT_PIXELS, KEPT_PIXELS))
    return pixels, image if keep else None


def _load(picture: Picture, encoder: Encoder, reduced: bool, keep: bool) -> Prepared:
    """Only read what the card can decode as it is; prepare the rest here."""
    if picture.view_seed is None and _is_plain_jpeg(picture.path):
        content = torch.frombuffer(bytearray(picture.path.read_bytes()), dtype=torch.uint8)
        return content, None
    return _prepare(picture, encoder, reduced, keep)


def _is_plain_jpeg(path: Path) -> bool:
    """Whether a file is an upright RGB JPEG within Pillow's limit of size."""
    try:
        with Image.open(path, formats=("JPEG",)) as file:
            return file.mode == "RGB" and file.getexif().get(ORIENTATION_TAG, 1) == 1
    except Exception:  # Pillow raises almost anything; the plain path says what is wrong
        return False


def _collect(
    numbers: range,
    futures: Sequence[Future[Prepared]],
    pictures: Sequence[Picture],
    encoder: Encoder,
    device: str,
    on_bad_image: OnBadImage,
) -> Batch:
    """The pictures of a batch that could be read; the others are raised or noted."""
    pixels, images, bad = dict[int, Tensor](), list[Image.Image](), dict[int, str]()
    results: dict[int, Callable[[], Prepared]]
    results = {n: future.result for n, future in zip(numbers, futures, strict=True)}
    on_card = dict[int, Tensor]()
    while results:
        number, result = next(iter(results.items()))
        del results[number]
        try:
            made, image = result()
        except DataError as error:
            if on_bad_image == "error":
                raise
            bad[number] = str(error)
            continue
        if made.ndim == 1:
            on_card[number] = made
        else:
            pixels[number] = made
        if image is not None:
            images.append(image)
        if not results and on_card:
            try:
                pixels |= _decoded_on(device, on_card, encoder)
            except RuntimeError as error:  # one is damaged, or of a kind the card does not know
                logger.info("Pillow decodes what the card cannot: %s", error)
                results = {
                    n: partial(_alone, pictures[n], content, encoder, device)
                    for n, content in on_card.items()
                }
            on_card = {}
    kept = sorted(pixels)
    empty = torch.empty(0, 3, encoder.size, encoder.size)
    one_place = device if any(one.is_cuda for one in pixels.values()) else "cpu"
    stacked = torch.stack([pixels[n].to(one_place) for n in kept]) if kept else empty
    return Batch(kept, stacked, bad, images)


def _alone(picture: Picture, content: Tensor, encoder: Encoder, device: str) -> Prepared:
    """A JPEG of a batch that the card refused: from the card if it can, else from Pillow."""
    try:
        return _decoded_on(device, {0: content}, encoder)[0], None
    except RuntimeError:
        return _prepare(picture, encoder, False, False)


def _decoded_on(
    device: str, contents: Mapping[int, Tensor], encoder: Encoder
) -> dict[int, Float[Tensor, "3 S S"]]:
    """Pixels of JPEGs that a device decodes and preprocesses."""
    from torchvision.io import ImageReadMode, decode_jpeg  # slow to import; cards only

    preprocess = cast(Any, encoder).preprocess_pixels
    made, numbers = dict[int, Tensor](), list(contents)
    for part in (numbers[i : i + ON_CARD] for i in range(0, len(numbers), ON_CARD)):
        jpegs = [contents[n] for n in part]
        decoded = decode_jpeg(jpegs, mode=ImageReadMode.RGB, device=device)
        made |= {n: preprocess(image) for n, image in zip(part, decoded, strict=True)}
    return made


def sample_pixels(paths: Sequence[Path], encoder: Encoder, count: int) -> Float[Tensor, "n 3 S S"]:
    """Pixels of some pictures, evenly spread; fewer where some cannot be read."""
    chosen = [Picture(path) for path in paths[:: max(1, len(paths) // count)][:count]]
    batches = prepared(chosen, encoder, on_bad_image="skip")
    return torch.cat([batch.pixels for batch in batches])


def shortcut_holds(
    paths: Sequence[Path], encoder: Encoder, encode: EncodeImage, device: str = "cpu"
) -> bool | None:
    """Whether large JPEGs may be decoded smaller: features stay those of the whole picture.

    The first few pictures that are large enough are encoded both ways; image feature and projected
    patches must agree to a cosine of `LEAST_COSINE`. None where none of the first is large enough.
    """

    def large(path: Path) -> bool:
        with Image.open(path, formats=("JPEG",)) as file:
            return min(file.size) >= 2 * REDUCED_MARGIN * encoder.size

    def both(path: Path) -> tuple[Tensor, Tensor]:
        return tuple(_prepare(Picture(path), encoder, r, False)[0] for r in (True, False))  # type: ignore[return-value]

    return _same_features(paths, large, both, encoder, encode, device)


def card_decoding_holds(
    paths: Sequence[Path], encoder: Encoder, encode: EncodeImage, device: str
) -> bool | None:
    """Whether a card may decode JPEGs: features stay those of Pillow and `preprocess`.

    Checked as `shortcut_holds` does; False without a card or without `preprocess_pixels`.
    """
    if not device.startswith("cuda") or not hasattr(encoder, "preprocess_pixels"):
        return False

    def both(path: Path) -> tuple[Tensor, Tensor]:
        plain, _ = _prepare(Picture(path), encoder, False, False)
        content, _ = _load(Picture(path), encoder, False, False)
        return _decoded_on(device, {0: content}, encoder)[0], plain

    return _same_features(paths, _is_plain_jpeg, both, encoder, encode, device)


def _same_features(
    paths: Sequence[Path],
    applies: Callable[[Path], bool],
    both: Callable[[Path], tuple[Tensor, Tensor]],
    encoder: Encoder,
    encode: EncodeImage,
    device: str,
) -> bool | None:
    """Whether two ways to the pixels lead to the same features, on the first few pictures."""

    def pair(path: Path) -> tuple[Tensor, Tensor] | None:
        try:
            return both(path) if applies(path) else None
        except Exception:  # Pillow raises almost anything; it is reported when its turn comes
            return None

    with ThreadPoolExecutor(workers(), thread_name_prefix="decode") as pool:
        chosen = list(paths[:LOOKED_AT])
        pairs: list[tuple[Tensor, Tensor]] = []
        while chosen and len(pairs) < CHECKED:
            now, chosen = chosen[:CHECKED], chosen[CHECKED:]
            pairs += [made for made in pool.map(pair, now) if made is not None]
    if not pairs:
        return None
    short, plain = (torch.stack([p.to(device) for p in way]) for way in zip(*pairs, strict=True))
    with torch.no_grad():
        (hidden, image), (plain_hidden, plain_image) = encode(short), encode(plain)
        patches, plain_patches = encoder.project(hidden), encoder.project(plain_hidden)
    cosines = torch.cat(
        [
            F.cosine_similarity(image, plain_image, dim=-1),
            F.cosine_similarity(patches, plain_patches, dim=-1).mean(dim=1),
        ]
    )
    return float(cosines.min()) >= LEAST_COSINE
