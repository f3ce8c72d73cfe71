"""Plots of a benchmark: mAP against known share, and where the gain over the best baseline lies."""

import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from trmml.benchmark.results import ListedMethod, Results
from trmml.labels.masks import MEAN
from trmml.storage.atomic import whole_file

# Categories in the plot of gains; of more, as many at either end.
MOST_CATEGORIES = 40
# Groups of equally many categories whose mean gain is drawn over the points.
GROUPS = 5
# Colour-blind safe (Okabe and Ito 2008); black is kept for TRM-ML.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#999999", "#B8A900")
LINES = ("-", "-.")  # the second one where the colours begin again
MARKS = "osD^vPX"  # as many as share no factor with the colours, so that no pair repeats early
# The same SVG from the same numbers: names of its parts are hashed with a fixed salt.
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "trmml",
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}


def write_plots(results: Results, folder: Path) -> list[str]:
    """Write every plot that the results allow as PNG and SVG; the names without ending.

    Args:
        results: of one data set.
        folder: must exist.
    """
    written = []
    with rc_context(STYLE):
        for name, figure in _plots(results):
            for kind, more in (("png", {"dpi": 150}), ("svg", {"metadata": {"Date": None}})):
                with whole_file(folder / f"{name}.{kind}") as part:
                    figure.savefig(part, format=kind, **more)
            written.append(name)
    return written


def _plots(results: Results) -> Iterator[tuple[str, Figure]]:
    if len(results.shares) > 1:
        yield "map", plot_map(results)
    if any(value is not None for cell in results.cells for _, value in cell.curve):
        yield "curves", plot_curves(results)
    for column in results.headlines:
        ours, rival = results.ours(column), results.rival(column)
        if ours is None or rival is None:
            continue
        if not results.shared_seeds((ours.key, rival.key), column):
            continue
        end = "" if column == MEAN else f"-{column.replace(' ', '-')}"
        pair = (ours, rival, column)
        yield f"gain-by-category{end}", plot_gain_by_category(results, *pair)
        yield f"gain-by-frequency{end}", plot_gain_by_frequency(results, *pair)
        if any(fact["size"] is not None for fact in results.grid["categories"]):
            yield f"gain-by-size{end}", plot_gain_by_size(results, *pair)


def plot_map(results: Results) -> Figure:
    """Test mAP against the share of known labels; bands are one deviation over seeds.

    TRM-ML is thick and black, its other forms are thin and dashed, upper bounds are dotted.
    """
    figure, axes = _axes(7.0, 4.2)
    looks = itertools.cycle(itertools.product(LINES, COLOURS))
    main = next((line for line in results.lines if line.key == "trmml"), results.ours(MEAN))
    for place, line in enumerate(results.lines):
        points = [
            (100 * share, results.spread(line.key, _named(results, share)))
            for share in results.shares
        ]
        shown = [(x, 100 * s.mean, 100 * s.deviation) for x, s in points if s is not None]
        if not shown:
            continue
        x, mean, deviation = np.array(shown).T
        ours = not line.baseline
        other_form = ours and not line.full_labels and line != main
        style, colour = ("-", "black") if ours else next(looks)
        axes.plot(
            x,
            mean,
            color=colour,
            label=line.name,
            linewidth=2.2 if ours and not other_form else 1.2,
            linestyle=":" if line.full_labels else "--" if other_form else style,
            marker="" if line.full_labels else MARKS[place % len(MARKS)],
            markersize=4,
            zorder=3 if ours else 2,
        )
        if np.isfinite(deviation).all():
            axes.fill_between(
                x, mean - deviation, mean + deviation, color=colour, alpha=0.15, linewidth=0
            )
    axes.set_xticks([100 * share for share in results.shares])
    axes.set_xlabel("known labels, percent")
    axes.set_ylabel("test mAP, percent")
    axes.set_title(results.dataset)
    axes.grid(alpha=0.25)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8)
    return figure


def plot_curves(results: Results) -> Figure:
    """Held-out mAP against optimiser steps at the share of known labels nearest to a half.

    Of each method the lowest seed; a method that is level at its end is trained to its end.
    """
    figure, axes = _axes(7.0, 4.2)
    looks = itertools.cycle(itertools.product(LINES, COLOURS))
    trained = [c for c in results.cells if any(value is not None for _, value in c.curve)]
    nearest = min(trained, key=lambda cell: (abs((cell.share or 0) - 0.5), cell.seed))
    same = [cell for cell in trained if cell.known == nearest.known]
    drawn = {cell.method: cell for cell in sorted(same, key=lambda cell: -cell.seed)}
    for place, line in enumerate(results.lines):
        ours = "-" if line.key == "trmml" else "--", "black"
        style, colour = next(looks) if line.baseline else ours
        if line.key not in drawn or line.full_labels:
            continue
        cell = drawn[line.key]
        steps, values = zip(*((s, 100 * v) for s, v in cell.curve if v is not None), strict=True)
        axes.plot(
            steps,
            values,
            color=colour,
            label=line.name,
            linewidth=1.2 if line.baseline else 2.0,
            linestyle=style,
            marker=MARKS[place % len(MARKS)],
            markersize=3,
        )
    axes.set_xscale("log")
    axes.set_xlabel("optimiser steps")
    axes.set_ylabel("held-out mAP of the known labels, percent")
    axes.set_title(f"{results.dataset}, {nearest.known} known")
    axes.grid(alpha=0.25)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8)
    return figure


def plot_gain_by_category(
    results: Results, ours: ListedMethod, rival: ListedMethod, column: str
) -> Figure:
    """Gain in AP of each category, sorted; of many, both ends."""
    names = [fact["name"] for fact in results.grid["categories"]]
    gains = _gains(results, ours, rival, column)
    order = [int(c) for c in np.argsort(-gains) if np.isfinite(gains[c])]
    gap = len(order) > MOST_CATEGORIES
    half = MOST_CATEGORIES // 2
    shown = [*order[:half], *order[-half:]] if gap else order
    figure, axes = _axes(6.0, 1.2 + 0.16 * len(shown))
    places = np.arange(len(shown)) + (np.arange(len(shown)) >= half if gap else 0)
    values = gains[shown]
    axes.barh(places, values, color=np.where(values >= 0, COLOURS[0], COLOURS[5]), height=0.75)
    axes.set_yticks(places, [names[c] for c in shown], fontsize=7)
    axes.set_ylim(float(places[-1]) + 0.8, -0.8)
    if gap:
        between = f"{len(order) - len(shown)} categories between"
        place = (0.5, float(half))
        across = axes.get_yaxis_transform()
        axes.text(*place, between, transform=across, ha="center", va="center", fontsize=7)
    better = int((gains[order] > 0).sum())
    _finish(axes, results, ours, rival, column, f"better in {better} of {len(order)} categories")
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xlabel("gain in AP, points")
    axes.grid(axis="x", alpha=0.25)
    return figure


def plot_gain_by_frequency(
    results: Results, ours: ListedMethod, rival: ListedMethod, column: str
) -> Figure:
    """Gain in AP against the number of training positives, before labels are hidden."""
    facts = results.grid["categories"]
    counts = np.array([float(fact["train_positives"]) for fact in facts])
    figure, axes = _scatter(counts, _gains(results, ours, rival, column), log=True)
    axes.set_xlabel("training images that show the category (all labels)")
    _finish(axes, results, ours, rival, column, "")
    return figure


def plot_gain_by_size(
    results: Results, ours: ListedMethod, rival: ListedMethod, column: str
) -> Figure:
    """Gain in AP against the size of objects, of categories that have boxes."""
    sizes = [fact["size"] for fact in results.grid["categories"]]
    x = np.array([math.nan if size is None else 100 * size for size in sizes])
    figure, axes = _scatter(x, _gains(results, ours, rival, column), log=False)
    axes.set_xlabel("median size of its objects in test images, percent of the side")
    _finish(axes, results, ours, rival, column, "")
    return figure


def _scatter(x: Any, gains: Any, *, log: bool) -> tuple[Figure, Axes]:
    """A point per category, and the mean of groups of equally many categories."""
    figure, axes = _axes(6.0, 3.8)
    there = np.isfinite(x) & np.isfinite(gains) & ((x > 0) if log else True)
    x, gains = x[there], gains[there]
    axes.scatter(x, gains, s=14, alpha=0.5, color=COLOURS[0], linewidths=0)
    axes.axhline(0, color="black", linewidth=0.8)
    groups = np.array_split(np.argsort(x, kind="stable"), max(1, min(GROUPS, len(x) // 2)))
    if len(groups) > 1:
        middle = [float(np.median(x[part])) for part in groups]
        means = [float(gains[part].mean()) for part in groups]
        errors = [float(gains[part].std(ddof=1) / math.sqrt(len(part))) for part in groups]
        label = f"mean of each of {len(groups)} groups, standard error"
        style: dict[str, Any] = {"color": COLOURS[5], "marker": "o", "capsize": 3, "linewidth": 1.6}
        axes.errorbar(middle, means, yerr=errors, label=label, **style)
        axes.legend(fontsize=8)
    if log and len(x):
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_ylabel("gain in AP, points")
    axes.grid(alpha=0.25)
    return figure, axes


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def _finish(
    axes: Axes, results: Results, ours: ListedMethod, rival: ListedMethod, column: str, more: str
) -> None:
    over = f"mean of {len(results.shares)} shares" if column == MEAN else column
    detail = ", ".join(part for part in (results.dataset, over, more) if part)
    axes.set_title(f"{ours.name} less {rival.name}\n{detail}", fontsize=9)


def _gains(results: Results, ours: ListedMethod, rival: ListedMethod, column: str) -> Any:
    """Gain per category in points over the seeds that both have, nan where undefined."""
    keys = (ours.key, rival.key)
    seeds = results.shared_seeds(keys, column)
    first, second = (results.category_aps(key, column, seeds=seeds) for key in keys)
    return 100 * (np.array(first) - np.array(second))


def _named(results: Results, share: float) -> str:
    return next(cell.known for cell in results.cells if cell.share == share)
