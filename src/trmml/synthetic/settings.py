"""The eight settings: how each is painted and which categories are usual there.

Nothing in a background may look like one of the categories.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from trmml.synthetic.colours import DARK_WOOD, GLASS, RGB, STEEL, WHITE, WOOD, darker, lighter, mix
from trmml.synthetic.pen import Pen


@dataclass(frozen=True)
class Setting:
    """A place."""

    phrase: str  # its name in a caption, with a preposition
    weight: float  # how often it is chosen, relative to the others
    horizon: float  # height at which the ground begins, 0 is the top
    paint: Callable[[Pen], None]  # paints it on a unit canvas
    # how often each category is chosen here, relative to the others
    frequencies: Mapping[str, float | int]


def _choice(pen: Pen, *colours: RGB) -> RGB:
    return colours[int(pen.rng.integers(len(colours)))]


def _sky(pen: Pen, horizon: float) -> None:
    top = _choice(pen, (120, 180, 230), (160, 205, 240), (250, 200, 160), (175, 190, 205))
    steps = 12
    for k in range(steps):
        share = k / steps
        pen.rect(-0.1, horizon * share - 0.05, 1.1, 1.1, lighter(top, 0.65 * share))


def street(pen: Pen) -> None:
    """A row of plain blocks, a pavement and a road."""
    _sky(pen, 0.5)
    left = -0.05
    while left < 1.0:
        width, top = pen.rng.uniform(0.12, 0.24), pen.rng.uniform(0.14, 0.38)
        wall = _choice(pen, (176, 168, 170), (196, 180, 160), (160, 172, 186), (186, 160, 150))
        pen.rect(left, top, left + width, 0.6, wall)
        for x in (0.25, 0.6):
            for y in (0.06, 0.16, 0.26):
                if top + y < 0.5:
                    pen.rect(left + x * width, top + y, left + (x + 0.18) * width, top + y + 0.05,
                             darker(wall, 0.25))  # fmt: skip
        left += width
    pen.rect(-0.1, 0.56, 1.1, 1.1, (190, 186, 180))
    pen.rect(-0.1, 0.68, 1.1, 1.1, _choice(pen, (112, 114, 122), (130, 128, 130)))
    for k in range(4):
        pen.rect(0.04 + 0.26 * k, 0.82, 0.18 + 0.26 * k, 0.845, (226, 222, 200))


def kitchen(pen: Pen) -> None:
    """A tiled wall above a worktop with cupboards."""
    wall = _choice(pen, (232, 226, 210), (206, 224, 222), (240, 220, 200), (214, 220, 232))
    pen.rect(-0.1, -0.1, 1.1, 1.1, wall)
    for k in range(1, 8):
        pen.line([(k / 8, -0.05), (k / 8, 0.58)], 0.008, darker(wall, 0.12))
    for k in range(1, 5):
        pen.line([(-0.05, k * 0.13), (1.05, k * 0.13)], 0.008, darker(wall, 0.12))
    front = _choice(pen, (170, 190, 180), (196, 164, 126), (150, 168, 190), (222, 214, 200))
    pen.rect(-0.1, 0.56, 1.1, 0.86, _choice(pen, (214, 206, 196), (190, 160, 124), (170, 174, 180)))
    pen.rect(-0.1, 0.86, 1.1, 1.1, front)
    for k in range(1, 4):
        pen.line([(k / 4, 0.88), (k / 4, 1.05)], 0.01, darker(front))


def sea(pen: Pen) -> None:
    """Water with waves and a strip of sand."""
    _sky(pen, 0.42)
    water = _choice(pen, (70, 140, 190), (60, 160, 175), (90, 130, 180))
    pen.rect(-0.1, 0.42, 1.1, 1.1, water)
    for k in range(4):
        y, start = 0.5 + 0.1 * k, pen.rng.uniform(-0.1, 0.0)
        points = [(start + 0.08 * i, y + (0.012 if i % 2 else -0.012)) for i in range(16)]
        pen.curve(points, 0.012, lighter(water, 0.35))
    pen.blob([(-0.2, 0.92), (0.3, 0.86), (0.7, 0.93), (1.2, 0.88), (1.2, 1.2), (-0.2, 1.2)],
             (232, 208, 158))  # fmt: skip


def park(pen: Pen) -> None:
    """Lawns, a hill and a winding path."""
    _sky(pen, 0.48)
    grass = _choice(pen, (150, 196, 110), (130, 184, 120), (176, 200, 110))
    hill = pen.rng.uniform(0.36, 0.48)
    pen.blob([(-0.2, 0.52), (0.2, hill), (0.7, 0.48), (1.2, 0.42), (1.2, 1.2), (-0.2, 1.2)],
             lighter(grass, 0.25))  # fmt: skip
    pen.blob([(-0.2, 0.56), (0.4, 0.6), (1.2, 0.53), (1.2, 1.2), (-0.2, 1.2)], grass)
    foot = pen.rng.uniform(0.1, 0.5)
    pen.blob([(foot + 0.2, 0.57), (foot + 0.24, 0.57), (foot + 0.34, 0.74), (foot + 0.3, 1.1),
              (foot - 0.02, 1.1), (foot + 0.16, 0.76)], (222, 204, 168))  # fmt: skip


def room(pen: Pen) -> None:
    """A papered wall, a floor and a rug."""
    wall = _choice(pen, (226, 206, 190), (196, 214, 206), (230, 222, 196), (204, 200, 222))
    pen.rect(-0.1, -0.1, 1.1, 1.1, wall)
    for k in range(9):
        pen.line([(0.06 + k * 0.125, -0.05), (0.06 + k * 0.125, 0.6)], 0.022, lighter(wall, 0.3))
    floor = _choice(pen, (178, 136, 96), (150, 112, 84), (190, 176, 160))
    pen.rect(-0.1, 0.62, 1.1, 1.1, floor)
    pen.rect(-0.1, 0.59, 1.1, 0.63, lighter(wall, 0.7))
    for y in (0.72, 0.82, 0.92):
        pen.line([(-0.05, y), (1.05, y)], 0.006, darker(floor, 0.2))
    rug = _choice(pen, (190, 110, 110), (110, 140, 170), (210, 180, 120))
    pen.ellipse(pen.rng.uniform(0.35, 0.65), 0.86, 0.36, 0.09, rug)


def mountain(pen: Pen) -> None:
    """Peaks with snow above a valley."""
    _sky(pen, 0.55)
    rock = _choice(pen, (140, 146, 160), (150, 138, 140), (120, 140, 150))
    for x in (0.18, 0.82, 0.5):
        x += pen.rng.uniform(-0.08, 0.08)
        y, half = pen.rng.uniform(0.14, 0.32), pen.rng.uniform(0.28, 0.4)
        pen.polygon([(x, y), (x + half, 0.64), (x - half, 0.64)], mix(rock, WHITE, 0.5 - y))
        cap = 0.25
        pen.polygon([(x, y), (x + cap * half, y + cap * (0.64 - y)), (x, y + 0.05),
                     (x - cap * half, y + cap * (0.64 - y))], WHITE)  # fmt: skip
    ground = _choice(pen, (156, 180, 130), (228, 234, 240), (180, 172, 140))
    pen.blob([(-0.2, 0.62), (0.3, 0.57), (0.7, 0.63), (1.2, 0.58), (1.2, 1.2), (-0.2, 1.2)], ground)


def workshop(pen: Pen) -> None:
    """A board with holes above a bench."""
    wall = _choice(pen, (206, 178, 140), (176, 184, 186), (196, 190, 170))
    pen.rect(-0.1, -0.1, 1.1, 1.1, wall)
    for column in range(11):
        for row in range(6):
            pen.dot(0.05 + 0.09 * column, 0.06 + 0.1 * row, 0.007, darker(wall, 0.35))
    bench = _choice(pen, WOOD, (150, 110, 76), (186, 150, 104))
    pen.rect(-0.1, 0.6, 1.1, 0.84, bench)
    pen.rect(-0.1, 0.84, 1.1, 1.1, DARK_WOOD)
    pen.rect(-0.1, 0.83, 1.1, 0.86, darker(bench, 0.4))
    pen.rect(0.3, 0.92, 0.7, 0.96, mix(STEEL, GLASS, 0.3))


def farm(pen: Pen) -> None:
    """Fields with furrows and a fence."""
    _sky(pen, 0.46)
    field = _choice(pen, (206, 184, 96), (168, 190, 100), (184, 160, 110))
    pen.blob([(-0.2, 0.48), (0.4, 0.42), (1.2, 0.48), (1.2, 1.2), (-0.2, 1.2)],
             _choice(pen, (140, 178, 110), (190, 196, 110)))  # fmt: skip
    pen.rect(-0.1, 0.58, 1.1, 1.1, field)
    for k in range(7):
        pen.line([(0.5 + (k - 3) * 0.08, 0.6), (0.5 + (k - 3) * 0.3, 1.05)], 0.012,
                 darker(field, 0.18))  # fmt: skip
    for y in (0.5, 0.55):
        pen.line([(-0.05, y), (1.05, y)], 0.012, lighter(WOOD, 0.3))
    for k in range(7):
        pen.line([(0.02 + k / 6.2, 0.46), (0.02 + k / 6.2, 0.6)], 0.016, lighter(WOOD, 0.3))


_OUTDOORS = {"sun": 6, "cloud": 7, "tree": 7, "bird": 3, "rain": 1.2, "rainbow": 0.8,
             "lightning": 0.6, "aeroplane": 1, "hot-air balloon": 0.8, "kite": 0.6}  # fmt: skip

SETTINGS: Final[tuple[Setting, ...]] = (
    Setting("in a street", 0.22, 0.6, street, {
        **_OUTDOORS, "car": 12, "bus": 5, "bicycle": 6, "house": 9, "dog": 5, "cat": 2,
        "train": 1.5, "umbrella": 3, "lamp": 1, "clock": 1, "ball": 1, "ice cream": 1}),
    Setting("in a kitchen", 0.14, 0.6, kitchen, {
        "cup": 9, "table": 7, "chair": 5, "apple": 6, "banana": 4.5, "pizza": 3.5, "carrot": 3,
        "cake": 3, "clock": 4, "cat": 3, "dog": 2, "lamp": 2, "flower": 2, "book": 2,
        "ice cream": 1, "scissors": 1}),
    Setting("by the sea", 0.13, 0.52, sea, {
        **_OUTDOORS, "tree": 2, "boat": 12, "fish": 6, "umbrella": 4, "ball": 4, "turtle": 2.5,
        "ice cream": 2.5, "kite": 3, "dog": 2, "snail": 0.5}),
    Setting("in a park", 0.17, 0.55, park, {
        **_OUTDOORS, "tree": 13, "flower": 7, "dog": 7, "ball": 5, "bicycle": 4, "kite": 3,
        "butterfly": 3, "rabbit": 3, "chair": 1, "ice cream": 2, "umbrella": 2, "snail": 1.5,
        "book": 1.5, "turtle": 1}),
    Setting("in a room", 0.15, 0.65, room, {
        "chair": 9, "table": 8, "lamp": 7, "bed": 5, "clock": 5, "book": 7, "cat": 6, "dog": 4,
        "cup": 4, "flower": 3, "ball": 2, "cake": 1.5, "umbrella": 1, "fish": 0.8, "scissors": 1}),
    Setting("in the mountains", 0.07, 0.62, mountain, {
        **_OUTDOORS, "tree": 8, "snowman": 6, "house": 4, "horse": 2.5, "elephant": 2.5,
        "hot-air balloon": 4, "train": 4, "rabbit": 2, "rainbow": 2, "lightning": 2, "bicycle": 1}),
    Setting("in a workshop", 0.06, 0.62, workshop, {
        "hammer": 9, "saw": 8, "spanner": 7, "brush": 6.5, "scissors": 5, "table": 4, "lamp": 3,
        "cup": 3, "clock": 3, "chair": 3, "bicycle": 1.5, "book": 1, "cat": 1}),
    Setting("on a farm", 0.06, 0.58, farm, {
        **_OUTDOORS, "tractor": 10, "horse": 9, "house": 7, "dog": 5, "cat": 3, "rabbit": 4,
        "carrot": 2.5, "apple": 2, "snail": 2, "butterfly": 2, "flower": 3, "elephant": 1.5}),
)  # fmt: skip
