"""Six kinds of weather."""

import math

from trmml.synthetic.colours import BLACK, GOLD, GREY, NAMED, WHITE, WOOD, darker
from trmml.synthetic.pen import Pen


def sun(pen: Pen) -> None:
    """A sun with rays."""
    for k in range(12):
        angle = math.radians(30 * k)
        points = []
        for turn, radius in ((-0.13, 0.32), (0.0, 0.49), (0.13, 0.32)):
            points.append((0.5 + radius * math.cos(angle + turn),
                           0.5 + radius * math.sin(angle + turn)))  # fmt: skip
        pen.polygon(points, pen.main)
    pen.ellipse(0.5, 0.5, 0.28, 0.28, GOLD)


def _puff(pen: Pen, top: float, colour: tuple[int, int, int]) -> None:
    pen.blob([(0.06, top + 0.4), (0.08, top + 0.24), (0.22, top + 0.2), (0.32, top + 0.03),
              (0.52, top), (0.66, top + 0.13), (0.82, top + 0.14), (0.95, top + 0.3),
              (0.88, top + 0.42), (0.5, top + 0.44), (0.16, top + 0.44)], colour)  # fmt: skip


def cloud(pen: Pen) -> None:
    """A white cloud with three humps."""
    _puff(pen, 0.28, pen.dark)
    _puff(pen, 0.25, pen.main)


def rain(pen: Pen) -> None:
    """A dark cloud and slanting drops."""
    for x in (0.2, 0.38, 0.56, 0.74):
        for y in (0.62, 0.8):
            shift = 0.04 if y > 0.7 else 0.0
            pen.line([(x + 0.06 - shift, y), (x - shift, y + 0.13)], 0.045, (70, 140, 215))
    _puff(pen, 0.08, (122, 130, 146))


def rainbow(pen: Pen) -> None:
    """Half rings in the colours of the rainbow."""
    names = ("red", "orange", "yellow", "green", "blue", "purple")
    for k, name in enumerate(names):
        radius = 0.48 - 0.05 * k
        pen.arc(0.5, 0.74, radius, radius * 1.2, 180.0, 360.0, 0.06, NAMED[name][0])
    for x in (0.14, 0.86):
        pen.ellipse(x, 0.78, 0.13, 0.09, WHITE)


def lightning(pen: Pen) -> None:
    """A jagged flash under a dark cloud."""
    pen.polygon([(0.52, 0.36), (0.3, 0.68), (0.46, 0.66), (0.36, 0.99), (0.72, 0.55), (0.54, 0.57),
                 (0.68, 0.36)], pen.main)  # fmt: skip
    _puff(pen, 0.02, (92, 92, 112))


def snowman(pen: Pen) -> None:
    """A snowman with a hat, a carrot nose and sticks for arms."""
    pen.line([(0.32, 0.54), (0.08, 0.4)], 0.03, WOOD)
    pen.line([(0.68, 0.54), (0.92, 0.4)], 0.03, WOOD)
    pen.ellipse(0.5, 0.79, 0.25, 0.2, WHITE)
    pen.ellipse(0.5, 0.53, 0.19, 0.16, WHITE)
    pen.ellipse(0.5, 0.31, 0.14, 0.13, WHITE)
    pen.rect(0.38, 0.03, 0.62, 0.2, BLACK)
    pen.line([(0.3, 0.2), (0.7, 0.2)], 0.04, BLACK)
    pen.line([(0.39, 0.42), (0.61, 0.42)], 0.055, pen.main)
    pen.line([(0.57, 0.43), (0.6, 0.56)], 0.055, darker(pen.main, 0.15))
    pen.polygon([(0.5, 0.29), (0.7, 0.33), (0.5, 0.35)], (240, 130, 40))
    for x in (0.44, 0.55):
        pen.dot(x, 0.27, 0.02, BLACK)
    for y in (0.55, 0.7, 0.82):
        pen.dot(0.5, y, 0.022, GREY)
