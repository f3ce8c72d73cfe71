import csv
import errno
import io
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner, Result

from tests.conftest import ToyImages
from tests.toy import COLOURS
from trmml.cli.main import app
from trmml.settings.files import load_settings
from trmml.settings.sections import setting_names
from trmml.tagging import tagger

COMMANDS = sorted(get_command(app).commands)  # type: ignore[attr-defined]


def run(*args: object, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, [str(arg) for arg in args], input=stdin)


def good(*args: object, stdin: str | None = None) -> str:
    result = run(*args, stdin=stdin)
    assert result.exit_code == 0, result.output
    return result.stdout


def process(*args: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "trmml", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


# Help -------------------------------------------------------------------------------------------


def test_help_answers_fast() -> None:
    def seconds() -> float:
        """Of the processor: a busy machine must not decide whether this test passes."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = process("--help")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert done.returncode == 0 and done.stdout.startswith("Usage: trmml [OPTIONS]")
        return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime

    # 0.2 alone, twice that beside other work; torch alone would take 3 or more.
    assert min(seconds() for _ in range(5)) < 0.8


def test_version() -> None:
    assert good("--version") == "trmml 0.1.0\n"


def test_the_verbs() -> None:
    assert COMMANDS == [
        "batch",
        "benchmark",
        "complete",
        "data",
        "demo",
        "evaluate",
        "export",
        "fit",
        "hub",
        "index",
        "report",
        "review",
        "scenes",
        "search",
        "serve",
        "settings",
        "sidecar",
        "store",
        "tag",
    ]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_examples_and_no_sentence_cut(command: str) -> None:
    inner = {
        "store": "ls",
        "data": "check",
        "review": "ask",
        "sidecar": "write",
        "batch": "tag",
        "hub": "push",
    }  # these are groups of commands
    text = good(command, inner.get(command, "--help"), "--help")
    assert "Examples:\n" in text and f"trmml {command}" in text.split("Examples:")[1]
    summary = next(line for line in good("--help").splitlines() if line.startswith(f"  {command} "))
    assert summary.endswith(".") and not summary.endswith("...")


def test_help_shows_defaults() -> None:
    text = good("fit", "--help")
    assert "[default: bundled]" in text and "[default: error]" in text


def test_a_wrong_usage_ends_with_2() -> None:
    result = run("fit", "--images", "x")
    assert result.exit_code == 2 and "Missing option '--out'" in result.stderr
    assert run("paint").exit_code == 2
    both = run("settings", "--preset", "x", "--config", "y")
    assert both.exit_code == 2 and "give --preset or --config, not both" in both.stderr


# Settings ---------------------------------------------------------------------------------------


def test_settings_as_table_json_and_toml(tmp_path: Path) -> None:
    table = good("settings")
    assert all(name in table for name in setting_names())
    tree = json.loads(good("settings", "--set", "training.epochs=3", "--json"))
    assert tree["training"]["epochs"] == 3
    path = tmp_path / "settings.toml"
    path.write_text(good("settings", "--toml", "--set", "training.epochs=3"), "utf-8")
    assert load_settings(path) == load_settings(None, ["training.epochs=3"])


# Evaluate ---------------------------------------------------------------------------------------


def test_evaluate_as_json_csv_and_table(
    finished_run: Path, toy_images: ToyImages, tmp_path: Path
) -> None:
    command = (
        "evaluate",
        finished_run,
        "--trust",
        "--images",
        toy_images.test,
        "--labels",
        toy_images.test_table,
    )
    path = tmp_path / "categories.csv"
    tree = json.loads(good(*command, "--json", "--csv", path))
    assert tree["images"] == 16 and tree["categories"] == 4
    rows = list(csv.DictReader(io.StringIO(path.read_text("utf-8"))))
    assert [row["name"] for row in rows] == list(COLOURS)
    percent = f"{100 * tree['mean_ap']:.2f}"
    assert f"│ mAP              │ {percent:>7} │" in good(*command)
    good(*command, "--csv", path)  # its own table is replaced, and no other
    before = toy_images.test_table.read_bytes()
    refused = run(*command, "--csv", toy_images.test_table)
    assert "is there already and no table of `--csv`" in refused.stderr
    assert refused.exit_code != 0 and toy_images.test_table.read_bytes() == before


def test_evaluate_reads_only_the_categories_of_the_run(
    finished_run: Path, toy_images: ToyImages, tmp_path: Path
) -> None:
    table = tmp_path / "long.csv"
    table.write_text("image,present,absent\n000.png,red;zebra,blue\n", "utf-8")
    tree = json.loads(
        good(
            "evaluate",
            finished_run,
            "--trust",
            "--images",
            toy_images.test,
            "--labels",
            table,
            "--json",
        )
    )
    assert [row["unknown"] for row in tree["per_category"]] == [0, 1, 0, 1]


# Tag --------------------------------------------------------------------------------------------


def test_tag_streams_json_lines(finished_run: Path, toy_images: ToyImages) -> None:
    lines = good(
        "tag", finished_run, "--trust", toy_images.test, "--top", 2, "--jsonl"
    ).splitlines()
    trees = [json.loads(line) for line in lines]
    assert [Path(tree["image"]).name for tree in trees] == [f"{n:03}.png" for n in range(16)]
    assert all(list(tree) == ["image", "tags"] and len(tree["tags"]) == 2 for tree in trees)
    first, second = trees[0]["tags"]
    assert list(first) == ["category", "probability", "threshold"]
    assert 1 >= first["probability"] >= second["probability"] >= 0
    assert (
        lines
        == good("tag", finished_run, "--trust", toy_images.test, "--top", 2, "--json").splitlines()
    )


def test_tag_reads_a_list_from_stdin_and_keeps_its_order(
    finished_run: Path, toy_images: ToyImages
) -> None:
    paths = [str(toy_images.test / f"{n:03}.png") for n in (3, 1)]
    text = good(
        "tag", finished_run, "--trust", "-", "--format", "jsonl", stdin="\n".join(paths) + "\n\n"
    )
    assert [json.loads(line)["image"] for line in text.splitlines()] == paths


def test_tag_quotes_names_in_csv_and_table(
    finished_run: Path, toy_images: ToyImages, tmp_path: Path
) -> None:
    strange = tmp_path / 'a, "b"\n[red]é.png'
    shutil.copy(toy_images.test / "000.png", strange)
    text = good("tag", finished_run, "--trust", strange, "--top", 1, "--format", "csv")
    rows = list(csv.reader(io.StringIO(text)))
    assert rows[0] == ["image", "category", "probability", "threshold", "map", "error"]
    assert rows[1][0] == str(strange) and rows[1][1] in COLOURS and len(rows) == 2
    assert f'{tmp_path}/a, "b"\\n[red]é.png' in good("tag", finished_run, "--trust", strange)


def test_tag_with_a_name_that_was_never_trained(finished_run: Path, toy_images: ToyImages) -> None:
    image = toy_images.test / "000.png"
    text = good(
        "tag", finished_run, "--trust", image, "--also", "zebra crossing", "--top", 5, "--jsonl"
    )
    found = [tag["category"] for tag in json.loads(text)["tags"]]
    assert sorted(found) == sorted([*COLOURS, "zebra crossing"])
    twice = run("tag", finished_run, "--trust", image, "--also", "red")
    assert twice.exit_code == 1
    assert twice.stderr == "Error: 'red' is a category already; name it once, or not in --also\n"


def test_tag_writes_a_region_map_per_tag(
    finished_run: Path, toy_images: ToyImages, tmp_path: Path
) -> None:
    image = toy_images.test / "000.png"
    text = good(
        "tag", finished_run, "--trust", image, "--top", 3, "--explain", tmp_path / "maps", "--jsonl"
    )
    maps = json.loads(text)["maps"]
    assert sorted(maps) == sorted(str(path) for path in (tmp_path / "maps").iterdir())
    assert len(maps) == 3 and all(name.endswith(".png") for name in maps)
    folder = tmp_path / "more"
    (folder / "maps").mkdir(parents=True)
    (folder / "a.png").write_bytes(image.read_bytes())
    words = ("--top", 1, "--explain", folder / "maps", "--jsonl")
    for _ in range(2):  # maps of the first time are no images of the second
        lines = good("tag", finished_run, "--trust", folder, *words).splitlines()
        assert len(lines) == 1 and len(list((folder / "maps").iterdir())) == 1


def test_report_does_not_replace_a_page_of_test_images(
    finished_run: Path, toy_images: ToyImages, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished_run, folder)
    for name in ("results.json", "report.html"):
        (folder / name).unlink(missing_ok=True)
    good("report", folder)
    (folder / "results.json").write_text("{}", "utf-8")
    page = (folder / "report.html").read_bytes()
    result = run("report", folder)
    assert result.exit_code == 2 and "figures of test images" in " ".join(
        result.stderr.replace("│", " ").split()
    )
    assert (folder / "report.html").read_bytes() == page
    (folder / "report.html").unlink()
    (folder / "results.json").unlink()
    good("report", folder)
    tested = ("--images", toy_images.test, "--labels", toy_images.test_table, "--report")
    good("evaluate", folder, "--trust", *tested)
    assert run("report", folder).exit_code == 2
    (folder / "report.html").unlink()
    good("report", folder)


def test_tag_skips_what_cannot_be_read_only_when_asked(
    finished_run: Path, toy_images: ToyImages, tmp_path: Path
) -> None:
    empty, missing = tmp_path / "empty.png", tmp_path / "missing.png"
    empty.write_bytes(b"")
    command = (
        "tag",
        finished_run,
        "--trust",
        empty,
        missing,
        toy_images.test / "000.png",
        "--jsonl",
    )
    result = run(*command, "--on-bad-image", "skip")
    trees = [json.loads(line) for line in result.stdout.splitlines()]
    assert result.exit_code == 0
    assert ["error" in tree for tree in trees] == [True, True, False]
    assert result.stderr == "Warning: 2 of 3 images cannot be read and were left out\n"
    refused = run("tag", finished_run, "--trust", empty)
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert refused.stderr == f"Error: {empty} is empty (0 bytes). Copy it again, or remove it.\n"


# Errors -----------------------------------------------------------------------------------------


def test_an_error_is_one_line_and_a_traceback_only_with_debug(tmp_path: Path) -> None:
    command = ("tag", tmp_path / "none", __file__)
    result = run(*command)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        f"Error: {tmp_path}/none holds no trained model (expected {tmp_path}/none/model.json);"
        " train one with: trmml fit\n"
    )
    shown = run(*command, "--debug")
    assert type(shown.exception).__name__ == "CheckpointError"


def test_what_nobody_foresaw_is_one_line_too(
    finished_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("by nought")

    monkeypatch.setattr(tagger, "load_card", broken)
    result = run("tag", finished_run, "--trust", __file__)
    expected = "Error: unexpected ZeroDivisionError: by nought; --debug shows where it comes from\n"
    assert (result.exit_code, result.stderr) == (1, expected)


def test_ctrl_c_ends_with_130(finished_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tagger, "load_card", stopped)
    result = run("tag", finished_run, "--trust", __file__)
    assert (result.exit_code, result.stderr) == (130, "Interrupted.\n")


@pytest.mark.parametrize("place", ["/media/full/a.csv", None])
def test_a_full_disk_is_told_with_what_to_do(
    finished_run: Path, monkeypatch: pytest.MonkeyPatch, place: str | None
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device: 9 bytes are needed", place)

    monkeypatch.setattr("trmml.deploy.tag.tag_each", full)
    result = run("tag", finished_run, "a.png")
    assert result.exit_code == 1 and result.stderr == (
        f"Error: {place or 'standard output'}: No space left on device: 9 bytes are needed. Make"
        " room, or name another place, and run the command again (fit: with --resume)\n"
    )


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_what_kill_sends_ends_like_ctrl_c(
    finished_run: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    number = getattr(signal, name, None)
    if number is None or os.name == "nt":
        pytest.skip("no such signal here")
    before = signal.signal(number, signal.SIG_DFL)  # under nohup SIGHUP is ignored
    monkeypatch.setattr("trmml.deploy.tag.tag_each", lambda *_, **__: os.kill(os.getpid(), number))
    try:
        result = run("tag", finished_run, "a.png")
        assert (result.exit_code, result.stderr) == (130, "Interrupted.\n")
        assert signal.getsignal(number) == signal.SIG_DFL
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize(
    "command",
    [
        "fit --images . --labels a.csv --out {}",
        "benchmark --data folder . --out {}",
        "benchmark --data folder . --out new --tune 3 --settings {}",
        "evaluate run --images . --labels a.csv --csv {}",
        "evaluate run --images . --labels a.csv --store {}",
        "tag run a.png --explain {}",
        "export run {}",
        "data convert folder . {}",
        "demo --out {}",
        "scenes {}",
    ],
)
def test_a_place_that_cannot_be_written_is_noticed_first(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    result = run(*command.format("file/new/out").split())
    assert result.exit_code == 2 and list(tmp_path.iterdir()) == [tmp_path / "file"]
    message = " ".join(result.stderr.replace("\u2502", " ").split())
    assert "nothing can be written to file/new/out (Not a directory)" in message
    if "--csv" not in command and "export" not in command:
        result = run(*command.format("file").split())
        assert result.exit_code == 2 and "file is a file; name a folder" in result.stderr


def test_a_dash_is_no_name_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("review", "export", "--answers", "a.sqlite", "--out", "-")
    assert result.exit_code == 2 and "- stands for no file here; name one" in result.stderr
    assert not list(tmp_path.iterdir())


def test_a_reader_that_goes_away_is_no_error() -> None:
    command = [sys.executable, "-m", "trmml", "settings", "--toml"]
    done = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert done.stdout is not None and done.stderr is not None
    done.stdout.close()
    assert done.stderr.read() == ""
    done.wait(timeout=300)
    done.stderr.close()
