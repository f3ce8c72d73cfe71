"""The journal: rows are added only, ids count once, undo, disagreement, kills, lines of JSON."""

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch

from trmml.curation import answers as journal
from trmml.curation.answers import (
    Answer,
    Answers,
    Reason,
    Verdict,
    existing,
    new_id,
    now,
)
from trmml.curation.journal_lines import read_lines, write_lines
from trmml.curation.live_pairs import LivePairs
from trmml.curation.standing import apply_answers, places_by_name, sha256_of, standing
from trmml.curation.tally import tally_of
from trmml.datasets.base import Dataset
from trmml.errors import DataError
from trmml.labels.matrix import LabelMatrix
from trmml.storage import hashes


def row(answer: str | None = "present", **other: object) -> Answer:
    values = {"image": "a.jpg", "sha256": "aa", "category": "cat", "who": "", "was": "unknown"}
    values |= {"id": new_id(), "at": now(), "p": 0.5, "why": "learn", "run": "0" * 12}
    return Answer(**{**values, "answer": answer, **other})  # type: ignore[arg-type]


def test_rows_come_back_in_order_and_once(tmp_path: Path) -> None:
    rows = [row(), row("absent", p=None, ms=12), row("unsure", category="Käfer")]
    with Answers(tmp_path / "a.sqlite") as first, Answers(tmp_path / "a.sqlite") as second:
        assert first.add(rows[:2]) == 2
        assert second.add(rows) == 1
        assert first.rows() == rows
    assert existing(tmp_path / "a.sqlite").rows() == rows


def test_ids_are_ulids_that_sort_by_time() -> None:
    ids = [new_id() for _ in range(2000)]
    assert ids == sorted(set(ids))
    assert {len(each) for each in ids} == {26}
    assert ids[0][0] == "0"  # 48 bits of milliseconds in ten letters


@pytest.mark.parametrize("statement", ["UPDATE answers SET answer='absent'", "DELETE FROM answers"])
def test_rows_cannot_be_changed(tmp_path: Path, statement: str) -> None:
    with Answers(tmp_path / "a.sqlite") as answers:
        answers.add([row()])
    with sqlite3.connect(tmp_path / "a.sqlite") as base, pytest.raises(sqlite3.Error, match="only"):
        base.execute(statement)
    base.close()


def test_the_file_is_wal_and_synchronous(tmp_path: Path) -> None:
    answers = Answers(tmp_path / "a.sqlite")
    pragma = [answers._base.execute(f"PRAGMA {name}").fetchone()[0]
              for name in ("journal_mode", "synchronous", "user_version")]  # fmt: skip
    answers.close()
    assert pragma == ["wal", 2, journal.FORMAT]


def test_the_last_answer_counts_undone_ones_do_not_and_an_undo_may_be_undone() -> None:
    first, second = row("present"), row("absent")
    undo = row(None, undoes=second.id)
    redo = row(None, undoes=undo.id)
    assert standing([first, second]).last["aa", "cat"] == (second, "absent")
    assert standing([first, second, undo]).last["aa", "cat"] == (first, "present")
    assert standing([first, second, undo, redo]).last["aa", "cat"] == (second, "absent")
    assert standing([first, second, row("skip")]).last["aa", "cat"] == (second, "absent")


def test_people_who_disagree_leave_a_pair_unknown() -> None:
    rows = [row("present", who="ann"), row("absent", who="bob")]
    assert standing(rows).last["aa", "cat"] == (rows[1], "unknown")
    assert standing([*rows, row("present", who="bob")]).last["aa", "cat"][1] == "present"
    assert standing([*rows, row("unsure", who="bob")]).last["aa", "cat"][1] == "present"


def test_the_unsure_are_left_alone_for_thirty_days() -> None:
    asked = row("unsure", at="2026-01-01T00:00:00Z")
    for day, resting in ((30, {("aa", "cat")}), (31, set())):
        at = (
            datetime(2026, 1, day, 23, tzinfo=UTC)
            if day == 30
            else datetime(2026, 2, 1, tzinfo=UTC)
        )
        assert standing([asked], at).resting == resting
        assert not standing([asked], at).last


def collection(tmp_path: Path) -> tuple[Dataset, list[str]]:
    names = ["a.jpg", "b.jpg", "c.jpg"]
    for name in names:
        (tmp_path / name).write_bytes(name.encode())
    matrix = LabelMatrix(torch.tensor([[1, 0], [0, 0], [0, 0]]).bool(), torch.ones(3, 2).bool())
    data = Dataset(tmp_path, tuple(names), ("cat", "dog"), matrix, (2, 3, 4))
    return data, [sha256_of(tmp_path / name) for name in names]


def test_answers_take_the_place_of_labels_and_the_rest_is_counted(tmp_path: Path) -> None:
    data, (a, b, c) = collection(tmp_path)
    rows = [
        row("absent", sha256=a, was="present"),
        row("present", sha256=b, image="moved.jpg", category=" dog ", was="unknown"),
        row("present", sha256=c, image="c.jpg", was="absent", who="ann"),
        row("absent", sha256=c, image="c.jpg", was="absent", who="bob"),
        row(sha256="ff", image="elsewhere.jpg"),
        row(sha256=a, category="zebra"),
    ]
    done = apply_answers(data, rows)
    assert done.data.matrix.labels.tolist() == [[False, False], [False, True], [False, False]]
    assert done.data.matrix.known.tolist() == [[True, True], [True, True], [False, True]]
    assert [each.image for each in done.changed] == ["moved.jpg"]  # was absent, not unknown
    assert [each.image for each in done.disagreed] == ["c.jpg"]
    assert (done.other_images, done.other_categories) == (1, {"zebra": 1})
    assert len(done.lines()) == 5
    assert data.matrix.labels[0, 0]  # the given data stays
    assert (
        apply_answers(data, rows, places_by_name(data, rows)).other_images == 2
    )  # the moved one, too


def test_an_answer_counts_for_all_copies_that_were_named(tmp_path: Path) -> None:
    data, _ = collection(tmp_path)
    data = replace(data, matrix=LabelMatrix(*torch.zeros(2, 3, 2).bool()))
    (tmp_path / "b.jpg").write_bytes(b"a.jpg")
    a = sha256_of(tmp_path / "a.jpg")
    rows = [
        row("present", sha256=a, image="a.jpg", category="cat"),
        row("absent", sha256=a, image="b.jpg", category="dog"),
    ]
    for places in (None, places_by_name(data, rows)):
        done = apply_answers(data, rows, places)
        assert done.data.matrix.known.tolist() == [[True, True], [True, True], [False, False]]
        assert done.data.matrix.labels.tolist() == [[True, False], [True, False], [False, False]]
        assert done.other_images == 0
    with Answers(tmp_path / "a.sqlite") as journal:
        journal.add(rows[:1])
        live = LivePairs(data, journal, rows[:1])
        assert live.known.sum() == 1  # nobody has named the copy
        journal.add(rows[1:])
        assert live.take(rows[1:]) == {1}
        assert torch.equal(live.known, done.data.matrix.known)
        assert torch.equal(live.asked, live.known)
        back = row(None, undoes=rows[0].id, sha256=a, image="a.jpg", category="cat")
        journal.add([back])
        assert live.take([back]) == {0}
        assert live.known[:, 0].sum() == 0 and live.known[:, 1].sum() == 2


def test_images_that_could_not_be_read_are_told_apart_by_their_names(tmp_path: Path) -> None:
    data, _ = collection(tmp_path)
    data = replace(data, matrix=LabelMatrix(*torch.zeros(2, 3, 2).bool()))
    rows = [
        row("present", sha256="", image="a.jpg"),
        row("absent", sha256="", image="b.jpg"),
    ]
    for places in (None, places_by_name(data, rows)):
        done = apply_answers(data, rows, places)
        assert done.pairs == {(0, 0): "present", (1, 0): "absent"}
    with Answers(tmp_path / "a.sqlite") as journal:
        live = LivePairs(data, journal, [])
        journal.add(rows)
        live.take(rows)
    assert live.known[:, 0].tolist() == [True, True, False] and live.labels[:, 0].sum() == 1


def test_the_newest_answer_counts_whatever_an_image_was_known_by(tmp_path: Path) -> None:
    """In the table and in a review: an image whose hash was not read, and then was."""
    data, (a, _, c) = collection(tmp_path)
    data = replace(data, matrix=LabelMatrix(*torch.zeros(2, 3, 2).bool()))
    rows = [
        row("present", sha256="", image="a.jpg"),
        row("absent", sha256=a, image="a.jpg"),
        row("present", sha256=c, image="c.jpg", who="ann"),
        row("absent", sha256="", image="c.jpg", who="bob"),
        row("present", sha256=a, image="a.jpg", category="dog"),
        row("unsure", sha256="", image="a.jpg", category="dog"),
    ]
    wanted = {(0, 0): "absent", (2, 0): "unknown"}
    for places in (None, places_by_name(data, rows)):
        done = apply_answers(data, rows, places)
        assert done.pairs == wanted and done.disagreed == [rows[3]]
    for begun in range(len(rows) + 1):
        with Answers(None) as journal:
            journal.add(rows[:begun])
            live = LivePairs(data, journal, rows[:begun])
            journal.add(rows[begun:])
            live.take(rows[begun:])
            live.note_all([a, "", c])
        assert torch.equal(live.known, done.data.matrix.known), begun
        assert torch.equal(live.labels, done.data.matrix.labels), begun
        assert live.answered == [{0: "absent", 2: "unknown"}, {}], begun
        assert live.asked.tolist() == [[True, True], [False, False], [True, False]], begun


def test_the_newest_answer_counts_where_an_image_was_changed(tmp_path: Path) -> None:
    data, (a, _, _) = collection(tmp_path)
    rows = [row("absent", sha256="e" * 64), row("present", sha256=a)]
    for order in (rows, [rows[1], rows[0]._replace(id=new_id())]):
        found = apply_answers(data, order, places_by_name(data, order)).pairs
        assert found == {(0, 0): order[1].answer}
    assert apply_answers(data, rows).pairs == {(0, 0): "present"}  # the bytes that are there


def test_files_are_read_once_and_all_only_where_one_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRMML_CACHE", str(tmp_path / "cache"))
    data, (a, _, _) = collection(tmp_path)
    for name in data.images:
        os.utime(tmp_path / name, (1_000_000_000, 1_000_000_000))
    read: list[str] = []
    original = hashes.hash_file
    monkeypatch.setattr(
        hashes, "hash_file", lambda path, *how: (read.append(path.name), original(path, *how))[1]
    )
    assert apply_answers(data, [row(sha256=a)]).pairs and read == ["a.jpg"]
    gone = [row(sha256="f" * 64, image="gone.jpg")]
    assert apply_answers(data, gone).other_images == 1 and sorted(read) == [*data.images]
    apply_answers(data, gone)
    assert len(read) == 3


def test_a_journal_is_read_where_nothing_may_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Answers(tmp_path / "a.sqlite") as answers:
        answers.add([row()])
    before = sorted(tmp_path.iterdir())
    monkeypatch.setattr("os.access", lambda *given: False)
    with existing(tmp_path / "a.sqlite") as answers:
        assert len(answers.rows()) == 1
        assert sorted(tmp_path.iterdir()) == before
        with pytest.raises(DataError, match="readonly"):
            answers.add([row()])
    (tmp_path / "empty.sqlite").touch()
    with pytest.raises(DataError, match="the file is empty"):
        existing(tmp_path / "empty.sqlite")


def test_lines_go_out_and_in(tmp_path: Path) -> None:
    rows = [row(), row(None, undoes="x"), row("skip", image='"ä".jpg', p=None)]
    write_lines(rows, tmp_path / "a.jsonl")
    with Answers(tmp_path / "b.sqlite") as answers:
        answers.add(rows[:1])
        assert [answers.add(read_lines(tmp_path / "a.jsonl")) for _ in range(2)] == [2, 0]
        assert answers.rows() == rows


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("{", "line 2 is no JSON"),
        ("[1]", "line 2 is no answer"),
        (json.dumps({**row()._asdict(), "answer": "yes"}), "'answer' is 'yes'"),
        (json.dumps({**row()._asdict(), "undoes": "x"}), "'answer' is 'present'"),
        (json.dumps({**row()._asdict(), "note": 1}), "expected the keys id, at"),
        (json.dumps({"id": "1"}), "'at' is None"),
        (json.dumps({**row()._asdict(), "category": ""}), "line 2: 'category' is ''"),
        (json.dumps({**row()._asdict(), "image": " "}), "'image' is ' '"),
        (json.dumps({**row()._asdict(), "id": ""}), "'id' is ''"),
        (json.dumps({**row()._asdict(), "p": float("nan")}), "'p' is nan"),
        (json.dumps({**row()._asdict(), "p": 1.5}), "'p' is 1.5"),
        (json.dumps({**row()._asdict(), "ms": 1 << 63}), "'ms' is 9223372036854775808"),
        (json.dumps({**row()._asdict(), "at": "later"}), "'at' is 'later'"),
        (json.dumps({**row()._asdict(), "at": "2026-1-2T03:04:05Z"}), "'at' is '2026-1-2T"),
        (json.dumps({**row()._asdict(), "image": "\ud800"}), "line 2 .* half of a surrogate pair"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, change: str, message: str) -> None:
    write_lines([row()], tmp_path / "a.jsonl")
    with (tmp_path / "a.jsonl").open("a") as file:
        file.write(change + "\n")
    with pytest.raises(DataError, match=message):
        read_lines(tmp_path / "a.jsonl")


def _other_format(path: Path) -> None:
    with sqlite3.connect(path) as base:
        base.execute("PRAGMA user_version=7")
    base.close()


def _other_program(path: Path) -> None:
    with sqlite3.connect(path) as base:
        base.execute("CREATE TABLE photos (name TEXT)")
    base.close()


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (_other_program, "is a database of format 0"),
        (lambda path: path.write_text("image,cat\n"), "is no journal of answers"),
        (
            lambda path: path.write_bytes(b"SQLite format 3\0" + b"x" * 200),
            "cannot use the answers",
        ),
        (_other_format, "is a database of format 7"),
        (lambda path: path.mkdir(), "cannot use the answers"),
    ],
)
def test_other_files_are_refused(
    tmp_path: Path, prepare: Callable[[Path], object], message: str
) -> None:
    path = tmp_path / "a.sqlite"
    prepare(path)
    before = path.read_bytes() if path.is_file() else b""
    with pytest.raises(DataError, match=message):
        Answers(path)
    assert [*tmp_path.iterdir()] == [path]  # no -wal, no -shm
    assert path.is_dir() or path.read_bytes() == before


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no file"):
        existing(tmp_path / "a.sqlite")


def test_a_writer_that_does_not_end_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "BUSY_SECONDS", 0.05)
    with Answers(tmp_path / "a.sqlite") as holder, Answers(tmp_path / "a.sqlite") as waiting:
        holder._base.execute("BEGIN IMMEDIATE")
        with pytest.raises(DataError, match="Another process has been writing"):
            waiting.add([row()])


def test_many_answers_load_in_linear_time(tmp_path: Path) -> None:
    first = row()
    with Answers(tmp_path / "a.sqlite") as answers:
        answers.add(first._replace(id=f"{n:026}", sha256=str(n)) for n in range(20_000))
        begun = time.process_time()
        assert len(standing(answers.rows()).last) == 20_000
        # It takes about one second; a walk of all rows for each row would take minutes.
        assert time.process_time() - begun < 20


# A writer says each id once it is on the disk; what it said must be there after a kill.
WRITER = """
import sys
from trmml.curation.answers import Answer, Answers, new_id, now
first, last = int(sys.argv[2]), int(sys.argv[3])
with Answers(sys.argv[1]) as answers:
    for n in range(first, last):
        made = Answer(f"{n:026}", now(), "", "a.jpg", str(n), "cat", "present", "unknown",
                      None, "learn", "", None, None)
        answers.add([made])
        print(n, flush=True)
"""


def killed_session(path: Path, total: int, kills: int, seed: int) -> None:
    """Write `total` answers through `kills` processes that are killed; check none is lost."""
    draw, done, most = random.Random(seed), -1, 0.0
    for part in range(kills + 1):
        # A client that saw no reply sends the answer again.
        words = [sys.executable, "-c", WRITER, str(path), str(max(done, 0)), str(total)]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            goal = done + draw.randint(0, max(2 * total // (kills + 1), 1))
            for line in child.stdout:
                done = max(done, int(line))
                if part < kills and done >= goal:
                    time.sleep(draw.random() * 0.01)
                    child.send_signal(signal.SIGKILL)
                    break
            rest = child.stdout.read().splitlines()
            done = max([done, *(int(line) for line in rest if line.isdigit())])
        rows = Answers(path).rows()
        assert {int(each.id) for each in rows} >= set(range(done + 1))
        assert len({each.id for each in rows}) == len(rows)
        most = max(most, len(rows))
    assert most == total


def test_kills_lose_and_double_no_answer(tmp_path: Path) -> None:
    killed_session(tmp_path / "a.sqlite", total=60, kills=2, seed=0)


@pytest.mark.slow
def test_fifty_kills_over_ten_thousand_answers(tmp_path: Path) -> None:
    killed_session(tmp_path / "a.sqlite", total=10_000, kills=50, seed=1)


def test_the_tally_counts_what_stands(tmp_path: Path) -> None:
    def row(name: str, answer: Verdict | None, why: Reason = "learn", undoes: str | None = None):
        return Answer(name, "2026-11-29T06:45:34Z", "", "a.jpg", "0" * 64, "cat", answer, "present",
                      0.5, why, "0" * 12, None if undoes else 700, undoes)  # fmt: skip

    with Answers(tmp_path / "a.sqlite") as answers:
        assert tally_of(answers.rows()) == (0, 0, 0, 0, 0)
        answers.add([row("1", "present"), row("2", "skip"), row("3", "absent", "gold")])
        answers.add([row("4", "present", "gold"), row("5", "unsure", "gold")])
        assert tally_of(answers.rows()) == (5, 2, 3500, 1, 2)
        answers.add([row("6", None, undoes="1"), row("7", None, "gold", undoes="4")])
        assert tally_of(answers.rows()) == (3, 0, 2100, 0, 1)
        answers.add([row("8", None, undoes="6")])
        assert tally_of(answers.rows()) == (4, 1, 2800, 0, 1)
        answers.add([row("9", None, undoes="8")])
        assert tally_of(answers.rows()) == (3, 0, 2100, 0, 1)


def test_rows_of_one_image_are_found_by_an_index(tmp_path: Path) -> None:
    rows = [row(sha256="aa"), row(sha256="bb"), row(sha256="", image="aa"), row(sha256="aa")]
    with Answers(tmp_path / "a.sqlite") as answers:
        answers._base.execute("DROP INDEX answers_of_image")  # as journals were before
        answers.add(rows)
    assert existing(tmp_path / "a.sqlite").about("aa") == [rows[0], *rows[2:]]
    asked: list[str] = []
    with Answers(tmp_path / "a.sqlite") as answers:
        answers._base.set_trace_callback(asked.append)
        assert answers.about("aa") == [rows[0], *rows[2:]] and answers.about("a.jpg") == []
        plan = answers._base.execute(f"EXPLAIN QUERY PLAN {asked[0]}").fetchall()
    assert "answers_of_image" in plan[0][-1]
