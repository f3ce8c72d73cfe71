import json
import logging
import math

import pytest
import torch

from trmml.errors import CheckpointError, DataError
from trmml.labels.matrix import LabelMatrix
from trmml.labels.statistics import counted_by_blanks
from trmml.metrics.calibration import (
    Calibration,
    both_answers,
    calibrate,
    fit_calibration,
    some_of_both,
    some_pairs,
)
from trmml.metrics.measure import measure
from trmml.metrics.reliability import expected_calibration_error, reliability_bins


def simulate(seed, n, c, *, spread=0.0, known_share=1.0, base=-1.0):
    """Logits whose true log-odds are 0.5 * logit + base, plus an own offset per category."""
    generator = torch.Generator().manual_seed(seed)
    own = spread * torch.randn(c, generator=torch.Generator().manual_seed(99))
    logits = 4 * torch.randn(n, c, generator=generator)
    truth = torch.sigmoid(0.5 * logits + base + own)
    labels = torch.rand(n, c, generator=generator) < truth
    return logits, labels, torch.rand(n, c, generator=generator) < known_share, base + own


def all_finite(calibration):
    parts = (calibration.slope, calibration.offset, calibration.thresholds)
    return all(bool(part.isfinite().all()) for part in parts) and bool(
        (calibration.slope > 0).all()
    )


# --- by hand


def test_some_pairs_are_drawn_from_every_category():
    usable = torch.zeros(3000, 40, dtype=torch.bool)
    usable[:, :20] = True  # complete columns: every k-th pair would always meet the same ones
    kept = some_pairs(usable, 6000)
    assert int(kept.sum()) == 6000 and not (kept & ~usable).any()
    assert (kept.sum(dim=0)[:20] > 200).all()
    assert torch.equal(kept, some_pairs(usable, 6000))
    assert some_pairs(usable, 60000) is usable


def test_fitted_log_odds_are_left_alone_by_a_few_labels_and_corrected_by_many():
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(4000, 3, generator=generator)
    labels = torch.rand(4000, 3, generator=generator) < truth.sigmoid()
    said = 2 * truth + 1  # log-odds that are off
    few, all_known = torch.zeros(4000, 3, dtype=torch.bool), torch.ones(4000, 3, dtype=torch.bool)
    few[:3] = True
    moved = []
    for fitted in (True, False):
        calibration = fit_calibration(said, labels, few, fitted=fitted)
        moved.append(float((calibration.logits(said) - said).abs().mean()))
    assert moved[0] < 0.6 < moved[1]
    calibration = fit_calibration(said, labels, all_known, fitted=True)
    assert torch.allclose(calibration.slope, torch.full((3,), 0.5).double(), atol=0.1)
    assert torch.allclose(calibration.offset, torch.full((3,), -0.5).double(), atol=0.15)


def test_a_sample_keeps_rare_positives_and_says_how_many():
    generator = torch.Generator().manual_seed(0)
    labels = torch.rand(3000, 40, generator=generator) < 0.01
    usable = torch.rand(3000, 40, generator=generator) < 0.5
    some = some_of_both(usable, labels, 6000)
    assert int(some.kept.sum()) == 6000 and not (some.kept & ~usable).any()
    assert torch.equal(some.kept & labels, usable & labels) and some.positive == 1.0
    negatives = int((usable & ~labels).sum())
    assert some.negative == pytest.approx(int((some.kept & ~labels).sum()) / negatives)
    # The other way round, and where there are enough of both.
    rare = some_of_both(usable, ~labels, 6000)
    assert torch.equal(rare.kept, some.kept)
    assert (rare.positive, rare.negative) == (some.negative, some.positive)
    half = torch.arange(3000)[:, None].expand(3000, 40) % 2 == 0
    assert int((some_of_both(usable, half, 6000).kept & half).sum()) == 3000
    whole = some_of_both(usable, labels, 200_000)
    assert whole.kept is usable and (whole.positive, whole.negative) == (1.0, 1.0)


def test_bins_and_error_by_hand():
    probabilities = torch.tensor([[0.1, 0.2, 0.9, 1.0, 0.5]])
    labels = torch.tensor([[False, True, True, True, True]])
    known = torch.tensor([[True, True, True, True, False]])
    low, high = reliability_bins(probabilities, labels, known, bins=2)
    assert low == pytest.approx((0.15, 0.5, 2))
    assert high == pytest.approx((0.95, 1.0, 2))
    error = expected_calibration_error(probabilities, labels, known, bins=2)
    assert error == pytest.approx((2 * 0.35 + 2 * 0.05) / 4)


def test_threshold_lies_midway_and_between_own_and_pooled():
    logits = torch.tensor([[3.0], [2.0], [0.0], [-1.0]])
    labels = torch.tensor([[True], [True], [False], [False]])
    calibration = fit_calibration(logits, labels, torch.ones_like(labels))
    probabilities = calibration.probabilities(logits).flatten()
    # one category: its own threshold is the pooled one, whatever the weight
    midway = (probabilities[1] + probabilities[2]).item() / 2
    assert calibration.thresholds.item() == pytest.approx(midway, rel=1e-6)


# --- against what the data were drawn from


def test_recovers_pooled_slope_and_offset():
    logits, labels, known, _ = simulate(0, 4000, 10, known_share=0.5)
    calibration = fit_calibration(logits, labels, known)
    torch.testing.assert_close(
        calibration.slope, torch.full_like(calibration.slope, 0.5), atol=0.06, rtol=0
    )
    torch.testing.assert_close(
        calibration.offset, torch.full_like(calibration.offset, -1.0), atol=0.2, rtol=0
    )


def test_recovers_offsets_of_categories():
    logits, labels, known, offset = simulate(1, 4000, 12, spread=1.5)
    calibration = fit_calibration(logits, labels, known)
    assert (calibration.offset - offset).abs().max() < 0.3


def test_pooled_fit_is_the_maximum_of_the_likelihood():
    logits, labels, known, _ = simulate(2, 500, 1)
    calibration = fit_calibration(logits, labels, known)
    positives = int(labels.sum())
    ends = ((positives + 1) / (positives + 2), 1 / (500 - positives + 2))
    targets = torch.where(labels, *(torch.tensor(end, dtype=torch.float64) for end in ends))
    residual = calibration.probabilities(logits.double()) - targets
    # the prior of the only category is centred on the pooled fit, so it pulls nowhere
    # the fit ends at steps below 1e-6, and a pair's slope is at most 1/4
    assert residual.sum().abs() < 500 / 4 * 1e-6
    assert (residual * logits).sum().abs() < 1e-2


def test_categories_with_few_labels_stay_near_the_pooled_fit():
    logits, labels, known, _ = simulate(3, 2000, 8, spread=1.5)
    known[:, 0] = False
    known[5:, 1] = False
    calibration = fit_calibration(logits, labels, known)
    known[:, 1] = False
    without = fit_calibration(logits, labels, known)
    assert without.offset[0] == without.offset[1]
    assert without.slope[0] == without.slope[1]
    assert without.thresholds[0] == without.thresholds[1]
    assert (calibration.offset[1] - without.offset[1]).abs() < 1.5


def test_calibration_error_drops_on_fresh_images():
    calibration = fit_calibration(*simulate(4, 1000, 10, spread=1.0, known_share=0.3)[:3])
    logits, labels, known, _ = simulate(5, 2000, 10, spread=1.0)
    before = expected_calibration_error(torch.sigmoid(logits), labels, known)
    after = expected_calibration_error(calibration.probabilities(logits), labels, known)
    assert after < 0.03 < 0.1 < before


def test_thresholds_beat_one_half_on_fresh_images():
    calibration = fit_calibration(*simulate(6, 800, 20, spread=1.0, known_share=0.5, base=-4)[:3])
    logits, labels, known, _ = simulate(7, 3000, 20, spread=1.0, base=-4)
    probabilities, names = calibration.probabilities(logits), [str(c) for c in range(20)]
    half = measure(probabilities, labels, known, names)
    own = measure(probabilities, labels, known, names, threshold=calibration.thresholds.float())
    assert own.at_threshold.category_f1_mean_of_f1 > half.at_threshold.category_f1_mean_of_f1 + 0.05
    assert own.at_threshold.overall_f1 > half.at_threshold.overall_f1 + 0.05


# --- invariants


def test_ranking_never_changes():
    logits, labels, known, _ = simulate(8, 200, 5)
    for given in (labels, ~labels):  # the second ranks the wrong way round
        probabilities = fit_calibration(logits, given, known).probabilities(logits.double())
        assert torch.equal(probabilities.argsort(dim=0), logits.argsort(dim=0))


def test_unknown_labels_change_nothing():
    logits, labels, known, _ = simulate(9, 300, 5, known_share=0.4)
    flipped = torch.where(known, labels, ~labels)
    first, second = (fit_calibration(logits, given, known) for given in (labels, flipped))
    assert first.to_dict() == second.to_dict()
    scores = torch.sigmoid(logits)
    assert reliability_bins(scores, labels, known) == reliability_bins(scores, flipped, known)


def test_ignored_entries_equal_removed_entries():
    logits, labels, known, _ = simulate(10, 300, 5)
    more = simulate(11, 100, 5)
    injected = fit_calibration(
        torch.cat([logits, more[0]]), torch.cat([labels, more[1]]), torch.cat([known, ~more[2]])
    )
    assert injected.to_dict() == fit_calibration(logits, labels, known).to_dict()


def test_permuting_categories_permutes():
    logits, labels, known, _ = simulate(12, 300, 6, spread=1.0, known_share=0.5)
    order = torch.randperm(6)
    plain = fit_calibration(logits, labels, known)
    turned = fit_calibration(logits[:, order], labels[:, order], known[:, order])
    torch.testing.assert_close(turned.slope, plain.slope[order])
    torch.testing.assert_close(turned.offset, plain.offset[order])
    torch.testing.assert_close(turned.thresholds, plain.thresholds[order])


def test_scaling_and_shifting_logits_changes_no_probability():
    logits, labels, known, _ = simulate(13, 300, 4, spread=1.0)
    logits = logits.double()
    plain, moved = (fit_calibration(part, labels, known) for part in (logits, 1e3 * logits + 50))
    expected = plain.probabilities(logits)
    torch.testing.assert_close(moved.probabilities(1e3 * logits + 50), expected)


@pytest.mark.parametrize("scale", [0.0, 1e-6, 1.0, 1e6, 1e30])
@pytest.mark.parametrize("case", ["none", "positives", "negatives", "separable", "random", "one"])
def test_finite_whatever_comes(scale, case):
    logits, labels, known, _ = simulate(14, 60, 3)
    if case == "none":
        known = torch.zeros_like(known)
    elif case in ("positives", "negatives"):
        labels = torch.full_like(labels, case == "positives")
    elif case == "separable":
        labels = logits > 0
    elif case == "one":
        known = torch.zeros_like(known)
        known[labels.nonzero()[0][0], labels.nonzero()[0][1]] = True
        known[(~labels).nonzero()[0][0], (~labels).nonzero()[0][1]] = True
    calibration = fit_calibration(scale * logits, labels, known)
    assert all_finite(calibration)
    assert bool(calibration.probabilities(scale * logits).isfinite().all())
    if case == "separable" and scale:
        predicted = calibration.probabilities(scale * logits) >= calibration.thresholds
        assert (predicted == labels).double().mean() > 0.95


def test_one_sided_labels_give_the_identity_and_say_so(caplog):
    logits, labels, known, _ = simulate(15, 20, 3)
    with caplog.at_level(logging.WARNING):
        calibration = fit_calibration(logits, torch.ones_like(labels), known)
    assert calibration.to_dict() == Calibration.identity(3).to_dict()
    assert "uncalibrated" in caplog.text


def test_tables_of_what_is_present_take_blanks_for_negatives():
    logits, labels, known, _ = simulate(15, 200, 3)
    present = known & labels
    looked_at = present.any(dim=1, keepdim=True)
    assert not looked_at.all()  # blanks of the other images say nothing
    matrix, every = LabelMatrix(labels, present), torch.ones(3, dtype=torch.bool)
    expected = fit_calibration(logits, present, looked_at.expand_as(known))
    assert calibrate(logits, matrix, every).to_dict() == expected.to_dict()
    assert not both_answers(matrix, every)
    nothing = LabelMatrix(labels, torch.zeros_like(known))
    assert calibrate(logits, nothing, every).to_dict() == Calibration.identity(3).to_dict()


def test_a_stray_absent_label_changes_no_other_category():
    logits, labels, known, _ = simulate(15, 200, 3)
    present = known & labels
    rows = present.any(dim=1)
    logits, present = logits[rows], present[rows]
    before = LabelMatrix(present, present)
    known = present.clone()
    known[(~present[:, 0]).nonzero()[0], 0] = True
    after = LabelMatrix(present, known)
    found = [calibrate(logits, each, counted_by_blanks(each)).to_dict() for each in (before, after)]
    assert found[0] == found[1] and not both_answers(after, counted_by_blanks(after))
    # Where a category has enough of them, they count, and the blanks of the others still do.
    known[:, 0] = True
    many = LabelMatrix(present, known)
    assert counted_by_blanks(many).tolist() == [False, True, True]
    assert both_answers(many, counted_by_blanks(many))
    assert calibrate(logits, many, counted_by_blanks(many)).to_dict() == found[0]


def test_one_sided_category_is_finite():
    logits, labels, known, _ = simulate(16, 100, 3)
    labels[:, 0], labels[:, 1] = True, False
    assert all_finite(fit_calibration(logits, labels, known))


def test_no_known_label_has_no_calibration_error():
    probabilities = torch.full((2, 2), 0.5)
    nothing = torch.zeros(2, 2, dtype=torch.bool)
    assert reliability_bins(probabilities, nothing, nothing) == []
    assert math.isnan(expected_calibration_error(probabilities, nothing, nothing))


def test_one_image_alone_equals_the_batch():
    logits, labels, known, _ = simulate(17, 50, 4)
    calibration = fit_calibration(logits, labels, known)
    assert torch.equal(calibration.probabilities(logits)[:1], calibration.probabilities(logits[:1]))


def test_json_round_trip_is_exact():
    calibration = fit_calibration(*simulate(18, 50, 4)[:3])
    again = Calibration.from_dict(json.loads(json.dumps(calibration.to_dict())))
    assert again.to_dict() == calibration.to_dict()


def test_half_precision_logits():
    probabilities = Calibration.identity(2).probabilities(torch.zeros(3, 2, dtype=torch.bfloat16))
    assert probabilities.dtype == torch.float32


# --- errors


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("slope", [1.0, 0.0], "slope .* above 0; category 1"),
        ("offset", [math.nan, 0.0], "offset .* finite; category 0"),
        ("thresholds", [0.5, 1.5], "threshold .* category 1"),
    ],
)
def test_values_out_of_range(name, values, message):
    parts = Calibration.identity(2).to_dict()
    with pytest.raises(DataError, match=message):
        Calibration(
            **{key: torch.tensor(part).double() for key, part in {**parts, name: values}.items()}
        )
    with pytest.raises(CheckpointError, match="Fit it again"):
        Calibration.from_dict({**parts, name: values})


@pytest.mark.parametrize("broken", [{}, {"slope": "x", "offset": [0.0], "thresholds": [0.5]}])
def test_broken_dict(broken):
    with pytest.raises(CheckpointError, match="slope, offset and thresholds"):
        Calibration.from_dict(broken)


def test_logits_must_be_finite():
    logits, labels, known, _ = simulate(19, 5, 2)
    logits[1, 1] = math.inf
    with pytest.raises(DataError, match=r"finite. Got inf at index \[1, 1\]"):
        fit_calibration(logits, labels, known)


def test_probabilities_must_lie_in_the_unit_interval():
    logits, labels, known, _ = simulate(20, 5, 2)
    with pytest.raises(DataError, match=r"\[0, 1\]"):
        reliability_bins(logits, labels, known)
