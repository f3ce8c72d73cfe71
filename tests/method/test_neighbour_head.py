"""The head on the training images most alike: its formula, its sharpness, and what it remembers."""

import math

import pytest
import torch

from trmml.labels.matrix import LabelMatrix
from trmml.method.heads.neighbour_head import DEFAULT_SHARPNESS, SHARPNESS, NeighbourHead
from trmml.settings.sections import NeighbourHeadSettings

C, W = 3, 6


def head(**settings: int) -> NeighbourHead:
    made = NeighbourHead(categories=C, hidden_size=W, settings=NeighbourHeadSettings(**settings))
    return made.eval()


def images(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, W, generator=torch.Generator().manual_seed(seed))


def some_labels(count: int, seed: int = 1, known: float = 0.7) -> LabelMatrix:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.rand(count, C, generator=generator) < 0.4
    return LabelMatrix(labels, torch.rand(count, C, generator=generator) < known)


def series(of: int, length: int, noise: float = 0.05) -> tuple[torch.Tensor, LabelMatrix]:
    """Groups of much the same image, with the same labels in each."""
    generator = torch.Generator().manual_seed(3)
    first = torch.randn(of, 1, W, generator=generator)
    labels = (torch.rand(of, 1, C, generator=generator) < 0.4).expand(of, length, C)
    pooled = first + noise * torch.randn(of, length, W, generator=generator)
    return pooled.flatten(0, 1), LabelMatrix(
        labels.flatten(0, 1), torch.ones(of * length, C).bool()
    )


def test_logits_equal_a_loop() -> None:
    made, pooled, matrix = head(), images(20), some_labels(20)
    matrix.known[:, 2] &= matrix.labels[:, 2]  # without a negative, blanks count
    made.remember(pooled, matrix)
    assert made.blank.tolist() == [0, 0, 1]
    new = images(4, seed=9)
    found, keys = made(new), made.keys.double()
    answered = [n for n in range(20) if matrix.known[n].any()]
    assert len(keys) == len(answered)
    for row, image in enumerate(new):
        rooted = image.sign() * image.abs() ** 0.5 - made.mean
        look = (rooted @ made.directions).double()
        look /= look.norm()
        weights = [math.exp(float(made.sharpness) * float(look @ key)) for key in keys]
        for c in range(C):
            share = float(made.share[c])
            positive, negative = share / len(keys), (1 - share) / len(keys)
            for weight, n in zip(weights, answered, strict=True):
                part = weight / sum(weights)
                if matrix.known[n, c]:
                    positive += part * bool(matrix.labels[n, c])
                    negative += part * (not matrix.labels[n, c])
                else:
                    negative += part * float(made.blank[c])
            assert float(found[row, c]) == pytest.approx(math.log(positive / negative), abs=1e-3)


def test_images_of_a_series_are_known_by_their_nearest() -> None:
    made = head()
    made.remember(*series(of=30, length=4))
    assert float(made.sharpness) >= 16
    pooled, matrix = series(of=30, length=5)
    assert (((made(pooled) > 0) == matrix.labels).float().mean()) > 0.95


def test_labels_that_are_chance_make_it_dull() -> None:
    made = head()
    made.remember(images(200), some_labels(200, known=1.0))
    assert float(made.sharpness) <= 4
    assert made(images(20, seed=5)).std(dim=0).max() < 1


@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_images_give_finite_logits(count: int) -> None:
    made = head()
    made.remember(images(3)[:count], some_labels(3, known=1.0).subset(torch.arange(count)))
    assert made(images(4)).isfinite().all()
    if count < 2:
        assert float(made.sharpness) == DEFAULT_SHARPNESS
    if count == 0:
        assert torch.allclose(made(images(4)), made.share.logit().expand(4, C))


def test_nothing_known_and_images_that_are_all_the_same() -> None:
    made, blank = head(), torch.zeros(5, C).bool()
    made.remember(images(5), LabelMatrix(blank, blank))
    assert len(made.keys) == 0 and made(images(4)).isfinite().all()
    made.remember(torch.ones(5, W), some_labels(5, known=1.0))
    assert made(images(4)).isfinite().all() and float(made.sharpness) in SHARPNESS


def test_one_remembered_image_that_is_met_again_does_not_overflow() -> None:
    made = head()
    made.remember(*series(of=2, length=1, noise=0.0))
    found = made(series(of=2, length=1, noise=0.0)[0])
    assert found.isfinite().all() and found.abs().max() < 30


def test_no_more_than_so_many_images_and_directions_are_kept() -> None:
    made = head(images=8, directions=4)
    made.remember(images(50), some_labels(50))
    assert made.keys.shape == (8, 4) and made.answers.shape == (8, C)
    assert made(images(3)).shape == (3, C)
    assert head(directions=500).keys.shape == (0, W)


def test_a_state_brings_its_images_with_it() -> None:
    made, pooled = head(), images(12)
    made.remember(pooled, some_labels(12))
    state = {name: value.clone() for name, value in made.state_dict().items()}
    again = head()
    again.remember(images(5), some_labels(5))
    again.load_state_dict(state)
    assert torch.equal(made(pooled), again(pooled))
    start = head().state_dict()
    again.load_state_dict(start)
    assert len(again.keys) == 0
    for name, wrong in (("answers", torch.zeros(12, C + 1)), ("keys", torch.zeros(12, W - 1))):
        with pytest.raises(RuntimeError, match="size mismatch"):
            head().load_state_dict({**state, name: wrong})


def test_half_precision_and_views_of_memory_are_taken() -> None:
    made, pooled, matrix = head(), images(30), some_labels(30)
    made.remember(pooled.half(), matrix)
    found = made(pooled)
    made.remember(pooled, matrix)
    assert torch.allclose(found, made(pooled), atol=0.1)
