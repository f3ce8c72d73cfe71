"""The queue and its head: quotas, blocks, answers that count at once, undo, gold, suspects."""

import random
import threading
from collections import Counter
from pathlib import Path
from typing import get_args

import pytest
import torch

from trmml.cli.ask import _session
from trmml.cli.ask_images import image_session
from trmml.curation.answers import Answers, Verdict
from trmml.curation.collection import Collection
from trmml.curation.fast_head import FastHead
from trmml.curation.live_pairs import Held
from trmml.curation.queue import Queue
from trmml.curation.standing import apply_answers
from trmml.curation.tally import tally_of
from trmml.datasets.base import Dataset
from trmml.errors import ConfigError, JournalError
from trmml.labels.matrix import LabelMatrix
from trmml.metrics.calibration import Calibration

NAMES = ("cat", "dog", "owl")


@pytest.fixture
def collection(tmp_path: Path) -> Collection:
    draw = torch.Generator().manual_seed(0)
    count, categories = 60, len(NAMES)
    means = torch.rand(count, 8, generator=draw)
    truth = means[:, :categories] > 0.5
    known = torch.rand(count, categories, generator=draw) < 0.4
    images = tuple(f"{n:03}.png" for n in range(count))
    for name in images:
        (tmp_path / name).write_bytes(name.encode())
    data = Dataset(tmp_path, images, NAMES, LabelMatrix(truth, known), tuple(range(count)))
    features = torch.nn.functional.normalize(means, dim=1)
    ones = torch.ones(categories, dtype=torch.float64)
    calibration = Calibration(ones, ones * 0, ones * 0.5)
    return Collection(data, torch.zeros(count, categories), features, means, calibration, "f" * 64)


def _columns(collection: Collection, categories: list[int]) -> LabelMatrix:
    matrix = collection.matrix
    return LabelMatrix(matrix.labels[:, categories], matrix.known[:, categories])


def test_people_who_ask_at_once_are_asked_different_questions(
    collection: Collection, tmp_path: Path
) -> None:
    with Answers(tmp_path / "a.sqlite") as answers, Answers(tmp_path / "a.sqlite") as others:
        early = Queue(collection, answers, seed=1)  # nobody else answers yet
        assert early.next(4, category="cat") == Queue(collection, answers).next(4, category="cat")
        carl = Queue(collection, others, who="carl")
        carl.answer_all([(carl.next(1, category="dog")[0], "absent")])
        ann, bob = Queue(collection, answers, seed=1), Queue(collection, others, seed=2)
        nobody = Queue(collection, answers)
        for ask in (
            lambda queue: queue.next(4, category="cat"),
            lambda queue: [image[0] for image in queue.next_images(2)],
        ):
            mine, theirs, best = (
                {each.place for each in ask(queue)} for queue in (ann, bob, nobody)
            )
            assert len(mine) == len(theirs) == len(best)
            assert mine != theirs != best != mine
            assert best == {each.place for each in ask(Queue(collection, answers))}


def test_what_another_answered_meanwhile_is_not_shown(
    collection: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Answers(tmp_path / "a.sqlite") as answers, Answers(tmp_path / "a.sqlite") as others:
        ann, bob = (
            Queue(collection, each, who=who) for each, who in ((answers, "a"), (others, "b"))
        )
        theirs = bob.next()
        keys = iter("yybyq")

        def key() -> str:
            if len(answers.rows()) == 0:
                bob.answer_all([(each, "absent") for each in theirs[1:-1]])
            return next(keys)

        monkeypatch.setattr("trmml.cli.ask.key", key)
        monkeypatch.setattr("trmml.cli.ask.draw_image", print)
        assert _session(ann, "learn", None) == 2
        mine = [row for row in answers.rows() if row.who == "a"]
        places = [row.image for row in mine]
        assert places == [theirs[n].image for n in (0, -1, -1, -1)]  # the last once more, after b


def test_an_image_that_another_answered_meanwhile_is_not_shown(
    collection: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Answers(tmp_path / "a.sqlite") as answers, Answers(tmp_path / "a.sqlite") as others:
        ann, bob = Queue(collection, answers, who="a"), Queue(collection, others, who="b")
        first, second = images = ann.next_images(2)
        monkeypatch.setattr(ann, "next_images", lambda **_: [images.pop(0) for _ in [*images]])
        keys, shown = iter("\nq"), list[str]()

        def key() -> str:
            bob.answer_all([(each, "absent") for each in second])
            return next(keys)

        monkeypatch.setattr("trmml.cli.ask_images.key", key)
        monkeypatch.setattr("trmml.cli.ask_images.draw_image", lambda path: shown.append(path.name))
        assert image_session(ann, None) == len(first)
        assert shown == [first[0].image]


def test_categories_are_asked_about_equally_often(collection: Collection, tmp_path: Path) -> None:
    with Answers(tmp_path / "a.sqlite") as answers:
        queue = Queue(collection, answers)
        asked: Counter[str] = Counter()
        for _ in range(6):
            block = queue.next(4)
            assert len({question.category for question in block}) == 1
            assert len({question.place for question in block}) == 4
            for question in block:
                assert not queue.pairs.known[question.place, NAMES.index(question.category)]
                queue.answer(question, "absent", ms=1)
            asked.update(question.category for question in block)
        assert asked == Counter(dict.fromkeys(NAMES, 8))


def test_a_pair_is_asked_once_and_the_queue_ends(collection: Collection, tmp_path: Path) -> None:
    with Answers(tmp_path / "a.sqlite") as answers:
        queue, seen = Queue(collection, answers, categories=["owl"]), set()
        verdicts = iter(["present", "absent", "unsure", "skip"] * 60)
        while block := [q for q in queue.next() if q.why == "learn"]:
            for question in block:
                assert question.category == "owl"
                assert question.place not in seen
                seen.add(question.place)
                queue.answer(question, next(verdicts))  # type: ignore[arg-type]
        assert len(seen) == int((~collection.matrix.known[:, 2]).sum())
        again = Queue(collection, answers, categories=["owl"])
        assert {q.place for q in again.next()} < seen  # those that were passed over come again


def test_undo_at_any_depth(collection: Collection, tmp_path: Path) -> None:
    with Answers(tmp_path / "a.sqlite") as answers:
        queue = Queue(collection, answers)
        before = queue.open
        for question in queue.next(5):
            queue.answer(question, "present")
        undone = [queue.undo() for _ in range(6)]
        assert [row is None for row in undone] == [False] * 5 + [True]
        assert torch.equal(queue.open, before)
        assert torch.equal(queue.pairs.known, collection.matrix.known)
        assert len(answers.rows()) == 10
        assert not apply_answers(collection.data, answers.rows()).pairs


def test_a_second_session_goes_on(collection: Collection, tmp_path: Path) -> None:
    with Answers(tmp_path / "a.sqlite") as answers:
        first = Queue(collection, answers, who="ann")
        for question in first.next(8):
            first.answer(question, "present")
        assert first.head.wait(30.0)
        second = Queue(collection, answers, who="bob")
        assert torch.equal(second.pairs.labels, first.pairs.labels)
        assert torch.equal(second.open, first.open)
        for _ in range(30):  # both go to one optimum, whatever the steps so far
            for queue in (first, second):
                queue.head.learn(range(3), queue.pairs.matrix(range(3)))
        assert torch.allclose(second.head.logits, first.head.logits, atol=0.1)


def test_another_person_s_answers_count_at_once(collection: Collection, tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    with Answers(path) as answers, Answers(path) as others:
        mine, theirs = Queue(collection, answers, who="ann"), Queue(collection, others, who="bob")
        asked = theirs.next(5)
        for question in asked:
            theirs.answer(question, "present")
        mine.next(5)
        assert torch.equal(mine.open, theirs.open)
        assert torch.equal(mine.pairs.labels, theirs.pairs.labels)
        mine.answer(asked[0], "absent")  # they disagree
        here = asked[0].place, NAMES.index(asked[0].category)
        assert not mine.pairs.known[here]
        assert theirs.undo() is not None  # the last of the five
        theirs.next()
        assert torch.equal(mine.pairs.known, theirs.pairs.known) is False
        mine.next()
        assert torch.equal(mine.pairs.known, theirs.pairs.known)


def test_an_undo_that_the_journal_refuses_can_be_tried_again(
    collection: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Answers(tmp_path / "a.sqlite") as answers:
        queue = Queue(collection, answers)
        (first,), (last,) = (
            queue.answer_all([(question, "present") for question in queue.next(1)], ms=10)
            for _ in range(2)
        )

        def locked(rows: object) -> None:
            raise JournalError("locked")

        with monkeypatch.context() as patch, pytest.raises(JournalError):
            patch.setattr(answers, "add", locked)
            queue.undo()
        assert queue.undo() == [last] and queue.undo() == [first]


def test_what_comes_row_by_row_is_what_all_rows_say(collection: Collection, tmp_path: Path) -> None:
    draw = random.Random(0)
    with Answers(tmp_path / "a.sqlite") as answers:
        queue = Queue(collection, answers)
        for _ in range(60):
            if draw.random() < 0.3:
                queue.undo()
                continue
            said = [(question, draw.choice(get_args(Verdict))) for question in queue.next(3)]
            queue.answer_all(said, ms=10)
        found = apply_answers(collection.data, answers.rows())
        assert torch.equal(queue.pairs.labels, found.data.matrix.labels)
        assert torch.equal(queue.pairs.known, found.data.matrix.known)
        assert queue.left == int(queue.open.sum())
        for category in range(len(NAMES)):
            assert queue._left[category] == queue.open[:, category].sum()


def test_what_is_left_is_counted_after_images_too(collection: Collection, tmp_path: Path) -> None:
    with Answers(tmp_path / "a.sqlite") as answers:
        queue = Queue(collection, answers)
        for image in queue.next_images(2):
            queue.answer_all([(question, "absent") for question in image])
            assert queue.left == int(queue.open.sum())


def test_what_is_held_is_not_asked(collection: Collection, tmp_path: Path) -> None:
    with Answers(tmp_path / "a.sqlite") as answers:
        queue = Queue(collection, answers)
        asked = queue.next(30)
        column = list(NAMES).index(asked[0].category)
        # All of a category is with others: the block is of another one, and without their image.
        held = Held(
            frozenset((place, asked[0].category) for place in range(len(collection))),
            frozenset({asked[0].place}),
        )
        for each in queue.next(30, held=held):
            assert each.category != asked[0].category and each.place != asked[0].place
        assert queue.next(30, category=asked[0].category, held=held) == []
        images = queue.next_images(4, without=held.images)
        assert images and asked[0].place not in {image[0].place for image in images}
        assert queue.open[:, column].any()  # nothing of it was taken as answered


def test_gold_questions_measure_agreement(
    collection: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trmml.curation.queue.GOLD_SHARE", 1.0)
    with Answers(tmp_path / "a.sqlite") as answers:
        queue = Queue(collection, answers, categories=["cat"])
        for question in queue.next(3):
            assert question.why == "learn"
            queue.answer(question, "present")
        gold = [question for question in queue.next(3) if question.why == "gold"]
        assert [question.was for question in gold] == ["present"]
        before = collection.logits[gold[0].place, 0].sigmoid()  # of the head, which has learned it
        assert gold[0].p == pytest.approx(float(before))
        queue.answer(gold[0], "absent")
        assert tally_of(answers.rows())[3:] == (0, 1)
        assert [len(found) for found in queue.pairs.answered] == [3, 0, 0]
        queue.undo()
        assert tally_of(answers.rows())[3:] == (0, 0)


def test_suspects_that_were_confirmed_do_not_come_again(
    collection: Collection, tmp_path: Path
) -> None:
    logits = torch.where(collection.matrix.labels, 3.0, -3.0)
    odd = collection.matrix.labels.nonzero()[:3]
    logits[odd[:, 0], odd[:, 1]] = -4.0  # labels that nothing speaks for
    with Answers(tmp_path / "a.sqlite") as answers:
        queue = Queue(collection, answers)
        queue.__dict__["_label_logits"] = logits
        present, absent = queue.suspects(3)
        assert [question.was for question in present] == ["present"] * 3
        assert not absent
        held = Held(frozenset({(present[0].place, present[0].category)}))
        assert queue.doubted(1, given=True, held=held) == present[1:2]
        queue.answer(present[0], "present")
        queue.answer(present[1], "absent")
        left, _ = queue.suspects(500)
        pairs = {(question.place, question.category) for question in left}
        assert not pairs & {(question.place, question.category) for question in present[:2]}
        assert not queue.pairs.labels[present[1].place, NAMES.index(present[1].category)]


def test_a_category_that_is_not_there(collection: Collection, tmp_path: Path) -> None:
    with Answers(tmp_path / "a.sqlite") as answers:
        with pytest.raises(ConfigError, match="no category 'zebra'"):
            Queue(collection, answers, categories=["zebra"])


def test_the_head_corrects_touched_categories_alone(collection: Collection) -> None:
    head, matrix = FastHead(collection), collection.matrix
    for _ in range(20):
        head.learn([1], matrix.columns([1]))
    assert torch.equal(head.logits[:, [0, 2]], collection.logits[:, [0, 2]])
    assert head.taken() == {1}
    assert head.taken() == set()
    rows, labels = matrix.known[:, 1], matrix.labels[:, 1]
    right = (head.column(1)[rows] > 0) == labels[rows]
    assert right.float().mean() > 0.8


def test_labels_behind_unknown_pairs_change_nothing(collection: Collection) -> None:
    heads = [FastHead(collection) for _ in range(2)]
    labels, known = collection.matrix.labels, collection.matrix.known
    for head, present in zip(heads, (labels, labels | ~known), strict=True):
        head.learn(range(3), LabelMatrix(present, known))
    assert torch.equal(heads[0].logits, heads[1].logits)


def test_an_answer_is_learned_in_a_thread_while_questions_come(
    collection: Collection, tmp_path: Path
) -> None:
    with Answers(tmp_path / "a.sqlite") as answers:
        queue = Queue(collection, answers)
        old = queue.head.logits
        question = queue.next(1)[0]
        queue.answer(question, "present")
        assert queue.next(3)
        assert queue.head.wait(30.0)
        place = question.place, NAMES.index(question.category)
        assert queue.head.logits[place] > old[place]


def test_python_ends_after_the_thread_that_learns(
    collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A thread that Python kills within torch aborts the program ("terminate called without ...").
    head, learned, may_end = FastHead(collection), threading.Event(), threading.Event()
    monkeypatch.setattr(head, "learn", lambda *_: learned.set() or may_end.wait(30.0))
    before = set(threading.enumerate())
    head.tell([0], _columns(collection, [0]))
    assert learned.wait(30.0)
    (thread,) = set(threading.enumerate()) - before
    assert not thread.daemon
    head.tell([1], _columns(collection, [1]))
    may_end.set()
    assert head.wait(30.0)
    thread.join(30.0)
    assert not thread.is_alive()
