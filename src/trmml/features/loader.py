"""Batches of images, ready for the encoder: decoded by threads, ahead of whoever consumes them."""

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from trmml.encoders.frozen import FrozenEncoder
from trmml.encoders.speed.precision import SAMPLES, batch_size, resolve_precision
from trmml.errors import DataError
from trmml.features.decoding import (
    Decoding,
    ImageView,
    Prepared,
    decode_on_card,
    load_for_card,
    prepare,
    workers,
)
from trmml.settings.choices import OnBadImage

logger = logging.getLogger(__name__)

# Batches that are decoded while a card encodes. A processor that encodes has no core to spare:
# decoding beside it took a quarter of the rate on two cores (benchmarks/README.md).
AHEAD = 2
PLAIN = Decoding()


@dataclass(frozen=True)
class Batch:
    """Images that are ready for the encoder.

    Attributes:
        numbers: positions of the readable ones in what was asked for.
        pixels: of those; (0, 3, S, S) where none is readable.
        bad: positions of the others, with the reason.
        images: the decoded images, where asked for, at most `decoding.KEPT_PIXELS` long.
    """

    numbers: list[int]
    pixels: Float[Tensor, "B 3 S S"]
    bad: dict[int, str]
    images: list[Image.Image]


def load_batches(
    views: Sequence[ImageView],
    frozen: FrozenEncoder,
    decoding: Decoding = PLAIN,
    *,
    on_bad_image: OnBadImage = "error",
    keep_images: bool = False,
) -> Iterator[Batch]:
    """Batches in the order of the views, decoded and preprocessed by threads, for a card ahead.

    Args:
        views: what to prepare.
        frozen: the encoder; its `preprocess` and size are used; for a card pixels are pinned, and
            batches are larger.
        decoding: the shortcuts to take.
        on_bad_image: "error" raises at the first unreadable file; "skip" reports it in its batch.
        keep_images: give the decoded images too; the card decodes none of them then.

    Raises:
        DataError: an unreadable image under "error".
    """
    size, cuda = batch_size(frozen.device), frozen.device.startswith("cuda")
    ahead = AHEAD if cuda else 0
    chunks = [range(i, min(i + size, len(views))) for i in range(0, len(views), size)]
    make = partial(
        load_for_card if decoding.on_card and not keep_images else prepare,
        encoder=frozen.encoder,
        reduced=decoding.reduced,
        keep=keep_images,
    )

    def submit(numbers: range) -> Future[Batch]:
        made = [pool.submit(make, views[i]) for i in numbers]
        return collector.submit(collected, numbers, made)

    def collected(numbers: range, made: list[Future[Prepared]]) -> Batch:
        batch = _collect(numbers, made, views, frozen, on_bad_image)
        pin = cuda and not batch.pixels.is_cuda
        return replace(batch, pixels=batch.pixels.pin_memory()) if pin else batch

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


def _collect(
    numbers: range,
    futures: Sequence[Future[Prepared]],
    views: Sequence[ImageView],
    frozen: FrozenEncoder,
    on_bad_image: OnBadImage,
) -> Batch:
    """The images of a batch that could be read; the others are raised or noted."""
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
                pixels |= decode_on_card(on_card, frozen)
            except RuntimeError as error:  # one is damaged, or of a kind the card does not know
                logger.info("Pillow decodes what the card cannot: %s", error)
                results = {
                    n: partial(_alone, views[n], content, frozen) for n, content in on_card.items()
                }
            on_card = {}
    return Batch(sorted(pixels), _stacked(pixels, frozen), bad, images)


def _stacked(pixels: dict[int, Tensor], frozen: FrozenEncoder) -> Float[Tensor, "B 3 S S"]:
    """Pixels in the order of their numbers; on the device if one of them is there."""
    if not pixels:
        return torch.empty(0, 3, frozen.encoder.size, frozen.encoder.size)
    place = frozen.device if any(one.is_cuda for one in pixels.values()) else "cpu"
    return torch.stack([pixels[n].to(place) for n in sorted(pixels)])


def _alone(view: ImageView, content: Tensor, frozen: FrozenEncoder) -> Prepared:
    """A JPEG of a batch that the card refused: from the card if it can, else from Pillow."""
    try:
        return decode_on_card({0: content}, frozen)[0], None
    except RuntimeError:
        return prepare(view, frozen.encoder, reduced=False, keep=False)


def best_precision(precision: str, paths: Sequence[Path], frozen: FrozenEncoder) -> str:
    """What "auto" stands for with these images; any other precision is given back."""
    return resolve_precision(
        precision,
        frozen,
        images=len(paths),
        samples=lambda: sample_pixels(paths, frozen, SAMPLES),
    )


def sample_pixels(
    paths: Sequence[Path], frozen: FrozenEncoder, count: int
) -> Float[Tensor, "n 3 S S"]:
    """Pixels of some images, evenly spread; fewer where some cannot be read."""
    chosen = [ImageView(path) for path in paths[:: max(1, len(paths) // count)][:count]]
    batches = load_batches(chosen, frozen, on_bad_image="skip")
    return torch.cat([batch.pixels for batch in batches])
