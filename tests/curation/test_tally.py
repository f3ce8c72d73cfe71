"""The tally of a journal that grows: the same as one that is counted anew."""

import random
from pathlib import Path
from typing import get_args

from tests.curation.test_answers import row
from trmml.curation.answers import Answer, Answers, Verdict, new_id
from trmml.curation.tally import LiveTally, tally_of


def test_a_tally_that_grows_is_the_one_that_is_counted(tmp_path: Path) -> None:
    """Whatever is undone, and however often; also by rows whose time is another's."""
    draw = random.Random(0)
    rows: list[Answer] = []

    def some() -> Answer:
        answer, why = draw.choice(get_args(Verdict)), draw.choice(["learn", "gold"])
        was, ms = draw.choice(["present", "absent"]), draw.choice([None, 700])
        if rows and draw.random() < 0.6:
            name = draw.choice([new_id(), f"{draw.randrange(10**9):026}"])
            return row(None, id=name, why=why, was=was, undoes=draw.choice(rows).id)
        return row(answer, why=why, was=was, ms=ms)

    with Answers(tmp_path / "a.sqlite") as answers, Answers(tmp_path / "a.sqlite") as other:
        rows += [some() for _ in range(30)]
        answers.add(rows)
        live = LiveTally(other)
        for _ in range(150):
            found = [some() for _ in range(draw.randrange(4))]
            rows += found
            answers.add(found)
            assert live.now() == tally_of(answers.rows())
        assert live.now().answers > 20 and live.now().again > 0


def test_only_what_is_new_is_read(tmp_path: Path) -> None:
    said = [row(category=f"c{n}") for n in range(300)]
    back = row(None, undoes=said[7].id)
    with Answers(tmp_path / "a.sqlite") as answers:
        answers.add(said)
        live = LiveTally(answers)
        answers.add([back])
        asked: list[str] = []
        answers._base.set_trace_callback(asked.append)
        assert live.now().answers == 299
        plans = [answers._base.execute(f"EXPLAIN QUERY PLAN {each}").fetchall() for each in asked]
    told = [step[-1] for plan in plans for step in plan]
    assert any("answers_undone" in step for step in told)
    assert not any(step.startswith("SCAN answers") for step in told), told
