"""A table of numbers, and how it is written as Markdown, LaTeX (booktabs) and CSV."""

import csv
import io
import math
from collections.abc import Callable
from dataclasses import dataclass

LATEX = {c: f"\\{c}" for c in "&%$#_{}"}
LATEX |= {
    "±": r"$\pm$",
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}


@dataclass(frozen=True)
class TableValue:
    """A number in a table, already in its unit."""

    mean: float  # shown with one digit
    deviation: float | None = None  # over seeds; nan or None is not shown
    interval: tuple[float, float] | None = None  # shown in brackets


@dataclass(frozen=True)
class TableRow:
    r"""A method's values."""

    label: str  # the method's name
    values: tuple[TableValue | None, ...]  # one per column
    contest: bool = True  # whether it may be the best of a column
    cite: str = ""  # key for `\cite` in LaTeX; empty for none


@dataclass(frozen=True)
class Table:
    """Rows of values."""

    name: str  # of its files
    title: str  # one line
    note: str  # what the numbers are
    columns: tuple[str, ...]  # their heads, besides the first
    rows: tuple[TableRow, ...]  # one value per column each
    signed: bool = False  # show a plus before what is above zero
    mark_best: bool = True  # whether the highest value of a column stands out

    def best(self, column: int) -> float:
        """The highest shown mean of a column among rows in contest; nan where none stands out."""
        found = [row.values[column] for row in self.rows if row.contest]
        means = [round(value.mean, 1) for value in found if value is not None]
        return max(means) if self.mark_best and means else math.nan


def to_markdown(table: Table) -> str:
    """A table with its title and note."""
    lines = [["method", *table.columns], ["---", *("---:" for _ in table.columns)]]
    for row in table.rows:
        cells = [
            _marked(table, row, place, shown(value, signed=table.signed), "**{}**")
            for place, value in enumerate(row.values)
        ]
        lines.append([row.label, *cells])
    escaped = ([cell.replace("|", "\\|") for cell in line] for line in lines)
    rows = "".join(f"| {' | '.join(line)} |\n" for line in escaped)
    return f"### {table.title}\n\n{rows}\n{table.note}\n"


def to_latex(table: Table) -> str:
    r"""A table for a paper with `\usepackage{booktabs}`."""
    head = " & ".join(map(escape_latex, ["method", *table.columns]))
    lines = [
        r"\begin{table}",
        rf"\caption{{{escape_latex(table.title)}. {escape_latex(table.note)}}}",
        rf"\begin{{tabular}}{{l{'r' * len(table.columns)}}}",
        r"\toprule",
        head + r" \\",
        r"\midrule",
    ]
    before = True
    for row in table.rows:
        if before and not row.contest:
            lines.append(r"\midrule")
        before = row.contest
        cells = [
            _marked(
                table,
                row,
                place,
                shown(value, signed=table.signed, plus_minus=r"$\pm$"),
                r"\textbf{{{}}}",
            )
            for place, value in enumerate(row.values)
        ]
        source = rf"~\cite{{{row.cite}}}" if row.cite else ""
        lines.append(" & ".join([escape_latex(row.label) + source, *cells]) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}", r"\end{table}"]
    return "\n".join(lines) + "\n"


def to_csv(table: Table) -> str:
    """One line per value: method, column, mean, deviation, low, high; full precision."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["method", "column", "mean", "deviation", "low", "high"])
    for row in table.rows:
        for column, value in zip(table.columns, row.values, strict=True):
            if value is None:
                continue
            deviation = value.deviation
            shown = "" if deviation is None or math.isnan(deviation) else repr(deviation)
            writer.writerow(
                [row.label, column, repr(value.mean), shown, *(value.interval or ("", ""))]
            )
    return out.getvalue()


WRITERS: dict[str, Callable[[Table], str]] = {"md": to_markdown, "tex": to_latex, "csv": to_csv}


def escape_latex(text: str) -> str:
    r"""Text that LaTeX shows as it is.

    Example:
        >>> print(escape_latex("50 % of a_b"))
        50 \% of a\_b
    """
    return "".join(LATEX.get(character, character) for character in text)


def shown(value: TableValue | None, *, signed: bool, plus_minus: str = "±") -> str:
    """A value with its deviation or interval; a dash for none.

    Example:
        >>> shown(TableValue(1.24, interval=(-0.06, 2.0)), signed=True)
        '+1.2 [-0.1, +2.0]'
    """
    if value is None or math.isnan(value.mean):
        return "-"
    text = _number(value.mean, signed)
    if value.deviation is not None and not math.isnan(value.deviation):
        text += f" {plus_minus} {value.deviation:.1f}"
    if value.interval is not None:
        text += f" [{', '.join(_number(edge, signed) for edge in value.interval)}]"
    return text


def _number(number: float, signed: bool) -> str:
    shown = f"{number:+.1f}" if signed else f"{number:.1f}"
    return "0.0" if shown in ("+0.0", "-0.0") else shown


def _marked(table: Table, row: TableRow, place: int, text: str, mark: str) -> str:
    value = row.values[place]
    best = value is not None and row.contest and round(value.mean, 1) == table.best(place)
    return mark.format(text) if best else text
