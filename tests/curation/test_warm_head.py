"""The head that learns on: from nothing, from where it was, and from known pairs alone."""

import torch
import torch.nn.functional as F

from trmml.curation.cross_fit import Head
from trmml.curation.warm_head import BIAS_PENALTY, PENALTY, RARE, learn_on
from trmml.labels.matrix import LabelMatrix


def make(known: float = 0.5) -> tuple[torch.Tensor, LabelMatrix]:
    draw = torch.Generator().manual_seed(0)
    inputs = torch.randn(200, 4, generator=draw) / 2
    truth = inputs @ torch.randn(4, 3, generator=draw) > 0.5
    return inputs, LabelMatrix(truth, torch.rand(truth.shape, generator=draw) < known)


def loss(head: Head, inputs: torch.Tensor, matrix: LabelMatrix) -> float:
    """What is minimised, category by category, by the book."""
    logits = inputs @ head.weight + head.bias
    each = F.binary_cross_entropy_with_logits(logits, matrix.labels.float(), reduction="none")
    size = (head.weight / inputs.shape[1] ** 0.5).square().sum()
    pull = (head.bias - RARE).square().sum()
    return float(each[matrix.known].sum() + PENALTY / 2 * size + BIAS_PENALTY / 2 * pull)


def test_each_call_goes_on_from_the_last() -> None:
    inputs, matrix = make()
    head, found = None, []
    for _ in range(12):
        head = learn_on(inputs, matrix, head)
        found.append(loss(head, inputs, matrix))
    assert found[0] > found[2] > found[-1]
    assert found[-2] - found[-1] < 0.01 * found[-1]  # it has arrived
    right = ((inputs @ head.weight + head.bias > 0) == matrix.labels)[matrix.known]
    assert right.float().mean() > 0.9


def test_the_start_is_left_as_it_was() -> None:
    inputs, matrix = make()
    start = learn_on(inputs, matrix)
    weight, bias = start.weight.clone(), start.bias.clone()
    learn_on(inputs, matrix, start)
    assert torch.equal(start.weight, weight)
    assert torch.equal(start.bias, bias)


def test_what_is_unknown_changes_nothing() -> None:
    inputs, matrix = make(0.3)
    other = LabelMatrix(matrix.labels | ~matrix.known, matrix.known)
    assert torch.equal(learn_on(inputs, matrix).weight, learn_on(inputs, other).weight)


def test_a_category_without_a_known_pair_stays_rare() -> None:
    inputs, matrix = make()
    known = matrix.known.clone()
    known[:, 1] = False
    head = learn_on(inputs, LabelMatrix(matrix.labels, known))
    assert head.weight[:, 1].abs().max() == 0
    assert RARE - 0.5 < head.bias[1] < RARE + 1
    assert head.weight.isfinite().all()
