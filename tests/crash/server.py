"""Runs commands in forked children, so that torch is imported once and not for each of them.

Requests come as JSON lines on standard input, answers go as JSON lines to standard output. This
process itself never computes: a library's threads do not live on in a child.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

SLOWEST = 120.0  # seconds; a command that takes longer hangs


def preload() -> None:
    """Import what the commands need."""
    import lightning_fabric  # noqa: F401
    import matplotlib.pyplot  # noqa: F401
    import polars  # noqa: F401
    import torch

    import trmml.benchmark.grid
    import trmml.benchmark.report
    import trmml.cli.main
    import trmml.datasets.catalog
    import trmml.deploy.onnx_file
    import trmml.encoders.factory
    import trmml.reporting.fit
    import trmml.tagging.evaluate
    import trmml.training.fit  # noqa: F401

    torch.set_num_threads(1)


def run_command(request: dict[str, Any]) -> None:
    """Run one command in this process, which then ends."""
    from tests.crash.points import Points, arm
    from trmml.cli.main import app

    output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ |= request["environment"]
    os.chdir(request["root"])
    journal = request.get("journal")
    points = Points(Path(request["root"]), request["kill_at"], journal and Path(journal))
    arm(points)
    code = 1
    try:
        app(request["command"], prog_name="trmml")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def main() -> None:
    """Answer requests until standard input ends."""
    preload()
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            try:
                run_command(request)
            except BaseException:
                import traceback

                traceback.print_exc()
            finally:
                os._exit(70)
        print(json.dumps({"status": _status(child)}), flush=True)


def _status(child: int) -> int | str:
    end = time.monotonic() + SLOWEST
    while time.monotonic() < end:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "hangs"


if __name__ == "__main__":
    main()
