"""How the benchmarks take time: ways in turn within one run, warmed up, with their spread."""

import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import torch

# Benchmarks are modules below this folder.
ROOT = Path(__file__).parents[2]

Name = TypeVar("Name", bound=Hashable)


def timed(step: Callable[[], object]) -> float:
    """Seconds of one call, the card's work included."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    started = time.perf_counter()
    step()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def in_turn(
    ways: Mapping[Name, Callable[[], object]],
    rounds: int,
    *,
    warm_up: Mapping[Name, Callable[[], object]] | None = None,
) -> dict[Name, list[float]]:
    """Seconds of each way in each round; a round before the first warms up and is not counted.

    Args:
        ways: what to time, by name.
        rounds: how often.
        warm_up: shorter ways by the same names, for the round that is not counted.
    """
    for name in ways:
        (warm_up or ways)[name]()
    seconds: dict[Name, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            seconds[name].append(timed(way))
    return seconds


def rates(count: int, seconds: list[float]) -> dict[str, float]:
    """Images per second: median and spread."""
    found = [count / taken for taken in seconds]
    return {
        "images_per_second": statistics.median(found),
        "lowest": min(found),
        "highest": max(found),
    }


def in_process(module: str, cell: Mapping[str, Any]) -> dict[str, Any]:
    """What a benchmark prints as its last line, a JSON object, when it is called with --cell.

    A process of its own per cell: its peak memory is that of the cell alone.

    Raises:
        RuntimeError: it failed; its last lines are in the message.
    """
    command = [sys.executable, "-m", module, "--cell", json.dumps(dict(cell))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode:
        raise RuntimeError(f"{cell} failed: {done.stderr.strip()[-600:]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def peak_gib() -> float:
    """Largest resident memory of this process so far, in GiB.

    getrusage would also count what the parent held when it started this process.
    """
    for line in Path("/proc/self/status").read_text("utf-8").splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 2**20
    raise RuntimeError("peak memory is read from /proc/self/status, which this system lacks")


def slopes(sizes: Sequence[float], costs: Sequence[float]) -> list[float | None]:
    """Log-log slope from each size to the next, None first: 1 is linear, 2 quadratic."""
    pairs = zip(pairwise(sizes), pairwise(costs), strict=True)
    return [None, *(math.log(d / c) / math.log(b / a) for (a, b), (c, d) in pairs)]
