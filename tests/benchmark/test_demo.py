import json
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from typer.testing import CliRunner

from trmml.benchmark.demo import OWN, DemoResult, demo
from trmml.cli.main import app
from trmml.errors import CheckpointError, ConfigError
from trmml.settings.sections import Settings
from trmml.storage.held import held_folder

PAPER = "TRM-ML (paper's parts)"
METHODS = ["zero-shot", "zero-shot dense", "linear probe", PAPER, "trmml (default)"]


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> DemoResult:
    out = tmp_path_factory.mktemp("demo") / "run"
    settings = Settings(training={"epochs": 2})
    return demo(out, seed=1, images=40, test_images=20, known_share=0.5, settings=settings)


def test_the_demo_leaves_model_report_results_and_tags(result: DemoResult) -> None:
    tree = json.loads((result.run / "results.json").read_text("utf-8"))
    assert tree == result.results
    assert list(tree["methods"]) == METHODS == list(result.metrics)
    assert tree["unit"] == "percent" and tree["seed"] == 1 and tree["seconds"] > 0
    assert 0.45 < tree["known_share"] < 0.55 and "torch" in tree["versions"]
    for name, metrics in result.metrics.items():
        figures = tree["methods"][name]
        assert figures["map"] == pytest.approx(100 * metrics.mean_ap, abs=0.01)
        assert figures["images"] == 20
    assert "<html" in (result.run / "report.html").read_text("utf-8").lower()
    assert (result.run / "model.safetensors").is_file()
    lines = (result.run / "tags" / "tags.jsonl").read_text("utf-8").splitlines()
    trees = [json.loads(line) for line in lines]
    assert [Path(tree["image"]).parent.parent for tree in trees] == [result.new_folder] * 6
    maps = [path for tree in trees for path in tree["maps"]]
    assert maps and all(Path(path).is_file() for path in maps)


def test_no_two_folders_of_the_demo_hold_the_same_scene(result: DemoResult) -> None:
    images = [path.read_bytes() for path in (result.run / "data").glob("*/images/*.jpg")]
    assert len(images) == 40 + 20 + 6 == len(set(images))


def test_a_folder_that_holds_something_else_is_never_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work", "utf-8")
    with pytest.raises(ConfigError, match=r"holds thesis\.tex, which is no demo's; choose"):
        demo(tmp_path)
    (tmp_path / "demo.json").write_text("{}", "utf-8")
    with pytest.raises(ConfigError, match=r"holds thesis\.tex"):
        demo(tmp_path)
    assert (tmp_path / "thesis.tex").read_text("utf-8") == "years of work"
    (tmp_path / "thesis.tex").rename(tmp_path / "demo.json")
    file = tmp_path / "demo.json"
    with pytest.raises(ConfigError, match="is a file; name a folder"):
        demo(file)


@pytest.mark.parametrize(
    "name",
    [
        "my.safetensors",
        "keep/model.safetensors",
        "thesis/uv.lock",
        "tags/holiday.png",
        "data/mine/images/000000.jpg",
        "data/train/images/holiday.jpg",
        "data/train/answers.csv",
        "data/mine/deep/labels.csv",
        "answers.sqlite",
    ],
)
def test_a_file_of_ones_own_among_those_of_a_demo_is_kept(tmp_path: Path, name: str) -> None:
    (tmp_path / "demo.json").write_text("{}", "utf-8")
    own = tmp_path / name
    own.parent.mkdir(parents=True, exist_ok=True)
    own.write_text("mine", "utf-8")
    with pytest.raises(ConfigError, match=re.escape(f"holds {name}, which is no demo's")):
        demo(tmp_path)
    assert own.read_text("utf-8") == "mine"


def test_a_wrong_share_is_refused_while_the_last_demo_is_there(result: DemoResult) -> None:
    with pytest.raises(ConfigError, match=r"above 0 and at most 1, got 1\.5"):
        demo(result.run, known_share=1.5)
    assert (result.run / "results.json").is_file()


def test_all_that_a_demo_writes_is_its_own(result: DemoResult) -> None:
    files = [path for path in result.run.rglob("*") if path.is_file() and path.name != ".lock"]
    names = [path.relative_to(result.run).as_posix() for path in files]
    assert len(names) > 70 and [name for name in names if not OWN.fullmatch(name)] == []


def test_a_folder_in_which_another_works_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "demo.json").write_text("{}", "utf-8")
    with ThreadPoolExecutor(1) as other:
        held = held_folder(tmp_path)
        other.submit(held.__enter__).result()
        with pytest.raises(CheckpointError, match="in use by process"):
            demo(tmp_path)
        other.submit(held.__exit__, None, None, None).result()
    assert [path.name for path in tmp_path.iterdir()] == ["demo.json"]


def test_a_run_that_is_no_demo_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text("{}", "utf-8")
    with pytest.raises(ConfigError, match=r"holds model\.json, which is no demo's"):
        demo(tmp_path)


def test_what_an_earlier_demo_left_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    (out / "data" / "train" / "images").mkdir(parents=True)
    (out / "demo.json").write_text("{}", "utf-8")
    (out / "data" / "train" / "images" / "000000.jpg").write_bytes(b"old")
    (out / "data" / ".new.x.draft").mkdir()  # as a process leaves it that is killed while drawing
    (out / "data" / ".new.x.draft" / ".lock").touch()
    (out / ".lock").touch()

    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["trmml.benchmark.demo"], "write_scenes", stopped)
    result = CliRunner().invoke(app, ["demo", "--out", str(out)])
    assert (result.exit_code, result.stderr) == (130, "Interrupted.\n")
    assert [path.name for path in out.rglob("*")] == ["demo.json"]
