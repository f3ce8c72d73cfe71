"""Five pieces that stand or hang in a room."""

import math

from trmml.synthetic.colours import BLACK, GOLD, WHITE, WOOD, lighter
from trmml.synthetic.pen import Pen


def chair(pen: Pen) -> None:
    """A chair with a slatted back, half from the side."""
    for points in ([(0.72, 0.56), (0.75, 0.86)], [(0.36, 0.55), (0.36, 0.84)]):
        pen.line(points, 0.06, pen.dark)
    pen.line([(0.24, 0.05), (0.26, 0.95)], 0.07, pen.main)
    pen.line([(0.4, 0.08), (0.4, 0.52)], 0.05, pen.main)
    for y in (0.12, 0.26, 0.4):
        pen.line([(0.25, y), (0.41, y)], 0.055, pen.main)
    pen.polygon([(0.22, 0.62), (0.36, 0.5), (0.8, 0.52), (0.72, 0.64)], pen.light)
    pen.line([(0.23, 0.64), (0.72, 0.65)], 0.055, pen.main)
    pen.line([(0.69, 0.65), (0.69, 0.95)], 0.065, pen.main)


def table(pen: Pen) -> None:
    """A table with four legs and a thick top."""
    for x in (0.26, 0.74):
        pen.line([(x, 0.42), (x, 0.72)], 0.05, pen.dark)
    for x, foot in ((0.1, 0.08), (0.9, 0.92)):
        pen.line([(x, 0.46), (foot, 0.88)], 0.07, pen.main)
    pen.polygon([(0.16, 0.28), (0.84, 0.28), (0.98, 0.44), (0.02, 0.44)], pen.light)
    pen.rect(0.02, 0.43, 0.98, 0.52, pen.main)


def lamp(pen: Pen) -> None:
    """A standing lamp with a shade."""
    pen.line([(0.5, 0.36), (0.5, 0.9)], 0.045, WOOD)
    pen.ellipse(0.5, 0.92, 0.2, 0.055, BLACK)
    pen.ellipse(0.5, 0.42, 0.09, 0.07, lighter(GOLD, 0.5))
    pen.polygon([(0.34, 0.05), (0.66, 0.05), (0.84, 0.4), (0.16, 0.4)], pen.main)
    pen.line([(0.2, 0.36), (0.8, 0.36)], 0.025, pen.light)


def bed(pen: Pen) -> None:
    """A bed from the side, with a pillow and a blanket."""
    for x in (0.08, 0.92):
        pen.line([(x, 0.7), (x, 0.86)], 0.06, WOOD)
    pen.rect(0.03, 0.2, 0.12, 0.8, WOOD, bow=0.03)
    pen.rect(0.88, 0.42, 0.97, 0.8, WOOD, bow=0.03)
    pen.rect(0.1, 0.56, 0.9, 0.76, WHITE)
    pen.blob([(0.13, 0.5), (0.2, 0.4), (0.34, 0.42), (0.36, 0.56), (0.15, 0.58)], WHITE)
    pen.blob([(0.34, 0.52), (0.5, 0.45), (0.84, 0.46), (0.91, 0.54), (0.91, 0.72), (0.36, 0.72)],
             pen.main)  # fmt: skip
    pen.line([(0.42, 0.55), (0.44, 0.7)], 0.04, pen.light)


def clock(pen: Pen) -> None:
    """A round clock with two hands and twelve marks."""
    pen.ellipse(0.5, 0.5, 0.47, 0.47, pen.main)
    pen.ellipse(0.5, 0.5, 0.38, 0.38, WHITE)
    for k in range(12):
        x, y = math.cos(math.radians(30 * k)), math.sin(math.radians(30 * k))
        pen.dot(0.5 + 0.32 * x, 0.5 + 0.32 * y, 0.03 if k % 3 == 0 else 0.018, BLACK)
    for length, width in ((0.19, 0.05), (0.28, 0.032)):
        angle = pen.rng.uniform(0, 2 * math.pi)
        end = (0.5 + length * math.cos(angle), 0.5 + length * math.sin(angle))
        pen.line([(0.5, 0.5), end], width, BLACK)
    pen.dot(0.5, 0.5, 0.035, BLACK)
