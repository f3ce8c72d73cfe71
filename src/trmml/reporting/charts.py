"""Charts of the report as inline SVG, coloured by the page so that they follow its dark mode.

Text that users provide never enters a chart: names stand beside it, in HTML.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from trmml.metrics.reliability import ReliabilityBin

# Of every line chart, in the SVG's own units; small enough that a phone need not shrink its text.
WIDTH, WIDE, HEIGHT = 330, 460, 200
LEFT, RIGHT, TOP, BOTTOM = 44, 14, 22, 28
# Side of the reliability diagram, and its margin.
SQUARE, MARGIN = 360, 44
DOT_SMALLEST, DOT_LARGEST = 2.5, 8.0

Number = float | int  # the type check of the tests takes `float` at its word
Values = Sequence[Number | None]


@dataclass(frozen=True)
class Scale:
    """A linear map from data to SVG units.

    Example:
        >>> Scale(0, 10, 100, 200).place(5)
        150.0
    """

    low: Number
    high: Number
    start: Number
    end: Number

    def place(self, value: Number) -> float:
        """Where a value lies."""
        share = (value - self.low) / ((self.high - self.low) or 1.0)
        return self.start + share * (self.end - self.start)


def ticks(low: Number, high: Number, count: int = 4) -> list[float]:
    """About `count` round numbers that enclose a range.

    Example:
        >>> ticks(0.0, 9.0)
        [0.0, 2.5, 5.0, 7.5, 10.0]
    """
    span = (high - low) or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / count))
    step = next(f * power for f in (1, 2, 2.5, 5, 10) if f * power >= span / count * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(k * step, 12) for k in range(first, max(last, first + 1) + 1)]


def line_chart(
    values: Values,
    *,
    name: str,
    unit: str = "",
    band: Values | None = None,
    mark: int | None = None,
    limits: tuple[Number, Number] | None = None,
    width: int = WIDTH,
) -> Markup:
    """One quantity over the epochs, its last value written out.

    Args:
        values: one per epoch, counted from 1; None leaves a gap.
        name: for those who cannot see the chart.
        unit: written behind the numbers.
        band: half-width of an error band per epoch.
        mark: an epoch to mark.
        limits: that the axis must reach.
        width: of the chart in its own units; its text keeps its size.
    """
    points = [(n, v) for n, v in enumerate(values, start=1) if v is not None and math.isfinite(v)]
    if not points:
        return Markup()
    spread = {n: (band[n - 1] or 0.0) if band else 0.0 for n, _ in points}
    ends = [*(v - spread[n] for n, v in points), *(v + spread[n] for n, v in points)]
    marks = ticks(min([*ends, *(limits or ())]), max([*ends, *(limits or ())]))
    y = Scale(marks[0], marks[-1], HEIGHT - BOTTOM, TOP)
    x = Scale(1, max(len(values), 2), LEFT, width - RIGHT)
    parts = [_grid(marks, x, y), _epochs(len(values), x)]
    if band:
        parts.append(_band(points, spread, x, y))
    places = " ".join(f"{x.place(n):.1f},{y.place(v):.1f}" for n, v in points)
    parts.append(f'<polyline class="line" points="{places}"/>')
    parts += [
        f'<circle class="dot" cx="{x.place(n):.1f}" cy="{y.place(v):.1f}" r="2.5"/>'
        for n, v in points
    ]
    marked = next(((n, v) for n, v in points if n == mark), None)
    parts.append(_mark(*marked, unit, x, y) if marked else _last(points[-1], unit, x, y))
    about = f"{name} over {len(values)} epochs: first {short(points[0][1])}{unit}, last "
    about += f"{short(points[-1][1])}{unit}"
    return _svg("".join(parts), width, HEIGHT, about + (f"; chosen: epoch {mark}" if mark else ""))


def reliability_diagram(
    after: Sequence[ReliabilityBin], before: Sequence[ReliabilityBin] | None
) -> Markup:
    """Share of positives against probability; on the diagonal, probabilities mean what they say.

    Args:
        after: filled dots, after calibration; larger with more pairs.
        before: hollow dots, before calibration.
    """
    x = Scale(0, 1, MARGIN, SQUARE - 12)
    y = Scale(0, 1, SQUARE - MARGIN, 12)
    parts = []
    for share in (0, 0.25, 0.5, 0.75, 1):
        across, up = x.place(share), y.place(share)
        parts += [
            f'<line class="grid" x1="{x.start}" x2="{x.end}" y1="{up}" y2="{up}"/>',
            f'<text x="{x.start - 6}" y="{up + 4}" text-anchor="end">{share:.0%}</text>',
            f'<text x="{across}" y="{y.start + 18}" text-anchor="middle">{share:.0%}</text>',
        ]
    parts.append(
        f'<line class="ideal" x1="{x.start}" y1="{y.start}" x2="{x.end}" y2="{y.end}"/>'
        f'<text x="{(x.start + x.end) / 2}" y="{SQUARE - 4}" text-anchor="middle">'
        "predicted probability</text>"
        f'<text x="{x.start + 6}" y="24">share that is present</text>'
    )
    for bins, kind in ((before or (), "before"), (after, "after")):
        parts.append(_reliability_line(bins, kind, x, y))
    about = "Reliability diagram: share of known pairs that are present, by probability"
    return _svg("".join(parts), SQUARE, SQUARE, about)


def short(value: Number) -> str:
    """A number with three digits that count.

    Example:
        >>> short(1234.5), short(61.234), short(0.04567)
        ('1,234', '61.2', '0.0457')
    """
    if abs(value) >= 100 or value == round(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"


def _reliability_line(bins: Sequence[ReliabilityBin], kind: str, x: Scale, y: Scale) -> str:
    most = max((b.pairs for b in bins), default=1)
    places = [(x.place(b.mean_probability), y.place(b.share_positive), b.pairs) for b in bins]
    line = " ".join(f"{across:.1f},{up:.1f}" for across, up, _ in places)
    dots = "".join(
        f'<circle class="{kind}" cx="{across:.1f}" cy="{up:.1f}"'
        f' r="{DOT_SMALLEST + (DOT_LARGEST - DOT_SMALLEST) * math.sqrt(pairs / most):.1f}"/>'
        for across, up, pairs in places
    )
    return f'<polyline class="line {kind}" points="{line}"/>{dots}'


def _grid(marks: Sequence[Number], x: Scale, y: Scale) -> str:
    return "".join(
        f'<line class="grid" x1="{LEFT}" x2="{x.end}" y1="{y.place(m):.1f}"'
        f' y2="{y.place(m):.1f}"/>'
        f'<text x="{LEFT - 6}" y="{y.place(m) + 4:.1f}" text-anchor="end">{_tick(m)}</text>'
        for m in marks
    )


def _tick(value: Number) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:g}"


def _epochs(count: int, x: Scale) -> str:
    """Whole epochs below the axis, the first with its unit."""
    step = max(1, round(ticks(0, count, 6)[1]))
    later = [n for n in range(step, count + 1, step) if n > 1 and (n - 1) * 2 >= step]
    labels = "".join(
        f'<text x="{x.place(n):.1f}" y="{HEIGHT - 8}" text-anchor="middle">{n}</text>'
        for n in later
    )
    first = f'<text x="{x.place(1) + 4:.1f}" y="{HEIGHT - 8}" text-anchor="end">epoch 1</text>'
    return first + labels


def _band(
    points: Sequence[tuple[int, Number]], spread: dict[int, Number], x: Scale, y: Scale
) -> str:
    upper = [f"{x.place(n):.1f},{y.place(v + spread[n]):.1f}" for n, v in points]
    lower = [f"{x.place(n):.1f},{y.place(v - spread[n]):.1f}" for n, v in reversed(points)]
    return f'<polygon class="band" points="{" ".join([*upper, *lower])}"/>'


def _mark(epoch: int, value: Number, unit: str, x: Scale, y: Scale) -> str:
    across, up = x.place(epoch), y.place(value)
    side = "end" if across > (x.start + x.end) / 2 else "start"
    shift = 0 if side == "end" else -4
    return (
        f'<line class="chosen" x1="{across:.1f}" x2="{across:.1f}" y1="{TOP}" y2="{y.start}"/>'
        f'<circle class="chosen" cx="{across:.1f}" cy="{up:.1f}" r="5.5"/>'
        f'<text class="value" x="{across + shift:.1f}" y="{TOP - 8}" text-anchor="{side}">'
        f"chosen: epoch {epoch}, {short(value)}{escape(unit)}</text>"
    )


def _last(point: tuple[int, Number], unit: str, x: Scale, y: Scale) -> str:
    up = y.place(point[1])
    up += -9 if up > TOP + 14 else 18
    return (
        f'<text class="value" x="{x.place(point[0]):.1f}" y="{up:.1f}" text-anchor="end">'
        f"{short(point[1])}{escape(unit)}</text>"
    )


def _svg(inside: str, width: int, height: int, about: str) -> Markup:
    return Markup(  # numbers and our own words only
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(about)}">'
        f"{inside}</svg>"
    )
