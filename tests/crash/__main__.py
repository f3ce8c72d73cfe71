"""`make crash JOB=fit`: kill a command at every point where it changes files; JOB=all for all."""

import argparse
import sys
import tempfile
from pathlib import Path

from tests.crash.commands import JOBS, Server, faults_of_a_kill, prepared, whole_run


def main() -> int:
    """Kill jobs at all points; 1 where something was lost, left over or unlike."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    parser.add_argument("job", choices=[*(job.name for job in JOBS), "all"])
    parser.add_argument("--every", type=int, default=1, help="only each so many-th point")
    chosen = parser.parse_args()
    server, bad = Server(), 0
    with tempfile.TemporaryDirectory(prefix="trmml-crash-") as folder:
        for job in JOBS:
            if chosen.job not in (job.name, "all"):
                continue
            start = prepared(job, Path(folder).resolve(), server)
            points, expected = whole_run(job, start, server)
            print(f"-- {job.name}: {len(points)} points", flush=True)
            for number in range(1, len(points) + 1, chosen.every):
                faults = faults_of_a_kill(job, start, server, number, expected)
                bad += bool(faults)
                for fault in faults:
                    print(f"{job.name} {number} ({points[number - 1]}): {fault}", flush=True)
            print(f"   {job.name}: done", flush=True)
    server.stop()
    print(f"{bad} points with faults")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
