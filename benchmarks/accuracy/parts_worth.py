"""What each part of trmml is worth, for the results page, from what `ablation.py` wrote."""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

from trmml.benchmark.results import Results

# Fewer differences than this say nothing of how far chance goes; and so many standard errors are
# taken for more than it.
LEAST_PAIRS, ERRORS = 3, 2


def parts_everywhere(trees: Sequence[Mapping[str, Any]]) -> str:
    """For each method a table with a row per variant and a column per data set; "" without any.

    Args:
        trees: what `ablation.py` wrote, of all data sets and methods.
    """
    by: dict[str, dict[str, Mapping[str, Any]]] = {}
    for tree in trees:
        by.setdefault(tree["rows"][0]["name"], {})[tree["dataset"]] = tree
    return "\n".join(_everywhere(method, own) for method, own in by.items())


def _everywhere(method: str, trees: Mapping[str, Mapping[str, Any]]) -> str:
    names = dict.fromkeys(row["name"] for tree in trees.values() for row in tree["rows"][1:])
    heads = [f"{data}: {', '.join(tree['runs'])}" for data, tree in trees.items()]
    lines = [
        f"## What each part of {method} is worth",
        "",
        f"Differences in points of mAP to {method} with the settings of the data set, on",
        "the same masks. The images are held-out training images. Below zero, the change costs.",
        "A dash means that the settings of the data set are the variant already.",
        "",
        "*Worse on* names the data sets where the mean of all differences is more than",
        f"{ERRORS} standard errors below zero, *better on* those above zero. This only",
        "guides the eye: differences on one data set are not independent. A data set with fewer",
        f"than {LEAST_PAIRS} differences is in neither column.",
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
    return "\n".join([*lines, ""])


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
        f"### What each part of {rows[0]['name']} is worth here",
        "",
        f"mAP in percent, mean ± deviation over {count} seed{'s' * (count > 1)}. In brackets: the",
        "mean difference to the first row on the same masks.",
        f"It is measured on {tree['held_out']:,} held-out training images, after training on the",
        f"{tree['images']:,} others. No test image was read. Commit"
        f" {', '.join(tree.get('cells_commit', [tree['commit']]))}.",
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
                f"Pointing, {column} known: how often the most attended patch of a present",
                "category is in one of its boxes."
                f" Before training {before:.1f} %, after it {after:.1f} %.",
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
        *([f"--method {method}"] if (method := tree.get("method", "trmml")) != "trmml" else []),
        *([] if encoder == "bundled" else [f"--encoder {encoder}"]),
        f"--settings benchmarks/results/{name}/settings",
        f"--known {' '.join(shares)}" + " --single-positive" * single,
        f"--seeds {len(tree['seeds'])} --out runs/ablation-{name}" + "-paper" * (method != "trmml"),
    ]
    return " ".join(parts)


def _against(own: Sequence[float], full: Sequence[float]) -> str:
    """Mean, deviation and mean paired difference; "-" where the row changes nothing."""
    if not own:
        return "-"
    spread = f" ± {statistics.stdev(own):.1f}" if len(own) > 1 else ""
    return f"{statistics.mean(own):.1f}{spread} ({_shown(_less(own, full))})"


def _pseudo_table(column: str, epochs: Sequence[Mapping[str, Any]]) -> str:
    """Pseudo-labels by epoch, folded; one row for the epochs before the first of them."""
    none = list(takewhile(lambda row: not _pseudo_count(row), epochs))
    lines = [
        "| epoch | positives | right | of all found | negatives | right | of all found |",
        "| ---: |" + " ---: |" * 6,
    ]
    if none:
        numbers = dict.fromkeys(str(none[place]["epoch"]) for place in (0, -1))
        lines.append(f"| {' to '.join(numbers)} | 0 |  |  | 0 |  |  |")
    for row in epochs[len(none) :]:
        parts = [str(row["epoch"])]
        for name in ("positive", "negative"):
            parts.append(str(row[f"{name}_count"]))
            for what in ("precision", "recall"):
                value = row[f"{name}_{what}"]
                parts.append("" if value is None else f"{100 * value:.1f} %")
        lines.append("| " + " | ".join(parts) + " |")
    return folded(f"Pseudo-labels by epoch, {column} known, seed 0", "\n".join(lines))


def _pseudo_count(row: Mapping[str, Any]) -> int:
    return int(row["positive_count"] + row["negative_count"])


def folded(title: str, text: str) -> str:
    """Text that is opened by its title."""
    return f"<details><summary>{title}</summary>\n\n{text.strip()}\n\n</details>"
