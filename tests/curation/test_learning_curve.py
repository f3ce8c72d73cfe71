import pytest

from trmml.curation.learning_curve import Point, area, needed

CURVE = [Point(0.2), Point(0.4, answers=50, seconds=10.0), Point(0.5, answers=150, seconds=40.0)]


def test_area_by_hand() -> None:
    assert area(CURVE, "answers", 150.0) == pytest.approx((50 * 0.3 + 100 * 0.45) / 150)
    assert area(CURVE, "seconds", 40.0) == pytest.approx((10 * 0.3 + 30 * 0.45) / 40)


def test_what_lies_beyond_the_budget_does_not_count_and_what_is_left_counts_as_the_last() -> None:
    assert area(CURVE, "answers", 100.0) == pytest.approx((50 * 0.3 + 50 * 0.425) / 100)
    assert area(CURVE, "answers", 200.0) == pytest.approx((50 * 0.3 + 100 * 0.45 + 50 * 0.5) / 200)
    assert area(CURVE[:1], "answers", 200.0) == pytest.approx(0.2)


def test_needed_by_hand() -> None:
    assert needed(CURVE, "answers", 0.45) == pytest.approx(100)
    assert needed(CURVE, "seconds", 0.4) == pytest.approx(10)
    assert needed(CURVE, "answers", 0.1) == 0
    assert needed(CURVE, "answers", 0.51) is None
