"""`trmml complete`: files, lines, and what is refused."""

import json
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner, Result

from tests.cli.test_review import journal
from tests.conftest import TOY_SPEC, ToyImages
from trmml.cli.main import app
from trmml.curation.answers import Answers
from trmml.storage.hashes import hash_file


@pytest.fixture
def table(toy_images: ToyImages, tmp_path: Path) -> Path:
    """A table with a blank in each row, a column of notes and a category that the run lacks."""
    lines = toy_images.train_table.read_text().splitlines()
    path = tmp_path / "labels.csv"
    rows = [line.rsplit(",", 1)[0] + ",,why not,1" for line in lines[1:]]
    path.write_text("\n".join([lines[0] + ",note,violet", *rows]) + "\n")
    return path


def _complete(run: Path, images: Path, table: Path, out: Path, *more: str) -> Result:
    where = ("--images", str(images), "--labels", str(table), "--out", str(out))
    return CliRunner().invoke(
        app, ["complete", str(run), *where, "--encoder", TOY_SPEC, *more], catch_exceptions=False
    )


def test_a_copy_with_blanks_filled(
    finished_run: Path, toy_images: ToyImages, table: Path, tmp_path: Path
) -> None:
    before, why = hash_file(table), tmp_path / "why.parquet"
    out = tmp_path / "new.csv"
    more = ("--accept", "all", "--provenance", str(why))
    result = _complete(finished_run, toy_images.train, table, out, *more)
    assert result.exit_code == 0, result.output
    assert "48 open" in result.stdout and "check before you trust it" in result.stdout
    assert "of 2 columns the run knows nothing; they stay: note, violet" in result.stderr
    old, new = (path.read_text().splitlines() for path in (table, out))
    assert hash_file(table) == before and old[0] == new[0]
    for one, other in zip(old[1:], new[1:], strict=True):
        assert other in (one.replace(",,", ",1,"), one.replace(",,", ",0,"))
    reasons = pl.read_parquet(why)
    assert reasons.height == 48 and set(reasons["category"]) == {"yellow"}
    assert set(reasons["decided"]) <= {"present", "absent"}
    assert reasons["probability"].is_between(0, 1).all()


def test_answers_count_before_the_table_and_are_written(
    finished_run: Path, toy_images: ToyImages, table: Path, tmp_path: Path
) -> None:
    before, out, answers = hash_file(table), tmp_path / "new.csv", tmp_path / "answers.sqlite"
    rows = journal(answers, ("000.png", "yellow", "present"), ("001.png", "yellow", "absent"))
    answers.unlink()
    with Answers(answers) as kept:
        kept.add([r._replace(sha256=hash_file(toy_images.train / r.image)) for r in rows])
    more = ("--accept", "sure=0.999999", "--answers", str(answers))
    result = _complete(finished_run, toy_images.train, table, out, *more)
    assert result.exit_code == 0, result.output
    assert "46 open" in result.stdout and hash_file(table) == before
    old, new = (path.read_text().splitlines() for path in (table, out))
    assert new[1] == old[1].replace(",,", ",1,") and new[2] == old[2].replace(",,", ",0,")


def test_what_people_disagree_about_stays_open_in_forms_that_can_say_so(
    finished_run: Path, toy_images: ToyImages, table: Path, tmp_path: Path
) -> None:
    # Blanks mean absent, so all is known but the pair that two people answered otherwise.
    answers, out = tmp_path / "answers.sqlite", tmp_path / "new.csv"
    rows = journal(answers, *[("000.png", "yellow", said) for said in ("present", "absent")])
    answers.unlink()
    with Answers(answers) as kept:
        sha256 = hash_file(toy_images.train / "000.png")
        kept.add([r._replace(sha256=sha256, who=r.answer or "") for r in rows])
    more = ("--accept", "sure=0.999999", "--answers", str(answers), "--blank", "absent")
    result = _complete(finished_run, toy_images.train, table, out, *more)
    assert result.exit_code == 1 and "Take --format long" in result.stderr
    result = _complete(finished_run, toy_images.train, table, out, *more, "--format", "long")
    assert result.exit_code == 0 and "1 open" in result.stdout, result.output


def test_probabilities_without_a_rule(
    finished_run: Path, toy_images: ToyImages, table: Path, tmp_path: Path
) -> None:
    out = tmp_path / "new.jsonl"
    result = _complete(finished_run, toy_images.train, table, out, "--json")
    report = json.loads(result.stdout)
    assert report["open"] == 48 and report["present"] == report["absent"] == 0
    assert report["others"] == ["note", "violet"]
    first = json.loads(out.read_text().splitlines()[0])
    assert list(first["probabilities"]) == ["yellow"] and first["image"] == "000.png"
    assert len(first["present"]) + len(first["absent"]) == 3


def test_lists(finished_run: Path, toy_images: ToyImages, table: Path, tmp_path: Path) -> None:
    out = tmp_path / "new.csv"
    more = ("--accept", "all", "--format", "long")
    _complete(finished_run, toy_images.train, table, out, *more)
    again = tmp_path / "again.csv"
    result = _complete(finished_run, toy_images.train, out, again, "--accept", "all")
    assert result.exit_code == 1 and "nothing is left to complete" in result.stderr
    assert not again.exists()


def test_a_table_is_written_as_it_was_read(
    finished_run: Path, toy_images: ToyImages, table: Path, tmp_path: Path
) -> None:
    names, lists, out = tmp_path / "names.txt", tmp_path / "lists.csv", tmp_path / "new.csv"
    run_names = toy_images.train_table.read_text().split("\n")[0].split(",")[1:]
    names.write_text("\n".join(run_names))
    lists.write_text(table.read_text().replace(",note,", ",tags,"))
    more = ("--accept", "all", "--categories", str(names))
    result = _complete(finished_run, toy_images.train, lists, out, *more)
    assert result.exit_code == 0, result.output
    assert out.read_text().splitlines()[0] == lists.read_text().splitlines()[0]
    rows = [line.split(",")[:5] for line in table.read_text().splitlines()[1:]]
    bare = [",".join([image, *cells[:3], "-1"]) for image, *cells in rows]
    lists.write_text("\n".join(bare))
    out.unlink()
    more = (*more, "--minus-one", "unknown")
    result = _complete(finished_run, toy_images.train, lists, out, *more)
    assert result.exit_code == 0, result.output
    assert out.read_text().splitlines()[0] == "image,present,absent"
    refused = _complete(finished_run, toy_images.train, lists, tmp_path / "no.csv")
    assert "line 1 names an image, so it has no header" in refused.stderr


def test_what_is_refused(
    finished_run: Path, toy_images: ToyImages, table: Path, tmp_path: Path
) -> None:
    out, images, run = tmp_path / "new.csv", toy_images.train, finished_run
    for result, message in (
        (_complete(run, images, table, table), "is the table itself, which is never written"),
        (_complete(run, images, table, out, "--accept", "sure=95"), "no percentage"),
        (_complete(run, images, table, tmp_path / "new.xlsx"), "would be no spreadsheet"),
        (_complete(run, images, toy_images.train_table, out), "nothing is left to complete"),
        (_complete(run, images, table, out, "--blank", "absent"), "nothing is left to complete"),
    ):
        assert result.exit_code == 1 and message in result.stderr
        assert not out.exists()
    there = tmp_path / "there.csv"
    there.write_text("mine")
    assert "is there already" in _complete(run, images, table, there).stderr
    assert there.read_text() == "mine"
    kept = table.read_bytes()
    for target, words in ((table, "is the table itself"), (there, "is there already")):
        refused = _complete(run, images, table, out, "--provenance", str(target))
        assert refused.exit_code == 1 and words in refused.stderr and not out.exists()
    assert table.read_bytes() == kept and there.read_text() == "mine"
    both = _complete(run, images, table, out, "--provenance", str(out))
    assert both.exit_code == 2 and "name two files" in both.stderr
    nowhere = _complete(run, images, table, tmp_path / "no" / "new.csv")
    assert nowhere.exit_code == 2 and "there is no folder" in nowhere.stderr
