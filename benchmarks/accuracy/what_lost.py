"""What the results page says of where TRM-ML loses."""

import math
from collections.abc import Iterator, Mapping

from trmml.benchmark.results import ListedMethod, Results
from trmml.benchmark.tables import FIGURES, figure
from trmml.labels.masks import MEAN


def what_lost(results: Results, tried: str, untrained: Mapping[str, float] = {}) -> str:
    """Where TRM-ML is behind, its other forms, methods below their start, and what was tried.

    Args:
        results: of one data set.
        tried: by hand, in Markdown.
        untrained: test mAP in percent before the first step, by method.
    """
    lines = ["### What lost", ""]
    ours = results.ours(results.headlines[0]) if results.headlines else None
    if ours is not None:
        found = [*_behind(results, ours), *_other_figures(results, ours)]
        found += [*_no_difference(results, ours), *_categories(results, ours)]
        found += _other_forms(results, ours)
        found += _below_start(results, untrained)
        lines += [f"- {line}" for line in found]
    if len(lines) == 2:
        lines.append("- Nothing on this page.")
    return "\n".join(lines) + (f"\n\n{tried}" if tried else "")


def over(results: Results, column: str) -> str:
    """What a column is over, in words."""
    count = len(results.shares)
    return f"mean of {count} share{'s' * (count > 1)}" if column == MEAN else column


def _at(results: Results, column: str) -> str:
    return f"In the {over(results, column)}" if column == MEAN else f"At {column}"


def _behind(results: Results, ours: ListedMethod) -> Iterator[str]:
    """Columns in which a baseline has the higher mean mAP."""
    for column in results.columns:
        own = results.spread(ours.key, column)
        for line in results.baselines:
            theirs = results.spread(line.key, column)
            if own is None or theirs is None or theirs.mean <= own.mean:
                continue
            gap = 100 * (theirs.mean - own.mean)
            yield f"{_at(results, column)}, {ours.name} is behind {line.name} by {gap:.1f} mAP."


def _other_figures(results: Results, ours: ListedMethod) -> Iterator[str]:
    """By headline, the figures besides mAP in which the best baseline is ahead."""
    for column in results.headlines:
        ahead = []
        for title, name in FIGURES.items():
            own = results.spread(ours.key, column, figure(name))
            best, leader = -math.inf, ""
            for line in results.baselines:
                theirs = results.spread(line.key, column, figure(name))
                if theirs is not None and theirs.mean > best:
                    best, leader = theirs.mean, line.name
            if name != "map" and own is not None and best > own.mean:
                ahead.append(f"{title} {100 * own.mean:.1f} ({leader} {100 * best:.1f})")
        if ahead:
            yield f"{_at(results, column)}, behind the best baseline in {', '.join(ahead)}."


def _no_difference(results: Results, ours: ListedMethod) -> Iterator[str]:
    """Columns in which the interval against the best baseline holds zero."""
    found = []
    for each in results.comparisons:
        between = each.differences.get(ours.key)
        if between is not None and between.low <= 0 <= between.high:
            span = f"[{100 * between.low:+.1f}, {100 * between.high:+.1f}]"
            found.append(f"{over(results, each.column)} ({100 * between.mean:+.1f} {span})")
    if found:
        yield f"The interval of the difference in mAP holds zero at {', '.join(found)}."


def _categories(results: Results, ours: ListedMethod) -> Iterator[str]:
    """By headline, in how many categories the best baseline has the higher AP."""
    for column in results.headlines:
        rival = results.rival(column)
        if rival is None:
            continue
        keys = (ours.key, rival.key)
        seeds = results.shared_seeds(keys, column)
        own, theirs = (results.category_aps(key, column, seeds=seeds) for key in keys)
        both = [(a, b) for a, b in zip(own, theirs, strict=True) if not math.isnan(a + b)]
        behind = sum(b > a for a, b in both)
        if behind:
            yield (
                f"{_at(results, column)}, {rival.name} has the higher AP in {behind} of"
                f" {len(both)} categories."
            )


def _below_start(results: Results, untrained: Mapping[str, float]) -> Iterator[str]:
    """Methods that training left below what they said untrained: something held them up."""
    for line in results.lines:
        if line.key not in untrained:
            continue
        start, below = untrained[line.key], []
        for column in results.columns:
            own = results.spread(line.key, column)
            if own is not None and 100 * own.mean < start:
                below.append(f"{100 * own.mean:.1f} ({over(results, column)})")
        if below:
            yield f"{line.name} ends below its untrained start of {start:.1f}: {', '.join(below)}."


def _other_forms(results: Results, ours: ListedMethod) -> Iterator[str]:
    """Other forms of TRM-ML against it, by headline."""
    for line in results.lines:
        if line.baseline or line.full_labels or line == ours:
            continue
        gaps = []
        for column in results.headlines:
            own, theirs = (results.spread(key, column) for key in (ours.key, line.key))
            if own is not None and theirs is not None:
                gap = 100 * (theirs.mean - own.mean)
                gaps.append(f"{gap:+.1f} ({over(results, column)})")
        if gaps:
            yield f"{line.name}, mAP against {ours.name}: {', '.join(gaps)}."
