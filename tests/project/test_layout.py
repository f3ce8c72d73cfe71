"""The order of the modules: what is frozen before what learns, what learns before its use."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"

# A module imports only from modules above it, also inside functions and for type checkers.
SCENES = ("colours", "pen", "hatching", "styles", "animals", "belongings", "food", "furniture")
SCENES += ("tools", "vehicles", "weather", "categories", "captions", "settings", "layout")
SCENES += ("compose", "writing", "worker")
ORDER = (
    # Values and files
    "errors",
    "cache",
    "contents",
    "stores",
    "config",
    "search_space",
    "labels",
    "metric_figures",
    "score_checks",
    "metrics",
    "calibration",
    "images",
    "datasets.base",
    "datasets",
    "datasets.tables",
    "datasets.files",
    "datasets.label_tables",
    "datasets.image_files",
    "datasets.folder",
    "datasets.mask_files",
    "datasets.peer_masks",
    "datasets.options",
    "datasets.coco",
    "datasets.voc",
    "datasets.visual_genome",
    "datasets.nus_wide",
    "datasets.cub",
    "datasets.yolo",
    "datasets.label_studio_tasks",
    "datasets.label_studio",
    "datasets.unpack",
    "datasets.packed",
    "datasets.parquet",
    "datasets.webdataset_labels",
    "datasets.webdataset",
    "datasets.huggingface",
    "datasets.plain",
    "datasets.named",
    "datasets.check",
    "datasets.convert",
    *(f"datasets.scenes.{name}" for name in SCENES),
    "datasets.scenes",
    # Frozen and heavy
    "encoders.base",
    "encoders.factory",
    "encoders.clip_weights",
    "encoders.clip_preprocess",
    "encoders.clip_blocks",
    "encoders.clip_dense",
    "encoders.clip_timm",
    "encoders.clip_text",
    "encoders.clip",
    "encoders.clip_load",
    "encoders.bundled",
    "encoders",
    "encoders.onnx",
    "encoders.precision",
    "inputs",
    "features",
    "several_views",
    "shards",
    "store",
    "encode",
    # The method: a file per box of the figure
    "prompts",
    "regions",
    "matching",
    "prototypes",
    "losses",
    "model",
    "schedule",
    "opinions",
    "image_branch",
    "hidden_regions",
    "method",
    "baselines",
    "baselines.zero_shot",
    "baselines.supervision",
    "baselines.linear_probe",
    "baselines.two_layers",
    "baselines.coop",
    "baselines.dualcoop",
    "baselines.text_graph",
    "baselines.scpnet",
    "baselines.category_features",
    "baselines.sarb",
    # Training
    "checkpoint",
    "epoch_record",
    "training_state",
    "trainer",
    "methods",
    "fit",
    # Use
    "explain",
    "tag",
    "evaluate",
    "export_graph",
    "export",
    "compare",
    "report_figures",
    "report_pictures",
    "report_sections",
    "report",
    "demo",
    # The harness
    "protocols",
    "method_settings",
    "cells",
    "ground",
    "cell_run",
    "benchmark",
    "tuning_search",
    "tuning",
    "statistics",
    "results",
    "table_text",
    "result_tables",
    "result_plots",
    "benchmark_report",
    # Command line
    "cli_options",
    "cli_output",
    "cli_app",
    "cli_fit",
    "cli_store",
    "cli_data",
    "cli_benchmark",
    "cli",
    "__main__",
)
# These import what they use where they use it, so that `trmml --help` answers at once.
LAZY = ("", "cli", "cli_app", "cli_benchmark", "cli_data", "cli_fit", "cli_options")
LAZY += ("cli_output", "cli_store")


def module_files() -> dict[str, Path]:
    """Every module below trmml by its dotted name; the package itself is ""."""
    package = SOURCE / "trmml"
    files = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        files[".".join(part for part in parts if part != "__init__")] = path
    return files


FILES = module_files()


def imports(name: str, *, deep: bool) -> Iterator[tuple[int, str]]:
    """Line and name of each module of ours that a module imports, `deep` also in functions."""
    tree = ast.parse(FILES[name].read_text(encoding="utf-8"))
    for node in ast.walk(tree) if deep else tree.body:
        if isinstance(node, ast.Import):
            wanted = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{FILES[name]}:{node.lineno}: a relative import"
            members = [f"{node.module}.{alias.name}" for alias in node.names]
            known = [m.removeprefix("trmml.") in FILES for m in members]
            wanted = [m if k else str(node.module) for m, k in zip(members, known, strict=True)]
        else:
            continue
        for module in wanted:
            if module == "trmml" or module.startswith("trmml."):
                yield node.lineno, module.removeprefix("trmml").removeprefix(".")


def test_the_order_names_every_module_once() -> None:
    assert len(set(ORDER)) == len(ORDER)
    assert set(FILES) - {""} == set(ORDER), "put a new module where it belongs in ORDER"


@pytest.mark.parametrize("name", FILES)
def test_a_module_imports_only_from_modules_above_it(name: str) -> None:
    above = ORDER[: ORDER.index(name)] if name else ()
    for line, module in imports(name, deep=name not in LAZY):
        assert module in above, f"{FILES[name]}:{line}: {module} stands below {name or 'trmml'}"


def test_an_encoder_knows_nothing_of_the_method() -> None:
    for name in (n for n in ORDER if n.startswith("encoders")):
        for line, module in imports(name, deep=True):
            free = module in ("errors", "cache") or module.startswith("encoders")
            assert free, f"{FILES[name]}:{line}: an encoder imports {module}"


def test_no_part_of_the_method_imports_an_encoder_of_a_kind() -> None:
    method = ORDER[ORDER.index("features") : ORDER.index("fit") + 1]
    for name in method:
        for line, module in imports(name, deep=True):
            protocol = module in ("encoders.base", "encoders.precision")
            assert protocol or not module.startswith("encoders"), (
                f"{FILES[name]}:{line}: only the protocol is known here, not {module}"
            )


@pytest.mark.parametrize("code", ["import trmml", "import trmml.cli"])
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
        timeout=120,
        check=True,
    )
    return {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
