"""`trmml review simulate` from end to end, and what it refuses."""

import json
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from tests.conftest import TOY_SPEC
from tests.toy import COLOURS, write_images
from trmml.cli.main import app


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


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["review", "simulate", *map(str, arguments)])


def test_a_comparison_from_end_to_end(data: Path, tmp_path: Path) -> None:
    common = ["--data", "folder", data, "--data-option", "blank=absent", "--encoder", TOY_SPEC]
    common += ["--device", "cpu", "--seeds", "1", "--rounds", "2", "--start-known", "0.3"]
    asked = [*common, "--out", tmp_path, "--policies", "trmml", "--budget", "60"]
    first = run(*asked)
    assert first.exit_code == 0, first.output
    for name in ("random, blocks", "uncertain, blocks", "trmml, blocks"):
        assert name in first.stdout
    assert (tmp_path / "curves.png").stat().st_size > 1000
    assert len(list((tmp_path / "cells").iterdir())) == 3
    again = json.loads(run(*asked, "--json").stdout)
    assert [each["session"]["policy"] for each in again["sessions"]] == [
        "random",
        "uncertain",
        "trmml",
    ]
    assert again["sessions"][0]["points"][-1]["answers"] == 60
    timed = run(*common, "--out", tmp_path, "--seconds", "30", "--asking", "both", "--json")
    units = {each["session"]["unit"] for each in json.loads(timed.stdout)["sessions"]}
    assert units == {"seconds"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "give --data NAME ROOT"),
        (("--data", "folder", "x", "--policies", "best"), "no policy is called 'best'; there are"),
        (("--data", "folder", "x", "--flip", "1"), "--flip below 1"),
        (("--data", "folder", "x", "--start-known", "0"), "--start-known must be above 0"),
        (("--data", "folder", "x", "--seeds", "0"), "expected at least 1 seed"),
    ],
)
def test_refused(options: tuple[str, ...], said: str, tmp_path: Path) -> None:
    failed = run("--out", tmp_path, *options)
    assert failed.exit_code in (1, 2)
    assert said in " ".join(failed.stderr.replace("│", " ").split())
    assert not list(tmp_path.iterdir())
