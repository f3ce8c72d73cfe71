import json
import shutil
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from tests.conftest import TOY_SPEC
from tests.toy import COLOURS, write_images
from trmml.benchmark.catalog import METHODS
from trmml.benchmark.method_settings import write_settings
from trmml.benchmark.records import CellFolder
from trmml.cli.grid_options import mask_rules, method_settings, percentages
from trmml.cli.main import app
from trmml.datasets.formats.folder import read_folder
from trmml.errors import ConfigError

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning_fabric")

THREE = "zero-shot,probe-masked,trmml"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the form that `--data folder` reads."""
    root = tmp_path_factory.mktemp("data") / "squares"
    root.mkdir()
    (root / "categories.txt").write_text("\n".join(COLOURS))
    for seed, (split, count) in enumerate((("train", 40), ("test", 16))):
        shown = write_images(root / "images" / split, count, seed)
        lines = ["image,labels"]
        for n, row in enumerate(shown):
            names = [name for name, there in zip(COLOURS, row, strict=True) if there]
            lines.append(f"{split}/{n:03}.png,{';'.join(names)}")
        (root / f"{split}.csv").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two epochs for every method."""
    folder = tmp_path_factory.mktemp("settings")
    for key in THREE.split(","):
        for protocol in ("partial", "single_positive"):
            changes = {"training.epochs": 2, "training.batch_size": 16}
            write_settings(METHODS[key], folder, protocol, changes, {"by": "hand"})
    return folder


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["benchmark", *map(str, arguments)])


def test_a_grid_from_end_to_end(data: Path, settings: Path, tmp_path: Path) -> None:
    common = [
        "--data",
        "folder",
        data,
        "--data-option",
        "blank=absent",
        "--encoder",
        TOY_SPEC,
        "--methods",
        THREE,
    ]
    common += ["--known", "30,60", "--single-positive", "--seeds", 2, "--settings", settings]
    common += ["--out", tmp_path / "out", "--draws", 20, "--device", "cpu"]
    done = run(*common, "--json")
    assert done.exit_code == 0, done.output
    assert "40 images to train on, 16 to test on" in done.stderr
    assert "18/18  trmml (default), single positive, seed 1: mAP" in done.stderr
    assert "uncalibrated" not in done.stderr
    tree = json.loads(done.stdout)
    assert tree["dataset"] == "squares (blank=absent)"
    assert tree["cells"] == 18 and tree["remarks"] == []
    assert list(tree["map"]["trmml"]) == ["30 %", "60 %", "mean", "single positive"]
    assert tree["map"]["trmml"]["mean"]["seeds"] == 2
    for name in ("results.md", "summary.json", "categories.csv", "tables/map.tex", "plots/map.svg"):
        assert (tmp_path / "out" / name).is_file(), name
    cells = CellFolder(tmp_path / "out").cells().values()
    assert len(cells) == 18 and {cell.dataset for cell in cells} == {tree["dataset"]}
    assert {cell.settings["training"]["epochs"] for cell in cells} == {2}
    assert {cell.provenance["by"] for cell in cells} == {"hand"}

    again = run(*common)
    assert again.exit_code == 0 and "seed" not in again.stderr  # no cell is run again
    assert "squares (blank=absent): mAP" in again.stdout and "mean of 2" in again.stdout


def test_tuning_comes_first_and_is_used(data: Path, tmp_path: Path) -> None:
    done = run(
        *(
            "--data",
            "folder",
            data,
            "--data-option",
            "blank=absent",
            "--encoder",
            TOY_SPEC,
            "--methods",
            "zero-shot,probe-masked",
        ),
        *("--known", "50", "--seeds", 1, "--out", tmp_path, "--tune", 2, "--tune-folds", 1),
        *("--views", 2, "--precision", "bf16-mixed"),
        *("--draws", 0, "--device", "cpu", "--best-on-test", "--epoch", "last"),
    )
    assert done.exit_code == 0, done.output
    assert "tuning probe-masked (partial) 2/2" in done.stderr
    assert [path.name for path in (tmp_path / "settings").iterdir()] == ["probe-masked.toml"]
    zero, probe = CellFolder(tmp_path).cells().values()
    assert zero.provenance == {"from": "defaults"} and probe.provenance["trials"] == 2
    for cell in (zero, probe):
        training = cell.settings["training"]
        assert training["views"] == training["scored_views"] == 2
        assert training["precision"] == "bf16-mixed"
    assert "scored_views = 2" in (tmp_path / "settings" / "probe-masked.toml").read_text()
    assert probe.epoch["by"] == "last" and probe.best_on_test is not None
    assert "best on test" in done.stdout and "difference to" not in done.stdout
    alone = run("--out", tmp_path, "--report-only", "--draws", 0)
    assert alone.exit_code == 0 and alone.stdout == done.stdout


def test_masks_from_files(data: Path, settings: Path, tmp_path: Path) -> None:
    full = read_folder(data / "images", data / "train.csv", blank="absent", categories=[*COLOURS])
    mask = tmp_path / "peer.safetensors"
    full.matrix.hide(0.5, 3).save(mask)
    done = run(
        *(
            "--data",
            "folder",
            data,
            "--data-option",
            "blank=absent",
            "--encoder",
            TOY_SPEC,
            "--methods",
            "probe-masked",
        ),
        *("--mask", mask, "--seeds", 1, "--settings", settings, "--out", tmp_path / "out"),
        *("--draws", 0, "--device", "cpu"),
    )
    assert done.exit_code == 0, done.output
    (cell,) = CellFolder(tmp_path / "out").cells().values()
    assert cell.known == "peer" and cell.mask["sha256"] == full.matrix.hide(0.5, 3).checksum()
    assert CellFolder(tmp_path / "out").grid()["dataset"] == f"{data.name} (blank=absent)"


def test_a_mask_loses_the_rows_of_images_that_are_left_out(
    data: Path, settings: Path, tmp_path: Path
) -> None:
    broken = tmp_path / data.name
    shutil.copytree(data, broken)
    full = read_folder(
        broken / "images", broken / "train.csv", blank="absent", categories=[*COLOURS]
    )
    half = full.matrix.hide(0.5, 3)
    half.save(tmp_path / "peer.safetensors")
    (broken / "images" / full.images[1]).write_bytes(b"no picture")
    done = run(
        *("--data", "folder", broken, "--data-option", "blank=absent", "--encoder", TOY_SPEC),
        *("--methods", "probe-masked", "--mask", tmp_path / "peer.safetensors", "--seeds", 1),
        *("--on-bad-image", "skip", "--settings", settings, "--out", tmp_path / "out"),
        *("--draws", 0, "--device", "cpu"),
    )
    assert done.exit_code == 0, done.output
    (cell,) = CellFolder(tmp_path / "out").cells().values()
    left = [row for row in range(len(full)) if row != 1]
    assert cell.mask["sha256"] == half.subset(left).checksum()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["--methods", "trm-ml"], "there is no method 'trm-ml'; did you mean trmml?"),
        (["--known", "0"], "from 1 to 100 percent, got 0 in --known 0; to keep a tenth, write 10"),
        (["--known", "0.1"], "got 0.1 in --known 0.1"),
        (["--known", "10..95"], "goes by steps of 10 and misses 95"),
        (["--known", "10..x"], "expected --known 10..90 or a list as 10,50,90"),
        (["--known", "90..10"], "got 90..10"),
        (["--seeds", "0"], "expected at least 1 seed, got --seeds 0"),
        (["--seeds", "1,-2"], "or a list as 0,5,7, got '1,-2'"),
        (["--seeds", "2,2"], "a seed is named twice in [2, 2]"),
        (["--settings", "nowhere"], "expected a folder with <method>.toml files, got nowhere"),
        (["--tune", "0"], "expected at least 1 trial"),
    ],
)
def test_wrong_requests_end_in_one_line(
    changes: list[str], said: str, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = run(
        "--data",
        "folder",
        data,
        "--data-option",
        "blank=absent",
        "--encoder",
        TOY_SPEC,
        "--out",
        out,
        *changes,
    )
    assert done.exit_code == 1, done.output
    assert said in done.stderr and len(done.stderr.splitlines()[-1]) < 200
    assert not (out / "cells.jsonl").exists()


def test_without_data_there_is_nothing_to_run(tmp_path: Path) -> None:
    done = run("--out", tmp_path)
    assert done.exit_code == 2 and "--report-only" in done.stderr
    done = run("--out", tmp_path, "--report-only")
    assert done.exit_code == 1 and "holds no benchmark" in done.stderr


def test_shares_in_tens_and_as_lists() -> None:
    assert percentages("10..90") == [10.0 * n for n in range(1, 10)]
    assert percentages("5, 12.5,100") == [5.0, 12.5, 100.0]
    with pytest.raises(ConfigError):
        percentages("")


def test_choices_of_the_data_are_checked(data: Path, tmp_path: Path) -> None:
    for given, said in ((["crowd"], "NAME=VALUE"), (["a=1", "a=2"], "is given twice")):
        options = [part for each in given for part in ("--data-option", each)]
        done = run("--data", "folder", data, *options, "--out", tmp_path / "out")
        assert done.exit_code == 2 and said in done.stderr


def test_what_a_folder_of_settings_lacks_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    probe, full, zero = (METHODS[key] for key in ("probe-masked", "probe-full", "zero-shot"))
    for method in (probe, full):
        write_settings(method, tmp_path, "partial", {"training.epochs": 2}, {"by": "hand"})
    rules = mask_rules("50", True, None, masked=False)
    method_settings([probe, full, zero], rules, tmp_path, None, None)
    assert capsys.readouterr().err == (
        f"{tmp_path} has no [single_positive] settings of probe-masked, which runs with its"
        " defaults there\n"
    )
    method_settings([probe], rules[:1], tmp_path, None, None)
    assert capsys.readouterr().err == ""
