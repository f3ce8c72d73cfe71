"""What stands outdoors and what people carry: eight things that belong to no other group."""

import math

from trmml.synthetic.colours import (
    BLACK,
    DARK_WOOD,
    GLASS,
    GOLD,
    LEAF,
    WHITE,
    WOOD,
    darker,
    lighter,
)
from trmml.synthetic.pen import Pen


def house(pen: Pen) -> None:
    """A house with a pitched roof, a door and two windows."""
    pen.rect(0.68, 0.1, 0.79, 0.34, darker(WOOD, 0.2))
    pen.rect(0.14, 0.44, 0.86, 0.94, lighter(pen.main, 0.7))
    pen.polygon([(0.5, 0.07), (0.98, 0.47), (0.02, 0.47)], pen.main)
    pen.rect(0.42, 0.62, 0.58, 0.94, DARK_WOOD)
    pen.dot(0.55, 0.79, 0.018, GOLD)
    for x in (0.2, 0.65):
        pen.rect(x, 0.56, x + 0.15, 0.73, GLASS)
        pen.line([(x + 0.075, 0.56), (x + 0.075, 0.73)], 0.018, WHITE)
        pen.line([(x, 0.645), (x + 0.15, 0.645)], 0.018, WHITE)


def tree(pen: Pen) -> None:
    """A tree with a round crown and a branching trunk."""
    pen.polygon([(0.43, 0.98), (0.46, 0.5), (0.54, 0.5), (0.57, 0.98)], DARK_WOOD)
    pen.line([(0.5, 0.7), (0.66, 0.52)], 0.045, DARK_WOOD)
    pen.blob([(0.5, 0.02), (0.66, 0.06), (0.78, 0.17), (0.9, 0.32), (0.86, 0.5), (0.72, 0.62),
              (0.5, 0.6), (0.28, 0.62), (0.14, 0.5), (0.1, 0.32), (0.22, 0.17), (0.34, 0.06)],
             pen.main)  # fmt: skip
    pen.ellipse(0.38, 0.25, 0.14, 0.11, pen.light)
    pen.ellipse(0.66, 0.4, 0.12, 0.1, pen.dark)


def flower(pen: Pen) -> None:
    """A flower with six petals, a stem and two leaves."""
    pen.curve([(0.5, 0.4), (0.48, 0.7), (0.5, 0.98)], 0.05, LEAF)
    pen.blob([(0.5, 0.82), (0.6, 0.66), (0.78, 0.62), (0.7, 0.78)], LEAF)
    pen.blob([(0.5, 0.9), (0.4, 0.74), (0.22, 0.72), (0.32, 0.86)], LEAF)
    for k in range(6):
        angle = 60.0 * k + 30.0
        x, y = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        pen.ellipse(0.5 + 0.19 * x, 0.31 + 0.19 * y, 0.135, 0.09, pen.main, angle)
    pen.ellipse(0.5, 0.31, 0.1, 0.1, GOLD)


def umbrella(pen: Pen) -> None:
    """An open umbrella with a hooked handle."""
    pen.curve([(0.5, 0.1), (0.5, 0.84), (0.44, 0.95), (0.34, 0.92), (0.32, 0.84)], 0.045, DARK_WOOD)
    pen.polygon([(0.47, 0.1), (0.5, 0.0), (0.53, 0.1)], BLACK)
    edge = []
    for k in range(16, -1, -1):
        edge.append((0.03 + 0.94 * k / 16, 0.52 - 0.06 * abs(math.sin(k * math.pi / 4))))
    dome = [(0.5 - 0.47 * math.cos(a), 0.52 - 0.44 * math.sin(a))
            for a in (math.pi * k / 14 for k in range(15))]  # fmt: skip
    pen.polygon([*dome, *edge], pen.main)
    pen.polygon([(0.5, 0.08), (0.38, 0.2), (0.265, 0.52), (0.38, 0.47), (0.5, 0.52), (0.62, 0.47),
                 (0.735, 0.52), (0.62, 0.2)], lighter(pen.main, 0.55))  # fmt: skip


def book(pen: Pen) -> None:
    """An open book with lines of text."""
    pen.polygon([(0.02, 0.26), (0.5, 0.34), (0.98, 0.26), (0.98, 0.8), (0.5, 0.88), (0.02, 0.8)],
                pen.main)  # fmt: skip
    pen.blob([(0.07, 0.22), (0.28, 0.18), (0.5, 0.28), (0.5, 0.82), (0.28, 0.72), (0.07, 0.76)],
             WHITE)  # fmt: skip
    pen.blob([(0.93, 0.22), (0.72, 0.18), (0.5, 0.28), (0.5, 0.82), (0.72, 0.72), (0.93, 0.76)],
             WHITE)  # fmt: skip
    pen.line([(0.5, 0.28), (0.5, 0.82)], 0.02, BLACK)
    for y in (0.34, 0.44, 0.54, 0.64):
        pen.line([(0.14, y - 0.03), (0.41, y + 0.02)], 0.022, (120, 120, 130))
        pen.line([(0.86, y - 0.03), (0.59, y + 0.02)], 0.022, (120, 120, 130))


def ball(pen: Pen) -> None:
    """A beach ball with coloured sectors."""
    pen.ellipse(0.5, 0.5, 0.46, 0.46, WHITE)
    for start in (10, 130, 250):
        angles = [math.radians(start + 6 * k) for k in range(11)]
        ring = [(0.5 + 0.45 * math.cos(a), 0.5 + 0.45 * math.sin(a)) for a in angles]
        pen.polygon([(0.45, 0.43), *ring], pen.main)
    pen.ellipse(0.45, 0.43, 0.07, 0.07, pen.dark)


def cup(pen: Pen) -> None:
    """A cup with a handle and steam."""
    for x in (0.32, 0.5):
        pen.curve([(x, 0.28), (x + 0.05, 0.2), (x - 0.03, 0.12), (x + 0.02, 0.03)], 0.025,
                  (200, 204, 210))  # fmt: skip
    pen.arc(0.72, 0.56, 0.18, 0.15, -100.0, 110.0, 0.07, pen.main)
    pen.polygon([(0.1, 0.36), (0.72, 0.36), (0.66, 0.84), (0.56, 0.92), (0.26, 0.92), (0.16, 0.84)],
                pen.main)  # fmt: skip
    pen.ellipse(0.41, 0.36, 0.31, 0.07, pen.light)
    pen.ellipse(0.41, 0.37, 0.25, 0.045, (92, 58, 40))


def kite(pen: Pen) -> None:
    """A kite with a cross of spars and a tail of bows."""
    pen.curve([(0.38, 0.66), (0.46, 0.78), (0.34, 0.88), (0.48, 0.98)], 0.022, BLACK)
    for x, y in ((0.44, 0.76), (0.38, 0.88)):
        pen.polygon([(x, y), (x - 0.08, y - 0.05), (x - 0.08, y + 0.05)], GOLD)
        pen.polygon([(x, y), (x + 0.08, y - 0.05), (x + 0.08, y + 0.05)], GOLD)
    pen.polygon([(0.68, 0.02), (0.86, 0.4), (0.38, 0.68), (0.3, 0.16)], pen.main)
    pen.polygon([(0.68, 0.02), (0.86, 0.4), (0.56, 0.28)], pen.light)
    pen.polygon([(0.38, 0.68), (0.3, 0.16), (0.56, 0.28)], lighter(pen.main, 0.65))
    pen.line([(0.68, 0.02), (0.38, 0.68)], 0.018, BLACK)
    pen.line([(0.86, 0.4), (0.3, 0.16)], 0.018, BLACK)
