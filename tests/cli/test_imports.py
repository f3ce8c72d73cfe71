"""The heavy modules that each command may import: what it does not use costs the user seconds."""

import shutil
import subprocess
import sys
from collections.abc import Sequence

import pytest

from tests.conftest import TOY_SPEC
from trmml.synthetic import write_scenes

HEAVY = {
    *("torch", "torch._dynamo", "sympy", "torchvision", "timm", "open_clip", "lightning_fabric"),
    *("onnx", "onnxruntime", "polars", "matplotlib", "pandas", "scipy", "sklearn", "pydantic"),
}
# typer itself imports pydantic to read the options.
LIGHT = {"pydantic"}
# torch's optimizers and its exporter import torch.compile, and that sympy.
COMPILE = {"torch", "torch._dynamo", "sympy"}
# open_clip imports torchvision, which imports torch.compile, and all models of timm.
OPEN_CLIP = {*COMPILE, "torchvision", "timm", "open_clip"}
ONNX = {"onnx", "onnxruntime"}


def imported(words: Sequence[object]) -> set[str]:
    """The heavy modules in a new process after a command."""
    code = (
        "import sys\nfrom trmml.cli.main import app\n"
        "try:\n    app(sys.argv[1:])\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        f"print(*(name for name in {sorted(HEAVY)} if name in sys.modules))"
    )
    command = [sys.executable, "-c", code, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


def test_light_commands(tmp_path):
    assert imported(["--help"]) == set()
    assert imported(["settings"]) <= LIGHT
    assert imported(["store", "ls", "--store", tmp_path]) <= LIGHT


def test_report(finished_run, tmp_path):
    run = shutil.copytree(finished_run, tmp_path / "run")
    assert imported(["report", run]) <= {*LIGHT, "torch"}


@pytest.fixture
def test_images(toy_images) -> list[object]:
    return ["--images", toy_images.test, "--labels", toy_images.test_table]


def test_data_check(tmp_path):
    write_scenes(tmp_path / "scenes", images=8, seed=0)
    words = ["data", "check", "scenes", tmp_path / "scenes"]
    assert imported(words) <= {*LIGHT, "torch", "polars"}


def test_batch(tmp_path):
    write_scenes(tmp_path / "scenes", images=8, seed=0)
    words = ["batch", "manifest", tmp_path / "scenes", "--out", tmp_path / "m.parquet"]
    assert imported(words) <= {*LIGHT, "polars"}


def test_data_export(tmp_path):
    write_scenes(tmp_path / "scenes", images=8, seed=0)
    words = ["data", "export", "fiftyone", tmp_path / "scenes", tmp_path / "out"]
    assert imported([*words, "--kind", "scenes"]) <= {*LIGHT, "torch", "polars"}


def test_evaluate(finished_run, test_images):
    words = ["evaluate", finished_run, *test_images, "--encoder", TOY_SPEC, "--live"]
    assert imported(words) <= {*LIGHT, "torch", "polars"}


@pytest.mark.slow
def test_export(finished_run, tmp_path):
    words = ["export", finished_run, tmp_path / "toy.onnx", "--encoder", TOY_SPEC]
    assert imported(words) <= {*LIGHT, *COMPILE, *ONNX}


@pytest.mark.slow
def test_fit(toy_images, tmp_path):
    words = ["fit", "--images", toy_images.train, "--labels", toy_images.train_table]
    words += ["--encoder", TOY_SPEC, "--out", tmp_path / "run", "--set", "training.epochs=1"]
    assert imported(words) <= {*LIGHT, *COMPILE, "polars", "lightning_fabric"}


@pytest.mark.slow
def test_the_bundled_encoder_adds_open_clip_alone(toy_images, test_images, tmp_path):
    words = ["fit", "--images", toy_images.train, "--labels", toy_images.train_table]
    words += ["--encoder", "bundled", "--out", tmp_path / "run", "--set", "training.epochs=1"]
    assert imported(words) <= {*LIGHT, *OPEN_CLIP, *ONNX, "polars", "lightning_fabric"}
    words = ["evaluate", tmp_path / "run", *test_images]
    assert imported(words) <= {*LIGHT, *OPEN_CLIP, "polars"}
    image = sorted(toy_images.test.iterdir())[0]
    assert imported(["tag", tmp_path / "run", image]) <= {*LIGHT, "onnxruntime"}
    words = ["sidecar", "write", tmp_path / "run", image, "--dry-run"]
    assert imported(words) <= {*LIGHT, "onnxruntime"}
    assert not imported(["batch", "manifest", image, "--out", tmp_path / "m.parquet"]) & {"torch"}
    words = ["batch", "tag", tmp_path / "run", tmp_path / "m.parquet", tmp_path / "out"]
    assert imported([*words, "--device", "cpu"]) <= {*LIGHT, "onnxruntime", "polars"}
