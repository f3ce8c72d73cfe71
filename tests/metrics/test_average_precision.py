import math

import pytest
import torch
from sklearn.metrics import average_precision_score

from trmml.errors import DataError
from trmml.metrics.average_precision import average_precision, average_precisions, mean_defined
from trmml.metrics.measure import measure


def draw(n: int = 60, c: int = 5):
    """Logits with ties, far beyond where a sigmoid saturates; the last category has no positive."""
    generator = torch.Generator().manual_seed(0)
    logits = 60 * torch.randn(n, c, generator=generator).mul(4).round() / 4
    labels = torch.rand(n, c, generator=generator) < 0.3
    labels[:, -1] = False
    return logits, labels, torch.rand(n, c, generator=generator) < 0.7


def test_by_hand():
    logits = torch.tensor([[3.0, -1.0], [2.0, 5.0], [1.0, 5.0]])
    labels = torch.tensor([[True, False], [False, True], [True, False]])
    known = torch.ones_like(labels)
    expected = torch.tensor([(1 + 2 / 3) / 2, 1 / 2], dtype=torch.float64)
    torch.testing.assert_close(average_precisions(logits, labels, known), expected)


def test_each_category_equals_scikit_learn_and_the_function_of_one():
    logits, labels, known = draw()
    aps = average_precisions(logits, labels, known).tolist()
    for c in range(4):
        own = (logits[known[:, c], c], labels[known[:, c], c])
        assert aps[c] == pytest.approx(average_precision_score(own[1], own[0]), abs=1e-12)
        assert aps[c] == average_precision(logits[:, c], labels[:, c], known[:, c])
    assert math.isnan(aps[4])


@pytest.mark.parametrize("form", ["non-interpolated", "interpolated"])
def test_equal_to_the_table_of_all_figures(form):
    logits, labels, known = draw()
    # Any increasing map into [0, 1] ranks alike; the sigmoid would tie what is above 37.
    scores = 0.5 + 0.5 * logits.double() / (1 + logits.double().abs())
    metrics = measure(scores, labels, known, list("abcde"))
    aps = average_precisions(logits, labels, known, form=form)
    interpolated = form == "interpolated"
    rows = [row.ap_interpolated if interpolated else row.ap for row in metrics.per_category]
    assert aps.tolist() == pytest.approx(rows, nan_ok=True, abs=0)
    wanted = metrics.mean_ap_interpolated if interpolated else metrics.mean_ap
    assert mean_defined(aps) == wanted


def test_unknown_labels_change_nothing():
    logits, labels, known = draw()
    flipped = torch.where(known, labels, ~labels)
    both = (average_precisions(logits, given, known) for given in (labels, flipped))
    assert torch.equal(*(part.nan_to_num(-1) for part in both))


def test_nothing_known_has_no_mean():
    logits, labels, known = draw()
    assert math.isnan(mean_defined(average_precisions(logits, labels, known & False)))


def test_logits_must_be_finite():
    logits, labels, known = draw()
    logits[1, 2] = math.inf
    with pytest.raises(DataError, match=r"finite.*\[1, 2\]"):
        average_precisions(logits, labels, known)
