from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.sets import boxes
from trmml.datasets.base import Boxes, Dataset
from trmml.errors import DataError
from trmml.labels.matrix import LabelMatrix

WHOLE = (0.0, 0.0, 1.0, 1.0)


def dataset(count: int, found: Boxes | None, categories: int = 3) -> Dataset:
    bits = torch.zeros(count, categories, dtype=torch.bool)
    names = tuple(f"{index}.jpg" for index in range(count))
    rows = tuple(range(count))
    return Dataset(
        Path("p"), names, ("a", "b", "c")[:categories], LabelMatrix(bits, bits), rows, found
    )


def test_what_lies_outside_is_cut_and_repeats_come_once():
    found = Boxes.collect(
        [
            (1, 0, (0.2, 0.1, 0.4, 0.9)),
            (0, 2, (-1.0, 0.5, 2.0, 0.75)),
            (1, 0, (0.2, 0.1, 0.4, 0.9)),
            (1, 1, (0.2, 0.1, 0.4, 0.9)),
            (0, 0, (1.2, 0.0, 1.4, 1.0)),
            (0, 0, (0.5, 0.4, 0.5, 0.6)),
        ]
    )
    assert len(found) == 3
    assert found.image.tolist() == [1, 0, 1] and found.category.tolist() == [0, 2, 1]
    assert found.edges.tolist() == [[0.2, 0.1, 0.4, 0.9], [0, 0.5, 1, 0.75], [0.2, 0.1, 0.4, 0.9]]


@pytest.mark.parametrize("edge", [0.4, float("nan"), float("inf")])
def test_what_is_no_box_does_not_vanish(edge):
    with pytest.raises(DataError, match=r"image 7 .*has a box with .* finite numbers with left <="):
        Boxes.collect([(0, 0, WHOLE), (7, 0, (0.5, 0.0, edge, 1.0))])


def test_none_at_all():
    found = Boxes.collect([])
    assert len(found) == 0 and found.edges.shape == (0, 4)
    assert len(dataset(2, found).subset([1]).boxes or ()) == 0
    assert dataset(2, None).subset([1]).boxes is None


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2)), max_size=12),
    st.lists(st.integers(0, 4), min_size=1, max_size=7),
)
def test_a_subset_equals_a_slow_loop(pairs: list[tuple[int, int]], chosen: list[int]):
    rows = [(i, c, (k / 100, 0.0, 1.0, 1.0)) for k, (i, c) in enumerate(pairs)]
    data = dataset(5, Boxes.collect(rows))
    part = data.subset(chosen)
    assert part.boxes is not None and part.images == tuple(f"{i}.jpg" for i in chosen)
    found = [(i, c, e[0]) for i, c, e in zip(
        part.boxes.image.tolist(), part.boxes.category.tolist(), part.boxes.edges.tolist(),
        strict=True,
    )]  # fmt: skip
    slow = [
        (new, category, edges[0])
        for new, old in enumerate(chosen)
        for image, category, edges in rows
        if image == old
    ]
    assert found == slow


def test_a_subset_keeps_names():
    data = dataset(3, Boxes.collect([(0, 1, WHOLE), (2, 0, (0.5, 0.5, 1.0, 1.0))]))
    assert boxes(data.subset([2, 0])) == [
        ("2.jpg", "a", (0.5, 0.5, 1.0, 1.0)),
        ("0.jpg", "b", WHOLE),
    ]


def construct(*parts: object) -> None:
    """Construct as in use: in tests, the shape checker would come before our own check."""
    found = object.__new__(Boxes)
    for name, part in zip(("image", "category", "edges"), parts, strict=True):
        object.__setattr__(found, name, part)
    found.__post_init__()


def test_what_does_not_fit_is_refused():
    one = torch.tensor([0])
    with pytest.raises(DataError, match=r"1 images, 1 categories and edges of shape \(2, 4\)"):
        construct(one, one, torch.zeros(2, 4))
    for edges in ([0, 0, 3, 4], [0.5, 0, 0.4, 1], [0, 0.2, 1, 0.2], [-0.1, 0, 1, 1]):
        with pytest.raises(DataError, match=r"box 0 has the edges .* left < right"):
            Boxes(one, one, torch.tensor([edges], dtype=torch.float64))
    with pytest.raises(DataError, match="box names image 2, but there are 2"):
        dataset(2, Boxes.collect([(2, 0, WHOLE)]))
    with pytest.raises(DataError, match="box names category 3, but there are 3"):
        dataset(2, Boxes.collect([(1, 3, WHOLE)]))
