"""The order of the packages, and what starting costs."""

import subprocess
import sys

import pytest


def test_packages_import_only_what_the_contract_allows() -> None:
    # In a process of its own: import-linter sets up logging, which disables every logger there is.
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("code", ["import trmml", "import trmml.cli.main"])
def test_importing_costs_no_torch(code: str) -> None:
    assert not imported_by("-c", code) & {"torch", "torchvision", "open_clip", "matplotlib"}


def test_help_costs_no_torch() -> None:
    found = imported_by("-m", "trmml", "--help")
    assert "typer" in found and not found & {"torch", "torchvision", "open_clip", "matplotlib"}


def imported_by(*arguments: str) -> set[str]:
    """Names of all modules that a Python process imports."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    return {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
