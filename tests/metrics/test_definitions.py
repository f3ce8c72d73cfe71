"""Every figure against loops over plain lists, written from the definitions and not from the code.

Source of the definitions: what the field's code computes (ASL, DualCoOp, HCP-MLR-PL), with the
choices that the docstrings of the metrics package state: ties have no order, undefined categories
are left out of means.
"""

import math
from dataclasses import asdict, dataclass

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from trmml.metrics.average_precision import average_precision
from trmml.metrics.figures import Metrics, PrecisionRecall
from trmml.metrics.measure import measure

PRESENT, ABSENT, UNKNOWN = 1, 0, None
Rates = tuple[float, float, float]


@dataclass(frozen=True)
class Case:
    """Scores and states image by image, a threshold per category, and k."""

    scores: list[list[float]]
    states: list[list[int | None]]
    thresholds: list[float]
    top_k: int


# The definitions ----------------------------------------------------------------------------------


def curve(scores: list[float], states: list[int | None]) -> list[tuple[float, float]]:
    """Recall and precision after each distinct score, from the highest down."""
    known = [(s, y) for s, y in zip(scores, states, strict=True) if y is not UNKNOWN]
    total = sum(1 for _, y in known if y == PRESENT)
    points = []
    for cut in sorted({s for s, _ in known}, reverse=True):
        taken = [y for s, y in known if s >= cut]
        hits = sum(1 for y in taken if y == PRESENT)
        points.append((hits / total if total else math.nan, hits / len(taken)))
    return points


def slow_ap(scores: list[float], states: list[int | None]) -> float:
    """Sum of precision times the step of recall."""
    if PRESENT not in states:
        return math.nan
    area = before = 0.0
    for recall, precision in curve(scores, states):
        area += (recall - before) * precision
        before = recall
    return area


def slow_ap_interpolated(scores: list[float], states: list[int | None]) -> float:
    """The same under the envelope: at each recall the best precision from there on."""
    if PRESENT not in states:
        return math.nan
    points, area, before = curve(scores, states), 0.0, 0.0
    for recall, _ in points:
        area += (recall - before) * max(p for r, p in points if r >= recall)
        before = recall
    return area


def ranked_ap(scores: list[float], states: list[int | None]) -> float:
    """The field's loop: down the sorted list, precision at each positive; made for no ties."""
    found, total = 0, 0.0
    known = [(s, y) for s, y in zip(scores, states, strict=True) if y is not UNKNOWN]
    for rank, (_, y) in enumerate(sorted(known, reverse=True), start=1):
        if y == PRESENT:
            found += 1
            total += found / rank
    return total / found if found else math.nan


def predictions(case: Case, top_k: int | None) -> list[list[bool]]:
    """What is predicted: reaches the threshold and, with `top_k`, is among the image's first."""
    predicted = []
    for scores, states in zip(case.scores, case.states, strict=True):
        known = [c for c, y in enumerate(states) if y is not UNKNOWN]
        order = sorted(known, key=lambda c: (-scores[c], c))
        first = known if top_k is None else order[:top_k]
        predicted.append(
            [c in first and scores[c] >= case.thresholds[c] for c in range(len(states))]
        )
    return predicted


def slow_rates(predicted: list[bool], states: list[int | None]) -> Rates:
    """Precision, recall and F1 over pairs; nan without a positive, precision 0 with no guess."""
    right = wrong = missed = 0
    for guess, y in zip(predicted, states, strict=True):
        right += guess and y == PRESENT
        wrong += guess and y == ABSENT
        missed += not guess and y == PRESENT
    if right + missed == 0:
        return math.nan, math.nan, math.nan
    precision = right / (right + wrong) if right + wrong else 0.0
    recall = right / (right + missed)
    return precision, recall, harmonic(precision, recall)


def harmonic(first: float, second: float) -> float:
    return 0.0 if first == second == 0 else 2 * first * second / (first + second)


def mean(values: list[float]) -> float:
    defined = [value for value in values if not math.isnan(value)]
    return sum(defined) / len(defined) if defined else math.nan


def slow_precision_recall(case: Case, top_k: int | None) -> PrecisionRecall:
    """OP, OR, OF1, CP, CR, CF1 as the harmonic mean of the means, and CF1 as the mean of F1."""
    predicted, width = predictions(case, top_k), len(case.thresholds)
    everything = [guess for row in predicted for guess in row], [y for r in case.states for y in r]
    categories = [
        slow_rates([row[c] for row in predicted], [row[c] for row in case.states])
        for c in range(width)
    ]
    precision, recall, f1 = (mean([rates[k] for rates in categories]) for k in range(3))
    return PrecisionRecall(
        *slow_rates(*everything), precision, recall, harmonic(precision, recall), f1
    )


# The comparison -----------------------------------------------------------------------------------


def measured(case: Case, dtype: torch.dtype = torch.float64) -> Metrics:
    states = torch.tensor([[-1 if y is UNKNOWN else y for y in row] for row in case.states])
    names = [f"category {c}" for c in range(states.shape[1])]
    return measure(
        torch.tensor(case.scores, dtype=dtype),
        states == PRESENT,
        states >= 0,
        names,
        threshold=torch.tensor(case.thresholds, dtype=dtype),
        top_k=case.top_k,
    )


def equal(found: float, expected: float) -> bool:
    return found == pytest.approx(expected, abs=1e-12, nan_ok=True)


def check(case: Case, dtype: torch.dtype = torch.float64) -> None:
    metrics, images, width = measured(case, dtype), len(case.scores), len(case.thresholds)
    columns = [
        ([row[c] for row in case.scores], [row[c] for row in case.states]) for c in range(width)
    ]
    ap = [slow_ap(*column) for column in columns]
    interpolated = [slow_ap_interpolated(*column) for column in columns]
    for c, row in enumerate(metrics.per_category):
        assert equal(row.ap, ap[c]) and equal(row.ap_interpolated, interpolated[c])
        states = columns[c][1]
        counts = tuple(states.count(state) for state in (PRESENT, ABSENT, UNKNOWN))
        assert (row.positives, row.negatives, row.unknown) == counts
        guesses = [guess[c] for guess in predictions(case, None)]
        found = (row.precision, row.recall, row.f1)
        assert all(map(equal, found, slow_rates(guesses, states)))
    assert equal(metrics.mean_ap, mean(ap))
    assert equal(metrics.mean_ap_interpolated, mean(interpolated))
    zeros = [0.0 if math.isnan(value) else value for value in ap]
    assert equal(metrics.mean_ap_undefined_as_zero, sum(zeros) / width)
    assert metrics.undefined_categories == sum(map(math.isnan, ap))
    known = sum(y is not UNKNOWN for row in case.states for y in row)
    assert equal(metrics.known_share, known / (images * width))
    for part, top_k in ((metrics.at_threshold, None), (metrics.at_top_k, case.top_k)):
        expected = asdict(slow_precision_recall(case, top_k))
        for name, value in asdict(part).items():
            assert equal(value, expected[name]), f"{name}, top_k {top_k}: {value}, {expected[name]}"


# Few values, so that ties abound; the ends of the range, the smallest number and neighbours of 1/2.
VALUES = (0.0, 1e-45, 1e-7, 0.3, 0.5 - 2**-25, 0.5, 0.5 + 2**-24, 0.7, 1 - 2**-24, 1.0)
FLOAT32 = [torch.tensor(value).item() for value in VALUES]


@st.composite
def cases(draw: st.DrawFn, values: list[float] = FLOAT32) -> Case:
    images, width = draw(st.integers(1, 9)), draw(st.integers(1, 4))
    pool = draw(st.lists(st.sampled_from(values), min_size=1, max_size=4))  # 1: constant scores
    allowed = draw(st.sampled_from([(PRESENT, ABSENT, UNKNOWN), (ABSENT, UNKNOWN), (UNKNOWN,),
                                    (PRESENT, ABSENT), (PRESENT, UNKNOWN)]))  # fmt: skip
    score, state = st.sampled_from(pool), st.sampled_from(allowed)
    return Case(
        [[draw(score) for _ in range(width)] for _ in range(images)],
        [[draw(state) for _ in range(width)] for _ in range(images)],
        [draw(st.sampled_from(values)) for _ in range(width)],
        draw(st.integers(1, 5)),
    )


@given(cases(), st.sampled_from([torch.float32, torch.float64]))
@example(Case([[0.5]], [[PRESENT]], [0.5], 1), torch.float32)  # one image, one category
@example(Case([[0.5]], [[UNKNOWN]], [0.5], 3), torch.float32)
@example(Case([[0.9, 0.0]], [[UNKNOWN, PRESENT]], [0.0] * 2, 1), torch.float32)
@example(Case([[0.5] * 3] * 4, [[PRESENT, ABSENT, UNKNOWN]] * 4, [0.5] * 3, 1), torch.float32)
def test_adversarial_cases_equal_the_definitions(case: Case, dtype: torch.dtype) -> None:
    check(case, dtype)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("decimals", [1, 12])
def test_random_cases_equal_the_definitions(seed: int, decimals: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    size = (40, 7)
    scores = torch.rand(size, generator=generator, dtype=torch.float64).round(decimals=decimals)
    drawn = torch.rand(size, generator=generator)
    states = [
        [PRESENT if d < 0.2 else ABSENT if d < 0.7 else UNKNOWN for d in row]
        for row in drawn.tolist()
    ]
    check(Case(scores.tolist(), states, [0.1 * (c + 1) for c in range(7)], 3))


FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(st.lists(st.tuples(FINITE, st.sampled_from([0, 1, None])), min_size=1, max_size=30))
def test_ap_of_any_finite_numbers(pairs: list[tuple[float, int | None]]) -> None:
    scores, states = [s for s, _ in pairs], [y for _, y in pairs]
    given_ = (
        torch.tensor(scores, dtype=torch.float32),
        torch.tensor([y == PRESENT for y in states]),
        torch.tensor([y is not UNKNOWN for y in states]),
    )
    assert equal(average_precision(*given_), slow_ap(scores, states))
    found = average_precision(*given_, form="interpolated")
    assert equal(found, slow_ap_interpolated(scores, states))


@given(st.lists(st.sampled_from([PRESENT, ABSENT, UNKNOWN]), min_size=1, max_size=30), st.randoms())
def test_without_ties_ap_is_the_fields_loop(states: list[int | None], random: object) -> None:
    scores = [i / 31 for i in range(len(states))]
    random.shuffle(scores)  # type: ignore[attr-defined]
    assert equal(slow_ap(scores, states), ranked_ap(scores, states))


def test_within_ties_the_fields_loop_depends_on_the_order_of_images() -> None:
    """Both ways off: one positive sorted first or last, and two positives in a row."""
    known = torch.ones(2, dtype=torch.bool)
    ap = average_precision(torch.tensor([0.5, 0.5]), torch.tensor([True, False]), known)
    assert ap == 0.5
    assert (1 / 1, 1 / 2) == (1.0, 0.5)  # the loop, the positive first or last
    scores, states = [0.9, 0.5, 0.5], [ABSENT, PRESENT, PRESENT]
    assert slow_ap(scores, states) == pytest.approx(2 / 3)
    assert ranked_ap(scores, states) == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_constant_scores_give_the_share_of_positives() -> None:
    labels = torch.tensor([[True], [False], [False], [True], [True]])
    known = torch.tensor([[True], [True], [False], [True], [True]])
    metrics = measure(torch.full((5, 1), 0.25), labels, known, ["a"])
    assert metrics.mean_ap == metrics.mean_ap_interpolated == 3 / 4


def test_ties_for_the_last_place_go_to_the_categories_that_come_first() -> None:
    scores = torch.tensor([[0.5, 0.9, 0.5, 0.5]])
    labels = torch.tensor([[True, False, True, True]])
    top = [
        measure(scores, labels, torch.ones_like(labels), list("abcd"), top_k=k) for k in (1, 2, 3)
    ]
    assert [m.at_top_k.overall_recall for m in top] == pytest.approx([0, 1 / 3, 2 / 3])
    known = torch.tensor([[False, True, True, True]])
    second = measure(scores, labels, known, list("abcd"), top_k=2).at_top_k
    assert second.overall_recall == 1 / 2
