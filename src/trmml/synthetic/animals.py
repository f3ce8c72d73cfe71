"""Ten animals, each facing right on the unit canvas."""

from trmml.synthetic.colours import BLACK, LEAF, PINK, WHITE, darker, lighter, mix
from trmml.synthetic.pen import Pen


def dog(pen: Pen) -> None:
    """A dog that stands, with a hanging ear and a raised tail."""
    pen.curve([(0.16, 0.5), (0.06, 0.4), (0.07, 0.24)], 0.07, pen.main)
    for x in (0.25, 0.56):
        pen.rect(x, 0.6, x + 0.08, 0.9, pen.dark, bow=0.035)
    for x in (0.17, 0.64):
        pen.rect(x, 0.6, x + 0.09, 0.93, pen.main, bow=0.035)
    pen.blob([(0.14, 0.5), (0.3, 0.44), (0.6, 0.42), (0.74, 0.5), (0.72, 0.68), (0.45, 0.7),
              (0.2, 0.7)], pen.main)  # fmt: skip
    pen.blob([(0.58, 0.28), (0.68, 0.14), (0.82, 0.16), (0.88, 0.27), (0.98, 0.31), (0.97, 0.4),
              (0.82, 0.45), (0.72, 0.56), (0.6, 0.5)], pen.main)  # fmt: skip
    pen.blob([(0.66, 0.15), (0.57, 0.22), (0.55, 0.4), (0.61, 0.46), (0.68, 0.36)], pen.dark)
    pen.line([(0.62, 0.52), (0.74, 0.53)], 0.035, (200, 50, 50))
    pen.dot(0.965, 0.325, 0.032, BLACK)
    pen.dot(0.79, 0.25, 0.026, BLACK)


def cat(pen: Pen) -> None:
    """A cat that sits and looks at you."""
    pen.curve([(0.68, 0.88), (0.88, 0.86), (0.92, 0.68), (0.83, 0.58)], 0.075, pen.dark)
    pen.blob([(0.5, 0.42), (0.7, 0.6), (0.75, 0.86), (0.62, 0.94), (0.38, 0.94), (0.25, 0.86),
              (0.3, 0.6)], pen.main)  # fmt: skip
    pen.polygon([(0.26, 0.3), (0.25, 0.04), (0.46, 0.2)], pen.main)
    pen.polygon([(0.74, 0.3), (0.75, 0.04), (0.54, 0.2)], pen.main)
    pen.polygon([(0.3, 0.24), (0.3, 0.12), (0.39, 0.2)], PINK)
    pen.polygon([(0.7, 0.24), (0.7, 0.12), (0.61, 0.2)], PINK)
    pen.ellipse(0.5, 0.35, 0.27, 0.21, pen.main)
    pen.ellipse(0.5, 0.74, 0.11, 0.16, pen.light)
    for x in (0.4, 0.6):
        pen.ellipse(x, 0.33, 0.045, 0.055, (190, 215, 90))
        pen.ellipse(x, 0.33, 0.016, 0.05, BLACK)
    pen.polygon([(0.47, 0.41), (0.53, 0.41), (0.5, 0.45)], PINK)
    for y, end in ((0.42, 0.38), (0.46, 0.48)):
        pen.line([(0.4, y), (0.14, end)], 0.012, BLACK)
        pen.line([(0.6, y), (0.86, end)], 0.012, BLACK)
    for x in (0.42, 0.58):
        pen.ellipse(x, 0.92, 0.07, 0.04, pen.light)


def bird(pen: Pen) -> None:
    """A round bird on two thin legs."""
    for x in (0.46, 0.58):
        pen.line([(x, 0.72), (x, 0.92), (x + 0.08, 0.92)], 0.028, (214, 140, 50))
    pen.polygon([(0.26, 0.5), (0.02, 0.42), (0.02, 0.56), (0.08, 0.62), (0.3, 0.66)], pen.dark)
    pen.blob([(0.2, 0.56), (0.34, 0.4), (0.56, 0.26), (0.74, 0.18), (0.86, 0.32), (0.8, 0.56),
              (0.64, 0.74), (0.4, 0.76)], pen.main)  # fmt: skip
    pen.blob([(0.78, 0.46), (0.7, 0.66), (0.52, 0.74), (0.6, 0.58)], lighter(pen.main, 0.6))
    pen.blob([(0.26, 0.54), (0.42, 0.46), (0.6, 0.5), (0.5, 0.66), (0.34, 0.68)], pen.dark)
    pen.polygon([(0.84, 0.28), (0.99, 0.34), (0.84, 0.39)], (240, 160, 50))
    pen.dot(0.73, 0.3, 0.042, WHITE)
    pen.dot(0.735, 0.3, 0.026, BLACK)


def fish(pen: Pen) -> None:
    """A fish with a forked tail, scales and fins."""
    pen.polygon([(0.26, 0.5), (0.03, 0.26), (0.1, 0.5), (0.03, 0.74)], pen.dark)
    pen.blob([(0.42, 0.32), (0.5, 0.14), (0.68, 0.2), (0.72, 0.34)], pen.dark)
    pen.polygon([(0.46, 0.66), (0.44, 0.86), (0.6, 0.7)], pen.dark)
    pen.blob([(0.2, 0.5), (0.38, 0.32), (0.64, 0.26), (0.86, 0.38), (0.96, 0.5), (0.86, 0.63),
              (0.64, 0.74), (0.38, 0.68)], pen.main)  # fmt: skip
    pen.arc(0.66, 0.5, 0.09, 0.2, -70.0, 70.0, 0.022, pen.dark)
    for x in (0.38, 0.48, 0.58):
        pen.arc(x - 0.06, 0.5, 0.06, 0.1, -70.0, 70.0, 0.018, pen.light)
    pen.dot(0.84, 0.45, 0.042, WHITE)
    pen.dot(0.85, 0.45, 0.024, BLACK)


def horse(pen: Pen) -> None:
    """A horse with mane, long neck and long legs."""
    hair = darker(pen.main, 0.6)
    pen.curve([(0.14, 0.42), (0.05, 0.52), (0.06, 0.72)], 0.07, hair)
    for x in (0.27, 0.55):
        pen.polygon([(x, 0.56), (x + 0.08, 0.56), (x + 0.06, 0.92), (x + 0.01, 0.92)], pen.dark)
    for x in (0.16, 0.63):
        pen.polygon([(x, 0.56), (x + 0.09, 0.56), (x + 0.07, 0.9), (x + 0.01, 0.9)], pen.main)
        pen.rect(x, 0.89, x + 0.085, 0.95, BLACK)
    pen.blob([(0.12, 0.44), (0.26, 0.38), (0.5, 0.41), (0.68, 0.38), (0.74, 0.52), (0.66, 0.64),
              (0.42, 0.63), (0.18, 0.64)], pen.main)  # fmt: skip
    pen.polygon([(0.56, 0.44), (0.7, 0.12), (0.82, 0.14), (0.75, 0.54)], pen.main)
    pen.blob([(0.7, 0.13), (0.82, 0.1), (0.9, 0.2), (0.98, 0.34), (0.93, 0.41), (0.84, 0.34),
              (0.74, 0.3)], pen.main)  # fmt: skip
    pen.polygon([(0.73, 0.14), (0.74, 0.02), (0.81, 0.12)], pen.main)
    pen.blob([(0.73, 0.08), (0.62, 0.18), (0.52, 0.42), (0.58, 0.46), (0.66, 0.3), (0.74, 0.18)],
             hair)  # fmt: skip
    pen.dot(0.84, 0.2, 0.02, BLACK)
    pen.dot(0.945, 0.355, 0.013, BLACK)


def elephant(pen: Pen) -> None:
    """An elephant with a large ear, a trunk and a tusk."""
    pen.curve([(0.08, 0.42), (0.03, 0.52), (0.04, 0.62)], 0.025, pen.dark)
    for x in (0.22, 0.48):
        pen.rect(x, 0.6, x + 0.13, 0.88, pen.dark, bow=0.03)
    pen.blob([(0.07, 0.5), (0.14, 0.28), (0.36, 0.2), (0.6, 0.24), (0.72, 0.4), (0.68, 0.64),
              (0.4, 0.72), (0.12, 0.68)], pen.main)  # fmt: skip
    for x in (0.1, 0.56):
        pen.rect(x, 0.6, x + 0.14, 0.92, pen.main, bow=0.03)
    pen.curve([(0.86, 0.4), (0.93, 0.54), (0.9, 0.72), (0.96, 0.82)], 0.1, pen.main)
    pen.ellipse(0.76, 0.34, 0.17, 0.18, pen.main)
    pen.curve([(0.82, 0.5), (0.86, 0.58), (0.95, 0.58)], 0.04, WHITE)
    pen.blob([(0.66, 0.18), (0.5, 0.16), (0.44, 0.34), (0.52, 0.54), (0.66, 0.48), (0.7, 0.34)],
             mix(pen.dark, PINK, 0.25))  # fmt: skip
    pen.dot(0.83, 0.3, 0.022, BLACK)


def butterfly(pen: Pen) -> None:
    """A butterfly from above, with spotted wings."""
    spot = lighter(pen.main, 0.65)
    for side in (-1, 1):
        pen.blob(
            [
                (0.5 + side * a, b)
                for a, b in ((0.02, 0.46), (0.16, 0.18), (0.38, 0.1), (0.46, 0.28), (0.3, 0.48))
            ],
            pen.main,
        )
        pen.blob(
            [
                (0.5 + side * a, b)
                for a, b in ((0.02, 0.5), (0.26, 0.5), (0.38, 0.66), (0.3, 0.86), (0.14, 0.78))
            ],
            pen.dark,
        )
        pen.ellipse(0.5 + side * 0.31, 0.25, 0.075, 0.065, spot)
        pen.ellipse(0.5 + side * 0.25, 0.68, 0.06, 0.06, spot)
        pen.curve([(0.5, 0.3), (0.5 + side * 0.06, 0.16), (0.5 + side * 0.15, 0.08)], 0.02, BLACK)
    pen.ellipse(0.5, 0.52, 0.042, 0.27, BLACK)
    pen.ellipse(0.5, 0.27, 0.05, 0.05, BLACK)


def snail(pen: Pen) -> None:
    """A snail with a spiral shell."""
    body = (206, 178, 120)
    for x in (0.86, 0.94):
        pen.line([(0.84, 0.62), (x, 0.4)], 0.022, body)
        pen.dot(x, 0.39, 0.026, BLACK)
    pen.blob([(0.03, 0.86), (0.26, 0.74), (0.62, 0.76), (0.76, 0.6), (0.88, 0.56), (0.94, 0.66),
              (0.86, 0.82), (0.7, 0.88), (0.3, 0.88)], body)  # fmt: skip
    pen.ellipse(0.42, 0.52, 0.29, 0.29, pen.main)
    pen.ellipse(0.45, 0.55, 0.205, 0.205, pen.light)
    pen.ellipse(0.43, 0.56, 0.14, 0.14, pen.main)
    pen.ellipse(0.45, 0.57, 0.075, 0.075, pen.light)
    pen.dot(0.45, 0.575, 0.03, pen.dark)


def turtle(pen: Pen) -> None:
    """A turtle from the side, with plates on a domed shell."""
    skin = mix(LEAF, (220, 220, 120), 0.35)
    pen.polygon([(0.1, 0.66), (0.01, 0.76), (0.16, 0.74)], skin)
    for x in (0.24, 0.62):
        pen.rect(x - 0.07, 0.66, x + 0.07, 0.88, skin, bow=0.05)
    pen.curve([(0.72, 0.64), (0.82, 0.56), (0.86, 0.48)], 0.11, skin)
    pen.ellipse(0.88, 0.46, 0.1, 0.085, skin)
    pen.blob([(0.08, 0.7), (0.14, 0.42), (0.42, 0.24), (0.68, 0.4), (0.78, 0.7), (0.42, 0.76)],
             pen.main)  # fmt: skip
    for x, y, r in (
        (0.42, 0.42, 0.095),
        (0.24, 0.55, 0.075),
        (0.6, 0.55, 0.075),
        (0.42, 0.62, 0.07),
    ):
        pen.polygon([(x - r, y), (x - r / 2, y - r), (x + r / 2, y - r), (x + r, y),
                     (x + r / 2, y + r), (x - r / 2, y + r)], pen.dark)  # fmt: skip
    pen.dot(0.91, 0.44, 0.02, BLACK)


def rabbit(pen: Pen) -> None:
    """A rabbit with long ears and a white tail."""
    for x, top in ((0.62, 0.03), (0.76, 0.05)):
        pen.blob([(x - 0.05, 0.34), (x - 0.075, 0.16), (x - 0.01, top), (x + 0.05, 0.16),
                  (x + 0.04, 0.34)], pen.main)  # fmt: skip
        pen.blob([(x - 0.02, 0.3), (x - 0.03, 0.16), (x, 0.1), (x + 0.02, 0.18)], PINK)
    pen.ellipse(0.12, 0.7, 0.09, 0.09, WHITE)
    pen.blob([(0.14, 0.74), (0.2, 0.52), (0.42, 0.42), (0.62, 0.5), (0.72, 0.72), (0.66, 0.9),
              (0.4, 0.92), (0.18, 0.9)], pen.main)  # fmt: skip
    pen.ellipse(0.36, 0.78, 0.17, 0.13, pen.dark)
    pen.ellipse(0.34, 0.91, 0.16, 0.045, pen.main)
    pen.ellipse(0.7, 0.9, 0.1, 0.045, pen.light)
    pen.ellipse(0.7, 0.43, 0.18, 0.15, pen.main)
    pen.dot(0.76, 0.39, 0.028, BLACK)
    pen.dot(0.87, 0.44, 0.022, (214, 110, 130))
