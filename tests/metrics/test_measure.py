import json
import math

import numpy as np
import polars as pl
import pytest
import torch
from rich.console import Console
from sklearn.metrics import average_precision_score, f1_score, precision_score, recall_score

from trmml.errors import ConfigError, DataError
from trmml.metrics.average_precision import average_precision
from trmml.metrics.checks import check_pairs
from trmml.metrics.measure import measure

NAMES = [f"category {c}" for c in range(6)]


def draw(seed: int = 0, n: int = 50, c: int = 6, decimals: int = 1):
    """Rounded scores, so that ties are frequent; about 70 % of the labels known."""
    generator = torch.Generator().manual_seed(seed)
    scores = (torch.rand(n, c, generator=generator) * 10**decimals).round() / 10**decimals
    labels = torch.rand(n, c, generator=generator) < 0.3
    return scores, labels, torch.rand(n, c, generator=generator) < 0.7


def voc_area(scores, labels):
    """The area under the monotone envelope, point by point as the VOC devkit draws it."""
    recall, precision = [0.0], []
    for value in sorted(set(scores.tolist()), reverse=True):
        chosen = scores >= value
        recall.append((labels & chosen).sum().item() / labels.sum().item())
        precision.append((labels & chosen).sum().item() / chosen.sum().item())
    widths = np.diff(recall)
    return sum(w * max(precision[i:]) for i, w in enumerate(widths))


# --- by hand


def test_average_precision_by_hand():
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5])
    labels = torch.tensor([True, False, False, True, True])
    known = torch.ones(5, dtype=torch.bool)
    assert average_precision(scores, labels, known) == pytest.approx((1 + 2 / 4 + 3 / 5) / 3)
    interpolated = average_precision(scores, labels, known, form="interpolated")
    assert interpolated == pytest.approx((1 + 3 / 5 + 3 / 5) / 3)


def test_measure_by_hand():
    scores = torch.tensor([[0.9, 0.8, 0.6], [0.7, 0.2, 0.5], [0.1, 0.6, 0.9]])
    labels = torch.tensor([[True, False, False], [True, True, False], [False, True, False]])
    metrics = measure(scores, labels, torch.ones_like(labels), ["a", "b", "c"], top_k=1)
    at = metrics.at_threshold
    assert (at.overall_precision, at.overall_recall) == pytest.approx((3 / 7, 3 / 4))
    assert at.overall_f1 == pytest.approx(2 * 3 / (7 + 4))
    # c has no positive: left out of the category means, its wrong answers stay in the overall ones
    assert (at.category_precision, at.category_recall) == (0.75, 0.75)
    assert at.category_f1 == 0.75
    assert at.category_f1_mean_of_f1 == pytest.approx((1 + 0.5) / 2)
    # the best of each image: a (right), a (right), c (wrong)
    top = metrics.at_top_k
    assert (top.overall_precision, top.overall_recall) == pytest.approx((2 / 3, 2 / 4))
    assert (top.category_precision, top.category_recall) == (0.5, 0.5)
    assert (metrics.undefined_categories, metrics.categories, metrics.images) == (1, 3, 3)
    assert metrics.mean_ap == pytest.approx((1 + (1 / 2 + 2 / 3) / 2) / 2)
    assert metrics.mean_ap_undefined_as_zero == pytest.approx(metrics.mean_ap * 2 / 3)


def test_top_k_keeps_only_what_reaches_the_threshold():
    scores = torch.tensor([[0.9, 0.5, 0.49]])
    labels = torch.tensor([[True, True, True]])
    metrics = measure(scores, labels, torch.ones_like(labels), ["a", "b", "c"], top_k=3)
    assert metrics.at_top_k.overall_recall == pytest.approx(2 / 3)
    assert metrics.at_top_k == metrics.at_threshold


def test_harmonic_mean_and_mean_of_f1_differ():
    scores = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.1, 0.9]])
    labels = torch.tensor([[True, True], [False, True], [False, True]])
    at = measure(scores, labels, torch.ones_like(labels), ["a", "b"]).at_threshold
    assert at.category_f1 == pytest.approx(2 * 0.75 * (2 / 3) / (0.75 + 2 / 3))
    assert at.category_f1_mean_of_f1 == pytest.approx((2 / 3 + 0.5) / 2)


# --- against scikit-learn and a slow loop


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_average_precision_equals_references(seed, dtype):
    scores, labels, known = (part[:, 0] for part in draw(seed))
    scores = scores.to(dtype)
    kept_scores, kept_labels = scores[known], labels[known]
    expected = average_precision_score(kept_labels.numpy(), kept_scores.numpy())
    assert average_precision(scores, labels, known) == pytest.approx(expected, abs=1e-12)
    interpolated = average_precision(scores, labels, known, form="interpolated")
    assert interpolated == pytest.approx(voc_area(kept_scores, kept_labels), abs=1e-12)
    assert interpolated >= expected - 1e-12


def test_thresholded_figures_equal_scikit_learn():
    scores, labels, _ = draw(3)
    metrics = measure(scores, labels, torch.ones_like(labels), NAMES)
    truth, answer = labels.numpy(), (scores >= 0.5).numpy()
    at = metrics.at_threshold
    for average, found in (
        ("micro", (at.overall_precision, at.overall_recall, at.overall_f1)),
        ("macro", (at.category_precision, at.category_recall, at.category_f1_mean_of_f1)),
    ):
        for score, value in zip((precision_score, recall_score, f1_score), found, strict=True):
            assert value == pytest.approx(score(truth, answer, average=average, zero_division=0))


def test_top_k_equals_a_loop():
    scores, labels, known = draw(4, decimals=6)
    predicted = torch.zeros_like(labels)
    for i in range(len(scores)):
        candidates = [c for c in range(6) if known[i, c]]
        for c in sorted(candidates, key=lambda c: -scores[i, c])[:2]:
            predicted[i, c] = scores[i, c] >= 0.5
    top = measure(scores, labels, known, NAMES, top_k=2).at_top_k
    hits = (predicted & labels).sum().item()
    assert top.overall_precision == pytest.approx(hits / predicted.sum().item())
    assert top.overall_recall == pytest.approx(hits / (labels & known).sum().item())


def test_one_threshold_per_category():
    scores, labels, known = draw(5)
    thresholds = torch.linspace(0.1, 0.9, 6)
    metrics = measure(scores, labels, known, NAMES, threshold=thresholds)
    for c, category in enumerate(metrics.per_category):
        alone = measure(
            scores[:, [c]], labels[:, [c]], known[:, [c]], ["x"], threshold=thresholds[c].item()
        )
        assert category.recall == alone.at_threshold.overall_recall
        assert category.threshold == thresholds[c].item()


# --- invariants


def test_unknown_labels_change_nothing():
    scores, labels, known = draw(6)
    flipped = torch.where(known, labels, ~labels)
    first, second = (measure(scores, given, known, NAMES) for given in (labels, flipped))
    assert first == second


def test_ignored_entries_equal_removed_entries():
    scores, labels, _ = draw(7)
    more_scores, more_labels, _ = draw(8)
    known = torch.cat([torch.ones_like(labels), torch.zeros_like(labels)])
    injected = measure(
        torch.cat([scores, more_scores]), torch.cat([labels, more_labels]), known, NAMES
    )
    plain = measure(scores, labels, torch.ones_like(labels), NAMES)
    assert injected.at_threshold == plain.at_threshold
    assert injected.at_top_k == plain.at_top_k
    assert injected.mean_ap == plain.mean_ap
    assert injected.mean_ap_interpolated == plain.mean_ap_interpolated


def test_unknown_entries_take_no_top_k_place():
    scores = torch.tensor([[0.9, 0.8, 0.7]])
    labels = torch.tensor([[True, True, True]])
    known = torch.tensor([[False, True, True]])
    assert measure(scores, labels, known, NAMES[:3], top_k=1).at_top_k.overall_recall == 0.5


def test_permuting_images_or_categories():
    scores, labels, known = draw(9, decimals=6)
    plain = measure(scores, labels, known, NAMES)
    rows, columns = torch.randperm(50), torch.randperm(6)
    assert measure(scores[rows], labels[rows], known[rows], NAMES) == plain
    turned = measure(
        *(part[:, columns] for part in (scores, labels, known)), [NAMES[c] for c in columns]
    )
    assert turned.per_category == tuple(plain.per_category[c] for c in columns)
    assert turned.mean_ap == pytest.approx(plain.mean_ap)


def test_only_the_order_matters_for_average_precision():
    scores, labels, known = (part[:, 0] for part in draw(10))
    expected = average_precision(scores, labels, known)
    assert average_precision(torch.exp(3 * scores) - 7, labels, known) == expected


@pytest.mark.parametrize("known_value", [True, False])
def test_nothing_present_is_undefined_and_counted(known_value):
    scores, labels, known = draw(11)
    labels, known = torch.zeros_like(labels), torch.full_like(known, known_value)
    metrics = measure(scores, labels, known, NAMES)
    assert metrics.undefined_categories == 6
    assert all(math.isnan(value) for _, value in metrics.summary_rows())
    assert metrics.mean_ap_undefined_as_zero == 0
    assert math.isnan(average_precision(scores[:, 0], labels[:, 0], known[:, 0]))


def test_nothing_predicted_has_precision_zero():
    labels = torch.tensor([[True], [False]])
    at = measure(torch.zeros(2, 1), labels, torch.ones_like(labels), ["a"]).at_threshold
    assert (at.overall_precision, at.category_precision, at.category_f1) == (0, 0, 0)


def test_half_precision_scores_and_single_image():
    scores = torch.tensor([[0.75, 0.25]], dtype=torch.bfloat16)
    labels = torch.tensor([[True, False]])
    assert measure(scores, labels, torch.ones_like(labels), ["a", "b"]).mean_ap == 1


# --- output


def test_json_csv_and_table(tmp_path):
    scores, labels, known = draw(12)
    labels[:, 2] = False
    metrics = measure(scores, labels, known, ["é,\n", *NAMES[1:]])
    metrics.write_json(tmp_path / "m.json")
    stored = json.loads((tmp_path / "m.json").read_text(encoding="utf-8"))
    assert stored == metrics.to_dict()
    assert stored["per_category"][2]["ap"] is None
    assert stored["at_top_k"]["overall_f1"] == metrics.at_top_k.overall_f1
    metrics.write_csv(tmp_path / "m.csv")
    table = pl.read_csv(tmp_path / "m.csv")
    assert table["name"].to_list()[0] == "é,\n"
    assert table["ap"].to_list()[2] is None
    assert table["positives"].to_list() == (labels & known).sum(0).tolist()
    console = Console(width=120)
    with console.capture() as shown:
        console.print(metrics.table())
    assert f"{100 * metrics.mean_ap:.2f}" in shown.get()
    assert "1 without a known positive" in " ".join(shown.get().split())


def test_summary_rows_name_every_figure_once():
    names = [name for name, _ in measure(*draw(13), NAMES).summary_rows()]
    assert names[:4] == ["mAP", "mAP interpolated", "OP", "OR"]
    assert names[-1] == "mean F1 top-3"
    assert len(set(names)) == len(names) == 16


# --- errors


@pytest.mark.parametrize("wrong", [-0.1, 1.5, math.nan, math.inf])
def test_scores_out_of_range_name_the_place(wrong):
    scores, labels, known = draw(14)
    scores[3, 2] = wrong
    known[3, 2] = False
    with pytest.raises(DataError, match=r"index \[3, 2\]"):
        measure(scores, labels, known, NAMES)


def test_logits_are_refused_with_advice():
    with pytest.raises(DataError, match=r"torch\.sigmoid"):
        measure(draw(15)[0] * 9, *draw(15)[1:], NAMES)


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        (torch.zeros(2, 3), torch.zeros(2, 2, dtype=torch.bool), r"\(2, 3\), got \(2, 2\)"),
        (torch.zeros(2, 3), torch.zeros(2, 3), "bool tensor, got torch.float32"),
        (torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, 3, dtype=torch.bool), "int64"),
        (torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.bool), "at least one image"),
    ],
)
def test_shapes_and_types(scores, labels, message):
    with pytest.raises(DataError, match=message):
        check_pairs(scores, labels, labels)


def test_names_thresholds_and_top_k():
    scores, labels, known = draw(16)
    with pytest.raises(DataError, match="6, got 5 category names"):
        measure(scores, labels, known, NAMES[:5])
    with pytest.raises(ConfigError, match=r"\[0, 1\], got 1.5"):
        measure(scores, labels, known, NAMES, threshold=1.5)
    with pytest.raises(ConfigError, match="at least 1, got 0"):
        measure(scores, labels, known, NAMES, top_k=0)
