"""Where a number comes from: versions of packages, the commit, the processor."""

import functools
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

PACKAGES = ("trmml", "torch", "torchvision", "open-clip-torch", "numpy", "pillow")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a number depends on."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


@functools.cache
def commit() -> str | None:
    """`git describe` of the checkout that trmml runs from; None where it is no checkout."""
    here = Path(__file__)
    try:
        for command in (
            ["ls-files", "--error-unmatch", here.name],
            ["describe", "--always", "--dirty"],
        ):
            done = subprocess.run(
                ["git", "-C", str(here.parent), *command],
                capture_output=True,
                text=True,
                check=True,
            )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def processor() -> str:
    """The processor's name; its architecture where the system does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
