"""Seconds and memory of each verb as a process of its own: what a user waits for at the prompt.

    python -m benchmarks.speed.startup [--rounds 5] [--before PYTHON] [--quick]

Every verb runs on a tagger that was trained on drawn scenes with the bundled encoder, in turn with
the others; the first round warms the cache of the disk. `python -c pass` and the import of torch
are what trmml cannot help. `--before` takes the Python of another installation of trmml, which is
measured in the same rounds. Prints a table and writes benchmarks/results/startup.json.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from benchmarks.record import write_results

TRMML = ("-m", "trmml")
TRAINED_ON, EVALUATED = 64, 8
# Stands for a folder that is new in each round.
NEW = "<new>"
NUMBERS = count()
# Verbs that a quick round leaves out.
SLOW = ("fit", "evaluate", "export")
# A small process in between: the peak memory of a process counts what its parent held.
LAUNCHER = """
import json, os, sys, time
started = time.perf_counter()
child = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
_, status, used = os.wait4(child, 0)
seconds = time.perf_counter() - started
print()
print(json.dumps([seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024]))
sys.exit(os.waitstatus_to_exitcode(status))
"""


def call(python: str, *words: str) -> dict[str, float]:
    """Run Python with these arguments: its seconds, those of the processor, and its peak MiB.

    Raises:
        RuntimeError: it failed; its last lines are in the message.
    """
    words = tuple(word.replace(NEW, str(next(NUMBERS))) for word in words)
    command = [python, "-c", LAUNCHER, python, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)} failed: {done.stderr.strip()[-600:]}")
    figures = json.loads(done.stdout.splitlines()[-1])
    return dict(zip(("seconds", "processor_seconds", "mib"), figures, strict=True))


def prepare(folder: Path, python: str) -> dict[str, tuple[str, ...]]:
    """A finished run and images below the folder; name and arguments of what is timed."""
    for name, images, seed in (("train", TRAINED_ON, "0"), ("test", EVALUATED, "1")):
        call(python, *TRMML, "scenes", str(folder / name), "--images", str(images), "--seed", seed)
    data = ("--images", str(folder / "train"), "--labels", str(folder / "train" / "labels.csv"))
    fit = (*TRMML, "fit", *data, "--encoder", "bundled", "--set", "training.epochs=1", "--out")
    run, test = str(folder / "run"), folder / "test"
    call(python, *fit, run)
    image = next(path for path in sorted(test.rglob("*")) if path.suffix in (".jpg", ".png"))
    labelled = ("--images", str(test), "--labels", str(test / "labels.csv"))
    return {
        "python -c pass": ("-c", "pass"),
        "import torch": ("-c", "import torch"),
        "--help": (*TRMML, "--help"),
        "settings": (*TRMML, "settings"),
        "store ls": (*TRMML, "store", "ls"),
        "tag (1 image)": (*TRMML, "tag", run, str(image)),
        "tag by torch (1 image)": (*TRMML, "tag", run, str(image), "--precision", "channels-last"),
        "data check": (*TRMML, "data", "check", "scenes", str(folder / "train")),
        "report": (*TRMML, "report", run),
        f"evaluate ({EVALUATED} images)": (*TRMML, "evaluate", run, *labelled),
        f"fit ({TRAINED_ON} images)": (*fit, str(folder / f"new-{NEW}")),
        "export": (*TRMML, "export", run, str(folder / "out.onnx")),
    }


def measure(
    verbs: Mapping[tuple[str, str], Sequence[str]], pythons: Mapping[str, str], rounds: int
) -> list[dict[str, Any]]:
    """Medians of each verb, and the spread of its seconds.

    Args:
        verbs: arguments by the name of an installation and of a verb.
        pythons: by the name of an installation.
        rounds: that count, after one that warms up.
    """
    found: dict[tuple[str, str], list[dict[str, float]]] = {key: [] for key in verbs}
    for _ in range(rounds + 1):
        for key, words in verbs.items():
            found[key].append(call(pythons[key[0]], *words))
    rows: list[dict[str, Any]] = []
    for (which, verb), calls in found.items():
        medians = {name: statistics.median(c[name] for c in calls[1:]) for name in calls[0]}
        spread = [c["seconds"] for c in calls[1:]]
        rows.append({"verb": verb, "installation": which, **medians})
        rows[-1] |= {"lowest": min(spread), "highest": max(spread)}
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as text."""
    head = f"{'verb':23} {'':6} {'seconds':>8} {'spread':>13} {'processor':>9} {'MiB':>5}"
    return "\n".join([head, *(_line(row) for row in rows)])


def _line(row: dict[str, Any]) -> str:
    spread = f"{row['lowest']:.2f}-{row['highest']:.2f}"
    return (
        f"{row['verb']:23} {row['installation']:6} {row['seconds']:8.2f} {spread:>13}"
        f" {row['processor_seconds']:9.2f} {row['mib']:5.0f}"
    )


def main() -> None:
    """Parse the arguments, measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--before", help="Python of an installation to compare with")
    parser.add_argument("--quick", action="store_true", help=f"1 round, without {', '.join(SLOW)}")
    arguments = parser.parse_args()
    rounds = 1 if arguments.quick else arguments.rounds
    pythons = {"before": arguments.before} if arguments.before else {}
    pythons["now"] = sys.executable
    with tempfile.TemporaryDirectory() as folder:
        verbs: dict[str, dict[tuple[str, str], Sequence[str]]] = {}
        os.environ["TRMML_CACHE"] = folder
        for which, python in pythons.items():
            for verb, words in prepare(Path(folder) / which, python).items():
                if not (arguments.quick and verb.startswith(SLOW)):
                    verbs.setdefault(verb, {})[which, verb] = words
        rows = measure({k: w for both in verbs.values() for k, w in both.items()}, pythons, rounds)
    print(table(rows))
    tree = {"seed": 0, "rounds": rounds, "rows": rows}
    print(f"written: {write_results('startup', tree, quick=arguments.quick)}")


if __name__ == "__main__":
    main()
