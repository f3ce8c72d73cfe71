"""Provenance for benchmark results: versions, commit, machine; written as JSON."""

import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

from trmml.training.run_folder import versions

RESULTS = Path(__file__).parent / "results"


def processor() -> str:
    """Its name where the system tells; the architecture elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def provenance() -> dict[str, Any]:
    """What a figure depends on besides its settings."""
    command = ["git", "describe", "--always", "--dirty"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return {
        "commit": found.stdout.strip() or "unknown",
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
    path.write_text(json.dumps({**tree, **provenance()}, indent=1) + "\n", encoding="utf-8")
    return path
