"""The head on the training images most alike: its formula, its sharpness, and what it remembers."""

import math

import pytest
import torch

from trmml.features.base import Features
from trmml.labels.matrix import LabelMatrix
from trmml.method.heads.joined import Heads
from trmml.method.heads.neighbour_head import DEFAULT_SHARPNESS, SHARPNESS, NeighbourHead
from trmml.settings.sections import NeighbourHeadSettings, Settings

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


def series(of: int, length: int, noise: float = 0.2) -> tuple[torch.Tensor, LabelMatrix]:
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


def test_an_image_whose_copies_alone_are_remembered_gets_the_share() -> None:
    made, pooled = head(), images(1).expand(3, W)
    made.remember(pooled, LabelMatrix(torch.ones(3, C).bool(), torch.ones(3, C).bool()))
    assert made(pooled[:1]).sigmoid().squeeze(0).tolist() == pytest.approx(
        made.share.tolist(), abs=1e-5
    )


def test_images_of_a_series_are_known_by_their_nearest() -> None:
    made = head()
    made.remember(*series(of=30, length=4))
    assert float(made.sharpness) >= 8
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


def test_a_remembered_image_is_answered_by_the_others() -> None:
    made, (pooled, matrix) = head(), series(of=10, length=3)
    matrix.known[0, 0] = False  # a blank of the image itself is no evidence that it is absent
    made.remember(pooled, matrix)
    all_but_first = head()
    all_but_first.load_state_dict(made.state_dict())
    for name in ("keys", "labels", "known"):
        setattr(all_but_first, name, getattr(made, name)[1:])
    assert torch.allclose(made(pooled[:1]), all_but_first(pooled[:1]), atol=0.05)
    assert float(made(pooled[:1])[0, 0]) * (2 * int(matrix.labels[0, 0]) - 1) > 0


def test_labels_where_nothing_is_known_are_not_read() -> None:
    matrix = some_labels(30)
    flipped = LabelMatrix(matrix.labels ^ ~matrix.known, matrix.known)
    one, two = head(), head()
    one.remember(images(30), matrix)
    two.remember(images(30), flipped)
    assert all(torch.equal(a, b) for a, b in zip(one.buffers(), two.buffers(), strict=True))


def test_the_sharpness_is_that_of_a_loop() -> None:
    made, (pooled, matrix) = head(), series(of=6, length=3, noise=0.6)
    matrix.known[:, 1] &= matrix.labels[:, 1]
    made.remember(pooled, matrix)
    costs = []
    for sharpness in SHARPNESS:
        cost = 0.0
        for n, key in enumerate(made.keys.double()):
            others = [k for k in range(len(made.keys)) if k != n]
            parts = (sharpness * (made.keys.double()[others] @ key)).softmax(dim=0)
            for c in range(C):
                share, blank = float(made.share[c]), float(made.blank[c])
                yes, no = share / len(made.keys), (1 - share) / len(made.keys)
                for part, k in zip(parts.tolist(), others, strict=True):
                    if made.known[k, c]:
                        yes, no = (
                            yes + part * bool(made.labels[k, c]),
                            no + part * (not made.labels[k, c]),
                        )
                    else:
                        no += part * blank
                weight = 1.0 if made.known[n, c] else blank
                chance = yes / (yes + no)
                cost -= weight * math.log(chance if made.labels[n, c] else 1 - chance)
        costs.append(cost)
    assert float(made.sharpness) == pytest.approx(SHARPNESS[costs.index(min(costs))])


@pytest.mark.parametrize("training", [True, False])
def test_it_joins_the_sum_after_training_only(training: bool) -> None:
    settings = Settings(neighbour_head={"use": True}, stacking={"zero_shot": False})
    heads = Heads(categories=C, hidden_size=W, settings=settings).train(training)
    batch = Features(images(4)[:, None], torch.ones(4, 2))
    found = heads(batch, torch.zeros(4, C), None)
    assert list(found) == ["match", "image", "linear"] + ["neighbours"] * (not training)


def test_no_more_than_so_many_images_and_directions_are_kept() -> None:
    made = head(images=8, directions=4)
    made.remember(images(50), some_labels(50))
    assert made.keys.shape == (8, 4) and made.labels.shape == made.known.shape == (8, C)
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
    wrong_sizes = (("known", (12, C + 1)), ("labels", (11, C)), ("keys", (12, W - 1)))
    for name, wrong in ((name, torch.zeros(size)) for name, size in wrong_sizes):
        with pytest.raises(RuntimeError, match="size mismatch"):
            head().load_state_dict({**state, name: wrong})


def test_means_in_half_precision_are_taken() -> None:
    made, pooled, matrix = head(), images(30), some_labels(30)
    made.remember(pooled.half(), matrix)
    found = made(pooled)
    made.remember(pooled, matrix)
    assert torch.allclose(found, made(pooled), atol=0.1)
