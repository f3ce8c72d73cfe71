"""From files to the pixels an encoder takes: decoded ahead of whoever consumes them."""

import hashlib
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from trmml.encoders.base import Encoder
from trmml.encoders.precision import EncodeImage
from trmml.errors import DataError
from trmml.images import augment, read_image

OnBadImage = Literal["error", "skip"]
# Pictures per pass of the encoder: larger gains nothing on a processor, but on a card.
CPU_BATCH, CUDA_BATCH = 32, 128
# Batches that are decoded ahead: memory stays bounded however many pictures there are.
AHEAD = 2
# A JPEG is decoded smaller while both sides keep this many times the encoder's.
REDUCED_MARGIN = 2
# Least cosine of features from the smaller picture with those from the whole one.
LEAST_COSINE = 0.995
# Pictures on which that is checked.
CHECKED = 4


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
        images: the decoded pictures, where asked for.
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


def batch_size(device: str) -> int:
    """Pictures per pass of an encoder."""
    return CUDA_BATCH if device.startswith("cuda") else CPU_BATCH


def workers() -> int:
    """Threads that decode: Pillow lets other threads run while it decodes and resizes."""
    return max(2, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2)


def prepared(
    pictures: Sequence[Picture],
    encoder: Encoder,
    *,
    device: str = "cpu",
    reduced: bool = False,
    on_bad_image: OnBadImage = "error",
    keep_images: bool = False,
) -> Iterator[Batch]:
    """Batches of pictures in order, decoded and preprocessed by threads ahead of the consumer.

    Args:
        pictures: what to prepare.
        encoder: its `preprocess` is used, and its size.
        device: where the pixels will be needed; for a card they are pinned, and large enough
            batches are made.
        reduced: decode large JPEGs smaller; see `shortcut_holds`.
        on_bad_image: "error" raises at the first unreadable file; "skip" reports it in its batch.
        keep_images: give the decoded pictures too, in full size.

    Raises:
        DataError: an unreadable picture under "error".
    """
    size, cuda = batch_size(device), device.startswith("cuda")
    chunks = [range(i, min(i + size, len(pictures))) for i in range(0, len(pictures), size)]
    smaller = reduced and not keep_images

    def submit(numbers: range) -> list[Future[Any]]:
        return [pool.submit(_prepare, pictures[i], encoder, smaller, keep_images) for i in numbers]

    pool = ThreadPoolExecutor(workers(), thread_name_prefix="decode")
    try:
        waiting = deque(submit(numbers) for numbers in chunks[:AHEAD])
        for place, numbers in enumerate(chunks):
            batch = _collect(numbers, waiting.popleft(), encoder, on_bad_image)
            if place + AHEAD < len(chunks):
                waiting.append(submit(chunks[place + AHEAD]))
            if cuda:
                batch = Batch(batch.numbers, batch.pixels.pin_memory(), batch.bad, batch.images)
            yield batch
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _prepare(
    picture: Picture, encoder: Encoder, reduced: bool, keep: bool
) -> tuple[Tensor, Image.Image | None]:
    at_least = REDUCED_MARGIN * encoder.size if reduced else None
    image = read_image(picture.path, at_least=at_least)
    if picture.view_seed is not None:
        image = augment(image, picture.view_seed)
    return encoder.preprocess(image), image if keep else None


def _collect(
    numbers: range, futures: Sequence[Future[Any]], encoder: Encoder, on_bad_image: OnBadImage
) -> Batch:
    pixels, kept, images, bad = [], [], [], {}
    for number, future in zip(numbers, futures, strict=True):
        try:
            one, image = future.result()
        except DataError as error:
            if on_bad_image == "error":
                raise
            bad[number] = str(error)
            continue
        kept.append(number)
        pixels.append(one)
        if image is not None:
            images.append(image)
    empty = torch.empty(0, 3, encoder.size, encoder.size)
    return Batch(kept, torch.stack(pixels) if pixels else empty, bad, images)


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
    patches must agree to a cosine of `LEAST_COSINE`. None where no picture is large enough.
    """
    pairs: list[list[Tensor]] = []
    for path in paths:
        if len(pairs) == CHECKED:
            break
        try:
            with Image.open(path) as file:
                large = min(file.size) >= 2 * REDUCED_MARGIN * encoder.size
                if file.format != "JPEG" or not large:
                    continue
            pairs.append([_prepare(Picture(path), encoder, r, False)[0] for r in (True, False)])
        except Exception:  # Pillow raises almost anything; it is reported when its turn comes
            continue
    if not pairs:
        return None
    small, whole = (torch.stack(pixels).to(device) for pixels in zip(*pairs, strict=True))
    with torch.no_grad():
        (hidden, image), (plain_hidden, plain_image) = encode(small), encode(whole)
        patches, plain = encoder.project(hidden), encoder.project(plain_hidden)
    cosines = torch.cat(
        [
            F.cosine_similarity(image, plain_image, dim=-1),
            F.cosine_similarity(patches, plain, dim=-1).mean(dim=1),
        ]
    )
    return float(cosines.min()) >= LEAST_COSINE
