import math

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from tests.toy_cells import toy_cell
from trmml.benchmark.bootstrap import (
    Spread,
    difference_interval,
    draws,
    mean_over_cells,
    over_seeds,
    over_shares,
    resampled_map,
)
from trmml.benchmark.records import ranks_of
from trmml.errors import ConfigError
from trmml.labels.matrix import LabelMatrix
from trmml.metrics.measure import measure


def drawn_once(images: int) -> torch.Tensor:
    """Every image once: the test set as it is."""
    return torch.ones(1, images, dtype=torch.long)


def random_case(images: int, categories: int, seed: int, *, ties: bool) -> tuple:
    """Scores, labels with blanks, and a category without a positive."""
    rng = np.random.default_rng(seed)
    scores = rng.random((images, categories))
    if ties:
        scores = np.round(scores * 4) / 4
    labels = torch.from_numpy(rng.random((images, categories)) < 0.3)
    labels[:, 0] = False
    known = torch.from_numpy(rng.random((images, categories)) < 0.8)
    return scores, LabelMatrix(labels, known)


def figures_of(spread: Spread | None) -> tuple[float, float, int]:
    assert spread is not None
    return spread.mean, spread.deviation, spread.count


# By hand ------------------------------------------------------------------------------------


def test_a_resample_by_hand() -> None:
    # Best first: positive, negative, positive. The second draw has the negative twice and no last.
    scores = np.array([[0.9], [0.5], [0.1]])
    labels = LabelMatrix(torch.tensor([[True], [False], [True]]), torch.ones(3, 1).bool())
    counts = torch.tensor([[1, 1, 1], [1, 2, 0], [0, 1, 2], [0, 3, 0]])
    found = resampled_map(ranks_of(scores), labels, counts)
    # 0, 1, 2 times: both copies of the positive are seen together, 2 of 3.
    assert found[:3].tolist() == pytest.approx([(1 + 2 / 3) / 2, 1.0, 2 / 3])
    assert found[3].isnan()  # no positive drawn


def test_means_by_hand() -> None:
    cells = [
        toy_cell("trmml", share, seed, [value])
        for share, seed, value in [(0.1, 0, 0.2), (0.5, 0, 0.4), (0.1, 1, 0.3), (0.5, 1, 0.7)]
    ]
    figure = lambda cell: cell.figures["map"]  # noqa: E731
    assert figures_of(over_seeds(cells[::2], figure)) == pytest.approx((0.25, 0.1 / 2**0.5, 2))
    # Means of the seeds: 0.3 and 0.5.
    headline = over_shares(cells, figure, [0.1, 0.5])
    assert figures_of(headline) == pytest.approx((0.4, 0.2 / 2**0.5, 2))
    # A seed that lacks a share does not count, and without any whole one there is no headline.
    one = over_shares(cells[:3], figure, [0.1, 0.5])
    assert one is not None and (one.mean, one.count) == (pytest.approx(0.3), 1)
    assert math.isnan(one.deviation)
    assert over_shares(cells[::2], figure, [0.1, 0.5]) is None
    assert over_seeds([], figure) is None


def test_a_difference_by_hand() -> None:
    second = torch.zeros(5)
    first = torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0])
    found = difference_interval(2.0, first, second)
    assert (found.mean, found.low, found.high) == pytest.approx((2.0, 0.1, 3.9))
    # Draws that are 1 too high on average say nothing of the difference but their spread.
    lower = difference_interval(1.0, first, second)
    assert (lower.mean, lower.low, lower.high) == pytest.approx((1.0, -0.9, 2.9))
    # A draw without a positive has no mAP.
    none = torch.tensor([math.nan])
    assert difference_interval(2.0, *(torch.cat([none, t]) for t in (first, second))) == found
    assert math.isnan(difference_interval(2.0, none, none).low)


# Slow ways ----------------------------------------------------------------------------------


@pytest.mark.parametrize("ties", [False, True])
def test_resampling_equals_scikit_learn_on_the_drawn_images(ties: bool) -> None:
    scores, labels = random_case(23, 5, seed=1, ties=ties)
    counts = draws(23, 20, seed=3)
    found = resampled_map(ranks_of(scores), labels, counts)
    for row, value in zip(counts, found.tolist(), strict=True):
        images = np.repeat(np.arange(23), row.numpy())
        aps = []
        for c in range(5):
            there = images[labels.known[images, c].numpy()]
            truth = labels.labels[there, c].numpy()
            if truth.any():
                aps.append(average_precision_score(truth, scores[there, c]))
        assert value == pytest.approx(np.mean(aps), abs=1e-6)


def test_the_set_as_it_is_gives_the_map_that_measure_gives() -> None:
    scores, labels = random_case(31, 4, seed=2, ties=True)
    metrics = measure(torch.from_numpy(scores), labels.labels, labels.known, list("abcd"))
    found = resampled_map(ranks_of(scores), labels, drawn_once(31))
    assert found.item() == pytest.approx(metrics.mean_ap, abs=1e-6)


# Invariants ---------------------------------------------------------------------------------


def test_score_and_label_of_an_unknown_pair_change_nothing() -> None:
    scores, labels = random_case(20, 3, seed=4, ties=False)
    counts = draws(20, 5)
    changed = scores.copy()
    changed[~labels.known.numpy()] = 7.0
    first = resampled_map(ranks_of(scores), labels, counts)
    torch.testing.assert_close(resampled_map(ranks_of(changed), labels, counts), first)
    flipped = LabelMatrix(labels.labels ^ ~labels.known, labels.known)
    torch.testing.assert_close(resampled_map(ranks_of(scores), flipped, counts), first)


def test_draws_are_seeded_and_of_the_size_of_the_set() -> None:
    counts = draws(50, 9, seed=1)
    assert counts.shape == (9, 50) and (counts.sum(dim=1) == 50).all()
    assert torch.equal(counts, draws(50, 9, seed=1))
    assert not torch.equal(counts, draws(50, 9, seed=2))
    with pytest.raises(ConfigError, match="at least 1 draw"):
        draws(50, 0)


def test_the_mean_over_cells_weighs_rules_alike() -> None:
    cells = [
        toy_cell("trmml", share, seed, [0.5]) for share, seed in [(0.1, 0), (0.1, 1), (0.5, 0)]
    ]
    drawn = {
        cell.fingerprint: torch.tensor([value])
        for cell, value in zip(cells, [0.0, 1.0, 2.0], strict=True)
    }
    # Seed 1 lacks a rule: it counts nowhere, as in the means that stand beside the interval.
    assert mean_over_cells(cells, drawn).item() == pytest.approx((0.0 + 2.0) / 2)
    whole = [*cells, toy_cell("trmml", 0.5, 1, [0.5])]
    drawn[whole[-1].fingerprint] = torch.tensor([4.0])
    assert mean_over_cells(whole, drawn).item() == pytest.approx((0.5 + 3.0) / 2)


def test_ranks_keep_order_and_ties() -> None:
    scores = np.array([[0.3, 1.0], [0.7, 1.0], [0.3, 0.0]])
    assert ranks_of(scores).tolist() == [[1, 0], [0, 0], [1, 1]]
    assert ranks_of(scores).dtype == np.uint16
    assert ranks_of(np.zeros((2**16 + 1, 1))).dtype == np.uint32
