"""What an exported file computes: the tagger, or its head alone; and what torch gives instead."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor, nn

from trmml.encoders.base import Encoder
from trmml.errors import EncoderError
from trmml.features.base import Features
from trmml.tagging.onnx_tagger import squashed
from trmml.tagging.tagger import Tagger

# Pillow's filters, the likeliest first; an exported file names one of them.
INTERPOLATIONS = ("bicubic", "bilinear", "lanczos", "nearest")
# Largest difference of pixels that count as equal: far above the rounding of fp32, far below one
# step of an 8-bit colour, which no normalisation makes smaller than 0.004.
SAME_PIXELS = 1e-4
# Where the modules are that are trained.
TRAINED = "trmml.method"


@dataclass(frozen=True)
class Intake:
    """How an encoder's `preprocess` is split: Pillow resizes, the exported file normalises.

    Attributes:
        size: S, side of the square in pixels that the whole image is squashed to.
        interpolation: a name of Pillow's `Image.Resampling`, in lower case.
        scale: per channel, of a colour from 0 to 255.
        offset: per channel; pixels = colour * scale + offset.
    """

    size: int
    interpolation: str
    scale: tuple[float, float, float]
    offset: tuple[float, float, float]

    @classmethod
    def of(cls, encoder: Encoder) -> "Intake":
        """Found by trying, so that it holds for an encoder of any origin.

        Raises:
            EncoderError: `preprocess` is no squash to a square and a normalisation per channel.
        """
        size = encoder.size
        black, white = (
            encoder.preprocess(Image.new("RGB", (size, size), (level,) * 3)).double().mean((1, 2))
            for level in (0, 255)
        )
        red, green, blue = ((white - black) / 255).tolist()
        dark_red, dark_green, dark_blue = black.tolist()
        noise = np.random.default_rng(0).integers(0, 256, (size + 9, 2 * size + 3, 3), np.uint8)
        image = Image.fromarray(noise)
        wanted = encoder.preprocess(image).double()
        for name in INTERPOLATIONS:
            intake = cls(size, name, (red, green, blue), (dark_red, dark_green, dark_blue))
            colours = torch.from_numpy(intake.resized(image))[None]
            if float((intake.normalised(colours)[0] - wanted).abs().max()) < SAME_PIXELS:
                return intake
        raise EncoderError(
            f"this encoder's preprocess is no squash of the image to {size} x {size} pixels and a"
            " normalisation per channel, so no file can repeat it; export the head alone with"
            " --part head, and compute the hidden patches yourself"
        )

    def resized(self, image: Image.Image) -> UInt8[np.ndarray, "S S 3"]:
        """An RGB image of any size as the exported file takes it."""
        return squashed(image, self.size, self.interpolation)

    def normalised(self, image: UInt8[Tensor, "B S S 3"]) -> Float[Tensor, "B 3 S S"]:
        """The pixels that the encoder takes."""
        scale, offset = (torch.tensor(row) for row in (self.scale, self.offset))
        return (image.float() * scale + offset).permute(0, 3, 1, 2)


class HeadGraph(nn.Module):
    """The trained part, calibrated: hidden patches -> probabilities and region maps.

    Args:
        tagger: in eval mode on the CPU.
    """

    def __init__(self, tagger: Tagger) -> None:
        super().__init__()
        self.tagger = tagger
        self.encoder, self.model = tagger.frozen.encoder, tagger.model  # registers their weights
        self.grid = tagger.card.encoder.grid
        self.feature_size = tagger.card.encoder.feature_size

    def forward(
        self, hidden_patches: Float[Tensor, "B P W"]
    ) -> tuple[Float[Tensor, "B K"], Float[Tensor, "B K rows columns"]]:
        """Calibrated probabilities, and where in the image they come from."""
        # The image feature matters in training only; the check would show it if that changed.
        feature = hidden_patches.new_zeros(hidden_patches.shape[0], self.feature_size)
        output = self.tagger.output(Features(hidden_patches, feature))
        maps = output.regions.attention
        maps = maps.reshape(*maps.shape[:2], *self.grid)
        return self.tagger.calibration.probabilities(output.logits), maps


class TaggerGraph(nn.Module):
    """The whole way from resized images to probabilities and region maps.

    Args:
        tagger: in eval mode on the CPU.
        intake: of its encoder.
    """

    def __init__(self, tagger: Tagger, intake: Intake) -> None:
        super().__init__()
        self.intake, self.encoder = intake, tagger.frozen.encoder
        self.head = HeadGraph(tagger)

    def forward(
        self, image: UInt8[Tensor, "B S S 3"]
    ) -> tuple[Float[Tensor, "B K"], Float[Tensor, "B K rows columns"]]:
        """Calibrated probabilities, and where in the image they come from."""
        hidden_patches, _ = self.encoder.encode_image(self.intake.normalised(image))
        probabilities: Tensor
        maps: Tensor
        probabilities, maps = self.head(hidden_patches)
        return probabilities, maps


@dataclass(frozen=True)
class Subject:
    """What is exported, and what torch gives in its place.

    Attributes:
        tagger: on the CPU.
        intake: None where the head is exported alone.
    """

    tagger: Tagger
    intake: Intake | None

    def graph(self) -> nn.Module:
        """The module to trace."""
        if self.intake is None:
            return HeadGraph(self.tagger).eval()
        return TaggerGraph(self.tagger, self.intake).eval()

    def given(self, images: Sequence[Image.Image]) -> Tensor:
        """What the exported file takes for images of any size."""
        if self.intake is None:
            return self._encoded(images).hidden_patches
        resized = [self.intake.resized(image) for image in images]
        return torch.from_numpy(np.stack(resized))

    @torch.no_grad()
    def expected(
        self, images: Sequence[Image.Image]
    ) -> tuple[Float[Tensor, "B K"], Float[Tensor, "B K P"]]:
        """Probabilities and region maps by the encoder's own preprocess, as `trmml tag` has it."""
        output = self.tagger.output(self._encoded(images))
        return self.tagger.calibration.probabilities(output.logits), output.regions.attention

    def _encoded(self, images: Sequence[Image.Image]) -> Features:
        encoder = self.tagger.frozen.encoder
        pixels = torch.stack([encoder.preprocess(image) for image in images])
        return Features(*encoder.encode_image(pixels))
