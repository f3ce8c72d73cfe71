"""Provenance for benchmark results: versions, commit, machine; written as JSON."""

import os
import platform
from pathlib import Path
from typing import Any

import torch

from trmml.storage.atomic import write_json
from trmml.storage.provenance import commit, processor, versions

RESULTS = Path(__file__).parent / "results"


def provenance() -> dict[str, Any]:
    """What a figure depends on besides its settings."""
    return {
        "commit": commit() or "unknown",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "processor": processor(),
        "card": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "versions": versions(),
    }


def write_results(name: str, tree: dict[str, Any], *, quick: bool = False) -> Path:
    """Write results with their provenance to benchmarks/results/<name>.json.

    Those of a quick round go to <name>_quick.json, which is not kept: they are no figures to quote.
    """
    path = RESULTS / f"{name}{'_quick' if quick else ''}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {**tree, **provenance()})
    return path
