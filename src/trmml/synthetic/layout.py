"""Choose which objects an image shows, and where, before anything is drawn."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from trmml.synthetic.categories import CATEGORIES, CATEGORY_NAMES
from trmml.synthetic.settings import SETTINGS, Setting
from trmml.synthetic.styles import SceneStyle

_COUNTS: Final = np.array([0.1, 0.2, 0.25, 0.22, 0.15, 0.08])  # of 2 to 7 objects
_ODD_WEIGHT: Final = 0.12  # of a category that is unusual in the setting
_TRIES: Final = 6  # places tried for an object; the one that covers least is taken


@dataclass(frozen=True)
class Item:
    """One object, or with `category` None a meaningless shape."""

    category: int | None  # index in `CATEGORIES`
    x: float  # centre, share of the image's width
    y: float  # centre, share of the image's height
    side: float  # share of the image's shorter side
    degrees: float  # turn, clockwise
    flipped: bool  # mirrored left to right
    colour: str  # name of its own colour


@dataclass(frozen=True)
class Layout:
    """An image's size, its setting and its objects from the back to the front."""

    width: int  # in pixels
    height: int  # in pixels
    setting: Setting | None  # None for a plain background
    items: tuple[Item, ...]  # in drawing order


def draw_layout(rng: np.random.Generator, style: SceneStyle) -> Layout:
    """Return a random layout.

    Example:
        >>> from trmml.synthetic.styles import DEMO
        >>> 2 <= sum(i.category is not None for i in
        ...          draw_layout(np.random.default_rng(0), DEMO).items) <= 7
        True
    """
    width, height = (int(rng.integers(low, 257)) for low in (208, 168))
    if rng.random() < style.plain_share:
        item = _single(rng, style)
        return Layout(width, height, None, (item,))
    weights = np.array([setting.weight for setting in SETTINGS])
    setting = SETTINGS[int(rng.choice(len(SETTINGS), p=weights / weights.sum()))]
    placed: list[Item] = []
    for index in _categories(rng, style, setting):
        placed.append(_place(rng, style, setting, index, placed))
    placed.sort(key=lambda item: item.y + item.side / 2)
    clutter = [_clutter(rng) for _ in range(int(rng.integers(0, style.clutter + 1)))]
    behind = len(clutter) - len(clutter) // 3
    return Layout(width, height, setting, (*clutter[:behind], *placed, *clutter[behind:]))


def _categories(rng: np.random.Generator, style: SceneStyle, setting: Setting) -> list[int]:
    frequencies = np.array([setting.frequencies.get(name, _ODD_WEIGHT) for name in CATEGORY_NAMES])
    weights = frequencies**style.frequency_power
    count = 2 + int(rng.choice(len(_COUNTS), p=_COUNTS))
    chosen = rng.choice(len(frequencies), count, replace=False, p=weights / weights.sum()).tolist()
    if rng.random() < 0.15:
        chosen[-1] = chosen[0]  # two of a kind
    return chosen  # type: ignore[no-any-return]


def _turned(
    rng: np.random.Generator, style: SceneStyle, index: int, x: float, y: float, side: float
) -> Item:
    """Return the object at its place, turned, mirrored and coloured at random."""
    category = CATEGORIES[index]
    free = category.turns and rng.random() < 0.7
    degrees = 180.0 if free else style.tilt_degrees
    colour = category.colours[int(rng.integers(len(category.colours)))]
    turn = float(rng.uniform(-degrees, degrees))
    return Item(index, x, y, side, turn, bool(rng.random() < 0.5), colour)


def _single(rng: np.random.Generator, style: SceneStyle) -> Item:
    index = int(rng.integers(len(CATEGORIES)))
    x, y = rng.uniform(0.38, 0.62, 2)
    side = float(rng.uniform(0.35, 0.9))
    return _turned(rng, style, index, float(x), float(y), side)


def _place(
    rng: np.random.Generator, style: SceneStyle, setting: Setting, index: int, placed: list[Item]
) -> Item:
    category = CATEGORIES[index]
    low, high = style.side
    side = low + (high - low) * float(rng.beta(1.3, 2.2))  # more small ones than large ones
    side = float(np.clip(side * category.size, low * 0.85, high * 1.1))
    zone = category.zone
    if zone == "any":
        zone = "sky" if rng.random() < 0.4 else "ground"
    best, least = (0.5, 0.5), np.inf
    for _ in range(_TRIES):
        x = float(rng.uniform(side * 0.4, 1 - side * 0.4))
        if zone == "sky":
            y = float(rng.uniform(side * 0.4, max(setting.horizon - side * 0.4, side * 0.45)))
        else:
            y = float(rng.uniform(setting.horizon + 0.04, 1.02)) - side / 2
        cover = sum(_overlap(x, y, side, other) for other in placed)
        if cover < least:
            best, least = (x, y), cover
    return _turned(rng, style, index, *best, side)


def _overlap(x: float, y: float, side: float, other: Item) -> float:
    reach = (side + other.side) / 2
    return max(0.0, reach - abs(x - other.x)) * max(0.0, reach - abs(y - other.y))


def _clutter(rng: np.random.Generator) -> Item:
    x, y = rng.uniform(0.0, 1.0, 2)
    side = float(rng.uniform(0.05, 0.2))
    names = ("red", "orange", "green", "blue", "purple", "grey", "brown", "turquoise")
    colour = names[int(rng.integers(len(names)))]
    return Item(None, float(x), float(y), side, float(rng.uniform(0, 360)), False, colour)
