"""From a image to the pixels of an open_clip model: with Pillow, or on any device."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, UInt8
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from trmml.errors import EncoderError

RESIZE_MODES = ("squash", "center-crop")


@dataclass(frozen=True)
class Preprocessing:
    """How images of any size become square, normalised pixels.

    Raises:
        EncoderError: another resize mode.
    """

    size: int  # S, side of the square in pixels
    mean: tuple[float, ...]  # of the training images per channel, in [0, 1]
    std: tuple[float, ...]  # of the training images per channel, in [0, 1]
    interpolation: str  # "bicubic" or "bilinear"
    resize_mode: str  # "squash" makes the whole image a square; "center-crop" cuts the longer side

    def __post_init__(self) -> None:
        if self.resize_mode not in RESIZE_MODES:
            raise EncoderError(
                f"resize_mode must be one of {RESIZE_MODES}, got {self.resize_mode!r}"
            )

    def __str__(self) -> str:
        """One line that names all of it, for keys of what was computed from the pixels."""
        return (
            f"{self.resize_mode} to {self.size} px, {self.interpolation} with antialiasing, "
            f"mean {self.mean}, std {self.std}"
        )

    def from_image(self, image: Image.Image) -> Float[Tensor, "3 S S"]:
        """The pixels of an RGB image, exactly as open_clip makes them."""
        pixels: Tensor = self._transform(image)
        return pixels

    @cached_property
    def _transform(self) -> Callable[[Image.Image], Tensor]:
        settings = PreprocessCfg(
            size=self.size,
            mean=self.mean,
            std=self.std,
            interpolation=self.interpolation,
            resize_mode="squash" if self.resize_mode == "squash" else "shortest",
        )
        transform: Callable[[Image.Image], Tensor] = image_transform_v2(settings, is_train=False)
        return transform

    def decoded(self, image: UInt8[Tensor, "3 H W"]) -> Float[Tensor, "3 S S"]:
        """The same for a decoded image on any device, there; equal up to rounding."""
        bilinear = self.interpolation == "bilinear"
        mode = InterpolationMode.BILINEAR if bilinear else InterpolationMode.BICUBIC
        sides = [self.size, self.size] if self.resize_mode == "squash" else [self.size]
        image = functional.resize(image, sides, interpolation=mode, antialias=True)
        if self.resize_mode == "center-crop":
            image = functional.center_crop(image, [self.size, self.size])
        pixels = functional.to_dtype(image, torch.float32, scale=True)
        normalised: Tensor = functional.normalize(pixels, list(self.mean), list(self.std))
        return normalised
