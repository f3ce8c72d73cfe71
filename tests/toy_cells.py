"""Finished cells of a benchmark that never ran, for tests of tables, plots and pages."""

from collections.abc import Sequence
from typing import Any

from trmml.benchmark.records import Cell

NAMES = {
    "zero-shot": "zero-shot",
    "probe-masked": "linear probe, masked BCE",
    "trmml": "trmml (default)",
    "trmml-paper": "TRM-ML (paper's parts)",
    "probe-full": "linear probe, all labels",
}


def toy_cell(
    method: str, share: float | None, seed: int, ap: Sequence[float | None], **changes: Any
) -> Cell:
    """A cell whose test mAP is the mean of its APs, and whose other figures are 0.5."""
    defined = [value for value in ap if value is not None]
    rates = ("op", "or", "of1", "cp", "cr", "cf1", "mean_f1")
    figures = {rate + suffix: 0.5 for suffix in ("", "_half", "_top3") for rate in rates}
    mean = sum(defined) / len(defined)
    figures |= dict.fromkeys(("map", "map_interpolated", "map_undefined_as_zero"), mean)
    known = "single positive" if share is None else f"{100 * share:g} %"
    values: dict[str, Any] = {
        "dataset": "toys",
        "method": method,
        "name": NAMES[method],
        "baseline": not method.startswith("trmml"),
        "full_labels": method == "probe-full",
        "known": known,
        "share": share,
        "protocol": "partial" if share else "single_positive",
        "seed": seed,
        "fingerprint": f"{method} {known} {seed}".encode().hex(),
        "settings": {"training": {"seed": seed, "epochs": 3}},
        "provenance": {"from": "defaults"},
        "mask": {"sha256": "0" * 64, "known_share": share or 0.01, "positives": 9, "negatives": 9},
        "data": {"train": "1" * 64, "test": "2" * 64},
        "encoder": {
            "name": "/home/me/toy.py:ToyEncoder",
            "size": 24,
            "form": "fp16",
            "checksum": "3" * 64,
        },
        "versions": {"trmml": "0"},
        "commit": "abc1234",
        "device": "cpu",
        "date": "2026-11-21T00:00:00+00:00",
        "seconds": {"train": 2.0, "predict": 0.5},
        "epoch": {"by": "held-out", "chosen": 2, "of": 3, "held_out_map": 0.5, "calibrated": True},
        "figures": figures,
        "ap": list(ap),
        "ap_interpolated": list(ap),
    }
    return Cell(**{**values, **changes})


def toy_grid(categories: int, sizes: Sequence[float | None] | None = None) -> dict[str, Any]:
    """A grid.json for the cells."""
    facts = [
        {"name": f"thing {c}", "train_positives": 3 + c * c, "test_positives": 1 + c, "size": size}
        for c, size in enumerate(sizes or [None] * categories)
    ]
    return {
        "same": {"data": "x"},
        "dataset": "toys",
        "encoder": {
            "name": "/home/me/toy.py:ToyEncoder",
            "size": 24,
            "form": "fp16",
            "checksum": "3" * 64,
        },
        "train_images": 40,
        "test_images": 20,
        "categories": facts,
    }
