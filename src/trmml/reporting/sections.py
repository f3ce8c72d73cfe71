"""The values of each section of the report, for its template."""

import json
import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from trmml.labels.matrix import LabelMatrix
from trmml.method.pseudo_labels import PseudoLabels
from trmml.metrics.figures import Metrics
from trmml.metrics.reliability import expected_calibration_error, reliability_bins
from trmml.reporting.charts import WIDE, line_chart, reliability_diagram
from trmml.reporting.ranked_images import best_and_worst
from trmml.settings.sections import Settings
from trmml.storage.tensors import load_tensors
from trmml.training.run_folder import RunCard, skipped_images

if TYPE_CHECKING:
    from trmml.tagging.evaluate import Evaluation

# Up to twice so many categories are listed in full, else so many from each end.
ENDS = 30
# Below it, a loss term is shown in thousandths.
SMALL_LOSS = 0.01
# The name of the run's own row.
OWN = "this run"

Tree = dict[str, Any]


@dataclass(frozen=True)
class Scored:
    """The figures to show, of an evaluation or of the held-out images."""

    held_out: bool  # whether they are of the held-out images, which also chose the epoch
    metrics: Metrics
    probabilities: Float[Tensor, "N C"]
    # probabilities before calibration, or None where they cannot be worked out
    plain: Float[Tensor, "N C"] | None
    labels: Bool[Tensor, "N C"]
    known: Bool[Tensor, "N C"]


def setup(run: Path, card: RunCard) -> Tree:
    """Encoder, settings, versions, and how to repeat the run."""
    tree = json.loads((run / "model.json").read_text("utf-8"))
    written = datetime.fromtimestamp((run / "model.json").stat().st_mtime, UTC)
    changed = _changed(card.settings)
    return {
        "encoder": card.encoder,
        "changed": changed,
        "seed": card.settings.training.seed,
        "epochs": card.chosen.get("of", card.settings.training.epochs),
        "date": written.strftime("%Y-%m-%d %H:%M UTC"),
        "versions": tree.get("versions", {}),
        "chosen": card.chosen,
        "mask": card.data["mask_sha256"],
        "command": _command(card, {name: value for name, value, _ in changed}),
    }


def _changed(settings: Settings) -> list[tuple[str, str, str]]:
    """(name, value, default) of every setting that is not the default, as TOML values."""
    own, default = settings.model_dump(), Settings().model_dump()
    return [
        (f"{section}.{name}", _toml(value), _toml(default[section][name]))
        for section, values in own.items()
        for name, value in values.items()
        if value != default[section][name]
    ]


def _toml(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _command(card: RunCard, changed: Mapping[str, str]) -> str | None:
    """The shell line that repeats the run; None for an encoder that no name stands for."""
    if card.encoder_spec is None:
        return None
    steps = "training.least_steps"
    if "training.epochs" in changed:  # who names epochs alone gets just so many
        changed = {**changed, steps: _toml(card.settings.training.least_steps)}
    parts = ["trmml fit --images IMAGES --labels LABELS --out NEW_RUN"]
    parts.append(f"--encoder {shlex.quote(card.encoder_spec)} --image-size {card.encoder.size}")
    named = [f"{name}={value}" for name, value in changed.items() if value != "null"]
    parts += [f"--set {shlex.quote(each)}" for each in named]
    return " \\\n    ".join(parts)


def data(run: Path, card: RunCard, known: LabelMatrix) -> Tree:
    """What was known of the training images."""
    positives, negatives = known.positives, known.negatives
    pairs = max(known.known.numel(), 1)
    rows = sorted(
        zip(card.category_names, positives.tolist(), negatives.tolist(), strict=True),
        key=lambda row: -row[1],
    )
    return {
        "images": len(known),
        "categories": len(card.category_names),
        "pairs": known.known.numel(),
        "known": known.known_share,
        "positive": int(positives.sum()) / pairs,
        "negative": int(negatives.sum()) / pairs,
        "positives": int(positives.sum()),
        "negatives": int(negatives.sum()),
        "rows": _ends(rows),
        "most": max(1, *positives.tolist()) if len(positives) else 1,
        "cut": len(rows) > 2 * ENDS,
        "without": int((positives == 0).sum()),
        "skipped": skipped_images(run),
    }


def _ends(rows: list[Any]) -> list[Any]:
    """All rows, or the first and the last where there are many."""
    return rows if len(rows) <= 2 * ENDS else [*rows[:ENDS], *rows[-ENDS:]]


def curves(card: RunCard, log: list[Tree]) -> Tree:
    """Held-out mAP, the weighted loss terms and their shares of the gradient over the epochs."""

    def scaled(name: str) -> list[float | None]:
        values = [record.get(name) for record in log]
        return [None if value is None else 100 * value for value in values]

    chosen = card.chosen.get("epoch")
    names = list(dict.fromkeys(name for record in log for name in record["weighted"]))
    terms = []
    for name in names:
        values = [record["weighted"].get(name) for record in log]
        if any(values):
            terms.append(_term(name, values))
    shares = [record.get("gradient_shares") or {} for record in log]
    named = dict.fromkeys(name for each in shares for name in each)
    gradients = [(name, _share(name, [each.get(name) for each in shares])) for name in named]
    held = line_chart(
        scaled("held_out_map"),
        name="held-out mAP",
        unit=" %",
        band=scaled("held_out_error"),
        mark=chosen,
        width=WIDE,
    )
    seconds = sum(record.get("seconds", 0.0) for record in log)
    charts = {"held_out": held, "terms": terms, "gradients": gradients}
    return {**charts, "chosen": card.chosen, "seconds": seconds}


def _share(name: str, values: list[float | None]) -> str:
    """Chart of a term's share of the gradient, from 0 to 100 %."""
    percent = [None if value is None else 100 * value for value in values]
    return line_chart(percent, name=f"{name}: share of the gradient", unit=" %", limits=(0, 100))


def _term(name: str, values: list[float | None]) -> tuple[str, str]:
    """Title and chart of a loss term, in thousandths where it is small."""
    if max(value or 0.0 for value in values) < SMALL_LOSS:
        name, values = f"{name}, thousandths", [v and 1000 * v for v in values]
    return name, line_chart(values, name=f"{name} loss", limits=(0, 0))


def results(scored: Scored, baselines: Mapping[str, Metrics]) -> Tree:
    """The run against the baselines, the best of each column marked."""
    methods = {**baselines, OWN: scored.metrics}
    columns = ("mAP", "mAP interpolated", "OF1", "CF1", f"OF1 top-{scored.metrics.top_k}")
    table = {name: _figures(metrics) for name, metrics in methods.items()}
    best = [
        max((v for v in column if v == v), default=None)
        for column in zip(*table.values(), strict=True)
    ]
    own = table[OWN]
    rows = [
        {
            "name": name,
            "own": name == OWN,
            "undefined": methods[name].undefined_categories,
            "threshold": _one_threshold(methods[name]),
            "cells": [
                {"value": value, "best": value == top, "behind": value - mine}
                for value, top, mine in zip(values, best, own, strict=True)
            ],
        }
        for name, values in table.items()
    ]
    reference = _reference(baselines)
    gain = scored.metrics.mean_ap - reference[1].mean_ap if reference else math.nan
    return {
        "held_out": scored.held_out,
        "metrics": scored.metrics,
        "columns": columns,
        "rows": rows,
        "gain": gain,
        "reference": reference[0] if reference else None,
    }


def _one_threshold(metrics: Metrics) -> float | None:
    """The threshold of all categories, or None where each has its own."""
    thresholds = {row.threshold for row in metrics.per_category}
    return thresholds.pop() if len(thresholds) == 1 else None


def _figures(metrics: Metrics) -> tuple[float, ...]:
    at, top = metrics.at_threshold, metrics.at_top_k
    means = (metrics.mean_ap, metrics.mean_ap_interpolated)
    return (*means, at.overall_f1, at.category_f1, top.overall_f1)


def _reference(baselines: Mapping[str, Metrics]) -> tuple[str, Metrics] | None:
    """The baseline that gains are counted from: zero-shot, else the first."""
    for name, metrics in baselines.items():
        if name.lower().startswith("zero-shot"):
            return name, metrics
    return next(iter(baselines.items()), None)


def categories(scored: Scored, baselines: Mapping[str, Metrics]) -> Tree:
    """A row per category, and its gain over zero-shot."""
    reference = _reference(baselines)
    before = {row.name: row.ap for row in reference[1].per_category} if reference else {}
    rows = [(row, row.ap - before.get(row.name, math.nan)) for row in scored.metrics.per_category]
    rows.sort(key=lambda pair: math.inf if math.isnan(pair[0].ap) else -pair[0].ap)
    gains = sorted((pair for pair in rows if pair[1] == pair[1]), key=lambda pair: -pair[1])
    return {
        "rows": _ends([pair[0] for pair in rows]),
        "cut": len(rows) > 2 * ENDS,
        "total": len(rows),
        "gains": _ends([(row.name, gain) for row, gain in gains]),
        "cut_gains": len(gains) > 2 * ENDS,
        "widest": max((abs(gain) for _, gain in gains), default=0.0) or 1.0,
        "up": sum(gain > 0 for _, gain in gains),
        "down": sum(gain < 0 for _, gain in gains),
        "reference": reference[0] if reference else None,
    }


def calibration(scored: Scored, card: RunCard) -> Tree:
    """Reliability and expected calibration error, after and, where possible, before."""
    pair = (scored.labels, scored.known)
    after = reliability_bins(scored.probabilities, *pair)
    before = None if scored.plain is None else reliability_bins(scored.plain, *pair)
    thresholds = torch.tensor([row.threshold for row in scored.metrics.per_category])
    plain = scored.plain
    return {
        "diagram": reliability_diagram(after, before),
        "after": expected_calibration_error(scored.probabilities, *pair),
        "before": None if plain is None else expected_calibration_error(plain, *pair),
        "pairs": int(scored.known.sum()),
        "images": card.chosen.get("held_out_images"),
        "held_out": scored.held_out,
        "lowest": float(thresholds.min()),
        "median": float(thresholds.median()),
        "highest": float(thresholds.max()),
    }


def pseudo(run: Path, card: RunCard, log: list[Tree], truth: LabelMatrix | None) -> Tree:
    """How many pseudo-labels each epoch used, how right they were, and the last ones."""
    tensors, _ = load_tensors(run / "pseudo.safetensors")
    last = PseudoLabels(labels=tensors["labels"], chosen=tensors["chosen"])
    nothing = torch.zeros_like(last.chosen)
    final = last.right_share(truth or LabelMatrix(nothing, nothing))
    used = [record.get("pseudo") or {} for record in log]
    charts = []
    for kind in ("positive", "negative"):
        counts = [float(row.get(f"pseudo_{kind}", 0)) for row in used]
        right = [row.get(f"pseudo_{kind}_right") for row in used]
        shares = [None if share is None else 100 * share for share in right]
        if any(counts):
            charts.append((f"pseudo-{kind}, in use", _pseudo_chart(counts, kind, "")))
        if any(share is not None for share in shares):
            charts.append((f"pseudo-{kind}, right", _pseudo_chart(shares, kind, " %")))
    return {
        "weight": card.settings.losses.pseudo,
        "settings": card.settings.prototypes,
        "final": final,
        "charts": charts,
        "checked": truth is not None or any("right" in title for title, _ in charts),
    }


def _pseudo_chart(values: list[float | None] | list[float], kind: str, unit: str) -> str:
    limits = (0, 100) if unit else (0, 1)
    return line_chart(values, name=f"pseudo-{kind} labels", unit=unit, limits=limits)


def images(evaluation: "Evaluation | None", card: RunCard) -> Tree:
    """The best and the worst images of the evaluation."""
    if evaluation is None:
        return {"best": [], "worst": []}
    best, worst = best_and_worst(evaluation, card.encoder.grid)
    return {"best": best, "worst": worst}
