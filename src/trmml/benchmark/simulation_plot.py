"""Curves of simulated sessions: test mAP against answers or seconds."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from trmml.benchmark.plots import COLOURS, STYLE
from trmml.benchmark.simulation import Finished
from trmml.settings.choices import Unit
from trmml.storage.atomic import whole_file

# Points of a curve between its start and the end of its budget.
STEPS = 60


def write_curves(finished: Sequence[Finished], title: str, folder: Path) -> list[Path]:
    """Write the mean curve of each policy over seeds as PNG and SVG; the files.

    Args:
        finished: sessions of one unit and budget.
        title: of the plot.
        folder: must exist.
    """
    written = []
    with rc_context(STYLE):
        figure = plot_curves(finished, title)
        for kind, more in (("png", {"dpi": 150}), ("svg", {"metadata": {"Date": None}})):
            path = folder / f"curves.{kind}"
            with whole_file(path) as part:
                figure.savefig(part, format=kind, **more)
            written.append(path)
    return written


def plot_curves(finished: Sequence[Finished], title: str) -> Figure:
    """Mean test mAP over seeds; dashed where it is asked image by image, dotted: all labels."""
    figure = Figure(figsize=(7.0, 4.2), layout="constrained")
    axes, unit = figure.add_subplot(), finished[0].session.unit
    policies = list(dict.fromkeys(each.session.policy for each in finished))
    for policy, asking in dict.fromkeys((f.session.policy, f.session.asking) for f in finished):
        own = [f for f in finished if (f.session.policy, f.session.asking) == (policy, asking)]
        place = np.linspace(0, own[0].session.budget, STEPS)
        curves = [_curve(each, place, unit) for each in own]
        axes.plot(
            place / (3600 if unit == "seconds" else 1),
            np.mean(curves, axis=0),
            color="black" if policy == "trmml" else COLOURS[policies.index(policy)],
            linestyle="--" if asking == "images" else "-",
            linewidth=2.2 if policy == "trmml" else 1.2,
            label=f"{policy}, {asking}",
        )
    full = 100 * float(np.mean([each.full for each in finished]))
    axes.axhline(full, color="grey", linestyle=":", label="every label known")
    axes.set_xlabel("hours" if unit == "seconds" else "answers")
    axes.set_ylabel("test mAP, percent")
    axes.set_title(title)
    axes.grid(alpha=0.25)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8)
    return figure


def _curve(finished: Finished, place: np.ndarray, unit: Unit) -> np.ndarray:
    spent = [point.spent(unit) for point in finished.points]
    return np.asarray(np.interp(place, spent, [100 * point.mean_ap for point in finished.points]))
