"""Labelled images that fit and evaluate take by name, from COCO's JSON, or keep aside."""

import csv
import json
from pathlib import Path

import pytest

from tests.cli.test_fit import SETTINGS
from tests.cli.test_main import good, run
from tests.conftest import TOY_SPEC, ToyImages

QUICK = ("--encoder", TOY_SPEC, *SETTINGS, "--epochs", "1", "--json")


def coco(table: Path, path: Path) -> Path:
    """The same labels in COCO's form."""
    rows = list(csv.DictReader(table.read_text("utf-8").splitlines()))
    names = [name for name in rows[0] if name != "image"]
    annotations = [
        {"image_id": index, "category_id": names.index(name)}
        for index, row in enumerate(rows)
        for name in names
        if row[name] == "1"
    ]
    tree = {
        "images": [{"id": i, "file_name": row["image"]} for i, row in enumerate(rows)],
        "categories": [{"id": i, "name": name} for i, name in enumerate(names)],
        "annotations": annotations,
    }
    path.write_text(json.dumps(tree), "utf-8")
    return path


@pytest.fixture
def named(toy_images: ToyImages, tmp_path: Path) -> Path:
    """A data set of the form `folder` without a test set."""
    root = tmp_path / "set"
    root.mkdir()
    (root / "images").symlink_to(toy_images.train)
    (root / "train.csv").write_bytes(toy_images.train_table.read_bytes())
    return root


def test_a_set_by_name_without_a_test_set(named: Path, tmp_path: Path) -> None:
    result = run("fit", "--data", "folder", named, "--out", tmp_path / "run", *QUICK)
    assert result.exit_code == 0, result.output
    assert f"{named} has no test set." in result.stderr and "--test-share" in result.stderr
    assert json.loads(result.stdout)["images"] == 48


def test_a_set_by_name_with_a_test_set(named: Path, toy_images: ToyImages, tmp_path: Path) -> None:
    rows = toy_images.train_table.read_text("utf-8").splitlines()
    (named / "train.csv").write_text("\n".join(rows[:41]), "utf-8")
    (named / "test.csv").write_text("\n".join([rows[0], *rows[41:]]), "utf-8")
    tree = json.loads(good("fit", "--data", "folder", named, "--out", tmp_path / "run", *QUICK))
    assert tree["images"] == 40 and "trmml" in tree["methods"]
    scored = json.loads(
        good("evaluate", tmp_path / "run", "--trust", "--data", "folder", named, "--json")
    )
    assert scored["images"] == 8
    more = ("--data", "folder", named, "--split", "train", "--json")
    assert json.loads(good("evaluate", tmp_path / "run", "--trust", *more))["images"] == 40


def test_evaluate_names_the_split_that_is_there(named: Path, finished_run: Path) -> None:
    result = run("evaluate", finished_run, "--trust", "--data", "folder", named)
    assert result.exit_code == 1 and "--split train" in result.stderr


@pytest.mark.parametrize("command", ["evaluate", "complete"])
def test_a_split_of_a_table_is_refused(
    toy_images: ToyImages, finished_run: Path, tmp_path: Path, command: str
) -> None:
    table = ("--images", toy_images.test, "--labels", toy_images.test_table, "--trust")
    out = ("--out", tmp_path / "new.csv") if command == "complete" else ()
    result = run(command, finished_run, *table, "--split", "test", *out)
    assert result.exit_code == 2 and not (tmp_path / "new.csv").exists()
    assert "--split goes with --data" in " ".join(result.stderr.replace("│", " ").split())


def test_one_coco_file_and_a_share_kept_aside(toy_images: ToyImages, tmp_path: Path) -> None:
    labels = coco(toy_images.train_table, tmp_path / "instances.json")
    images = ("--images", toy_images.train, "--labels", labels, "--blank", "absent")
    more = ("--test-share", 0.25, "--out", tmp_path / "run")
    tree = json.loads(good("fit", *images, *more, *QUICK))
    assert tree["images"] == 36 and "trmml" in tree["methods"]


def test_the_same_labels_from_coco_and_from_a_table(toy_images: ToyImages, tmp_path: Path) -> None:
    from trmml import read_folder

    labels = coco(toy_images.train_table, tmp_path / "instances.json")
    one = read_folder(toy_images.train, labels, blank="absent")
    other = read_folder(toy_images.train, toy_images.train_table)
    assert one.images == other.images and one.category_names == other.category_names
    assert one.matrix.checksum() == other.matrix.checksum()
    turned = read_folder(toy_images.train, labels, blank="absent", categories=["blue", "red"])
    assert turned.category_names == ("blue", "red")


@pytest.mark.parametrize(
    "given, said",
    {
        "neither": ((), "give --images and --labels, or --data NAME ROOT"),
        "images alone": (("--images", "x"), "give --images and --labels"),
        "both": (("--images", "x", "--labels", "y", "--data", "folder", "z"), "not both"),
        "a choice of the table": (
            ("--data", "folder", "z", "--blank", "absent"),
            "--data-option NAME=VALUE",
        ),
        "a choice of a set": (
            ("--images", "x", "--labels", "y", "--data-option", "blank=absent"),
            "--data-option goes with --data",
        ),
        "two test sets": (
            ("--test-images", "x", "--test-labels", "y", "--test-share", "0.5"),
            "give --test-share",
        ),
    }.values(),
)
def test_what_excludes_each_other(given: tuple[str, ...], said: str, tmp_path: Path) -> None:
    result = run("fit", *given, "--out", tmp_path / "run")
    assert result.exit_code == 2 and not (tmp_path / "run").exists()
    assert said in " ".join(result.stderr.replace("│", " ").split())
