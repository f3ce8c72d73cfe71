"""`make flip`: one bit of a run or of a store is another; it is found, or nothing comes of it."""

import argparse
import random
import shutil
import sys
import tempfile
from pathlib import Path

from tests.crash.commands import JOBS, RESUME, Server, content, prepared

TAG = ("tag", "run", "test", "--trust", "--device", "cpu", "--jsonl")
EVALUATE = (
    *("evaluate", "run", "--images", "test", "--labels", "test.csv", "--trust", "--device", "cpu"),
    *("--json", "--csv", "figures.csv", "--report"),
)
# A finished run and a store are used so, an unfinished run is resumed.
USES = {"export": (TAG, EVALUATE), "resume": (RESUME,)}
MADE = {"export": ("figures.csv", "run/report.html"), "resume": ("run",)}
# Words by which a message says what it found.
FOUND = ("damaged", "is missing or is not", "again", "cannot be read")


def fault_of_a_flip(root: Path, path: Path, job: str, server: Server, expected: object) -> str:
    """What is wrong after the use of a damaged file: nothing where it was found."""
    outputs = []
    for command in USES[job]:
        status = server.run(root, command)
        text = " ".join(root.with_suffix(".txt").read_text("utf-8", "replace").split())
        outputs.append(text)
        if status == 1 and path.name in text and any(word in text for word in FOUND):
            return ""
        if status != 0:
            return f"ends with {status}: {text[-300:]}"
    return "" if content(root, MADE[job]) == expected else f"another result: {outputs}"


def main() -> int:
    """Flip bits; 1 where one was believed."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash.flips", description=__doc__)
    parser.add_argument("--flips", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    draw, server, bad = random.Random(chosen.seed), Server(), 0
    with tempfile.TemporaryDirectory(prefix="trmml-flips-") as folder:
        for job in (job for job in JOBS if job.name in USES):
            start = prepared(job, Path(folder).resolve(), server)
            whole = shutil.copytree(start, start.with_name(f"{job.name}-used"))
            for command in USES[job.name]:
                assert server.run(whole, command) == 0, whole.with_suffix(".txt").read_text()
            expected = content(whole, MADE[job.name])
            places = [*start.glob("run/*"), *start.glob("cache/features/**/*")]
            files = sorted(
                path.relative_to(start) for path in places if path.is_file() and path.stat().st_size
            )
            for number in range(chosen.flips):
                root = shutil.copytree(start, start.with_name(f"{job.name}-{number}"))
                path = root / files[number % len(files)]
                damaged = bytearray(path.read_bytes())
                place = draw.randrange(len(damaged) * 8)
                damaged[place // 8] ^= 1 << place % 8
                path.write_bytes(damaged)
                fault = fault_of_a_flip(root, path, job.name, server, expected)
                bad += bool(fault)
                if fault:
                    print(f"{files[number % len(files)]}, bit {place}: {fault}", flush=True)
                shutil.rmtree(root)
            print(f"-- {job.name}: {chosen.flips} bits of {len(files)} files", flush=True)
    server.stop()
    print(f"{bad} bits were believed")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
