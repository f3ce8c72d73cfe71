"""The two styles of drawing, and every number by which they differ."""

from dataclasses import dataclass
from typing import Final

from trmml.errors import ConfigError


@dataclass(frozen=True)
class SceneStyle:
    """How one style draws. Lengths are shares of the object's side unless they say otherwise."""

    outline: tuple[float, float]  # width range of the ink outline
    outlined_share: float  # share of objects that have an outline
    wash: tuple[float, float]  # range of the share by which fills fade to paper
    hatch: tuple[float, float]  # range of the strength of the hatching over fills, 0 to 1
    wobble: float  # how far a single shape strays from where it belongs
    warp: float  # how far the proportions of a whole object are bent
    stretch: float  # largest change of an object's height against its width
    hue_turn: float  # largest turn of hue for a whole image, 1 is a full circle
    saturation: tuple[float, float]  # range of the factor on saturation for a whole image
    tilt_degrees: float  # largest turn of an upright object
    side: tuple[float, float]  # range of an object's side as a share of the image's shorter side
    clutter: int  # largest number of meaningless shapes behind and before the objects
    shade: float  # largest change of light across the image
    cast: float  # largest change of one colour channel of the image
    # range of the standard deviation of the grain, in grey levels of 255
    noise: tuple[float, float]
    blur: float  # largest radius of the blur, in pixels
    quality: tuple[int, int]  # range of the JPEG quality
    plain_share: float  # share of images that show one object on a plain background
    frequency_power: float  # power on the categories' frequencies; 0 makes all alike


CAPTION: Final = SceneStyle(
    outline=(0.006, 0.018),
    outlined_share=0.25,
    wash=(0.0, 0.25),
    hatch=(0.0, 0.0),
    wobble=0.004,
    warp=0.012,
    stretch=0.1,
    hue_turn=0.02,
    saturation=(0.85, 1.1),
    tilt_degrees=12.0,
    side=(0.16, 0.5),
    clutter=2,
    shade=0.12,
    cast=0.05,
    noise=(0.0, 5.0),
    blur=0.5,
    quality=(85, 95),
    plain_share=0.4,
    frequency_power=0.4,
)

DEMO: Final = SceneStyle(
    outline=(0.016, 0.034),
    outlined_share=1.0,
    wash=(0.1, 0.6),
    hatch=(0.1, 0.5),
    wobble=0.014,
    warp=0.03,
    stretch=0.18,
    hue_turn=0.05,
    saturation=(0.55, 1.15),
    tilt_degrees=16.0,
    side=(0.12, 0.45),
    clutter=6,
    shade=0.3,
    cast=0.1,
    noise=(3.0, 12.0),
    blur=0.7,
    quality=(60, 90),
    plain_share=0.0,
    frequency_power=1.7,
)


def find_style(name: str) -> SceneStyle:
    """Return the style of that name; a ConfigError lists the two names.

    Example:
        >>> find_style("demo").plain_share
        0.0
    """
    if name == "demo":
        return DEMO
    if name == "caption":
        return CAPTION
    raise ConfigError(f"style: expected 'demo' or 'caption', got {name!r}; choose one of the two")
