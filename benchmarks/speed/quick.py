"""All speed benchmarks in their quick form, one after another: what `make bench` runs.

    python -m benchmarks.speed.quick

In one process, since half a minute of imports before each would be a quarter of the time. Figures
go to benchmarks/results/*_quick.json, which is not kept; those that are published come from each
benchmark's own command.
"""

import os
import runpy
import sys
import time

BENCHMARKS = {
    "training": ("--case", "rn101-448"),
    "tagging": (),
    "scaling": (),
    "store": (),
    "time_to_map": (),
    "startup": (),
    "export": (),
    "search": (),
    "sidecars": (),
}


def main() -> None:
    """Run each as its own command would."""
    started, environment = time.monotonic(), dict(os.environ)
    for name, options in BENCHMARKS.items():
        began = time.monotonic()
        sys.argv = [name, "--quick", *options]
        print(f"\n{name}", flush=True)
        runpy.run_module(f"benchmarks.speed.{name}", run_name="__main__")
        os.environ.clear()
        os.environ.update(environment)  # some keep their cache in a folder of their own
        print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)
    print(f"all: {(time.monotonic() - started) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
