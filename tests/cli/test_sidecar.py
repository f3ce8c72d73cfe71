"""`trmml sidecar`: where words come from, what is told, and the way back into a table."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tests.cli.test_imports import LIGHT, imported
from tests.conftest import TOY_SPEC
from tests.exchange.test_sidecars import OLD, image, packet, tree
from trmml.cli.main import app
from trmml.curation.answers import Answer, Answers, new_id, now
from trmml.datasets.formats.folder import read_folder
from trmml.exchange import keyword_table
from trmml.exchange.readers import HIERARCHY, SUBJECT, TAGS
from trmml.exchange.splice import OWN
from trmml.storage.hashes import hash_file


def run(*args: object) -> Result:
    return CliRunner().invoke(app, ["sidecar", *map(str, args)])


def good(*args: object) -> dict[str, object]:
    result = run(*args, "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, object] = json.loads(result.stdout)
    return found


@pytest.fixture
def photos(tmp_path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two images, one in a folder below, and a table of their labels."""
    monkeypatch.chdir(tmp_path)
    image(tmp_path / "photos", "a.jpg", "Sea")
    image(tmp_path / "photos" / "below", "b.jpg")
    Path("labels.csv").write_text("image,dog,cat\na.jpg,1,0\nbelow/b.jpg,,1\n")
    return tmp_path / "photos"


def test_a_table_goes_into_sidecars_and_back_with_blanks_unknown(photos) -> None:
    before = tree(photos)
    done = good("write", photos, "--from", "labels.csv")
    assert len(done["written"]) == 2 and before.items() <= tree(photos).items()  # type: ignore[arg-type]
    assert packet(photos / "a.jpg.xmp").words(SUBJECT) == ["Sea", "dog"]
    assert good("write", photos, "--from", "labels.csv")["unchanged"] == 2
    good("read", photos, "--out", "all.csv", "--ours", "include", "--embedded")
    data = read_folder(photos, "all.csv")
    assert data.category_names == ("Sea", "cat", "dog")
    assert data.matrix.known.tolist() == [[True, False, True], [False, True, False]]
    assert bool(data.matrix.labels[data.matrix.known].all())
    people = good("read", photos, "--out", "people.csv", "--embedded")
    assert people["categories"] == 1 and people["left_out"] == 2
    good("undo")
    assert tree(photos) == before


def test_our_words_are_told_apart_without_a_ledger(photos) -> None:
    good("write", photos, "--from", "labels.csv", "--under", "AI")
    assert packet(photos / "a.jpg.xmp").words(HIERARCHY) == ["Sea", "AI|dog"]
    Path("sidecars.jsonl").unlink()
    assert good("read", photos, "--out", "a.csv", "--under", "AI")["left_out"] == 2
    for each in photos.rglob("*.xmp"):
        each.unlink()
    good("write", photos, "--from", "labels.csv", "--provenance")
    assert packet(photos / "a.jpg.xmp").words(OWN)[0].startswith("dog||")
    Path("sidecars.jsonl").unlink()
    found = good("read", photos, "--out", "b.csv", "--format", "wide")
    assert (
        found["categories"] == 1
        and Path("b.csv").read_text() == "image,Sea\na.jpg,1\nbelow/b.jpg,\n"
    )


@pytest.mark.parametrize("words", [["salt, pepper", "a;b"], ["[x]"], ["Dog", "dog"]])
def test_words_that_lists_could_part_come_back(photos, words: list[str]) -> None:
    items = "".join(f"<rdf:li>{word}</rdf:li>" for word in words)
    (photos / "a.jpg.xmp").write_text(OLD.replace("<rdf:li>Beach</rdf:li>", items))
    good("read", photos, "--out", "t.csv")
    assert set(read_folder(photos, "t.csv").category_names) == {*words} - {"dog"}


def test_a_run_tags_and_what_a_person_denied_is_never_written(
    photos, finished_run, toy_images
) -> None:
    for path in sorted(toy_images.test.iterdir())[:6]:
        shutil.copy(path, photos)
    how = ("--encoder", TOY_SPEC, "--accept", "sure=0.5001", "--device", "cpu")
    good("write", finished_run, photos, *how)
    first = min(photos.glob("*.png.xmp"))
    denied = packet(first).words(SUBJECT)[0]
    good("undo")
    sha256 = hash_file(first.with_suffix(""))
    with Answers("answers.sqlite") as journal:
        journal.add([Answer(new_id(), now(), "", "renamed.png", sha256, denied.upper(), "absent",
                            "unknown", None, "learn", "")])  # fmt: skip
    good("write", finished_run, photos, *how, "--from", "answers.sqlite")
    assert not first.exists() or denied not in packet(first).words(SUBJECT)
    assert list(photos.glob("*.png.xmp"))


def test_a_table_is_completed_by_a_run(photos, finished_run, toy_images) -> None:
    how = ("--encoder", TOY_SPEC, "--accept", "sure=0.5001", "--device", "cpu")
    lines = toy_images.test_table.read_text().splitlines()
    Path("half.csv").write_text("\n".join([lines[0], *(f"{line[:-1]}" for line in lines[1:])]))
    shutil.copytree(toy_images.test, "copies")
    done = good("write", finished_run, "copies", "--from", "half.csv", *how)
    assert done["written"] and not done["refused"]
    good("undo")
    Path("present.csv").write_text(
        "image,labels\n000.png,red\n001.png,blue\n"
    )  # a blank is unknown
    assert good("write", finished_run, "copies", "--from", "present.csv", *how)["written"]


@pytest.mark.parametrize("rule", ["threshold", "sure=0.5001"])
def test_what_a_table_says_is_written_where_a_run_cannot_read_the_image(
    photos, finished_run, toy_images, rule: str
) -> None:
    header, *lines = toy_images.test_table.read_text().splitlines()
    blanks = "," * header.count(",")
    half = [f"{line.split(',')[0]}{blanks}," for line in lines]  # the run has something to say
    shutil.copytree(toy_images.test, "copies")
    Path("copies/a.nef").write_bytes(b"raw")
    Path("copies/b.png").write_bytes(b"no image")
    more = [f"a.nef{blanks},1", f"b.png{blanks},0"]
    Path("t.csv").write_text("\n".join([f"{header},dog", *half, *more]))
    how = ("--encoder", TOY_SPEC, "--device", "cpu", "--accept", rule, "--from", "t.csv")
    result = run("write", finished_run, "copies", "copies/a.nef", *how, "--json")
    assert result.exit_code == 1, result.output
    refused = json.loads(result.stdout)["refused"]
    assert {Path(name).name for name in refused} == {"a.nef", "b.png"}
    assert packet(Path("copies/a.nef.xmp")).words(SUBJECT) == ["dog"]
    assert not Path("copies/b.png.xmp").exists() and list(Path("copies").glob("*.png.xmp"))


def test_answers_alone_need_no_run(photos) -> None:
    with Answers("answers.sqlite") as journal:
        for category, answer in (("dog", "absent"), ("owl", "present")):
            journal.add([Answer(new_id(), now(), "", "a.jpg", hash_file(photos / "a.jpg"), category,
                                answer, "unknown", None, "learn", "")])  # fmt: skip
    good("write", photos, "--from", "labels.csv", "--from", "answers.sqlite")
    assert packet(photos / "a.jpg.xmp").words(TAGS) == ["Sea", "owl"]


def test_a_dry_run_prints_diffs_and_writes_nothing(photos, tmp_path) -> None:
    (photos / "a.jpg.xmp").write_text(OLD)
    before = tree(tmp_path)
    done = run("write", photos, "--from", "labels.csv", "--dry-run")
    assert done.exit_code == 0 and "+    <rdf:li>dog</rdf:li>" in done.stdout.replace(
        "     <", "    <"
    )
    assert tree(tmp_path) == before


def test_a_dry_run_as_json_is_one_object(photos, tmp_path) -> None:
    (photos / "a.jpg.xmp").write_text(OLD)
    before = tree(tmp_path)
    done = good("write", photos, "--from", "labels.csv", "--dry-run")
    one, two = (str(photos / name) for name in ("a.jpg.xmp", "below/b.jpg.xmp"))
    assert done["written"] == [one, two] and done["created"] == [two] and done["unchanged"] == 0
    assert "dog</rdf:li>" in done["diffs"][one] and tree(tmp_path) == before  # type: ignore[index]


def test_an_empty_list_on_stdin_is_not_taken_for_all(photos) -> None:
    good("write", photos, "--from", "labels.csv")
    before = tree(photos)
    for words in (["undo"], ["read", "--out", "t.csv"], ["write", "--from", "labels.csv"]):
        result = CliRunner().invoke(app, ["sidecar", words[0], "-", *words[1:]], input="")
        assert result.exit_code == 2 and "reads names from stdin, and there is none" in " ".join(
            result.stderr.replace("│", " ").split()
        )
    assert tree(photos) == before and not Path("t.csv").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--accept", "sure=0.9"], "--accept goes with a run"),
        (["--encoder", "bundled"], "--encoder goes with a run"),
        (["--device", "cpu"], "--device goes with a run"),
        (["--on-bad-image", "error"], "--on-bad-image goes with a run"),
        (["--csv", "new.csv"], "--csv goes with --for lightroom"),
        (["--for", "lightroom", "--csv", "labels.csv"], "labels.csv is there already"),
    ],
)
def test_what_would_do_nothing_is_refused_before_a_sidecar_is_written(
    photos, words: list[str], said: str
) -> None:
    before = tree(photos.parent)
    result = run("write", photos, "--from", "labels.csv", *words)
    assert result.exit_code in (1, 2) and tree(photos.parent) == before
    assert said in " ".join(result.stderr.replace("│", " ").split())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--blank", "absent"], "--blank explains a table: --from TABLE"),
        (["--from", "answers.sqlite", "--separator", ";"], "--separator explains a table"),
        (["--from", "labels.csv", "--accept", "sure=0.9", "--precision", "fp32"], "goes with tags"),
    ],
)
def test_what_would_do_nothing_beside_a_run_is_refused(
    photos, finished_run, words: list[str], said: str
) -> None:
    Answers("answers.sqlite").close()
    before = tree(photos)
    result = run("write", finished_run, photos, *words)
    assert result.exit_code == 2 and tree(photos) == before
    assert said in " ".join(result.stderr.replace("│", " ").split())


def test_a_parallel_tree_leaves_the_archive_alone(photos) -> None:
    (photos / "a.jpg.xmp").write_text(OLD)
    before = tree(photos)
    good("write", photos, "--from", "labels.csv", "--to", "out")
    assert tree(photos) == before and Path("out/below/b.jpg.xmp").is_file()
    assert packet(Path("out/a.jpg.xmp")).words(SUBJECT) == ["Beach", "dog"]


def test_pairs_and_lightroom(photos) -> None:
    (photos / "a.CR2").write_bytes(b"raw")
    good("write", photos, "--from", "labels.csv", "--pairs", "--naming", "lightroom")
    assert packet(photos / "a.jpg.xmp").words(SUBJECT) == ["Sea", "dog"]
    assert packet(photos / "a.xmp").words(SUBJECT) == ["dog"]
    good("undo", "photos/../photos")
    again = run("undo", "photos")
    assert again.exit_code == 0 and "nothing more, of 1 of the names: photos" in again.output
    done = good("write", photos, "--from", "labels.csv", "--for", "lightroom", "--csv", "l.csv")
    assert not list(photos.rglob("*.xmp")) and str(done["exiftool"]).startswith(
        "exiftool -sep '##'"
    )
    assert Path("l.csv").read_text().splitlines()[1:] == ["a.jpg,dog,dog", "below/b.jpg,cat,cat"]


def test_the_sidecar_of_a_raw_file_is_left_alone_and_told_of(photos) -> None:
    (photos / "a.NEF").write_bytes(b"raw")
    (photos / "a.xmp").write_text(OLD)
    result = run("write", photos, "--from", "labels.csv")
    assert result.exit_code == 0 and (photos / "a.xmp").read_text() == OLD
    assert "1 sidecars of raw files" in result.stderr and "a.xmp, are left alone" in result.stderr
    assert packet(photos / "a.jpg.xmp").words(SUBJECT) == ["Sea", "dog"]
    result = run("read", photos, "--out", "t.csv", "--format", "wide")
    assert "a.xmp, count for these images, too" in result.stderr
    assert Path("t.csv").read_text() == "image,Beach,Sea\na.jpg,1,1\nbelow/b.jpg,,\n"
    good("write", photos, "--from", "labels.csv", "--pairs")
    assert packet(photos / "a.xmp").words(SUBJECT) == ["Beach", "dog"]
    good("undo")
    assert (photos / "a.xmp").read_text() == OLD and not list(photos.rglob("*.jpg.xmp"))


def test_the_table_for_lightroom_names_each_image_apart(photos) -> None:
    image(photos / "other", "b.jpg")
    Path("labels.csv").write_text("image,dog,cat\nbelow/b.jpg,1,\nother/b.jpg,,1\n")
    files = (photos / "below/b.jpg", photos / "other/b.jpg")
    words = ("--from", "labels.csv", "--for", "lightroom", "--csv")
    done = good("write", *files, *words, "l.csv")
    assert Path("l.csv").read_text().splitlines()[1:] == [
        "below/b.jpg,dog,dog",
        "other/b.jpg,cat,cat",
    ]
    assert done["exiftool_folder"] == str(photos)
    assert f"in a copy of {photos}, run" in run("write", *files, *words, "m.csv").stdout


@pytest.mark.skipif(not shutil.which("exiftool"), reason="exiftool is not installed")
def test_exiftool_takes_the_table_for_lightroom(photos) -> None:
    command = good("write", photos, "--from", "labels.csv", "--for", "lightroom", "--csv", "l.csv")
    subprocess.run(
        str(command["exiftool"]), shell=True, cwd=photos, check=True, capture_output=True
    )
    said = subprocess.run(["exiftool", "-j", "-Subject", photos / "a.jpg"], capture_output=True)
    assert json.loads(said.stdout)[0]["Subject"] == ["Sea", "dog"]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("write", "photos"), "give the folder of a run and images"),
        (("write", "photos", "photos"), "holds no trained model"),
        (("write", "photos", "--from", "none.csv"), "cannot read none.csv"),
        (("write", "photos/below", "--from", "other.csv"), "says nothing of the 1 images"),
        (
            ("write", "photos", "--from", "labels.csv", "--for", "picasa"),
            "expected names of digikam",
        ),
        (("write", "photos", "--from", "labels.csv", "--under", "a|b"), "holds |"),
        (("read", "photos/below", "--out", "t.csv"), "none of the 1 images has a keyword"),
        (("read", "photos", "--out", "labels.csv", "--embedded"), "nothing is written over"),
        (("read", "photos", "--out", "t.csv", "--ledger", "none.jsonl"), "there is no ledger"),
        (("undo",), "cannot read sidecars.jsonl"),
    ],
)
def test_errors_say_what_to_do(photos, args: tuple[str, ...], words: str) -> None:
    Path("other.csv").write_text("image,dog\nx.jpg,1\n")
    result = run(*args)
    assert result.exit_code in (1, 2) and words in " ".join(result.output.split()), result.output
    assert not list(photos.rglob("*.xmp"))


@pytest.mark.parametrize("word", ["image", "Tags", "labels", "present", "split", "absent", "path"])
def test_a_keyword_that_tables_have_as_a_column_is_refused_or_comes_back(photos, word) -> None:
    (photos / "a.jpg.xmp").write_text(OLD.replace("Beach", word))
    result = run("read", photos, "--out", "wide.csv", "--format", "wide", "--embedded")
    if result.exit_code == 0:
        assert word in ("absent", "path")
        assert {*read_folder(photos, "wide.csv").category_names} == {"Sea", word}
    else:
        assert f"the keywords '{word}' cannot be columns" in result.stderr
        assert "--format long" in result.stderr and not Path("wide.csv").exists()
    good("read", photos, "--out", "long.csv", "--embedded")
    assert {*read_folder(photos, "long.csv").category_names} == {"Sea", word}


def test_a_table_that_is_there_is_refused_before_an_image_is_read(photos, monkeypatch) -> None:
    def read(*_: object, **__: object) -> None:
        raise AssertionError("images are read")

    monkeypatch.setattr(keyword_table, "read_keywords", read)
    result = run("read", photos, "--out", "labels.csv", "--embedded")
    assert result.exit_code == 1 and "labels.csv is there already" in result.stderr


def test_a_name_that_no_field_can_hold_is_told_and_the_others_are_written(photos) -> None:
    Path("labels.csv").write_text("image,a|b,dog\na.jpg,1,1\n")
    result = run("write", photos, "--from", "labels.csv")
    assert result.exit_code == 1 and "the name 'a|b' holds |" in result.output
    assert packet(photos / "a.jpg.xmp").words(TAGS) == ["Sea", "dog"]


def test_images_of_one_sidecar_are_named(photos) -> None:
    image(photos, "a.png")
    Path("labels.csv").write_text("image,dog,cat\na.jpg,1,\na.png,,1\n")
    (photos / "a.xmp").write_text(OLD)
    for words in (("write", photos, "--from", "labels.csv"), ("read", photos, "--out", "t.csv")):
        result = run(*words)
        assert result.exit_code == 0
        assert "a.xmp is the sidecar of several images (a.jpg, a.png)" in result.output
    result = run("undo")
    assert result.exit_code == 0 and (photos / "a.xmp").read_text() == OLD, result.output
    good("write", photos, "--from", "labels.csv", "--to", "out")


def test_reading_and_undoing_import_no_torch(photos) -> None:
    good("write", photos, "--from", "labels.csv")
    assert imported(["sidecar", "read", photos, "--out", "t.csv", "--embedded"]) <= LIGHT
    assert imported(["sidecar", "undo"]) <= LIGHT
