"""Heads that never saw an image: what they may not know, and how well they fit."""

import pytest
import torch
from sklearn.linear_model import LogisticRegression

from trmml.curation.cross_fit import PENALTY, Head, cross_fitted, directions_of, fit_head
from trmml.curation.folds import image_folds
from trmml.labels.matrix import LabelMatrix
from trmml.metrics.average_precision import average_precisions


def _toy(images: int = 400, share: float = 0.5) -> tuple[torch.Tensor, LabelMatrix, torch.Tensor]:
    """Means, partly known labels, and the whole truth, of 6 categories."""
    means = torch.randn(images, 24).relu()
    truth = (means - 0.4) @ torch.randn(24, 6) > 1
    return means, LabelMatrix(truth, torch.rand(images, 6) < share), truth


def test_directions_are_uncorrelated_with_variance_one() -> None:
    inputs = directions_of(_toy()[0].half())
    covariance = inputs.T @ inputs / len(inputs)
    assert torch.allclose(covariance, covariance.diag().diag(), atol=1e-4)
    assert torch.isclose(covariance.trace(), torch.tensor(1.0), atol=1e-3)


def test_a_head_is_that_of_a_solver() -> None:
    means, matrix, _ = _toy()
    inputs = directions_of(means)
    head = fit_head(inputs, LabelMatrix(matrix.labels[:, :1], matrix.known[:, :1]))
    known = matrix.known[:, 0]
    solver = LogisticRegression(C=1 / PENALTY).fit(inputs[known], matrix.labels[known, 0])
    ours = inputs @ head.weight[:, 0] + head.bias[0]
    theirs = torch.from_numpy(solver.decision_function(inputs.numpy())).float()
    assert torch.corrcoef(torch.stack([ours, theirs]))[0, 1] > 0.99
    assert (ours - theirs).abs().mean() < 0.3  # of logits that reach beyond 3


def test_what_lies_behind_unknown_pairs_changes_nothing() -> None:
    means, matrix, _ = _toy()
    inputs, folds = directions_of(means), image_folds(means)
    other = LabelMatrix(matrix.labels | ~matrix.known, matrix.known)
    assert torch.equal(cross_fitted(inputs, matrix, folds), cross_fitted(inputs, other, folds))


def test_an_image_and_its_copies_are_scored_by_heads_that_saw_none_of_them() -> None:
    """Leaks 1 and 2: labels of an image, or of its copy, do not reach its own logits."""
    means, matrix, _ = _toy(200)
    means[1] = means[0]
    inputs, folds = directions_of(means), image_folds(means)
    labels, known = matrix.labels.clone(), matrix.known.clone()
    labels[:2], known[:2] = ~labels[:2], True
    before, after = (cross_fitted(inputs, m, folds) for m in (matrix, LabelMatrix(labels, known)))
    assert torch.equal(before[:2], after[:2])
    assert not torch.equal(before[2:], after[2:])  # others learn from them
    alone = torch.arange(200) % 5  # folds that part the copies: then they leak
    before, after = (cross_fitted(inputs, m, alone) for m in (matrix, LabelMatrix(labels, known)))
    assert not torch.equal(before[:2], after[:2])


def test_logits_rank_images_that_no_head_saw() -> None:
    means, matrix, truth = _toy()
    logits = cross_fitted(directions_of(means), matrix, image_folds(means))
    assert average_precisions(logits, truth, ~matrix.known).mean() > 0.85
    assert average_precisions(logits, truth, matrix.known).mean() > 0.85


def test_hopeless_columns_stay_finite() -> None:
    means, matrix, _ = _toy(60)
    known = matrix.known.clone()
    known[:, 0], known[:, 1] = False, matrix.labels[:, 1]  # nothing known; present ones alone
    logits = cross_fitted(
        directions_of(means), LabelMatrix(matrix.labels, known), image_folds(means)
    )
    assert logits.isfinite().all()
    same = directions_of(torch.ones(60, 24))  # images that cannot be told apart
    assert cross_fitted(same, matrix, image_folds(means)).isfinite().all()


def test_no_head_learns_from_more_images_than_said(monkeypatch: pytest.MonkeyPatch) -> None:
    learned: list[int] = []

    def counting(inputs: torch.Tensor, matrix: LabelMatrix) -> Head:
        learned.append(len(inputs))
        return fit_head(inputs, matrix)

    monkeypatch.setattr("trmml.curation.cross_fit.MOST_IMAGES", 100)
    monkeypatch.setattr("trmml.curation.cross_fit.fit_head", counting)
    means, matrix, _ = _toy(199)
    cross_fitted(directions_of(means), matrix, torch.arange(199) % 5)
    assert learned == [80] * 5  # every second of 159 or 160
    assert torch.equal(directions_of(means), directions_of(means, means[::2]))


@pytest.mark.parametrize("images", [1, 4])
def test_without_another_fold_the_share_of_nothing_is_said(images: int) -> None:
    means, matrix, _ = _toy(images)
    inputs = directions_of(means)
    logits = cross_fitted(inputs, matrix, torch.zeros(images, dtype=torch.long))
    assert torch.equal(logits, torch.zeros(images, 6))  # and nothing of the images' own labels
