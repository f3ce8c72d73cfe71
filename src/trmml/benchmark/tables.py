"""The tables of a benchmark: mAP, differences to the best baseline, all figures, seconds."""

from collections.abc import Callable, Sequence
from statistics import median

from trmml.benchmark.bootstrap import Spread
from trmml.benchmark.catalog import METHODS
from trmml.benchmark.records import Cell
from trmml.benchmark.results import Comparison, ListedMethod, Results
from trmml.benchmark.table_text import Table, TableRow, TableValue
from trmml.labels.masks import MEAN

# Figures besides mAP, under the field's names; see `metrics.PrecisionRecall`.
FIGURES = {
    "mAP": "map",
    "mAP interpolated": "map_interpolated",
    "mAP undefined as 0": "map_undefined_as_zero",
    "OF1": "of1",
    "CF1": "cf1",
    "mean F1": "mean_f1",
    "OF1 at 0.5": "of1_half",
    "CF1 at 0.5": "cf1_half",
    "mean F1 at 0.5": "mean_f1_half",
    "OF1 top-3": "of1_top3",
    "CF1 top-3": "cf1_top3",
    "mean F1 top-3": "mean_f1_top3",
}
CALIBRATION = "calibration_error"


def result_tables(results: Results) -> list[Table]:
    """All tables of a data set."""
    tables = [map_table(results)]
    if results.comparisons:
        tables.append(difference_table(results))
    tables += [figure_table(results, column) for column in results.headlines]
    if any(cell.figures.get(CALIBRATION) is not None for cell in results.cells):
        tables.append(calibration_table(results))
    return [*tables, time_table(results)]


def map_table(results: Results) -> Table:
    """Test mAP of each method in each column, and what the field would report where asked for."""
    heads = [_titled(results, column) for column in results.columns]
    rows = {
        line.key: [_percent(results.spread(line.key, c)) for c in results.columns]
        for line in results.lines
    }
    note = f"Test mAP in percent, non-interpolated; {_seeds(results)}."
    for name, read, meaning in _APART:
        if all(read(cell) is None for cell in results.cells):
            continue
        note += f" {meaning}"
        for column in results.headlines:
            heads.append(f"{_titled(results, column)}, {name}")
            for line in results.lines:
                rows[line.key].append(_percent(results.spread(line.key, column, read)))
    return Table(
        name="map",
        title=f"{results.dataset}: mAP",
        note=" ".join([note, *results.remarks]),
        columns=tuple(heads),
        rows=tuple(_row(line, rows[line.key]) for line in results.lines),
    )


def calibration_table(results: Results) -> Table:
    """How far each method's probabilities are from the share of positives."""
    rows = {
        line.key: [
            _percent(results.spread(line.key, c, figure(CALIBRATION))) for c in results.columns
        ]
        for line in results.lines
    }
    return Table(
        name="calibration",
        title=f"{results.dataset}: calibration error",
        note="Mean gap between the calibrated probability and the share of positives over all pairs"
        f" of test images, in points; lower is better; {_seeds(results)}. Older cells have none,"
        " and a method that has only such is left out. At single positive the probability is that"
        " of being the one label that was given, so the gap is no fault of a method.",
        columns=tuple(_titled(results, column) for column in results.columns),
        rows=tuple(_row(line, rows[line.key]) for line in results.lines if any(rows[line.key])),
        mark_best=False,
    )


def difference_table(results: Results) -> Table:
    """Each method less the best baseline, with the interval of the paired bootstrap."""
    by = {comparison.column: comparison for comparison in results.comparisons}
    names = {line.key: line.name for line in results.lines}
    rivals = dict.fromkeys(names[by[c].rival] for c in results.headlines if c in by)
    baselines = "; ".join(
        f"{names[by[column].rival]} ({_titled(results, column)})"
        for column in results.headlines
        if column in by
    )
    note = (
        "Difference in test mAP to the best baseline, in points. In brackets: the interval of 95 %"
        f" of {results.draws} draws of the test images. Best baseline: {baselines}."
        f"{_ahead_at_a_share(results)}"
    )
    rows = tuple(
        _row(line, [_difference(by.get(column), line) for column in results.columns])
        for line in results.lines
        if len(rivals) > 1 or line.name not in rivals
    )
    return Table(
        name="differences",
        title=f"{results.dataset}: difference to the best baseline",
        note=note,
        columns=tuple(_titled(results, column) for column in results.columns),
        rows=rows,
        signed=True,
        mark_best=False,
    )


def _ahead_at_a_share(results: Results) -> str:
    """Where another baseline is ahead of the one that differences are to, on the same seeds."""
    found = []
    for column in results.columns:
        rival = results.rival(column)
        if rival is None:
            continue
        seeds = results.whole_seeds(rival.key, column)
        means = {
            line: spread.mean
            for line in results.baselines
            if results.whole_seeds(line.key, column) == seeds
            and (spread := results.spread(line.key, column)) is not None
        }
        if rival not in means:
            continue
        best = max(means, key=lambda line: means[line])
        gap = 100 * (means[best] - means[rival])
        if round(gap, 1) > 0:
            found.append(f"{_titled(results, column)} {best.name} (by {gap:.1f})")
    return f" At some shares another baseline is ahead of it: {'; '.join(found)}." if found else ""


def figure_table(results: Results, column: str) -> Table:
    """All figures of one column."""
    rows = tuple(
        _row(
            line, [_percent(results.spread(line.key, column, figure(n))) for n in FIGURES.values()]
        )
        for line in results.lines
    )
    return Table(
        name=f"figures-{column.replace(' ', '-')}",
        title=f"{results.dataset}: all figures, {_titled(results, column)}",
        note=(
            f"In percent, {_seeds(results)}. OF1 and CF1 use thresholds that are calibrated on"
            " held-out training labels. *At 0.5* uses 0.5 of the calibrated probability. *Top-3*"
            " counts only the 3 highest scores of an image that reach the threshold. Where no"
            " negative is known, blanks are calibrated as negatives: thresholds still work, but 0.5"
            " is then too high. CF1 is the harmonic mean of mean precision and mean recall. Mean"
            " F1, which others call CF1, is the mean of the categories' F1."
        ),
        columns=tuple(FIGURES),
        rows=rows,
    )


def time_table(results: Results) -> Table:
    """Seconds per cell."""
    parts = ("train", "predict")
    rows = []
    for line in results.lines:
        cells = {c.fingerprint: c for c in results.cells if c.method == line.key}.values()
        # A mean would be that of the one cell during which the machine slept.
        values = [TableValue(median(c.seconds[part] for c in cells)) for part in parts]
        rows.append(_row(line, values))
    devices = ", ".join(sorted({cell.device for cell in results.cells}))
    return Table(
        name="seconds",
        title=f"{results.dataset}: seconds per cell",
        note=f"Median over cells, features at hand; on {devices}.",
        columns=parts,
        rows=tuple(rows),
        mark_best=False,
    )


def _row(line: ListedMethod, values: Sequence[TableValue | None]) -> TableRow:
    known = METHODS.get(line.key)  # a variant of one has a key of its own
    cite = "" if known is None else known.cite
    return TableRow(line.name, tuple(values), contest=not line.full_labels, cite=cite)


def _percent(spread: Spread | None) -> TableValue | None:
    return None if spread is None else TableValue(100 * spread.mean, 100 * spread.deviation)


def _difference(comparison: Comparison | None, line: ListedMethod) -> TableValue | None:
    if comparison is None or line.key not in comparison.differences:
        return None
    found = comparison.differences[line.key]
    return TableValue(100 * found.mean, interval=(100 * found.low, 100 * found.high))


def figure(name: str) -> Callable[[Cell], float | None]:
    """What reads a figure of that name from a cell."""
    return lambda cell: cell.figures.get(name)


def _best_on_test(cell: Cell) -> float | None:
    return None if cell.best_on_test is None else cell.best_on_test["map"]


# Figures that stand apart: what their columns are called, and what that means.
_APART: tuple[tuple[str, Callable[[Cell], float | None], str], ...] = (
    (
        "best on test",
        _best_on_test,
        "Best on test: the epoch is chosen on the test images, as much of the field does;"
        " not comparable with the other columns.",
    ),
    (
        "refit",
        lambda cell: cell.refit_map,
        "Refit: trained again on all known images, held-out ones included, for as many epochs.",
    ),
)


def _titled(results: Results, column: str) -> str:
    """The head of a column: the mean says over how many shares."""
    return f"mean of {len(results.shares)}" if column == MEAN else column


def _seeds(results: Results) -> str:
    if len(results.seeds) == 1:
        return f"seed {results.seeds[0]} alone"
    return f"mean ± deviation over seeds {', '.join(map(str, results.seeds))}"
