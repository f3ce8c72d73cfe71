"""Extras, one by one in a scratch environment: they leave numpy and torch as they are."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"][
    "optional-dependencies"
]
OWN = ROOT / ".venv-uv" / "bin" / "uv"
UV = shutil.which("uv") or (str(OWN) if OWN.is_file() else None)
KEPT = ("numpy", "torch", "torchvision")


def versions(python: Path, *packages: str) -> dict[str, str]:
    """Versions that an environment would have after installing packages; nothing is installed."""
    assert UV is not None
    command = [UV, "pip", "install", "--dry-run", "--python", str(python), *packages]
    free = {name: value for name, value in os.environ.items() if name != "UV_CONSTRAINT"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=free, cwd=ROOT)
    if done.returncode and "error sending request" in done.stderr:
        pytest.skip("no package registry is reached")
    assert done.returncode == 0, done.stderr
    lines = (line.split("==") for line in done.stderr.splitlines() if line.startswith(" + "))
    return {line[0].removeprefix(" + "): line[1] for line in lines if len(line) == 2}


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an empty environment."""
    if UV is None:
        pytest.skip("uv is not installed")
    folder = tmp_path_factory.mktemp("scratch") / "env"
    subprocess.run([UV, "venv", "--quiet", "--python", sys.executable, folder], check=True)
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


@pytest.fixture(scope="module")
def core(scratch: Path) -> dict[str, str]:
    return versions(scratch, ".")


@pytest.mark.slow
@pytest.mark.parametrize("extra", sorted(set(EXTRAS) - {"dev"}))
def test_an_extra_leaves_numpy_and_torch_as_they_are(
    extra: str, scratch: Path, core: dict[str, str]
) -> None:
    found = versions(scratch, f".[{extra}]")
    assert {name: found[name] for name in KEPT} == {name: core[name] for name in KEPT}
