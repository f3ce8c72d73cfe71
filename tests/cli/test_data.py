import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.sets import write, write_images
from trmml.cli.main import app


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(tmp_path / "in", {
        "train.csv": "image,labels\na.png,cat\nb.png,\n", "test.csv": "image,labels\nc.png,cat\n",
    })  # fmt: skip
    write_images(tmp_path / "in", ["images/a.png", "images/b.png", "images/c.png"])
    return tmp_path / "in"


def run(*arguments: object):
    return CliRunner().invoke(app, ["data", *map(str, arguments)])


def test_check_of_a_set_that_fits(root):
    done = run("check", "folder", root, "--option", "blank=absent")
    assert done.exit_code == 0 and done.stderr == "nothing is wrong\n"
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in done.stdout.splitlines()]
    assert ["train", "2", "-", "1", "100.0", "1", "-"] in rows
    assert ["test", "1", "-", "1", "100.0", "1", "-"] in rows


def test_check_names_what_is_wrong_and_fails(root):
    for name in ("a.png", "b.png"):
        (root / "images" / name).unlink()
    done = run("check", "folder", root, "--option", "blank=absent", "--split", "train")
    assert done.exit_code == 1 and done.stderr == "1 problem\n"
    assert done.stdout.splitlines()[-4:] == [
        "wrong: train: 2 of 2 images are not there",
        "  a.png",
        "  b.png",
        f"  do: Copy them to {root / 'images'}.",
    ]
    tree = json.loads(run("check", "folder", root, "--option", "blank=absent", "--json").stdout)
    assert tree["ok"] is False and tree["problems"][0]["files"] == ["a.png", "b.png"]


def test_check_does_not_fail_for_what_it_was_told_to_leave_out(root):
    (root / "images/a.png").unlink()
    options = ("folder", root, "--option", "blank=absent", "--split", "train")
    refused = run("check", *options)
    assert refused.exit_code == 1 and "leave them out with option missing=drop" in refused.stdout
    done = run("check", *options, "--option", "missing=drop")
    assert done.exit_code == 0 and done.stderr == "nothing is wrong\n"
    assert "note: train: 1 of 2 images are not there and were left out" in done.stdout
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in done.stdout.splitlines()]
    assert ["train", "1", "-", "1", "100.0", "0", "-"] in rows


def test_check_lists_few_files_of_many(root):
    table = "image,labels\n" + "".join(f"{k}.png,cat\n" for k in range(9))
    write(root, {"train.csv": table})
    done = run("check", "folder", root, "--option", "blank=absent", "--split", "train")
    assert "  4.png\n  and 4 more; --json lists all\n" in done.stdout and "5.png" not in done.stdout


def test_check_decodes_when_asked(root):
    write(root, {"images/a.png": b"no image"})
    options = ("folder", root, "--option", "blank=absent")
    assert run("check", *options).exit_code == 0
    done = run("check", *options, "--decode")
    assert done.exit_code == 1 and "1 images cannot be decoded" in done.stdout


def test_convert_says_what_it_wrote(root, tmp_path):
    done = run("convert", "folder", root, tmp_path / "out", "--option", "blank=absent")
    assert done.exit_code == 0 and done.stderr == ""
    assert done.stdout == f"{tmp_path / 'out'}: 2 train, 1 test images, 1 categories, 0 boxes\n"
    again = run("convert", "folder", root, tmp_path / "out", "--option", "blank=absent")
    assert again.exit_code == 1 and "out is there already" in again.stderr
    part = run("convert", "folder", root, tmp_path / "new", "--option", "blank=unknown",
               "--split", "test", "--images", "copy", "--json")  # fmt: skip
    assert json.loads(part.stdout) == {
        "folder": str(tmp_path / "new"), "images": {"test": 1}, "categories": 1, "boxes": 0,
    }  # fmt: skip


def test_options_that_are_none(root):
    for option in ("blank", "=absent"):
        assert run("check", "folder", root, "--option", option).exit_code == 2
    twice = ("--option", "blank=absent", "--option", "blank=unknown")
    assert run("check", "folder", root, *twice).exit_code == 2
    wrong = run("check", "folder", root, "--option", "blank=no")
    assert wrong.exit_code == 1 and wrong.stderr.startswith("Error: folder: option blank=no:")
    unknown = run("check", "foldr", root)
    assert unknown.exit_code == 1 and "did you mean 'folder'?" in unknown.stderr


def test_help_costs_no_torch():
    code = (
        "from trmml.cli.main import app; import sys\ntry:\n    app(['data', 'check', '--help'])\n"
    )
    code += "except SystemExit:\n    assert 'torch' not in sys.modules\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "--decode" in done.stdout, done.stderr
