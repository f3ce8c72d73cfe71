"""Run each part of an encoder once, and say which of them breaks the protocol."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from PIL import Image
from torch import Tensor

from trmml.errors import EncoderError

UNIT_TOLERANCE = 1e-3  # wide enough for features computed in half precision
PROBE_TEXT = "a photo of a cat"

_T = TypeVar("_T")


@dataclass(frozen=True)
class Probe:
    """Runs the parts of an encoder once and names the one that is broken."""

    name: str
    encoder: Any  # whether it keeps the protocol is checked
    device: torch.device

    def fail(self, part: str, expected: str, got: object) -> EncoderError:
        """The error for a part that gave something else than the protocol asks for."""
        return EncoderError(f"encoder {self.name!r}: {part} must give {expected}, got {got}")

    def run(self, part: str, call: Callable[[], _T]) -> _T:
        """What the part gives; whatever it raises becomes an EncoderError that names the part."""
        try:
            return call()
        except EncoderError:
            raise
        except Exception as error:
            raise EncoderError(
                f"encoder {self.name!r}: {part} raised {type(error).__name__}: {error}"
            ) from error

    def pair(self, part: str, value: object, expected: str) -> tuple[Tensor, Tensor]:
        """The two tensors that the part must have given."""
        if isinstance(value, tuple) and len(value) == 2:
            first, second = value
            if isinstance(first, Tensor) and isinstance(second, Tensor):
                return first, second
        raise self.fail(part, f"two tensors, {expected}", _describe(value))

    def unit(self, part: str, feature: Tensor) -> None:
        """Refuse a feature whose length is not 1."""
        length = float(feature.detach().float().norm())
        if not math.isclose(length, 1.0, abs_tol=UNIT_TOLERANCE):
            raise self.fail(part, "a feature of unit length", f"length {length:.4g}")

    def image(self) -> tuple[Tensor, Tensor]:
        """Hidden patches (1, P, W) and the image feature (1, D) of a blank image."""
        encoder, size = self.encoder, self.encoder.size
        blank = Image.new("RGB", (size + 8, size), (128, 128, 128))
        pixels: object = self.run("preprocess", lambda: encoder.preprocess(blank))
        if not (isinstance(pixels, Tensor) and pixels.shape == (3, size, size)):
            raise self.fail("preprocess", f"a tensor (3, {size}, {size})", _describe(pixels))
        if pixels.dtype != torch.float32:
            raise self.fail("preprocess", "float32", pixels.dtype)
        batch = pixels[None].to(self.device)
        given: object = self.run("encode_image", lambda: encoder.encode_image(batch))
        hidden, feature = self.pair("encode_image", given, "(B, P, W) and (B, D)")
        if hidden.ndim != 3 or feature.ndim != 2 or (len(hidden), len(feature)) != (1, 1):
            raise self.fail("encode_image", "shapes (1, P, W) and (1, D)", _describe(given))
        if hidden.requires_grad or feature.requires_grad:
            raise self.fail("encode_image", "tensors without gradient", "requires_grad=True")
        self.unit("encode_image", feature)
        patches: object = self.run("project", lambda: encoder.project(hidden))
        wanted = (*hidden.shape[:2], feature.shape[1])
        if not (isinstance(patches, Tensor) and patches.shape == wanted):
            raise self.fail("project", f"a tensor {wanted}", _describe(patches))
        return hidden, feature

    def grid(self, patches: int) -> tuple[int, int]:
        """(rows, columns) of the patches, from the encoder or as a square."""
        side = math.isqrt(patches)
        rows, columns = getattr(self.encoder, "grid", None) or (side, side)
        if rows * columns != patches:
            raise EncoderError(
                f"encoder {self.name!r}: {patches} patches do not fill a grid of {rows} x "
                f"{columns}; give the encoder the attribute grid = (rows, columns)"
            )
        return int(rows), int(columns)

    def text(self, feature_size: int) -> int:
        """E, after a text has gone through and the gradient has come back."""
        encoder = self.encoder
        given: object = self.run("token_embeddings", lambda: encoder.token_embeddings([PROBE_TEXT]))
        tokens, mask = self.pair("token_embeddings", given, "(C, L, E) and (C, L)")
        if tokens.ndim != 3 or mask.shape != tokens.shape[:2] or len(tokens) != 1:
            raise self.fail("token_embeddings", "shapes (1, L, E) and (1, L)", _describe(given))
        if not bool(mask.any()):
            raise self.fail("token_embeddings", "a mask that is 1 on real tokens", "all zeros")
        with torch.enable_grad():
            leaf = tokens.detach().clone().requires_grad_()
            feature: object = self.run("encode_text", lambda: encoder.encode_text(leaf, mask))
            if not (isinstance(feature, Tensor) and feature.shape == (1, feature_size)):
                wanted = f"a tensor (1, {feature_size}), as wide as the image feature"
                raise self.fail("encode_text", wanted, _describe(feature))
            self.unit("encode_text", feature)
            if not feature.requires_grad:
                raise self.fail("encode_text", "a gradient to the embeddings", "none")
        return tokens.shape[2]


def _describe(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)}"
    if isinstance(value, tuple):
        return "(" + ", ".join(_describe(item) for item in value) + ")"
    return f"{type(value).__name__}"
