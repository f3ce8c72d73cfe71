"""Colours by name, so that a caption can name them, and how a style shifts them."""

import colorsys
from typing import Final

import numpy as np

RGB = tuple[int, int, int]

NAMED: Final[dict[str, tuple[RGB, ...]]] = {
    "red": ((214, 48, 49), (196, 37, 58), (231, 76, 60)),
    "orange": ((243, 146, 40), (230, 126, 34), (250, 170, 70)),
    "yellow": ((247, 207, 70), (241, 196, 15), (255, 221, 89)),
    "green": ((76, 160, 74), (46, 140, 87), (120, 180, 70)),
    "blue": ((52, 120, 205), (41, 98, 180), (80, 150, 225)),
    "purple": ((142, 84, 184), (120, 70, 160), (165, 105, 200)),
    "pink": ((240, 140, 175), (233, 120, 160), (246, 165, 190)),
    "brown": ((140, 92, 55), (120, 76, 45), (165, 110, 70)),
    "grey": ((140, 145, 152), (120, 125, 135), (165, 168, 175)),
    "black": ((50, 50, 56), (40, 42, 50), (62, 60, 66)),
    "white": ((245, 244, 240), (236, 238, 242), (250, 247, 238)),
    "turquoise": ((50, 175, 170), (40, 155, 160), (85, 195, 185)),
}

WHITE: Final[RGB] = (250, 249, 245)
BLACK: Final[RGB] = (38, 36, 42)
GREY: Final[RGB] = (150, 154, 160)
STEEL: Final[RGB] = (176, 184, 194)
WOOD: Final[RGB] = (172, 120, 70)
DARK_WOOD: Final[RGB] = (112, 74, 44)
LEAF: Final[RGB] = (84, 156, 70)
GLASS: Final[RGB] = (190, 222, 238)
PINK: Final[RGB] = (240, 150, 170)
GOLD: Final[RGB] = (246, 200, 66)
RED: Final[RGB] = (212, 58, 52)


def mix(first: RGB, second: RGB, share: float) -> RGB:
    """The colour that lies `share` (0 to 1) of the way from `first` to `second`.

    Example:
        >>> mix((0, 0, 0), (200, 100, 50), 0.5)
        (100, 50, 25)
    """
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


def darker(colour: RGB, share: float = 0.3) -> RGB:
    """The colour moved towards black."""
    return mix(colour, (20, 18, 24), share)


def lighter(colour: RGB, share: float = 0.4) -> RGB:
    """The colour moved towards white."""
    return mix(colour, (255, 253, 248), share)


def shift(colour: RGB, turn: float, saturation: float, value: float) -> RGB:
    """The colour with its hue turned by `turn` (1 is a full circle) and the rest multiplied."""
    hue, grade, light = colorsys.rgb_to_hsv(*(part / 255 for part in colour))
    parts = colorsys.hsv_to_rgb(
        (hue + turn) % 1.0, min(1.0, grade * saturation), min(1.0, light * value)
    )
    red, green, blue = (round(255 * part) for part in parts)
    return red, green, blue


def pick(rng: np.random.Generator, name: str) -> RGB:
    """One of the shades that go by `name`."""
    shades = NAMED[name]
    return shades[int(rng.integers(len(shades)))]
