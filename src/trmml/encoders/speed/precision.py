"""The image side of a frozen encoder in the arithmetic that is fastest here.

`in_precision` gives an encoder whose `encode` computes in a chosen precision; `project` and
everything else stay as they are, in fp32. `choose_precision` measures what is fastest on this
processor or card among those that leave the features as they are, and remembers it.
"""

import copy
import hashlib
import json
import logging
import shutil
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import cast, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from trmml.encoders.base import EncodeImage, Encoder
from trmml.encoders.frozen import FrozenEncoder
from trmml.encoders.speed.onnx import onnx_image_encoder
from trmml.errors import EncoderError
from trmml.settings.choices import EncoderPrecision
from trmml.storage.atomic import write_json
from trmml.storage.cache import cache_folder
from trmml.storage.provenance import processor

logger = logging.getLogger(__name__)

PRECISIONS = tuple(name for name in get_args(EncoderPrecision) if name != "auto")
# What is tried for "auto". torch.compile takes a minute anew in every process, which only a card
# repays; half precisions without instructions for them are slower than fp32, which is measured.
CPU_CANDIDATES = ("fp32", "channels-last", "bf16", "onnx", "int8")
CUDA_CANDIDATES = ("fp32", "channels-last", "bf16", "fp16", "compile")
# Least cosine with fp32, of every image feature and of each image's patches on average. int8
# features of ViT-B-32 have 0.9998; `benchmarks/speed/precision.py` measures what mAP loses.
LEAST_COSINE = 0.998
# Images from which measuring, about a minute once on a machine, is thought to be worth it.
MEASURE_FROM = 500
# Images per pass of the encoder: larger gains nothing on a processor, but on a card.
CPU_BATCH, CUDA_BATCH = 32, 128
# Images that are measured on.
SAMPLES = 16
ROUNDS = 3


@dataclass(frozen=True)
class MeasuredPrecision:
    """What was measured for an encoder on this machine."""

    precision: str  # the fastest of those that leave the features as they are
    images_per_second: dict[str, float]  # of each candidate that works here
    cosines: dict[str, float]  # least cosine with fp32 of each
    reasons: dict[str, str]  # why the others do not work
    measured: str  # the day

    def __str__(self) -> str:
        rate, plain = self.images_per_second[self.precision], self.images_per_second["fp32"]
        return (
            f"encoder precision {self.precision}: {rate:.1f} images/s, {rate / plain:.2f} times"
            f" fp32, cosine {self.cosines[self.precision]:.4f}; measured here on {self.measured}"
        )


def batch_size(device: str) -> int:
    """Images per pass of an encoder."""
    return CUDA_BATCH if device.startswith("cuda") else CPU_BATCH


def in_precision(frozen: FrozenEncoder, precision: str) -> FrozenEncoder:
    """The same encoder, whose `encode` computes in the given precision.

    Args:
        frozen: an encoder in fp32; it is not changed.
        precision: one of `PRECISIONS`.

    Raises:
        EncoderError: the precision is unknown, or cannot be had for this encoder or device.
    """
    if precision == frozen.precision:
        return frozen
    return replace(frozen, encode=_image_side(frozen, precision), precision=precision)


def _image_side(frozen: FrozenEncoder, precision: str) -> EncodeImage:
    """`encode_image` in the given precision."""
    encoder, device = frozen.encoder, frozen.device
    if precision == "channels-last":
        return _channels_last(encoder)
    if precision in ("bf16", "fp16"):
        if precision == "fp16" and device == "cpu":
            raise EncoderError("precision fp16 needs a card: a processor computes it slowly; bf16")
        return _cast(encoder, torch.bfloat16 if precision == "bf16" else torch.float16)
    if precision == "compile":
        return _compiled(encoder, device)
    if precision in ("onnx", "int8"):
        if device != "cpu":
            raise EncoderError(
                f"precision {precision} runs on the processor only, not on {device}: take bf16,"
                " fp16 or compile there"
            )
        return onnx_image_encoder(frozen, precision)  # type: ignore[arg-type]
    raise EncoderError(
        f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}: choose one of them"
    )


def resolve_precision(
    precision: str,
    frozen: FrozenEncoder,
    *,
    images: int,
    samples: Callable[[], Float[Tensor, "n 3 S S"]],
) -> str:
    """What "auto" stands for: what was measured here, now where it pays, else fp32.

    Args:
        precision: one of `PRECISIONS`, which is given back, or "auto".
        frozen: the encoder.
        images: how many will be encoded.
        samples: gives some of them, preprocessed, to measure on.
    """
    if precision != "auto":
        return precision
    choice = remembered_choice(frozen)
    if choice is None and images >= MEASURE_FROM:
        measured_on = samples()
        if len(measured_on):  # else none can be read, which is reported when their turn comes
            choice = choose_precision(frozen, measured_on)
    if choice is None:
        logger.info("encoder precision fp32: nothing was measured here, and %d images", images)
        return "fp32"
    logger.info("%s", choice)
    return choice.precision


def choose_precision(frozen: FrozenEncoder, samples: Float[Tensor, "n 3 S S"]) -> MeasuredPrecision:
    """The fastest precision that leaves the features as they are; measured on images and kept.

    Args:
        frozen: an encoder in fp32.
        samples: preprocessed images, a batch or so.
    """
    samples = samples[:SAMPLES].to(frozen.device)
    candidates = CUDA_CANDIDATES if frozen.device.startswith("cuda") else CPU_CANDIDATES
    encoders, cosines, reasons = dict[str, FrozenEncoder](), dict[str, float](), dict[str, str]()
    plain = frozen.encode(samples)
    for name in candidates:
        try:
            candidate = in_precision(frozen, name)
            cosines[name] = _least_cosine(frozen.encoder, candidate.encode(samples), plain)
            encoders[name] = candidate
        except Exception as error:  # one that fails, for whatever reason, is not taken
            reasons[name] = " ".join(str(error).split())[:200]
            logger.info("encoder precision %s cannot be had here: %s", name, reasons[name])
    seconds: dict[str, list[float]] = {name: [] for name in encoders}
    for _ in range(ROUNDS):
        for name, candidate in encoders.items():
            seconds[name].append(_timed(candidate.encode, samples))
    rates = {name: len(samples) / statistics.median(taken) for name, taken in seconds.items()}
    fit = [name for name in encoders if name == "fp32" or cosines[name] >= LEAST_COSINE]
    best = max(fit, key=lambda name: rates[name])
    choice = MeasuredPrecision(best, rates, cosines, reasons, date.today().isoformat())
    path = _choice_file(frozen)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, asdict(choice))
    except OSError as error:
        logger.warning("the measured speeds cannot be kept in %s: %s", path.parent, error.strerror)
    return choice


def remembered_choice(frozen: FrozenEncoder) -> MeasuredPrecision | None:
    """What was measured before, for this encoder, device and these versions.

    None where it is not there, damaged or of another form: it is measured anew then.
    """
    try:
        choice = MeasuredPrecision(**json.loads(_choice_file(frozen).read_text("utf-8")))
        str(choice)  # reads every part that is used
        return choice if choice.precision in PRECISIONS else None
    except (OSError, ValueError, TypeError, LookupError, RecursionError):
        return None


def _choice_file(frozen: FrozenEncoder) -> Path:
    """Where the choice is kept: its name is a hash of all that it depends on."""
    identity, device = frozen.identity, frozen.device
    where = torch.cuda.get_device_name(device) if device.startswith("cuda") else processor()
    parts = (identity.image_checksum, identity.size, where, torch.get_num_threads())
    depends = "|".join(map(str, (*parts, torch.__version__, version("onnxruntime"))))
    name = hashlib.sha256(depends.encode()).hexdigest()[:24]
    return cache_folder() / "encoders" / f"{name}-precision.json"


def _least_cosine(
    encoder: Encoder, one: tuple[Tensor, Tensor], plain: tuple[Tensor, Tensor]
) -> float:
    """Of image features, and of projected patches on average over each image."""
    image = F.cosine_similarity(one[1], plain[1], dim=-1)
    patches = F.cosine_similarity(encoder.project(one[0]), encoder.project(plain[0]), dim=-1)
    return float(torch.cat([image, patches.mean(dim=1)]).nan_to_num(-1.0).min())


def _timed(encode: EncodeImage, samples: Tensor) -> float:
    started = time.perf_counter()
    encode(samples)
    if samples.is_cuda:
        torch.cuda.synchronize(samples.device)
    return time.perf_counter() - started


def _copy(encoder: Encoder, dtype: torch.dtype | None = None) -> Encoder:
    """A copy with its image side in channels-last, and in another type where one is given.

    The rest is shared with the encoder, where that names its image side.
    """
    module = cast(nn.Module, encoder)
    shared: dict[int, object] = {}
    if hasattr(encoder, "image_tower"):
        shared = {id(part): part for name, part in module.named_children() if name != "image_tower"}
    made = copy.deepcopy(module, shared)
    side = cast(nn.Module, getattr(made, "image_tower", made))
    side.to(dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return cast(Encoder, made)


def _channels_last(encoder: Encoder) -> EncodeImage:
    encoder = _copy(encoder)

    def encode_image(pixels: Tensor) -> tuple[Tensor, Tensor]:
        return encoder.encode_image(pixels.contiguous(memory_format=torch.channels_last))

    return encode_image


def _cast(encoder: Encoder, dtype: torch.dtype) -> EncodeImage:
    encoder = _copy(encoder, dtype)

    def encode_image(pixels: Tensor) -> tuple[Tensor, Tensor]:
        half = pixels.to(dtype=dtype, memory_format=torch.channels_last)
        hidden, feature = encoder.encode_image(half)
        return hidden.float(), F.normalize(feature.float(), dim=-1)

    return encode_image


def _compiled(encoder: Encoder, device: str) -> EncodeImage:
    """torch.compile; on a card in bf16, with CUDA graphs.

    Smaller batches are padded to `batch_size`, so that one size is compiled.
    """
    if device == "cpu" and not any(map(shutil.which, ("c++", "g++", "clang++"))):
        raise EncoderError("precision compile needs a C++ compiler, and none is found; install g++")
    cuda = device.startswith("cuda")
    base = _cast(encoder, torch.bfloat16) if cuda else encoder.encode_image
    compiled = torch.compile(base, mode="reduce-overhead" if cuda else "default")
    size = batch_size(device)

    def encode_image(pixels: Tensor) -> tuple[Tensor, Tensor]:
        count = len(pixels)
        if count < size:
            pixels = torch.cat([pixels, pixels.new_zeros(size - count, *pixels.shape[1:])])
        hidden, feature = compiled(pixels)
        # A CUDA graph writes its next result into the same memory.
        return hidden[:count].clone(), feature[:count].clone()

    return encode_image
