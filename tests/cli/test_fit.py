import json
import os
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from tests.conftest import TOY_SPEC, ToyImages
from trmml.cli.main import app
from trmml.datasets.formats.folder import read_folder
from trmml.labels.matrix import LabelMatrix

SETTINGS = (
    *("--epochs", "3", "--set", "training.batch_size=16", "--set", "training.held_out_share=0.3"),
    # Thresholds at which pseudo-labels exist on so few images.
    *("--set", "prototypes.warm_up_share=0.2", "--set", "losses.pseudo=0.1"),
    *("--set", "prototypes.positive_above=0.6", "--set", "prototypes.negative_below=0.3"),
)


def fit(images: Path, labels: Path, out: Path, *more: object, encoder: str = TOY_SPEC) -> Result:
    command = ["fit", "--images", images, "--labels", labels, "--out", out, "--encoder", encoder]
    return CliRunner().invoke(app, [str(arg) for arg in (*command, *SETTINGS, *more)])


def test_fit_hides_trains_compares_and_reports(toy_images: ToyImages, tmp_path: Path) -> None:
    out = tmp_path / "runs" / "toy"
    test = ("--test-images", toy_images.test, "--test-labels", toy_images.test_table)
    more = ("--known", 0.5, "--seed", 3, "--json")
    result = fit(toy_images.train, toy_images.train_table, out, *test, *more)
    assert result.exit_code == 0, result.output
    tree = json.loads(result.stdout)
    assert list(tree["methods"]) == ["zero-shot", "zero-shot dense", "trmml"]
    assert tree["unit"] == "percent" and tree["seed"] == 3 and 0.4 < tree["known_share"] < 0.6
    assert tree["report"] == str(out / "report.html") and (out / "report.html").is_file()
    saved = json.loads((out / "results.json").read_text("utf-8"))
    assert saved["methods"] == tree["methods"]
    epochs = [line for line in result.stderr.splitlines() if line.startswith("epoch ")]
    assert len(epochs) == 3 and all("images/s" in e and "s left" in e for e in epochs)
    records = [json.loads(line) for line in (out / "log.jsonl").read_text("utf-8").splitlines()]
    assert any("right" in name for name in records[-1]["pseudo"])  # checked against the truth


def test_known_hides_what_the_field_hides(toy_images: ToyImages, tmp_path: Path) -> None:
    import numpy as np

    fit(toy_images.train, toy_images.train_table, tmp_path / "run", "--known", 0.3, "--epochs", 1)
    known = LabelMatrix.load(tmp_path / "run" / "known.safetensors").known
    expected = np.random.RandomState(0).random_sample((48, 4)) < 0.3
    assert (known.numpy() == expected).all()


def test_single_positive(toy_images: ToyImages, tmp_path: Path) -> None:
    more = ("--single-positive", "--epochs", 1)
    result = fit(toy_images.train, toy_images.train_table, tmp_path / "run", *more)
    assert result.exit_code == 0, result.output
    matrix = LabelMatrix.load(tmp_path / "run" / "known.safetensors")
    assert matrix.known.sum(dim=1).max() == 1 and bool((matrix.labels == matrix.known).all())


def card_checksum(run: Path) -> str:
    """The mask's checksum, as the run card has it."""
    return str(json.loads((run / "model.json").read_text("utf-8"))["data"]["mask_sha256"])


def test_quota(toy_images: ToyImages, tmp_path: Path) -> None:
    more = ("--quota", 5, 7, "--seed", 2, "--epochs", 1)
    result = fit(toy_images.train, toy_images.train_table, tmp_path / "run", *more)
    assert result.exit_code == 0, result.output
    matrix = LabelMatrix.load(tmp_path / "run" / "known.safetensors")
    assert matrix.positives.tolist() == [5] * 4 and matrix.negatives.tolist() == [7] * 4
    whole = read_folder(toy_images.train, toy_images.train_table).matrix
    assert matrix.checksum() == whole.keep_quota(5, 7, seed=2).checksum()
    assert card_checksum(tmp_path / "run") == matrix.checksum()


@pytest.mark.parametrize("form", ["rows", "lists", "tensor", "run"])
def test_mask(form: str, toy_images: ToyImages, tmp_path: Path) -> None:
    data = read_folder(toy_images.train, toy_images.train_table)
    matrix = data.matrix.hide(0.5, seed=8)
    path = tmp_path / f"mask.{form}"
    if form == "rows":
        codes = matrix.known.int() * (2 * matrix.labels.int() - 1)
        path.write_text("".join(f"{','.join(map(str, row))}\n" for row in codes.tolist()), "utf-8")
    elif form == "lists":
        matrix = data.matrix.keep_single_positive(seed=8)
        listed = zip(data.images, matrix.labels, strict=True)
        lines = [f"{image},{' '.join(map(str, row.nonzero()[:, 0].tolist()))}\n"
                 for image, row in listed]  # fmt: skip
        path.write_text("".join(reversed(lines)), "utf-8")
    elif form == "tensor":
        torch.save(torch.stack([matrix.known.long()] * 3, dim=1), path)
    else:
        matrix.save(path)
    more = ("--mask", path, "--epochs", 1)
    result = fit(toy_images.train, toy_images.train_table, tmp_path / "run", *more)
    assert result.exit_code == 0, result.output
    saved = LabelMatrix.load(tmp_path / "run" / "known.safetensors")
    assert saved.checksum() == matrix.checksum() == card_checksum(tmp_path / "run")


def test_options_that_exclude_each_other(toy_images: ToyImages, tmp_path: Path) -> None:
    labels = (("--known", 0.5), ("--single-positive",), ("--quota", 1, 1), ("--mask", "m.pt"))
    for first, second in combinations(labels, 2):
        result = fit(toy_images.train, toy_images.train_table, tmp_path / "run", *first, *second)
        assert result.exit_code == 2 and not (tmp_path / "run").exists()
        said = "give at most one of --known, --single-positive, --quota and --mask"
        assert said in " ".join(result.stderr.replace("│", " ").split())
    result = fit(
        toy_images.train, toy_images.train_table, tmp_path / "run", "--test-images", toy_images.test
    )
    assert result.exit_code == 2 and not (tmp_path / "run").exists()
    result = fit(toy_images.train, toy_images.train_table, tmp_path / "run", "--quota", 1)
    assert result.exit_code == 2 and "--quota" in result.stderr


def test_a_run_is_never_overwritten(toy_images: ToyImages, finished_run: Path) -> None:
    result = fit(toy_images.train, toy_images.train_table, finished_run)
    assert result.exit_code == 1
    assert result.stderr.endswith(
        f"Error: {finished_run} holds a run already (model.json); choose another folder\n"
    )


# Broken input -----------------------------------------------------------------------------------


def table(text: str) -> Callable[[Path], None]:
    return lambda root: (root / "labels.csv").write_text(text, "utf-8") and None


def cut_off(root: Path) -> None:
    file = root / "photos" / "001.png"
    file.write_bytes(file.read_bytes()[:-40])


def zero_bytes(root: Path) -> None:
    (root / "photos" / "001.png").write_bytes(b"")


def bomb(root: Path) -> None:
    """A PNG of a few bytes that says it is 60,000 x 60,000."""
    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = [
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in ((b"IHDR", head), (b"IDAT", zlib.compress(b"")))
    ]
    (root / "photos" / "001.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


def nothing(root: Path) -> None:
    """Only the options are wrong."""


GOOD = "image,red,blue\n000.png,1,0\n001.png,0,1\n002.png,,1\n003.png,1,\n"
BROKEN = {
    "no such folder": (nothing, ("--images", "nowhere"), "nowhere does not exist"),
    "no such table": (nothing, ("--labels", "nothing.csv"), "nothing.csv"),
    "empty table": (table(""), (), "labels.csv"),
    "no rows": (table("image,red\n"), (), "labels.csv"),
    "missing image": (table(GOOD + "0O4.png,1,1\n"), (), "0O4.png"),
    "no label": (table(GOOD.replace("001.png,0", "001.png,maybe")), (), "line 3, column 'red'"),
    "minus one": (table(GOOD.replace("001.png,0", "001.png,-1")), (), "minus_one="),
    "category twice": (table(GOOD.replace("blue", "red")), (), "'red'"),
    "image twice": (table(GOOD + "001.png,1,1\n"), (), "line 6: image '001.png' is in line 3"),
    "contradiction": (
        table("image,present,absent\n000.png,red,blue\n001.png,red;blue,red\n"),
        (),
        "line 3: 'red' is both present and absent",
    ),
    "blank not said": (table("image,present\n000.png,red\n001.png,\n"), (), "blank="),
    "unknown category": (nothing, ("--categories", "names.txt"), "has no column 'rde'; did you"),
    "zero bytes": (zero_bytes, (), "001.png is empty (0 bytes)"),
    "cut off": (cut_off, (), "001.png is damaged or cut off"),
    "bomb": (bomb, (), "001.png is too large"),
    "unknown setting": (nothing, ("--set", "training.epoch=3"), "did you mean training.epochs"),
    "setting out of range": (nothing, ("--set", "losses.clip=2"), "setting losses.clip = 2"),
    "unknown preset": (nothing, ("--preset", "paper2"), "paper2"),
    "share out of range": (nothing, ("--known", "10"), "write 0.1"),
    "quota of nothing": (nothing, ("--quota", 0, 0), "not both 0, but 0 and 0 were given"),
    "no such mask": (nothing, ("--mask", "mask.pt"), "cannot read mask.pt: No such file"),
    "mask of other images": (
        lambda root: LabelMatrix(torch.ones(3, 2) > 0, torch.ones(3, 2) > 0).save(root / "m.st"),
        ("--mask", "m.st"),
        "m.st has 3 rows, but the data has 4 images",
    ),
    "unknown encoder": (nothing, ("--encoder", "nowhere.py:make"), "nowhere.py"),
    "test lacks a category": (
        nothing,
        ("--test-images", "photos", "--test-labels", "half.csv"),
        "has no column 'blue'",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_input_is_one_line_and_leaves_nothing(
    name: str, toy_images: ToyImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for number in range(4):
        image = f"{number:03}.png"
        (Path("photos") / image).write_bytes((toy_images.train / image).read_bytes())
    Path("labels.csv").write_text(GOOD, "utf-8")
    Path("half.csv").write_text("image,red\n000.png,1\n", "utf-8")
    Path("names.txt").write_text("rde\nblue\n", "utf-8")
    damage, more, expected = BROKEN[name]
    damage(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    result = fit(Path("photos"), Path("labels.csv"), Path("runs/new"), *more)
    assert (result.exit_code, result.stdout) == (1, "")
    lines = result.stderr.splitlines()
    *said, error = lines
    assert error.startswith("Error: ") and expected in error
    # Where the table was read, one line says how; a broken picture comes to light after it.
    assert all("images, " in line for line in said) and len(said) <= 1
    assert "unexpected" not in lines[0]
    assert sorted(tmp_path.rglob("*")) == before


def test_unreadable_images_are_left_out_and_listed_when_asked(
    toy_images: ToyImages, tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(4):
        image = f"{number:03}.png"
        (photos / image).write_bytes((toy_images.train / image).read_bytes())
    table(GOOD)(tmp_path)
    zero_bytes(tmp_path)
    out = tmp_path / "run"
    result = fit(photos, tmp_path / "labels.csv", out, "--on-bad-image", "skip", "--known", 1)
    assert result.exit_code == 0, result.output
    assert "Warning: 1 unreadable images left out, listed in skipped.json" in result.stderr
    (row,) = json.loads((out / "skipped.json").read_text("utf-8"))
    assert row["name"] == str(photos / "001.png") and "0 bytes" in row["reason"]


# Stopping and continuing ------------------------------------------------------------------------

SLOW = """
import os, time
from tests.toy import ToyEncoder

class Slow(ToyEncoder):
    '''The toy, which goes no further once the file TOY_STOPS_AT has a line.'''

    def project(self, hidden_patches):
        log = os.environ.get("TOY_STOPS_AT")
        while log and os.path.isfile(log) and os.path.getsize(log):
            time.sleep(1)
        return super().project(hidden_patches)
"""


def test_a_run_that_was_killed_continues_to_the_same_bits(
    toy_images: ToyImages, tmp_path: Path
) -> None:
    door = tmp_path / "slow.py"
    door.write_text(SLOW, "utf-8")
    spec, whole, killed = f"{door}:Slow", tmp_path / "whole", tmp_path / "killed"
    data = (toy_images.train, toy_images.train_table)
    assert fit(*data, whole, encoder=spec).exit_code == 0

    command = ["fit", "--images", data[0], "--labels", data[1], "--out", killed, "--encoder", spec]
    log, state = killed / "log.jsonl", killed / "state.safetensors"
    process = subprocess.Popen(
        [sys.executable, "-m", "trmml", *map(str, (*command, *SETTINGS))],
        env={**os.environ, "TOY_STOPS_AT": str(log)},
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 300
    while not (log.is_file() and log.read_text("utf-8") and state.is_file()):
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline, "it finished no epoch"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed / "model.json").exists()

    refused = fit(*data, killed, encoder=spec)
    assert refused.exit_code == 1 and "continue it with --resume" in refused.stderr
    changed = fit(*data, killed, "--resume", "--known", 0.5, encoder=spec)
    assert changed.exit_code == 1 and "the labels or the images are others" in changed.stderr
    resumed = fit(*data, killed, "--resume", encoder=spec)
    assert resumed.exit_code == 0, resumed.output
    epochs = [line for line in resumed.stderr.splitlines() if line.startswith("epoch ")]
    assert "epoch 3/3" in resumed.stderr and not [e for e in epochs if e.startswith("epoch 1/")]
    names = ("model.safetensors", "held_out.safetensors", "pseudo.safetensors")
    for name in names:
        assert (killed / name).read_bytes() == (whole / name).read_bytes()
    assert not state.exists()


def test_ctrl_c_says_how_to_continue(
    toy_images: ToyImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = sys.modules["trmml.training.fit"]
    original = module._write_log
    calls = []

    def interrupted(*args: object) -> None:
        original(*args)
        calls.append(args)
        if len(calls) == 2:  # the first is before training
            raise KeyboardInterrupt

    monkeypatch.setattr(module, "_write_log", interrupted)
    result = fit(toy_images.train, toy_images.train_table, tmp_path / "run")
    assert result.exit_code == 130
    last = result.stderr.splitlines()[-1]
    assert last == "Interrupted. The same command with --resume continues."
