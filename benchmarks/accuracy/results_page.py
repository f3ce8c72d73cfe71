"""Write docs/results.md from the published grids, and publish a grid.

    python -m benchmarks.accuracy.results_page            write the page and its plots
    python -m benchmarks.accuracy.results_page --check    exit with 1 when it is stale
    python -m benchmarks.accuracy.results_page --add OUT --settings DIR --command "trmml ..."

The page is made from benchmarks/results/<dataset>/ alone; see published.py.
"""

import argparse
import math
import shutil
import sys
import tempfile
import textwrap
from collections.abc import Sequence
from pathlib import Path

from benchmarks.accuracy.parts_worth import folded, parts_everywhere, parts_worth
from benchmarks.accuracy.published import Published, publish, read_published
from benchmarks.accuracy.trained_again import gained_everywhere
from benchmarks.accuracy.what_lost import over, what_lost

from trmml.benchmark.plots import write_plots
from trmml.benchmark.records import Cell
from trmml.benchmark.results import Results
from trmml.benchmark.table_text import Table, to_latex, to_markdown
from trmml.benchmark.tables import result_tables
from trmml.labels.masks import MEAN
from trmml.storage.atomic import write_text

ROOT = Path(__file__).parents[2]
WIDTH = 100
HEAD = """<!-- Written by benchmarks.accuracy.results_page from benchmarks/results: do not edit -->

# Results

Each data set has its command below. The tables are made from the cells in `benchmarks/results/`.
[benchmark.md](benchmark.md) says what a cell is and how to read the tables. What was tried without
success is written by hand, and its runs are not kept.

**TRM-ML (paper's parts)** has the paper's regions, match, distillation, prototypes and contrast. It
learns one vector per text in place of the paper's prompts. On Corel5k and the posters the last
three have no weight. **trmml (default)** adds heads that are ours, and joins up to six scorers;
every rival is one. "(default)" names the method: nearly all rows ran with settings that a search
found, and the list below names the others.
"""
CURVES = """
The curves show how far each method was trained, one seed each. They do not rank methods: few known
labels of held-out training images move by chance, and they chose the epoch. trmml's curve is of its
learned heads with equal weights. Their weights are fitted after the last epoch.
""".strip()
NOTHING = """
No grid is published yet: `python -m benchmarks.accuracy.results_page --add OUT --command ...`.
"""


def main(arguments: Sequence[str]) -> int:
    """Publish, write or check; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; 1 when stale")
    parser.add_argument("--add", type=Path, metavar="OUT", help="a finished grid to publish")
    parser.add_argument("--command", help="that ran it, for readers")
    parser.add_argument("--settings", type=Path, metavar="DIR", help="that it ran with")
    parser.add_argument("--draws", type=int, default=1000, help="of the test images")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs")
    options = parser.parse_args(arguments)
    if options.add is not None:
        if options.command is None:
            parser.error("--add needs --command, the command that ran the grid")
        publish(
            options.add,
            options.results,
            command=options.command,
            draws=options.draws,
            settings=options.settings,
        )
    found = sorted(options.results.glob("*/cells.jsonl"))
    grids = [read_published(path.parent) for path in found]
    notes = options.results / "notes.md"
    text = page(grids, notes.read_text("utf-8") if notes.is_file() else "")
    path, images = options.docs / "results.md", options.docs / "images" / "results"
    if options.check:
        return _check(path, text, images)
    write_text(path, text)
    for published in grids:
        _draw(published.results, images)
    return 0


def page(grids: Sequence[Published], notes: str = "") -> str:
    """The page's text; the notes are what a reader of any data set must know, by hand."""
    if not grids:
        return HEAD + NOTHING
    parts = [
        HEAD,
        headline(grids),
        notes,
        gained_everywhere([g.refit for g in grids if g.refit]),
        parts_everywhere([t for g in grids for t in g.ablations]),
    ]
    parts += [section(published) for published in grids]
    return wrapped("\n".join(part.rstrip() + "\n" for part in parts if part))


def wrapped(text: str) -> str:
    """Markdown whose long lines of prose are broken; tables and code stay as they are.

    Example:
        >>> wrapped("- a " + "b " * 60).count(chr(10) + "  b")
        1
    """
    lines, code = [], False
    for line in text.split("\n"):
        code ^= line.startswith("```")
        if len(line) > WIDTH and not code and line[0] not in "|<":
            indent = "  " if line.startswith("- ") else ""
            parts = textwrap.wrap(line, WIDTH, subsequent_indent=indent, break_on_hyphens=False)
            line = "\n".join(parts)
        lines.append(line)
    return "\n".join(lines)


def headline(grids: Sequence[Published]) -> str:
    """Trmml against the best baseline, a row per data set and headline column."""
    lines = [
        "| data set | known labels | trmml | best baseline | difference, 95 % interval |",
        "| --- | --- | ---: | --- | ---: |",
    ]
    for published in grids:
        results = published.results
        by = {comparison.column: comparison for comparison in results.comparisons}
        for column in results.headlines:
            ours, rival = results.ours(column), results.rival(column)
            if ours is None or rival is None:
                continue
            own, theirs = (results.spread(line.key, column) for line in (ours, rival))
            assert own is not None and theirs is not None
            found = by[column].differences.get(ours.key) if column in by else None
            between = f"{100 * (own.mean - theirs.mean):+.1f}"
            if found is not None:  # over the seeds that both have
                between = (
                    f"{100 * found.mean:+.1f} [{100 * found.low:+.1f}, {100 * found.high:+.1f}]"
                )
            lines.append(
                f"| {results.dataset} | {over(results, column)} | {ours.name} {100 * own.mean:.1f}"
                f" | {rival.name} {100 * theirs.mean:.1f} | {between} |"
            )
    return "\n".join(lines) + "\n\nTest mAP in percent, non-interpolated.\n"


def section(published: Published) -> str:
    """All of a data set: how it was run, tables, plots, and what lost."""
    results = published.results
    tables = {table.name: table for table in result_tables(results)}
    main = [tables.pop(name) for name in ("map", "differences") if name in tables]
    parts = [
        f"## {results.dataset}",
        _about(published),
        *(to_markdown(table) for table in main),
        *(_shown(results, name) for name in plots(results)),
        what_lost(results, published.tried, published.untrained),
        *(parts_worth(tree, results) for tree in published.ablations),
        *(folded(table.title, to_markdown(table)) for table in tables.values()),
        folded("The table of mAP for LaTeX", _code(main[0])),
    ]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def _shown(results: Results, name: str) -> str:
    image = f"![{name}](images/results/{results.dataset}-{name}.png)"
    return f"{image}\n\n{CURVES}" if name == "curves" else image


def plots(results: Results) -> list[str]:
    """Names of the plots that `write_plots` makes of these results and that the page shows."""
    names = ["map"] if len(results.shares) > 1 else []
    names += ["curves"] if any(v is not None for c in results.cells for _, v in c.curve) else []
    headlines = results.headlines
    if headlines and results.ours(headlines[0]) and results.rival(headlines[0]):
        end = "" if headlines[0] == MEAN else f"-{headlines[0].replace(' ', '-')}"
        names += [f"gain-by-category{end}", f"gain-by-frequency{end}"]
        if any(fact["size"] is not None for fact in results.grid["categories"]):
            names.append(f"gain-by-size{end}")
    return names


def _about(published: Published) -> str:
    results = published.results
    cells, encoder = results.cells, results.grid["encoder"]
    commits = sorted({cell.commit or "unknown" for cell in cells})
    rules = sorted({_rule(cell) for cell in cells if cell.epoch.get("by")})  # chosen, then last
    grid, commands = results.grid, "\n".join(published.commands)
    return (
        f"- {grid['train_images']:,} training and {grid['test_images']:,} test images,"
        f" {len(grid['categories'])} categories.\n"
        f"- Encoder: {encoder['name']} at {encoder['size']} px, features in {encoder['form']}.\n"
        f"- {len(cells)} cells at commit {', '.join(commits)}.\n"
        + "".join(f"- {line}\n" for line in [*rules, *_searched(published), *_took(results)])
        + f"\n```console\n{commands}\n```"
    )


def _took(results: Results) -> list[str]:
    """How long all shares of the first seed took, the features being in the store."""
    seed, seconds = results.seeds[0], dict[str, float]()
    for line in results.lines:
        if seed in results.whole_seeds(line.key, MEAN):
            cells = [cell for cell in results.cells_of(line.key, MEAN) if cell.seed == seed]
            cells = cells[: 1 if line.full_labels else None]  # trained once for every share
            seconds[line.key] = math.fsum(sum(cell.seconds.values()) for cell in cells)
    if not seconds:
        return []
    longest = sorted(seconds, key=lambda method: -seconds[method])[:3]
    named = ", ".join(f"`{method}` {seconds[method] / 60:.0f}" for method in longest)
    minutes = math.fsum(seconds.values()) / 60
    return [
        f"The {len(results.shares)} shares of seed {seed} took {minutes:.0f} minutes for all"
        f" {len(seconds)} methods.\n  This is the sum over cells of training and scoring, without"
        f" the search.\n  Longest, in minutes: {named}."
    ]


def _searched(published: Published) -> list[str]:
    """Where the settings are, if they were searched for."""
    if not (published.folder / "settings").is_dir():
        return []
    place = f"benchmarks/results/{published.results.dataset}/settings"
    return [f"Settings of each method, and what they were searched on: `{place}`."]


def _rule(cell: Cell) -> str:
    if cell.epoch["by"] == "held-out":
        return "The epoch is chosen on held-out training labels."
    where = f" at {cell.known}" if cell.share is None else ""
    return f"The last epoch is reported{where}."


def _code(table: Table) -> str:
    return f"```latex\n{to_latex(table)}```"


def _draw(results: Results, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as drawn:
        write_plots(results, Path(drawn))
        for name in plots(results):
            shutil.copyfile(Path(drawn) / f"{name}.png", folder / f"{results.dataset}-{name}.png")


def _check(path: Path, text: str, images: Path) -> int:
    """1 when the page is stale or a plot is missing; plots are not compared by the pixel."""
    stale = not path.is_file() or path.read_text("utf-8") != text
    names = {part.partition(".png")[0] for part in text.split("(images/results/")[1:]}
    missing = [name for name in sorted(names) if not (images / f"{name}.png").is_file()]
    if stale or missing:
        reason = f"{path.name} is stale" if stale else f"a plot is missing: {missing[0]}.png"
        print(f"{reason}; run python -m benchmarks.accuracy.results_page", file=sys.stderr)
    return int(bool(stale or missing))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
