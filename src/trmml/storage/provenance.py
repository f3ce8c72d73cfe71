"""Where a number comes from: versions of packages, the commit, the processor."""

import functools
import hashlib
import json
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

from trmml.storage.json_text import parse_object

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


def run_identity(run: Path) -> str:
    """SHA-256, in hex, of a run's model.json, but for where on the Hub it was pulled from.

    A further commit there, of the card's text alone, leaves the run what it is.

    Raises:
        OSError, ValueError: it cannot be read, or is no JSON object.
    """
    content = (run / "model.json").read_bytes()
    tree = parse_object(content)
    if "pulled_from" in tree:  # the card's own sum is of that, too
        own = {n: v for n, v in tree.items() if n not in ("pulled_from", "card_sha256")}
        content = json.dumps(own, sort_keys=True).encode()
    return hashlib.sha256(content).hexdigest()


def processor() -> str:
    """The processor's name; its architecture where the system does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
