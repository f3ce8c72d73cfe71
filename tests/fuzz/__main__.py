"""`make fuzz TARGET=coco SECONDS=60`: many damaged files for one reader, guided by coverage.

Needs atheris, which is no dependency: `make fuzz` installs it. Every error that is not ours, any
file that computes for over 5 s and any that takes over 1 GB is shown once, with the bytes that
caused it, and the exit code is 1. TARGET=all gives each target its share of the time.
"""

import argparse
import contextlib
import logging
import resource
import signal
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from random import Random
from types import FrameType

LONGEST_SECONDS = 5  # of computing, so that a busy machine finds nothing that is not there
LONGEST_WAIT = 60
MOST_MEMORY = 2**30
START_FILES = 64  # damaged files that the search starts from


class Findings:
    """What went wrong, once for each place in the code."""

    def __init__(self, target: str, folder: Path) -> None:
        self._target, self._folder = target, folder
        self._known: set[str] = set()

    def __len__(self) -> int:
        return len(self._known)

    def add(self, error: BaseException, data: bytes) -> None:
        """Show an error with its bytes, unless one of this kind and place is known."""
        frames = traceback.extract_tb(error.__traceback__)
        ours = [frame for frame in frames if "/trmml/" in frame.filename] or frames
        place = f"{type(error).__name__} {Path(ours[-1].filename).name}:{ours[-1].lineno}"
        if place in self._known:
            return
        self._known.add(place)
        path = self._folder / f"{self._target}-{place.replace(' ', '-').replace(':', '-')}"
        path.write_bytes(data)
        print(
            f"\n== {self._target}: {place}: {error!s:.300}\n   {data!r:.400}\n   {path}", flush=True
        )


class HangError(Exception):
    """A file took too long."""


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """End what takes over 5 s of computing, or a minute of waiting."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise HangError(signal.Signals(number).name)

    for timer, number, seconds in (
        (signal.ITIMER_PROF, signal.SIGPROF, LONGEST_SECONDS),
        (signal.ITIMER_REAL, signal.SIGALRM, LONGEST_WAIT),
    ):
        signal.signal(number, stop)
        signal.setitimer(timer, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)


def fuzz(name: str, seconds: int, found: Path) -> None:
    """Fuzz one target, and end the process: libFuzzer does not return."""
    import atheris

    with atheris.instrument_imports(include=["trmml"], enable_loader_override=False):
        from tests.fuzz import all_targets

        target = {each.name: each for each in all_targets()}[name]
    target.attempt(target.valid)  # all that is imported late
    findings = Findings(name, found)

    def one(data: bytes) -> None:
        try:
            with limited():
                target.attempt(data)
        except BaseException as error:  # a panic of a library in Rust is no Exception
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            findings.add(error, data)

    def mutate(data: bytes, longest: int, seed: int) -> bytes:
        random = Random(seed)
        if random.random() < 0.5:
            return bytes(atheris.Mutate(data, longest))
        with contextlib.suppress(Exception):  # not every file can be damaged by its structure
            return target.damage(data, random)[:longest]
        return target.damage(target.valid, random)[:longest]

    corpus = Path(tempfile.mkdtemp(prefix="trmml-fuzz-corpus-"))
    (corpus / "valid").write_bytes(target.valid)
    for seed in range(START_FILES):
        (corpus / str(seed)).write_bytes(target.damage(target.valid, Random(seed)))
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + MOST_MEMORY, hard))
    options = [f"-max_total_time={seconds}", "-max_len=300000", "-rss_limit_mb=0", "-timeout=60"]
    options += ["-verbosity=0", "-print_final_stats=1"]  # how many files there were
    atheris.Setup([sys.argv[0], *options, str(corpus)], one, custom_mutator=mutate)
    atheris.Fuzz()


def main() -> int:
    """Fuzz one target or all, each in a process of its own; 1 where something was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("target", help="the name of a target, or all")
    parser.add_argument("--seconds", type=int, default=60, help="in all")
    parser.add_argument("--found", type=Path, default=Path("fuzz-findings"), help="folder")
    parser.add_argument("--here", action="store_true", help="in this process, which ends with it")
    chosen = parser.parse_args()
    chosen.found.mkdir(parents=True, exist_ok=True)
    if chosen.here:
        logging.disable()
        warnings.simplefilter("ignore")
        fuzz(chosen.target, chosen.seconds, chosen.found)
    from tests.fuzz import all_targets

    names = [target.name for target in all_targets()]
    if chosen.target not in [*names, "all"]:
        parser.error(f"there is no target {chosen.target!r}, but all, {', '.join(names)}")
    names = names if chosen.target == "all" else [chosen.target]
    share = max(1, chosen.seconds // len(names))
    failed = 0
    for name in names:
        print(f"-- {name}", flush=True)
        more = ("--seconds", str(share), "--found", str(chosen.found), "--here")
        child = subprocess.run([sys.executable, "-m", "tests.fuzz", name, *more], check=False)
        failed += child.returncode != 0
    found = len(list(chosen.found.iterdir()))
    print(f"{found} findings in {chosen.found}; {failed} targets ended early")
    return int(found > 0 or failed > 0)


if __name__ == "__main__":
    sys.exit(main())
