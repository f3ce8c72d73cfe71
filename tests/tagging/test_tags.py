import numpy as np
import pytest

from trmml.tagging.tags import Choice


@pytest.mark.parametrize("top", [None, 1, 3, 9])
@pytest.mark.parametrize("threshold", [None, 0.0, 0.5, 1.0])
def test_tags_are_those_of_a_slow_loop(top, threshold):
    rng = np.random.default_rng(0)
    probabilities = rng.random((20, 6)).round(1)  # with ties, which keep the order of the names
    own, names = rng.random(6), list("abcdef")
    limits = own if threshold is None else [threshold] * 6
    found = Choice(top, threshold).tags(probabilities, own, names)
    for row, tags in zip(probabilities, found, strict=True):
        order = sorted(range(6), key=lambda c: -row[c])
        if top is None or threshold is not None:
            order = [c for c in order if row[c] >= limits[c]]
        wanted = [(names[c], row[c], limits[c]) for c in order[:top]]
        assert [(tag.category, tag.probability, tag.threshold) for tag in tags] == wanted
