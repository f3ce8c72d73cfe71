"""`trmml review`: asking, journals, new tables, training again; what is given stays as it was."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.test_main import good, run
from tests.conftest import ToyImages
from trmml.curation.answers import Answer, Answers, new_id, now
from trmml.encoders import load_encoder

TABLE = 'image,red,note,blue\n000.png,1,a,\n001.png, yes ,"b, c",0\n002.png,,,1\n'


def hashes(folder: Path) -> dict[str, str]:
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*")) if path.is_file()}  # fmt: skip


@pytest.fixture
def given(toy_images: ToyImages, tmp_path: Path) -> dict[str, Path]:
    """Images, a table, and where answers go."""
    (tmp_path / "photos").mkdir()
    for name in ("000.png", "001.png", "002.png"):
        shutil.copy(toy_images.train / name, tmp_path / "photos" / name)
    (tmp_path / "labels.csv").write_text("image,red,blue\n000.png,1,\n001.png,1,0\n002.png,,1\n")
    paths = {"images": tmp_path / "photos", "labels": tmp_path / "labels.csv"}
    return {**paths, "answers": tmp_path / "answers.sqlite"}


def words(given: dict[str, Path]) -> list[object]:
    return [word for name, path in given.items() for word in (f"--{name}", path)]


def journal(path: Path, *pairs: tuple[str, str, str]) -> list[Answer]:
    rows = [
        Answer(new_id(), now(), "", image, image, category, answer, "unknown", 0.5, "learn", "")  # type: ignore[arg-type]
        for image, category, answer in pairs
    ]
    with Answers(path) as answers:
        answers.add(rows)
    return rows


def test_ask_keeps_each_answer_and_takes_back(finished_run: Path, given: dict[str, Path]) -> None:
    before = hashes(given["images"]) | hashes(given["labels"].parent)
    text = good("review", "ask", finished_run, *words(given), "--trust", "--mode", "blocks",
                stdin="yxbnu")  # fmt: skip
    assert "y present, n absent" in text
    with Answers(given["answers"]) as answers:
        rows = answers.rows()
    said = [row.answer for row in rows]
    assert said == ["present", None, "absent", "unsure"]
    assert rows[1].undoes == rows[0].id
    assert rows[2][3:6] == rows[0][3:6]  # what was taken back comes again
    assert rows[0].sha256 == before[str(given["images"] / rows[0].image)]
    assert len(rows[0].run) == 12
    text = good("review", "ask", finished_run, *words(given), "--trust", "--mode", "blocks",
                "--top", "1", "--json", stdin="n")  # fmt: skip
    assert json.loads(text)["answers"] == 1
    after = hashes(given["labels"].parent)
    assert {name: after[name] for name in before} == before


def test_ask_about_whole_images(finished_run: Path, given: dict[str, Path]) -> None:
    # An image, taken back; again with all marks turned about; the next is passed over.
    text = good("review", "ask", finished_run, *words(given), "--trust", stdin="\nbacd\nsq")
    with Answers(given["answers"]) as answers:
        rows = answers.rows()
    first = [row for row in rows if row.undoes is None][:3]
    assert [row.undoes for row in rows[3:6]] == [row.id for row in first]
    assert len({row.image for row in rows}) == 1
    opposite = {"present": "absent", "absent": "present"}
    assert [row.answer for row in rows[6:]] == [opposite[str(row.answer)] for row in first]
    assert [row.answer == "present" for row in first] == [(row.p or 0) > 0.5 for row in first]
    assert "letter: present or not" in text
    assert "known: " in text
    assert "3 answers given" in text
    # Marks are still there when a person comes back to an image.
    given["answers"].unlink()
    good("review", "ask", finished_run, *words(given), "--trust", stdin="ac\nb\nq")
    with Answers(given["answers"]) as answers:
        rows = [row for row in answers.rows() if row.undoes is None]
    half = len(rows) // 2
    assert [row.answer for row in rows[:half]] == [row.answer for row in rows[half:]]
    assert any((row.answer == "present") != ((row.p or 0) > 0.5) for row in rows[half:])
    bad = run("review", "ask", finished_run, *words(given), "--mode", "images", "--kind", "both")
    assert (bad.exit_code, "leave --kind and --category out" in bad.stderr) == (2, True)


def test_a_category_that_the_run_lacks_is_told_before_any_image_is_read(
    finished_run: Path, given: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trmml.curation.collection.read_collection", None)
    bad = run("review", "ask", finished_run, *words(given), "--category", "Red")
    assert bad.exit_code == 1 and "no category 'Red'; did you mean 'red'?" in bad.stderr


def test_the_queue_lists_and_asks_nothing(
    finished_run: Path, given: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    plain = {name: given[name] for name in ("images", "labels")}
    lines = good("review", "queue", finished_run, *words(plain), "--trust", "--jsonl").splitlines()
    open_pairs = [tree for line in lines if (tree := json.loads(line))["why"] == "learn"]
    # The run knows two more categories than the table, about which nothing is known.
    assert len(open_pairs) == 2 + 2 * 3
    assert {tree["was"] for tree in open_pairs} == {"unknown"}
    text = good("review", "queue", finished_run, *words(plain), "--trust", "--category", "red")
    assert "worth asking: 1" in text
    assert not given["answers"].exists() and not [*Path().iterdir()]
    bad = run("review", "queue", finished_run, *words(given), "--trust")
    assert (bad.exit_code, "there is no file" in bad.stderr) == (1, True)
    bad = run("review", "queue", finished_run, *words(plain), "--trust", "--category", "pink")
    assert "no category 'pink'" in bad.stderr


def test_the_queue_writes_no_journal(finished_run: Path, given: dict[str, Path]) -> None:
    given["answers"].write_bytes(b"")
    bad = run("review", "queue", finished_run, *words(given), "--trust")
    assert (bad.exit_code, "the file is empty" in bad.stderr) == (1, True)
    assert given["answers"].read_bytes() == b""
    given["answers"].unlink()
    journal(given["answers"], ("000.png", "blue", "present"))
    given["answers"].chmod(0o444)
    before = given["answers"].read_bytes()
    text = good("review", "queue", finished_run, *words(given), "--trust", "--category", "red")
    assert "worth asking: 1" in text and given["answers"].read_bytes() == before


def test_apply_changes_cells_and_no_other_byte(tmp_path: Path) -> None:
    labels, answers = tmp_path / "labels.csv", tmp_path / "a.sqlite"
    labels.write_bytes(b"\xef\xbb\xbf" + TABLE.replace("\n", "\r\n").encode())
    before = labels.read_bytes()
    (tmp_path / "names.txt").write_text("red\nblue\n")
    journal(answers, ("000.png", "blue", "present"), ("001.png", "red", "absent"),
            ("002.png", "red", "absent"), ("other.png", "red", "present"),
            ("000.png", "zebra", "present"))  # fmt: skip
    common = ("review", "apply", "--labels", labels, "--answers", answers)
    common += ("--categories", tmp_path / "names.txt")
    text = good(*common, "--out", tmp_path / "new.csv")
    new = (tmp_path / "new.csv").read_bytes()
    expected = before.replace(b"1,a,\r", b"1,a,1\r").replace(b"002.png,,", b"002.png,0,")
    expected = expected.replace(b" yes ", b"0")
    assert new == expected
    assert labels.read_bytes() == before
    for line in ("3 answered pairs taken", "images that are not here", "'zebra', no category"):
        assert line in text
    assert "001.png: red" in text  # the person saw a blank
    good(*common, "--out", tmp_path / "long.csv", "--format", "long")
    lines = (tmp_path / "long.csv").read_text().splitlines()
    assert lines[:2] == ["image,present,absent", "000.png,red;blue,"]
    bad = run(*common, "--out", labels)
    assert (bad.exit_code, "is there already" in bad.stderr) == (1, True)
    assert labels.read_bytes() == before


def test_apply_writes_the_table_s_own_signs(tmp_path: Path) -> None:
    labels, answers = tmp_path / "labels.csv", tmp_path / "a.sqlite"
    labels.write_text("image;red;blue\na.png;1;0\nb.png;-1;0\n")
    journal(answers, ("a.png", "blue", "absent"), ("b.png", "blue", "present"))
    good("review", "apply", "--labels", labels, "--answers", answers, "--minus-one", "absent",
         "--out", tmp_path / "new.csv")  # fmt: skip
    assert (tmp_path / "new.csv").read_text() == "image;red;blue\na.png;1;-1\nb.png;-1;1\n"


def test_apply_to_a_list_of_names(tmp_path: Path) -> None:
    labels, answers = tmp_path / "labels.csv", tmp_path / "a.sqlite"
    labels.write_text("image,present,absent\na.png,red,blue\nb.png,blue,\n")
    journal(answers, ("a.png", "blue", "present"))
    good("review", "apply", "--labels", labels, "--answers", answers, "--out", tmp_path / "new.csv")
    text = (tmp_path / "new.csv").read_text()
    assert text == "image,blue,red\na.png,1,1\nb.png,1,\n"


@pytest.mark.parametrize(
    ("text", "more", "left_out"),
    [
        ("image,tags,photographer\na.png,red,ann\nb.png,blue,bob\n", (), ["photographer"]),
        ("file,note,label\na.png,x,red\nb.png,y,blue\n", (), ["note"]),
        ("image,red,blue,note\na.png,1,0,x\n", ("--format", "long"), ["note"]),
        ("image,red,blue,note\na.png,1,0,x\n", (), []),  # a copy
        ("image,present,absent\na.png,red,blue\n", (), []),
    ],
)
def test_apply_names_the_columns_that_it_leaves_out(
    tmp_path: Path, text: str, more: tuple[str, ...], left_out: list[str]
) -> None:
    labels, answers, out = tmp_path / "labels.csv", tmp_path / "a.sqlite", tmp_path / "new.csv"
    labels.write_text(text)
    (tmp_path / "names.txt").write_text("red\nblue\n")
    journal(answers, ("a.png", "blue", "present"))
    more = ("--categories", str(tmp_path / "names.txt"), "--blank", "unknown", *more, "--json")
    done = run("review", "apply", "--labels", labels, "--answers", answers, "--out", out, *more)
    assert json.loads(done.stdout)["left_out"] == left_out
    assert (f"left out: {', '.join(left_out)}" in done.stderr) == bool(left_out)
    assert ("note" in out.read_text()) == (text.endswith("x\n") and not left_out)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "labels.json",
            '{"images": [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "b.png"}],'
            ' "categories": [{"id": 1, "name": "blue"}, {"id": 2, "name": "red"}],'
            ' "annotations": [{"image_id": 1, "category_id": 2},'
            ' {"image_id": 2, "category_id": 1}, {"image_id": 2, "category_id": 2}]}',
        ),
        ("labels.json", '{"a.png": ["red"], "b.png": ["red", "blue"]}'),
        ("labels.csv", "a.png,0,1\nb.png,1,1\n"),
    ],
)  # fmt: skip
def test_apply_to_other_forms(tmp_path: Path, name: str, text: str) -> None:
    labels, answers = tmp_path / name, tmp_path / "a.sqlite"
    labels.write_text(text)
    (tmp_path / "names.txt").write_text("blue\nred\n")
    journal(answers, ("a.png", "blue", "present"))
    good("review", "apply", "--labels", labels, "--answers", answers, "--out", tmp_path / "new.csv",
         "--categories", tmp_path / "names.txt", "--blank", "absent")  # fmt: skip
    assert (tmp_path / "new.csv").read_text() == "image,blue,red\na.png,1,1\nb.png,1,1\n"


def test_lines_go_out_and_in(tmp_path: Path) -> None:
    journal(tmp_path / "a.sqlite", ("a.png", "red", "present"), ("a.png", "blue", "skip"))
    lines = tmp_path / "a.jsonl"
    assert "2 rows" in good("review", "export", "--answers", tmp_path / "a.sqlite", "--out", lines)
    for new in (2, 0):
        text = good("review", "import", lines, "--answers", tmp_path / "b.sqlite")
        assert f"2 rows, {new} of them new" in text
    (tmp_path / "bad.jsonl").write_text("{")
    bad = run("review", "import", tmp_path / "bad.jsonl", "--answers", tmp_path / "new.sqlite")
    assert "line 1 is no JSON" in bad.stderr and not (tmp_path / "new.sqlite").exists()
    for there in (lines, tmp_path / "a.sqlite"):
        before = there.read_bytes()
        bad = run("review", "export", "--answers", tmp_path / "a.sqlite", "--out", there)
        assert "is there already" in bad.stderr and there.read_bytes() == before
    bad = run("review", "export", "--answers", lines, "--out", tmp_path / "c.jsonl")
    assert "is no journal of answers" in bad.stderr


def test_learn_and_fit_take_answers_into_the_run_s_card(
    finished_run: Path,
    given: dict[str, Path],
    toy_images: ToyImages,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loaded: list[dict[str, object]] = []

    def load(spec: str, **how: object) -> object:
        loaded.append(how)
        return load_encoder(spec, **how)  # type: ignore[arg-type]

    monkeypatch.setattr("trmml.encoders.load_encoder", load)
    head, *lines = toy_images.train_table.read_text().splitlines()
    half = [line.rpartition(",")[0] + "," if n < 6 else line for n, line in enumerate(lines)]
    given["labels"].write_text("\n".join([head, *half]))
    paths = {**given, "images": toy_images.train}
    good("review", "ask", finished_run, *words(paths), "--trust", "--mode", "blocks", stdin="yynn")
    out, before = tmp_path / "again", hashes(toy_images.train) | {"": given["labels"].read_text()}
    good("review", "learn", finished_run, *words(paths), "--trust", "--out", out, "--device", "cpu")
    scored = good("evaluate", finished_run, *words(paths), "--trust", "--json", "--device", "cpu")
    assert json.loads(scored)["mean_ap"] is not None
    assert loaded[-1].get("text", True)  # to train, prompts are encoded
    assert hashes(toy_images.train) | {"": given["labels"].read_text()} == before
    card = json.loads((out / "model.json").read_bytes())
    table = hashlib.sha256(paths["labels"].read_bytes()).hexdigest()
    assert card["data"]["sources"]["labels"] == table
    assert len(card["data"]["sources"]["answers"]) == 64
    first = json.loads((finished_run / "model.json").read_bytes())
    assert card["settings"] == first["settings"]
    pairs = len(lines) * len(first["category_names"])
    assert card["data"]["known_share"] == pytest.approx(1 - 2 / pairs)
    names = head.split(",")[1:]
    cells = [f"{each.split(',')[0]},{n % 2},0" for n, each in enumerate(lines)]
    shared = "\n".join([f"image,{names[0]},a kite", *cells])
    paths["labels"].write_text(shared)
    other = ("learn", finished_run, *words(paths), "--trust", "--out", tmp_path / "other")
    told = run("review", *other, "--device", "cpu").stderr
    assert "1 categories are new to the run, first 'a kite'" in told
    assert f"{len(names) - 1} categories of the run are not in" in told
    paths["labels"].write_text(shared.replace(names[0], "a boat", 1))
    bad = run("review", *other[:-1], tmp_path / "third")
    assert bad.exit_code == 2 and "none of the" in bad.stderr
    assert not (tmp_path / "third").exists()


@pytest.mark.slow
def test_the_example_goes_round_the_loop(tmp_path: Path) -> None:
    example = Path(__file__).parents[2] / "examples" / "review_loop.py"
    command = [sys.executable, str(example), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    known = [line.split("%")[0] for line in done.stdout.splitlines() if " known: mAP " in line]
    assert len(known) == 2
    assert int(known[1]) > int(known[0])


@pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")
@pytest.mark.skipif(os.name == "nt", reason="no terminal of that kind there")
def test_arrows_and_function_keys_are_no_letters() -> None:
    import pty

    sequences = {
        "up": "\x1b[A", "right": "\x1bOC", "home": "\x1b[1~", "F5": "\x1b[15~", "F9": "\x1b[20~",
        "F1 of the console": "\x1b[[A", "shift up": "\x1b[1;2A", "alt y": "\x1by",
    }  # fmt: skip
    code = (
        "from trmml.cli.terminal import key\n"
        "for _ in range(2):\n    print(repr(key()), flush=True)\n"
    )
    for name, sequence in sequences.items():
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdin=theirs, stdout=subprocess.PIPE, text=True
        )
        os.close(theirs)
        assert process.stdout is not None
        os.write(ours, sequence.encode())
        assert process.stdout.readline() == "'\\x1b'\n", name
        os.write(ours, b"y")
        assert process.stdout.readline() == "'y'\n", name
        process.wait(60)
        os.close(ours)
        process.stdout.close()


def test_ask_in_a_terminal(finished_run: Path, given: dict[str, Path], tmp_path: Path) -> None:
    tmux = ["tmux", "-S", str(tmp_path / "tmux"), "-f", "/dev/null"]
    command = [sys.executable, "-m", "trmml", "review", "ask", finished_run, *words(given)]
    line = " ".join([*map(str, command), "--trust --mode blocks; echo ended $?; sleep 60"])

    def screen(text: str) -> str:
        for _ in range(600):
            capture = [*tmux, "capture-pane", "-p", "-J"]
            done = subprocess.run(capture, capture_output=True, text=True, check=False)
            if text in done.stdout:
                return done.stdout
            time.sleep(0.1)
        raise AssertionError(f"{text!r} is not on the screen: {done.stdout}")

    environment = {**os.environ, "TERM": "xterm-256color"}
    environment.pop("TMUX", None)
    subprocess.run([*tmux, "new-session", "-d", "-x", "160", "-y", "40", line], check=True,
                   env=environment)  # fmt: skip
    try:
        screen("[1]")
        subprocess.run([*tmux, "send-keys", "y"], check=True)
        screen("[2]")
        subprocess.run([*tmux, "send-keys", "b"], check=True)
        screen("back")
        subprocess.run([*tmux, "send-keys", "n"], check=True)
        screen("absent\n")
        subprocess.run([*tmux, "send-keys", "C-c"], check=True)
        assert "Interrupted. What was answered is in" in screen("ended 130")
    finally:
        subprocess.run([*tmux, "kill-server"], check=False)
    with Answers(given["answers"]) as answers:
        assert [row.answer for row in answers.rows()] == ["present", None, "absent"]
