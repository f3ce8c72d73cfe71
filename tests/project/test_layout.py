"""The order of the packages, and what starting costs."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "src/trmml"
FILES = sorted(PACKAGE.rglob("*.py"))


def test_files_and_functions_stay_small() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= 6
    lengths = {path: len(path.read_text("utf-8").splitlines()) for path in FILES}
    assert {path: length for path, length in lengths.items() if length > 350} == {}
    long = {f"{path}:{name}": n for path in FILES for name, n in bodies(path) if n > 45}
    assert long == {}


def bodies(path: Path) -> Iterator[tuple[str, int]]:
    """Each function of a file, and the lines of its body without the docstring."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            last = body[-1].end_lineno if body else None
            yield node.name, (last or node.lineno) - (body[0].lineno if body else node.lineno) + 1


def test_packages_import_only_what_the_contract_allows() -> None:
    # In a process of its own: import-linter sets up logging, which disables every logger there is.
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "code", ["import trmml", "import trmml.cli.main", "import trmml.server.serve"]
)
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
