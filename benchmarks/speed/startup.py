"""Seconds of each verb as a process of its own: what a user waits for at the prompt.

    python -m benchmarks.speed.startup [--rounds 5] [--quick]

Every verb runs on a tagger that was trained on drawn scenes with the bundled encoder, in turn with
the others; the first round warms the cache of the disk. `python -c pass` and the import of torch
are what trmml cannot help. Prints a table and writes benchmarks/results/startup.json.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.record import write_results
from benchmarks.speed.timing import in_turn

TRMML = ("-m", "trmml")
PICTURES, EPOCHS = 64, 1
EVALUATED = 8
# Verbs that a quick round leaves out.
SLOW = ("evaluate", "export")


def call(*words: str) -> None:
    """Run Python with these arguments.

    Raises:
        RuntimeError: it failed; its last lines are in the message.
    """
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)} failed: {done.stderr.strip()[-600:]}")


def prepare(folder: Path) -> dict[str, tuple[str, ...]]:
    """A finished run and images below the folder; name and arguments of what is timed."""
    for name, count, seed in (("train", PICTURES, "0"), ("test", EVALUATED, "1")):
        call(*TRMML, "scenes", str(folder / name), "--images", str(count), "--seed", seed)
    data = ("--images", str(folder / "train"), "--labels", str(folder / "train" / "labels.csv"))
    run = str(folder / "run")
    epochs = ("--set", f"training.epochs={EPOCHS}")
    call(*TRMML, "fit", *data, "--encoder", "bundled", "--out", run, *epochs)
    test, labels = folder / "test", folder / "test" / "labels.csv"
    image = next(path for path in sorted(test.rglob("*")) if path.suffix in (".jpg", ".png"))
    verbs: dict[str, tuple[str, ...]] = {
        "python -c pass": ("-c", "pass"),
        "import torch": ("-c", "import torch"),
        "--help": (*TRMML, "--help"),
        "settings": (*TRMML, "settings"),
        "store ls": (*TRMML, "store", "ls"),
        "tag (1 image)": (*TRMML, "tag", run, str(image)),
        "tag by torch (1 image)": (*TRMML, "tag", run, str(image), "--precision", "channels-last"),
        "data check": (*TRMML, "data", "check", "scenes", str(folder / "train")),
        f"evaluate ({EVALUATED} images)": (
            *(*TRMML, "evaluate", run, "--images", str(test), "--labels", str(labels)),
        ),
        "report": (*TRMML, "report", run),
    }
    return {**verbs, "export": (*TRMML, "export", run, str(folder / "out.onnx"))}


def measure(verbs: dict[str, tuple[str, ...]], rounds: int) -> list[dict[str, Any]]:
    """Median and spread of each."""
    seconds = in_turn({n: lambda words=words: call(*words) for n, words in verbs.items()}, rounds)
    return [
        {
            "verb": name,
            "seconds": statistics.median(taken),
            "lowest": min(taken),
            "highest": max(taken),
        }
        for name, taken in seconds.items()
    ]


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as text."""
    lines = [f"{'verb':22} {'seconds':>8} {'spread':>13}"]
    for row in rows:
        spread = f"{row['lowest']:.2f}-{row['highest']:.2f}"
        lines.append(f"{row['verb']:22} {row['seconds']:8.2f} {spread:>13}")
    return "\n".join(lines)


def main() -> None:
    """Parse the arguments, measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="1 round, without evaluate and export")
    arguments = parser.parse_args()
    rounds = 1 if arguments.quick else arguments.rounds
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TRMML_CACHE"] = folder
        verbs = prepare(Path(folder))
        left_out = SLOW if arguments.quick else ()
        rows = measure(
            {n: words for n, words in verbs.items() if not n.startswith(left_out)}, rounds
        )
    print(table(rows))
    tree = {"seed": 0, "rounds": rounds, "rows": rows}
    print(f"written: {write_results('startup', tree, quick=arguments.quick)}")


if __name__ == "__main__":
    main()
