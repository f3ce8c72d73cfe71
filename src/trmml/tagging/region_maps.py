"""Show where a tag comes from: a region map laid over its picture."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor

# The overlay's longer side in pixels, and how much of the picture shines through.
OVERLAY_PIXELS = 480
OVERLAY_SHARE = 0.55


def region_map(
    attention: Float[Tensor, " P"], grid: tuple[int, int], size: tuple[int, int]
) -> Float[Tensor, "height width"]:
    """Attention over patches as a picture-sized map in [0, 1]; the strongest patch is 1.

    Args:
        attention: one category's, over the patches row by row.
        grid: (rows, columns) of the patches.
        size: (width, height) of the picture in pixels.

    Example:
        >>> import torch
        >>> region_map(torch.tensor([1.0, 0.0, 0.0, 0.0]), (2, 2), (4, 4)).shape
        torch.Size([4, 4])
    """
    width, height = size
    patches = attention.reshape(1, 1, *grid).float()
    full = F.interpolate(patches, (height, width), mode="bicubic", align_corners=False)[0, 0]
    full = full.clamp(min=0)
    return full / full.max().clamp(min=1e-12)


def overlay(image: Image.Image, weights: Float[Tensor, "height width"]) -> Image.Image:
    """The picture in grey, with the region in colour on top.

    Args:
        image: RGB.
        weights: in [0, 1], of the picture's size.
    """
    from matplotlib import colormaps  # slow to import, and only pictures need it

    share = weights.numpy()[..., None]
    heat = np.asarray(colormaps["inferno"](weights.numpy()))[..., :3] * 255
    picture = np.asarray(image, dtype=np.float32)
    mixed = picture * (1 - OVERLAY_SHARE * share) + heat * OVERLAY_SHARE * share
    return Image.fromarray(mixed.clip(0, 255).astype(np.uint8))


def shrink(image: Image.Image, longest: int = OVERLAY_PIXELS) -> Image.Image:
    """The picture with its longer side at most `longest` pixels."""
    factor = longest / max(image.size)
    if factor >= 1:
        return image
    width, height = (max(1, round(side * factor)) for side in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)


def write_maps(
    image: Image.Image,
    attention: Float[Tensor, "K P"],
    names: Sequence[str],
    grid: tuple[int, int],
    stem: Path,
) -> list[Path]:
    """Write one PNG per tag, `<stem>.<name>.png`, and return the paths."""
    small, written = shrink(image), list[Path]()
    for row, name in zip(attention, names, strict=True):
        plain = "".join(c if c.isalnum() or c in "-_" else "_" for c in name)
        while stem.with_name(f"{stem.name}.{plain}.png") in written:
            plain += "_"  # two names may differ only in what a file name cannot hold
        path = stem.with_name(f"{stem.name}.{plain}.png")
        overlay(small, region_map(row, grid, small.size)).save(path)
        written.append(path)
    return written
