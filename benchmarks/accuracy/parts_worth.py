"""What the results page says of the parts of TRM-ML, from what `ablation.py` wrote."""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from trmml.benchmark.results import Results

# Fewer differences than this say nothing of how far chance goes; and so many standard errors are
# taken for more than it.
LEAST_PAIRS, ERRORS = 3, 2


def parts_everywhere(trees: Mapping[str, Mapping[str, Any]]) -> str:
    """A row per variant and a column per data set; "" without any.

    Args:
        trees: what `ablation.py` wrote, by data.
    """
    if not trees:
        return ""
    names = dict.fromkeys(row["name"] for tree in trees.values() for row in tree["rows"][1:])
    heads = [f"{data}: {', '.join(tree['runs'])}" for data, tree in trees.items()]
    lines = [
        "## What each part is worth",
        "",
        "Points of mAP on held-out training pictures against the full method with the data set's"
        " settings, on the same masks; below zero, the change costs. - stands where the data set's"
        " settings are the variant already. *Worse on* names the data sets where the mean of all"
        f" differences is more than {ERRORS} standard errors below zero, *better on* those above: a"
        " help for the eye, for differences on one data set are not independent. A data set with"
        f" fewer than {LEAST_PAIRS} differences stands in neither.",
        "",
        f"| variant | {' | '.join(heads)} | worse on | better on |",
        "| --- |" + " ---: |" * len(trees) + " --- | --- |",
    ]
    for name in names:
        cells, worse, better = [], [], []
        for data, tree in trees.items():
            found = _differences(tree, name)
            cells.append(", ".join(map(_shown, found)))
            sign = _sign([value for each in found for value in each])
            if sign:
                (worse if sign < 0 else better).append(data)
        lines.append(f"| {name} | {' | '.join(cells)} | {', '.join(worse)} | {', '.join(better)} |")
    return "\n".join(lines)


def _differences(tree: Mapping[str, Any], name: str) -> list[list[float]]:
    """To the first row, by column and seed; none where the row changes nothing."""
    full = tree["rows"][0]["map"]
    own = next((row["map"] for row in tree["rows"] if row["name"] == name), {})
    return [_less(own[c], full[c]) if c in own else [] for c in tree["runs"]]


def _less(own: Sequence[float], full: Sequence[float]) -> list[float]:
    return [a - b for a, b in zip(own, full, strict=True)]


def _shown(found: Sequence[float]) -> str:
    """Their mean with its sign, "-" without any."""
    return f"{round(statistics.mean(found), 1) + 0.0:+.1f}" if found else "-"


def _sign(found: Sequence[float]) -> int:
    """That of the mean, where it is `ERRORS` standard errors from zero; else 0."""
    if len(found) < LEAST_PAIRS:
        return 0
    mean, error = statistics.mean(found), statistics.stdev(found) / math.sqrt(len(found))
    return 0 if abs(mean) <= ERRORS * error else int(math.copysign(1, mean))


def parts_worth(tree: Mapping[str, Any], results: Results) -> str:
    """The method without each part, how right pseudo-labels are, and where regions point."""
    columns, rows = list(tree["runs"]), tree["rows"]
    count = len(tree["seeds"])
    lines = [
        "### What each part is worth here",
        "",
        f"mAP in percent on {tree['held_out']:,} training pictures that were held out (trained on"
        f" {tree['images']:,} others; no test picture was read), mean ± deviation over {count}"
        f" seed{'s' * (count > 1)}; behind it the mean difference to the first row on the same"
        f" masks. Commit {tree['commit']}.",
        "",
        f"```console\n{_ablation_command(tree, results)}\n```",
        "",
        "| variant | change | " + " | ".join(columns) + " |",
        "| --- | --- |" + " ---: |" * len(columns),
    ]
    for row in rows:
        change = ", ".join(f"`{n}={json.dumps(v)}`" for n, v in row["change"].items())
        figures = (_against(row["map"].get(c, ()), rows[0]["map"][c]) for c in columns)
        lines.append(f"| {row['name']} | {change} | " + " | ".join(figures) + " |")
    for column, run in tree["runs"].items():
        if "pointing" in run:
            before, after = (100 * run["pointing"][name] for name in ("before", "after"))
            lines += [
                "",
                f"Pointing, {column} known: the most attended patch of a present category lies in"
                f" one of its boxes in {before:.1f} % before training, {after:.1f} % after.",
            ]
    pseudo = [_pseudo_table(column, run["pseudo"]) for column, run in tree["runs"].items()]
    return "\n".join(lines) + "\n\n" + "\n\n".join(pseudo)


def _ablation_command(tree: Mapping[str, Any], results: Results) -> str:
    """That made the rows, with the folders of the grid's own command."""
    name = results.dataset
    shares = [column.removesuffix(" %") for column in tree["runs"] if column.endswith(" %")]
    encoder, single = results.grid["encoder"]["name"], "single positive" in tree["runs"]
    parts = [
        f"python -m benchmarks.accuracy.ablation --data {name} data/{name}",
        *([] if encoder == "bundled" else [f"--encoder {encoder}"]),
        f"--settings benchmarks/results/{name}/settings",
        f"--known {' '.join(shares)}" + " --single-positive" * single,
        f"--seeds {len(tree['seeds'])} --out runs/ablation-{name}",
    ]
    return " ".join(parts)


def _against(own: Sequence[float], full: Sequence[float]) -> str:
    """Mean, deviation and mean paired difference; "-" where the row changes nothing."""
    if not own:
        return "-"
    spread = f" ± {statistics.stdev(own):.1f}" if len(own) > 1 else ""
    return f"{statistics.mean(own):.1f}{spread} ({_shown(_less(own, full))})"


def _pseudo_table(column: str, epochs: Sequence[Mapping[str, Any]]) -> str:
    """Pseudo-labels by epoch, folded."""
    lines = [
        "| epoch | positives | right | of all found | negatives | right | of all found |",
        "| ---: |" + " ---: |" * 6,
    ]
    for row in epochs:
        parts = [str(row["epoch"])]
        for name in ("positive", "negative"):
            parts.append(str(row[f"{name}_count"]))
            for what in ("precision", "recall"):
                value = row[f"{name}_{what}"]
                parts.append("" if value is None else f"{100 * value:.1f} %")
        lines.append("| " + " | ".join(parts) + " |")
    return folded(f"Pseudo-labels by epoch, {column} known, seed 0", "\n".join(lines))


def folded(title: str, text: str) -> str:
    """Text that is opened by its title."""
    return f"<details><summary>{title}</summary>\n\n{text.strip()}\n\n</details>"
