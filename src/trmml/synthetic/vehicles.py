"""Eight vehicles, each facing right on the unit canvas."""

from trmml.synthetic.colours import (
    BLACK,
    DARK_WOOD,
    GLASS,
    GOLD,
    GREY,
    RED,
    STEEL,
    WHITE,
    WOOD,
    lighter,
)
from trmml.synthetic.pen import Pen


def _wheel(pen: Pen, x: float, y: float, radius: float) -> None:
    pen.ellipse(x, y, radius, radius, BLACK)
    pen.dot(x, y, radius * 0.5, STEEL)


def car(pen: Pen) -> None:
    """A car with two windows and two wheels."""
    pen.blob([(0.2, 0.5), (0.3, 0.3), (0.45, 0.26), (0.62, 0.28), (0.74, 0.5)], pen.main)
    pen.blob([(0.03, 0.68), (0.06, 0.52), (0.24, 0.47), (0.74, 0.47), (0.92, 0.53), (0.98, 0.68),
              (0.9, 0.74), (0.1, 0.74)], pen.main)  # fmt: skip
    pen.polygon([(0.28, 0.47), (0.34, 0.34), (0.46, 0.32), (0.46, 0.47)], GLASS)
    pen.polygon([(0.5, 0.47), (0.5, 0.32), (0.6, 0.34), (0.68, 0.47)], GLASS)
    pen.line([(0.48, 0.5), (0.48, 0.7)], 0.014, pen.dark)
    pen.ellipse(0.93, 0.58, 0.03, 0.035, GOLD)
    for x in (0.25, 0.76):
        _wheel(pen, x, 0.73, 0.11)


def bus(pen: Pen) -> None:
    """A long bus with a row of windows."""
    pen.rect(0.03, 0.22, 0.97, 0.78, pen.main, bow=0.06)
    for x in (0.08, 0.24, 0.4, 0.56):
        pen.rect(x, 0.3, x + 0.13, 0.47, GLASS)
    pen.rect(0.74, 0.3, 0.84, 0.74, lighter(GLASS, 0.3))
    pen.rect(0.88, 0.3, 0.96, 0.52, GLASS)
    pen.rect(0.05, 0.56, 0.71, 0.6, WHITE)
    for x in (0.22, 0.62):
        _wheel(pen, x, 0.78, 0.095)


def bicycle(pen: Pen) -> None:
    """A bicycle: two rings, a frame, a saddle and handlebars."""
    for x in (0.23, 0.77):
        pen.arc(x, 0.65, 0.19, 0.19, 0.0, 360.0, 0.04, BLACK)
        pen.line([(x - 0.16, 0.65), (x + 0.16, 0.65)], 0.01, GREY)
        pen.line([(x, 0.49), (x, 0.81)], 0.01, GREY)
    pen.line([(0.23, 0.65), (0.38, 0.38), (0.66, 0.36), (0.47, 0.65), (0.23, 0.65)], 0.04, pen.main)
    pen.line([(0.47, 0.65), (0.36, 0.3)], 0.04, pen.main)
    pen.line([(0.77, 0.65), (0.64, 0.24), (0.75, 0.2)], 0.04, pen.main)
    pen.line([(0.28, 0.29), (0.44, 0.29)], 0.06, BLACK)
    pen.dot(0.47, 0.65, 0.05, GREY)


def boat(pen: Pen) -> None:
    """A sailing boat with two sails."""
    pen.line([(0.47, 0.06), (0.47, 0.7)], 0.032, DARK_WOOD)
    pen.polygon([(0.51, 0.08), (0.51, 0.62), (0.88, 0.62)], WHITE)
    pen.polygon([(0.43, 0.16), (0.43, 0.62), (0.14, 0.62)], lighter(pen.main, 0.5))
    pen.polygon([(0.47, 0.02), (0.62, 0.06), (0.47, 0.1)], RED)
    pen.polygon([(0.04, 0.68), (0.97, 0.68), (0.83, 0.9), (0.18, 0.9)], pen.main)
    pen.line([(0.09, 0.73), (0.93, 0.73)], 0.025, WHITE)


def aeroplane(pen: Pen) -> None:
    """An aeroplane from the side, with swept wings and a tail fin."""
    pen.polygon([(0.4, 0.45), (0.28, 0.16), (0.37, 0.16), (0.6, 0.45)], pen.dark)
    pen.polygon([(0.1, 0.46), (0.02, 0.2), (0.12, 0.2), (0.25, 0.44)], pen.main)
    pen.blob([(0.04, 0.48), (0.3, 0.4), (0.7, 0.4), (0.9, 0.44), (0.98, 0.52), (0.88, 0.59),
              (0.6, 0.61), (0.2, 0.56)], WHITE)  # fmt: skip
    pen.polygon([(0.42, 0.54), (0.63, 0.54), (0.34, 0.9), (0.24, 0.9)], pen.main)
    pen.polygon([(0.08, 0.5), (0.2, 0.5), (0.08, 0.64), (0.02, 0.64)], pen.dark)
    for x in (0.34, 0.44, 0.54, 0.64, 0.74):
        pen.dot(x, 0.47, 0.02, (70, 120, 170))
    pen.polygon([(0.84, 0.43), (0.92, 0.46), (0.92, 0.5), (0.83, 0.49)], (70, 120, 170))


def train(pen: Pen) -> None:
    """A steam engine with a chimney, a cab and four wheels."""
    for x, y, r in ((0.8, 0.07, 0.075), (0.66, 0.05, 0.05), (0.91, 0.1, 0.04)):
        pen.ellipse(x, y, r, r * 0.7, (214, 216, 220))
    pen.polygon([(0.72, 0.18), (0.86, 0.18), (0.83, 0.42), (0.75, 0.42)], BLACK)
    pen.rect(0.36, 0.4, 0.92, 0.68, pen.main, bow=0.05)
    pen.pie(0.56, 0.41, 0.07, 0.1, 180.0, 360.0, GOLD)
    pen.rect(0.08, 0.2, 0.42, 0.7, pen.dark)
    pen.rect(0.03, 0.14, 0.47, 0.22, RED if pen.main[0] < 180 else BLACK)
    pen.rect(0.15, 0.28, 0.34, 0.46, GLASS)
    pen.rect(0.04, 0.68, 0.96, 0.76, BLACK)
    pen.polygon([(0.9, 0.74), (0.99, 0.9), (0.84, 0.9)], GREY)
    for x, r in ((0.2, 0.13), (0.46, 0.1), (0.65, 0.1), (0.8, 0.08)):
        _wheel(pen, x, 0.93 - r, r)
    pen.line([(0.2, 0.82), (0.65, 0.84)], 0.03, STEEL)


def hot_air_balloon(pen: Pen) -> None:
    """A striped balloon with a basket."""
    for x in (0.4, 0.6):
        pen.line([(0.5 + (x - 0.5) * 1.9, 0.6), (x, 0.84)], 0.016, DARK_WOOD)
    pen.blob([(0.5, 0.02), (0.76, 0.1), (0.88, 0.32), (0.74, 0.56), (0.6, 0.7), (0.4, 0.7),
              (0.26, 0.56), (0.12, 0.32), (0.24, 0.1)], pen.main)  # fmt: skip
    for side in (-1, 1):
        pen.blob([(0.5 + side * a, b) for a, b in
                  ((0.08, 0.04), (0.24, 0.16), (0.27, 0.36), (0.14, 0.6), (0.07, 0.69),
                   (0.04, 0.69), (0.11, 0.36))], lighter(pen.main, 0.7))  # fmt: skip
    pen.rect(0.38, 0.82, 0.62, 0.97, WOOD, bow=0.03)
    pen.line([(0.38, 0.84), (0.62, 0.84)], 0.03, DARK_WOOD)


def tractor(pen: Pen) -> None:
    """A tractor: a huge wheel behind, a small one before, a cab and a pipe."""
    pen.line([(0.72, 0.44), (0.72, 0.18)], 0.045, BLACK)
    pen.rect(0.2, 0.14, 0.56, 0.52, pen.main, bow=0.03)
    pen.rect(0.26, 0.2, 0.5, 0.42, GLASS)
    pen.rect(0.15, 0.09, 0.6, 0.16, pen.dark)
    pen.rect(0.44, 0.42, 0.95, 0.7, pen.main, bow=0.05)
    for x in (0.66, 0.74, 0.82):
        pen.line([(x, 0.5), (x, 0.62)], 0.022, BLACK)
    pen.dot(0.93, 0.5, 0.03, GOLD)
    pen.ellipse(0.28, 0.68, 0.25, 0.25, BLACK)
    pen.ellipse(0.28, 0.68, 0.13, 0.13, GOLD)
    pen.dot(0.28, 0.68, 0.045, BLACK)
    pen.ellipse(0.81, 0.79, 0.14, 0.14, BLACK)
    pen.ellipse(0.81, 0.79, 0.065, 0.065, GOLD)
