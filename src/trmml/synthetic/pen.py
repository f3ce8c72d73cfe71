"""A pen that draws on a unit canvas, in one of the styles.

Drawings use coordinates from 0 to 1, x to the right and y down. The pen turns them into pixels,
and all differences between the styles are applied here.
"""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from PIL import ImageDraw

from trmml.synthetic.colours import RGB, darker, lighter, mix

Points = Sequence[tuple[float, float]]

_PAPER: RGB = (252, 249, 240)
_CURVE_STEPS = 6


class Pen:
    """Draws shapes on a unit canvas.

    Args:
        draw: the drawing surface.
        transform: maps (x, y, 1) of the unit canvas to pixels.
        rng: every free choice of a drawing comes from it.
        main: the object's own colour.
        ink: colour of outlines.
        outline: width of outlines, as a share of the canvas; 0 draws none.
        wash: share by which fills fade to paper.
        wobble: how far each shape strays.
        warp: how far all shapes together are bent.
    """

    def __init__(
        self,
        draw: ImageDraw.ImageDraw,
        transform: Float[np.ndarray, "2 3"],
        rng: np.random.Generator,
        *,
        main: RGB,
        ink: RGB = (40, 36, 44),
        outline: float = 0.0,
        wash: float = 0.0,
        wobble: float = 0.0,
        warp: float = 0.0,
    ) -> None:
        self.rng = rng
        self.main = main
        self.dark = darker(main)
        self.light = lighter(main)
        self._draw = draw
        self._transform = transform
        self._scale = float(math.sqrt(abs(np.linalg.det(transform[:, :2]))))
        self._ink = ink
        self._outline = outline
        self._wash = wash
        self._wobble = wobble
        self._warp = warp
        self._bend = rng.uniform(0.0, 2 * math.pi, 2)

    def polygon(self, points: Points, colour: RGB) -> None:
        """A filled polygon with straight edges."""
        self._fill(np.asarray(points, dtype=np.float64), colour)

    def blob(self, points: Points, colour: RGB) -> None:
        """A filled smooth shape whose edge passes through all points."""
        self._fill(_smooth(np.asarray(points, dtype=np.float64), closed=True), colour)

    def ellipse(
        self, x: float, y: float, rx: float, ry: float, colour: RGB, turn: float = 0.0
    ) -> None:
        """A filled ellipse about (x, y), turned clockwise by `turn` degrees."""
        self._fill(_ring(x, y, rx, ry, 0.0, 360.0, turn)[:-1], colour)

    def rect(
        self, left: float, top: float, right: float, bottom: float, colour: RGB, *, bow: float = 0.0
    ) -> None:
        """A filled upright rectangle whose corners are rounded with radius `bow`."""
        if not bow:
            self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], colour)
            return
        corners = ((right, bottom, -1, -1), (left, bottom, 1, -1), (left, top, 1, 1))
        parts = [
            _ring(x + bow * sx, y + bow * sy, bow, bow, 90.0 * turn, 90.0 * turn + 90.0)
            for turn, (x, y, sx, sy) in enumerate((*corners, (right, top, -1, 1)))
        ]
        self._fill(np.concatenate(parts), colour)

    def pie(
        self, x: float, y: float, rx: float, ry: float, start: float, stop: float, colour: RGB
    ) -> None:
        """The part of a filled ellipse between two angles, cut by a straight line."""
        self._fill(_ring(x, y, rx, ry, start, stop), colour)

    def line(self, points: Points, width: float, colour: RGB) -> None:
        """A stroke of straight pieces with round ends."""
        self._stroke(np.asarray(points, dtype=np.float64), width, colour)

    def curve(self, points: Points, width: float, colour: RGB) -> None:
        """A smooth stroke through all points."""
        self._stroke(_smooth(np.asarray(points, dtype=np.float64), closed=False), width, colour)

    def arc(
        self,
        x: float,
        y: float,
        rx: float,
        ry: float,
        start: float,
        stop: float,
        width: float,
        colour: RGB,
    ) -> None:
        """A stroke along an ellipse; angles in degrees, clockwise from the right."""
        self._stroke(_ring(x, y, rx, ry, start, stop), width, colour)

    def dot(self, x: float, y: float, radius: float, colour: RGB) -> None:
        """A small disc without an outline, for eyes and wheels' hubs."""
        flat = self._place(_ring(x, y, radius, radius, 0.0, 360.0))
        self._draw.polygon(flat, fill=self._tone(colour))

    def _tone(self, colour: RGB) -> RGB:
        return mix(colour, _PAPER, self._wash) if sum(colour) > 180 else colour

    def _place(self, points: Float[np.ndarray, "n 2"]) -> list[float]:
        """Pixels, flat, of points on the unit canvas, with this style's errors."""
        if self._wobble or self._warp:
            stray = self.rng.uniform(0.0, 2 * math.pi, 4)
            swapped = points[:, ::-1]
            points = points + self._warp * np.sin(4.0 * swapped + self._bend)
            points = points + self._wobble * np.sin(9.0 * swapped + stray[:2])
            points = points + self._wobble * 0.5 * np.sin(stray[2:])
        placed = points @ self._transform[:, :2].T + self._transform[:, 2]
        return placed.ravel().tolist()  # type: ignore[no-any-return]

    def _fill(self, points: Float[np.ndarray, "n 2"], colour: RGB) -> None:
        flat = self._place(points)
        self._draw.polygon(flat, fill=self._tone(colour))
        if self._outline:
            width = max(2, round(self._outline * self._scale))
            self._draw.line([*flat, *flat[:4]], fill=self._ink, width=width, joint="curve")

    def _stroke(self, points: Float[np.ndarray, "n 2"], width: float, colour: RGB) -> None:
        flat = self._place(points)
        pixels = max(2.0, width * self._scale)
        if self._outline and pixels > 5:
            self._capped(flat, pixels + self._outline * self._scale, self._ink)
            pixels = max(2.0, pixels - self._outline * self._scale)
        self._capped(flat, pixels, self._tone(colour))

    def _capped(self, flat: list[float], width: float, colour: RGB) -> None:
        self._draw.line(flat, fill=colour, width=round(width), joint="curve")
        radius = width / 2
        for x, y in ((flat[0], flat[1]), (flat[-2], flat[-1])):
            self._draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)


def _ring(
    x: float, y: float, rx: float, ry: float, start: float, stop: float, turn: float = 0.0
) -> Float[np.ndarray, "n 2"]:
    """Points along an ellipse from angle `start` to `stop`, degrees clockwise."""
    steps = max(5, round(abs(stop - start) / 13))
    angles = np.radians(np.linspace(start, stop, steps))
    ring = np.stack([rx * np.cos(angles), ry * np.sin(angles)], axis=1)
    if turn:
        sine, cosine = math.sin(math.radians(turn)), math.cos(math.radians(turn))
        ring = ring @ np.array([[cosine, sine], [-sine, cosine]])
    ring += np.array([x, y])
    return ring


def _smooth(points: Float[np.ndarray, "n 2"], *, closed: bool) -> Float[np.ndarray, "m 2"]:
    """A Catmull-Rom curve through the points."""
    if closed:
        padded = np.concatenate([points[-1:], points, points[:2]])
    else:
        padded = np.concatenate([points[:1], points, points[-1:]])
    p0, p1, p2, p3 = (padded[k : len(padded) - 3 + k, None] for k in range(4))  # (n, 1, 2)
    t = np.linspace(0.0, 1.0, _CURVE_STEPS, endpoint=False)[None, :, None]
    curve = 0.5 * (
        2 * p1
        + (p2 - p0) * t
        + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2
        + (3 * p1 - p0 - 3 * p2 + p3) * t**3
    )
    flat = curve.reshape(-1, 2)
    return flat if closed else np.concatenate([flat, points[-1:]])
