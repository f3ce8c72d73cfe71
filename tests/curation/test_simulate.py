"""The simulated annotator: its starts, its prices, and that it learns from nothing else."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from trmml.curation.costs import EXCEPTION, GLANCE, SWITCH
from trmml.curation.learning_curve import Point
from trmml.curation.simulate import Session, SimulatedData, full_score, known_at_first, simulate
from trmml.labels.matrix import LabelMatrix


def make_data(images: int = 120, categories: int = 4, known: float = 1.0) -> SimulatedData:
    """Images of a linear world, half of them for the test."""
    draw = torch.Generator().manual_seed(0)
    inputs = torch.randn(2 * images, 6, generator=draw)
    truth = inputs @ torch.randn(6, categories, generator=draw) > 1
    answered = torch.rand(truth.shape, generator=draw) < known
    return SimulatedData(
        inputs=inputs[:images],
        features=F.normalize(inputs[:images], dim=1),
        truth=LabelMatrix(truth[:images], answered[:images]),
        test_inputs=inputs[images:],
        test=LabelMatrix(truth[images:], torch.ones_like(truth[images:])),
    )


def points(data: SimulatedData, session: Session) -> list[Point]:
    return [point for point, _ in simulate(data, session)]


BLOCKS = Session("trmml", budget=200.0, rounds=4, start_known=0.1)


def test_rounds_are_equal_in_answers_and_the_budget_is_kept() -> None:
    found = points(make_data(), BLOCKS)
    assert [point.answers for point in found] == [0, 50, 100, 150, 200]
    assert found[-1].mean_ap > found[0].mean_ap


def test_every_pair_is_asked_once_and_the_end_is_the_full_score() -> None:
    data = make_data(known=0.7)
    session = replace(BLOCKS, budget=10_000.0)
    start = int(known_at_first(data.truth, session).known.sum())
    last = points(data, session)[-1]
    assert last.answers == int(data.truth.known.sum()) - start
    assert last.mean_ap == pytest.approx(full_score(data), abs=0.05)


def test_seconds_by_hand() -> None:
    found = points(make_data(categories=1), replace(BLOCKS, budget=40.0, rounds=2))
    for point, questions in zip(found, (0, 1, 2), strict=True):
        assert point.questions == questions
        price = SWITCH * questions + GLANCE * point.answers + EXCEPTION * point.exceptions
        assert point.seconds == pytest.approx(price)


def test_a_budget_of_seconds_is_spent_in_equal_rounds() -> None:
    for asking in ("blocks", "images"):
        session = replace(BLOCKS, asking=asking, unit="seconds", budget=60.0)
        found = points(make_data(), session)
        assert 60 <= found[-1].seconds < 90
        assert len(found) >= 4


def test_whole_images_answer_all_their_open_pairs() -> None:
    found = points(make_data(), replace(BLOCKS, asking="images", start_known=0.001))
    assert found[1].questions == 12  # of 50 answers in a round and 4 categories
    assert found[1].answers >= 47


def test_what_is_unknown_changes_nothing() -> None:
    data = make_data(known=0.6)
    other = LabelMatrix(data.truth.labels | ~data.truth.known, data.truth.known)
    assert points(data, BLOCKS) == points(replace(data, truth=other), BLOCKS)


def test_the_same_seed_is_the_same_session_and_wrong_answers_cost() -> None:
    data = make_data()
    session = replace(BLOCKS, policy="random", budget=400.0)
    assert points(data, session) == points(data, session)
    assert points(data, replace(session, seed=1)) != points(data, session)
    flipped = points(data, replace(session, flip=0.4))
    assert flipped[0] == points(data, session)[0]
    assert flipped[-1].mean_ap < points(data, session)[-1].mean_ap - 0.05


def test_starts() -> None:
    labels = torch.zeros(2000, 3, dtype=torch.bool)
    labels[:1000, 0] = labels[:100, 1] = labels[:10, 2] = True
    truth = LabelMatrix(labels, torch.ones_like(labels))
    session = Session("random", start_known=0.1)
    share = known_at_first(truth, session).known.float().mean(dim=0)
    assert share.min() > 0.07
    assert share.max() < 0.13
    popular = known_at_first(truth, replace(session, start="popular-first")).known.float()
    assert 0.08 < popular.mean() < 0.12
    assert popular.mean(dim=0)[0] > 5 * popular.mean(dim=0)[1] > 5 * popular.mean(dim=0)[2]
    wide = replace(session, start="popular-first", start_known=0.5)
    assert 0.45 < known_at_first(truth, wide).known.float().mean() < 0.55
    single = known_at_first(truth, replace(session, start="single-positive"))
    assert single.known.sum() == 1000
    assert torch.equal(single.known, single.labels)
