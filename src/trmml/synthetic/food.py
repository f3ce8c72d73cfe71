"""Six things to eat."""

from trmml.synthetic.colours import DARK_WOOD, GOLD, LEAF, PINK, RED, WHITE, WOOD, lighter
from trmml.synthetic.pen import Pen


def apple(pen: Pen) -> None:
    """An apple with a stalk and a leaf."""
    pen.blob([(0.5, 0.27), (0.68, 0.2), (0.88, 0.32), (0.9, 0.56), (0.76, 0.84), (0.6, 0.93),
              (0.5, 0.9), (0.4, 0.93), (0.24, 0.84), (0.1, 0.56), (0.12, 0.32), (0.32, 0.2)],
             pen.main)  # fmt: skip
    pen.curve([(0.5, 0.3), (0.5, 0.16), (0.57, 0.05)], 0.045, DARK_WOOD)
    pen.blob([(0.55, 0.17), (0.66, 0.04), (0.86, 0.06), (0.74, 0.18)], LEAF)
    pen.ellipse(0.3, 0.44, 0.06, 0.11, lighter(pen.main, 0.6), 20.0)


def banana(pen: Pen) -> None:
    """A bent banana with dark ends."""
    pen.blob([(0.14, 0.1), (0.22, 0.12), (0.3, 0.42), (0.52, 0.64), (0.92, 0.7), (0.95, 0.78),
              (0.7, 0.9), (0.4, 0.84), (0.18, 0.6), (0.12, 0.3)], pen.main)  # fmt: skip
    pen.curve([(0.19, 0.2), (0.26, 0.52), (0.5, 0.74), (0.86, 0.77)], 0.025, pen.dark)
    pen.line([(0.165, 0.13), (0.15, 0.04)], 0.075, DARK_WOOD)
    pen.line([(0.91, 0.74), (0.96, 0.72)], 0.055, DARK_WOOD)


def pizza(pen: Pen) -> None:
    """A slice of pizza with sausage and olives."""
    pen.polygon([(0.1, 0.22), (0.9, 0.22), (0.5, 0.97)], GOLD)
    pen.curve([(0.07, 0.24), (0.28, 0.14), (0.72, 0.14), (0.93, 0.24)], 0.13, WOOD)
    for x, y, r in ((0.35, 0.38, 0.085), (0.65, 0.36, 0.085), (0.5, 0.6, 0.08)):
        pen.ellipse(x, y, r, r, RED)
    for x, y in ((0.5, 0.32), (0.44, 0.76), (0.61, 0.52), (0.37, 0.54)):
        pen.dot(x, y, 0.03, (60, 90, 50))


def ice_cream(pen: Pen) -> None:
    """Two scoops in a cone."""
    pen.polygon([(0.26, 0.48), (0.74, 0.48), (0.5, 0.98)], (216, 160, 90))
    for step in (0.0, 0.12, 0.24):
        pen.line([(0.33 + step, 0.51), (0.53 + step / 3, 0.88 - step)], 0.014, WOOD)
        pen.line([(0.67 - step, 0.51), (0.47 - step / 3, 0.88 - step)], 0.014, WOOD)
    pen.ellipse(0.5, 0.2, 0.19, 0.18, lighter(pen.main, 0.65))
    pen.blob([(0.22, 0.46), (0.27, 0.3), (0.5, 0.25), (0.73, 0.3), (0.78, 0.46), (0.68, 0.53),
              (0.58, 0.48), (0.48, 0.55), (0.38, 0.49), (0.29, 0.53)], pen.main)  # fmt: skip
    pen.dot(0.55, 0.04, 0.055, RED)


def carrot(pen: Pen) -> None:
    """A carrot with its leaves."""
    for x, y in ((0.72, 0.03), (0.86, 0.08), (0.97, 0.2), (0.98, 0.34)):
        pen.line([(0.7, 0.32), (x, y)], 0.06, LEAF)
    pen.blob([(0.6, 0.2), (0.74, 0.2), (0.82, 0.3), (0.8, 0.42), (0.46, 0.74), (0.05, 0.96),
              (0.26, 0.56)], pen.main)  # fmt: skip
    for x, y in ((0.5, 0.36), (0.62, 0.48), (0.36, 0.52), (0.42, 0.66)):
        pen.line([(x, y), (x + 0.08, y + 0.06)], 0.02, pen.dark)


def cake(pen: Pen) -> None:
    """A birthday cake with candles and icing."""
    for x in (0.32, 0.5, 0.68):
        pen.line([(x, 0.2), (x, 0.4)], 0.04, (90, 150, 220))
        pen.ellipse(x, 0.13, 0.028, 0.06, GOLD)
    pen.rect(0.12, 0.42, 0.88, 0.88, pen.main, bow=0.05)
    pen.blob([(0.1, 0.44), (0.2, 0.37), (0.5, 0.36), (0.8, 0.37), (0.9, 0.44), (0.86, 0.58),
              (0.77, 0.5), (0.66, 0.62), (0.55, 0.51), (0.44, 0.62), (0.34, 0.5), (0.22, 0.6),
              (0.13, 0.55)], WHITE)  # fmt: skip
    pen.line([(0.14, 0.74), (0.86, 0.74)], 0.045, PINK)
    pen.line([(0.04, 0.9), (0.96, 0.9)], 0.05, (190, 196, 204))
