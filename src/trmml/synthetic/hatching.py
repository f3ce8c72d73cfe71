"""Strokes over the fills of an object, as a sketching hand leaves them."""

import functools
from typing import Final

import numpy as np
from jaxtyping import Float
from PIL import Image

_SIDE: Final = 256
_INK_BELOW: Final = 90.0  # grey level under which a pixel counts as ink and is left alone


def hatch(tile: Image.Image, strength: float, rng: np.random.Generator) -> Image.Image:
    """Return the RGBA tile with strokes of one kind over its fills.

    Args:
        tile: the object on a transparent background, smaller than 256 pixels beyond which strokes
            repeat.
        strength: 0 changes nothing, 1 paints the strokes fully.
        rng: chooses the kind, the place and whether strokes are light or dark.
    """
    pattern = _patterns()[int(rng.integers(len(_patterns())))]
    top, left = rng.integers(0, _SIDE, 2)
    rows = (np.arange(tile.height) + top) % _SIDE
    columns = (np.arange(tile.width) + left) % _SIDE
    aim = 255.0 if rng.random() < 0.55 else 60.0
    left, top, right, bottom = tile.getbbox() or (0, 0, 0, 0)
    pixels = np.array(tile)
    fills = pixels[top:bottom, left:right, :3].astype(np.float32)
    strokes = pattern[np.ix_(rows[top:bottom], columns[left:right])]
    weight = strength * strokes * (fills.mean(axis=2) > _INK_BELOW)
    pixels[top:bottom, left:right, :3] = fills + (aim - fills) * weight[..., None]
    return Image.fromarray(pixels)


@functools.cache
def _patterns() -> tuple[Float[np.ndarray, "256 256"], ...]:
    """Stripes, crossed stripes, dots and crayon grain; each repeats without a seam."""
    y, x = np.mgrid[:_SIDE, :_SIDE].astype(np.float32) * (2 * np.pi / _SIDE)
    waves = ((32, 32), (40, -24), (0, 44), (52, 8), (20, 20))
    stripes = [np.sin(a * x + b * y) > 0.35 for a, b in waves]
    crossed = [stripes[0] | stripes[1], stripes[2] | stripes[3]]
    dots = [np.sin(36 * x) * np.sin(36 * y) > 0.45]
    grain = np.random.default_rng(0).random((_SIDE, _SIDE // 4)).repeat(4, axis=1) > 0.55
    return tuple(part.astype(np.float32) for part in (*stripes, *crossed, *dots, grain))
