"""Five tools."""

import math

from trmml.synthetic.colours import BLACK, DARK_WOOD, GOLD, STEEL, WOOD, darker, lighter
from trmml.synthetic.pen import Pen


def hammer(pen: Pen) -> None:
    """A claw hammer."""
    pen.polygon([(0.45, 0.28), (0.55, 0.28), (0.57, 0.97), (0.43, 0.97)], pen.main)
    pen.rect(0.42, 0.68, 0.58, 0.96, pen.dark, bow=0.03)
    pen.polygon([(0.44, 0.12), (0.64, 0.12), (0.64, 0.32), (0.44, 0.32)], STEEL)
    pen.rect(0.64, 0.08, 0.84, 0.36, darker(STEEL, 0.15), bow=0.03)
    pen.blob([(0.46, 0.12), (0.3, 0.1), (0.12, 0.28), (0.16, 0.34), (0.32, 0.26), (0.46, 0.32)],
             STEEL)  # fmt: skip


def scissors(pen: Pen) -> None:
    """Open scissors with two ring handles."""
    pen.polygon([(0.44, 0.56), (0.54, 0.62), (0.83, 0.04), (0.74, 0.07)], STEEL)
    pen.polygon([(0.56, 0.56), (0.46, 0.62), (0.17, 0.04), (0.26, 0.07)], lighter(STEEL, 0.3))
    pen.line([(0.54, 0.6), (0.36, 0.7)], 0.07, pen.main)
    pen.line([(0.46, 0.6), (0.64, 0.7)], 0.07, pen.main)
    pen.arc(0.28, 0.81, 0.13, 0.13, 0.0, 360.0, 0.07, pen.main)
    pen.arc(0.72, 0.81, 0.13, 0.13, 0.0, 360.0, 0.07, pen.main)
    pen.dot(0.5, 0.57, 0.03, BLACK)


def saw(pen: Pen) -> None:
    """A hand saw with teeth and a closed handle."""
    teeth = [(0.96 - 0.066 * k / 2, 0.7 + (0.055 if k % 2 else 0.0)) for k in range(19)]
    pen.polygon([(0.34, 0.36), (0.97, 0.58), *teeth, (0.34, 0.7)], STEEL)
    pen.blob([(0.08, 0.3), (0.34, 0.28), (0.4, 0.42), (0.36, 0.6), (0.4, 0.76), (0.2, 0.78),
              (0.04, 0.7), (0.1, 0.52)], pen.main)  # fmt: skip
    pen.blob([(0.17, 0.42), (0.27, 0.4), (0.27, 0.62), (0.18, 0.66)], lighter(WOOD, 0.75))


def spanner(pen: Pen) -> None:
    """A spanner: a shaft, an open jaw and a ring."""
    pen.line([(0.28, 0.74), (0.7, 0.3)], 0.13, pen.main)
    mouth = [(0.5, 0.32), (0.53, 0.14), (0.7, 0.05), (0.76, 0.08), (0.69, 0.2), (0.72, 0.28),
             (0.8, 0.31), (0.92, 0.24), (0.95, 0.3), (0.87, 0.47), (0.7, 0.51)]  # fmt: skip
    pen.polygon(mouth, pen.main)
    pen.arc(0.23, 0.79, 0.125, 0.125, 0.0, 360.0, 0.09, pen.main)
    pen.line([(0.36, 0.66), (0.62, 0.38)], 0.03, pen.dark)


def brush(pen: Pen) -> None:
    """A paint brush with wet paint on its bristles."""
    pen.blob([(0.46, 0.46), (0.54, 0.46), (0.56, 0.7), (0.54, 0.94), (0.5, 0.98), (0.46, 0.94),
              (0.44, 0.7)], WOOD)  # fmt: skip
    pen.dot(0.5, 0.92, 0.02, DARK_WOOD)
    pen.rect(0.32, 0.32, 0.68, 0.48, STEEL)
    pen.rect(0.3, 0.2, 0.7, 0.34, lighter(GOLD, 0.5))
    edge = [(0.7 - 0.4 * k / 8, 0.05 + 0.03 * math.cos(k * math.pi)) for k in range(9)]
    pen.polygon([(0.3, 0.22), *edge[::-1], (0.7, 0.22)], pen.main)
