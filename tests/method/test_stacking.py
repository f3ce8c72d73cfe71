"""The branches beside the match, and the sum in which each counts by what it is worth."""

from typing import Literal

import numpy as np
import pytest
import torch

from trmml.errors import TrainingError
from trmml.features.base import Features
from trmml.labels.matrix import LabelMatrix
from trmml.method.heads.csra_head import CSRAHead
from trmml.method.heads.image_head import ImageHead
from trmml.method.heads.stacking import Stacking
from trmml.method.layers import Standardisation
from trmml.settings.sections import CSRAHeadSettings, ImageHeadSettings, TrainingSettings
from trmml.training.heads import start_image_head, train_image_head

C, P, W = 3, 4, 6


def features(images: int = 5) -> Features:
    generator = torch.Generator().manual_seed(images)
    hidden = torch.randn(images, P, W, generator=generator)
    return Features(hidden, torch.ones(images, 2))


def pooled(batch: Features) -> torch.Tensor:
    return batch.hidden_patches.mean(dim=1)


def moved(module: torch.nn.Module) -> torch.nn.Module:
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return module


def test_standardisation_by_hand() -> None:
    standard = Standardisation(2)
    standard.measure([torch.tensor([[1.0, 5.0]]), torch.tensor([[3.0, 5.0]])])
    found = standard(torch.tensor([[2.0 + 2**0.5, 5.0]]))
    assert torch.allclose(found, torch.tensor([[1.0, 0.0]]))  # a constant channel stays finite


@torch.no_grad()
def test_hidden_regions_equal_a_loop() -> None:
    module = CSRAHead(categories=C, hidden_size=W, settings=CSRAHeadSettings(share=0.7))
    batch = features()
    module.start(batch, torch.tensor([0.1, 0.2, 0.3]))
    moved(module).eval()
    found = module(batch)
    hidden = module.standard(batch.hidden_patches)
    for b in range(len(batch)):
        for c in range(C):
            scores = [float(hidden[b, p] @ module.region[c]) for p in range(P)]
            attention = torch.tensor(scores, dtype=torch.double).softmax(dim=0)
            gathered = sum(float(a) * s for a, s in zip(attention, scores, strict=True))
            mean = float(hidden[b].mean(dim=0) @ module.mean.weight[c] + module.mean.bias[c])
            assert float(found[b, c]) == pytest.approx(mean + 0.7 * gathered, abs=1e-4)


def test_image_branch_equals_its_formula() -> None:
    module = ImageHead(categories=C, hidden_size=W, settings=ImageHeadSettings(width=7))
    mean = pooled(features())
    start_image_head(module, mean, torch.full((C,), 0.5))
    moved(module).eval()
    rooted = mean.sign() * mean.abs() ** 0.5
    standard = (rooted - rooted.mean(dim=0)) / rooted.std(dim=0)
    hidden = (standard @ module.layers.into.weight.T).clamp(min=0)
    expected = hidden @ module.layers.out.weight.T + module.layers.out.bias
    found = module(mean)
    assert torch.allclose(found["image"], expected, atol=1e-5)
    expected = standard @ module.linear.weight.T + module.linear.bias
    assert torch.allclose(found["linear"], expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["image", "hidden"])
def test_branches_start_at_the_known_shares(kind: str) -> None:
    share = torch.tensor([0.1, 0.5, 0.9])
    module: ImageHead | CSRAHead = (
        ImageHead(categories=C, hidden_size=W, settings=ImageHeadSettings())
        if kind == "image"
        else CSRAHead(categories=C, hidden_size=W, settings=CSRAHeadSettings())
    )

    def logits(batch: Features) -> torch.Tensor:
        if isinstance(module, CSRAHead):
            return module(batch)
        return torch.cat(list(module(pooled(batch)).values()), dim=1)

    def start(batch: Features) -> None:
        if isinstance(module, CSRAHead):
            module.start(batch, share)
        else:
            start_image_head(module, pooled(batch), share)

    start(features())
    found = logits(features(2)).sigmoid().view(2, -1, C)
    assert torch.allclose(found, share.expand_as(found), atol=1e-6)
    start(features(1))  # one image has no spread
    assert logits(features(1)).isfinite().all()


def test_the_image_branch_learns_from_means_alone_and_then_stays() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(200, C, generator=generator) < 0.5
    direction = torch.randn(C, W, generator=generator)
    views = torch.stack([truth.float() @ direction + 0.1 * i for i in range(2)])
    known = torch.rand(truth.shape, generator=generator) < 0.7
    settings = ImageHeadSettings(
        width=16, dropout=0, batch_size=16, learning_rate=3e-2, linear_rate=3e-2
    )
    told: list[tuple[str, int, int]] = []

    def learned(labels: torch.Tensor, seed: int = 0) -> dict[str, torch.Tensor]:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            module = ImageHead(categories=C, hidden_size=W, settings=settings)
        training = TrainingSettings(seed=seed)
        train_image_head(
            module,
            views.half(),
            LabelMatrix(labels, known),
            training,
            lambda *step: told.append(step),
        )
        assert not any(p.requires_grad for p in module.parameters())
        return module.eval()(views[0])

    found = learned(truth)
    images = settings.epochs * int(known.any(dim=1).sum())
    assert told[-1] == ("image head", images, images)
    for name, logits in found.items():
        hidden = ~known  # what was never shown
        assert ((logits > 0) == truth)[hidden].float().mean() > 0.9, name
        # What is unknown says nothing; another seed is another run.
        assert torch.equal(logits, learned(torch.where(known, truth, ~truth))[name])
        assert not torch.equal(logits, learned(truth, seed=1)[name])


def branch(**settings: float) -> ImageHead:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        chosen = ImageHeadSettings(width=8, dropout=0, **settings)
        return ImageHead(categories=C, hidden_size=W, settings=chosen)


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_the_image_branch_learns_in_half_the_precision_where_training_does(
    precision: Literal["bf16-mixed", "16-mixed"],
) -> None:
    batch, matrix = features(40), random_matrix(40)
    whole, half = branch(), branch()
    train_image_head(whole, pooled(batch)[None], matrix, TrainingSettings())
    train_image_head(half, pooled(batch)[None], matrix, TrainingSettings(precision=precision))
    for name, logits in whole(pooled(batch)).items():
        other = half(pooled(batch))[name]
        assert other.dtype == torch.float32 and not torch.equal(logits, other)
        assert torch.allclose(logits, other, atol=0.1 * float(logits.std())), name


def random_matrix(images: int, share: float = 0.7) -> LabelMatrix:
    draws = torch.rand(2, images, C, generator=torch.Generator().manual_seed(images))
    return LabelMatrix(draws[0] < 0.5, draws[1] < share)


def test_the_image_branch_learns_from_every_view() -> None:
    batch = features(40)
    views = torch.stack([pooled(batch), pooled(batch) + 5])
    matrix, training = random_matrix(40), TrainingSettings()
    plain, both = branch(), branch()
    train_image_head(plain, views[:1], matrix, training)
    train_image_head(both, views, matrix, training)
    shift = both.standard.mean - plain.standard.mean
    assert (shift > 0.5).all()  # roots of both views are measured
    second = both(views[1])["linear"] - both(views[0])["linear"]
    assert second.abs().max() < (plain(views[1])["linear"] - plain(views[0])["linear"]).abs().max()


@pytest.mark.parametrize("power", [-0.5, -0.25, 0.25])
def test_the_spectrum_power_scales_principal_directions_by_their_variance(power: float) -> None:
    means = pooled(features(200)) @ torch.randn(W, W, generator=torch.Generator().manual_seed(3))
    module = branch(spectrum_power=power)
    turn = start_image_head(module, means, torch.full((C,), 0.5))
    rooted = module.standard(means.sign() * means.abs().sqrt())

    def spectrum(rows: torch.Tensor) -> np.ndarray:
        return np.linalg.eigvalsh(np.cov(rows.double().numpy().T))

    before = spectrum(rooted).clip(min=0.01)
    expected = before ** (1 + 2 * power)
    found = spectrum(rooted @ turn)
    assert found == pytest.approx(expected / expected.mean(), rel=0.02)


def test_a_low_power_finds_what_varies_little_and_a_high_one_what_varies_much() -> None:
    generator = torch.Generator().manual_seed(0)
    wide, narrow = torch.randn(2, 400, 1, generator=generator)
    sides = torch.tensor([1.0, -1.0]).repeat(W // 2)
    noise = 0.05 * torch.randn(400, W, generator=generator)
    means = 9 + wide + 0.1 * narrow * sides + noise

    def errors(what: torch.Tensor, power: float) -> float:
        matrix = LabelMatrix((what > 0).expand(400, C), torch.ones(400, C, dtype=torch.bool))
        module = branch(spectrum_power=power, learning_rate=3e-4, linear_rate=3e-4)
        train_image_head(
            module, means[None, :200], matrix.subset(torch.arange(200)), TrainingSettings()
        )
        found = module(means[200:])
        return float(sum(((o > 0) != matrix.labels[200:]).float().mean() for o in found.values()))

    assert errors(narrow, -0.5) < errors(narrow, 0.0) < errors(narrow, 0.5)
    assert errors(wide, -0.5) > errors(wide, 0.5)


def test_without_known_negatives_blanks_are_negatives_for_the_image_branch() -> None:
    present = torch.arange(60) % 3 == 0
    means = torch.where(present, 4.0, -1.0)[:, None].expand(60, W) + pooled(features(60))
    labels = present[:, None].expand(60, C).clone()
    labels[:, 0] = ~present  # so that every image that is looked at has a blank
    known = labels & (torch.arange(60) % 2 == 0)[:, None]  # single answers, all of them positive
    module = branch(learning_rate=1e-2, linear_rate=1e-2)
    train_image_head(module, means[None], LabelMatrix(labels, known), TrainingSettings())
    said = module(means)["image"][:, 1:]
    assert said[present].min() > 0 > said[~present].max()


def test_images_of_which_nothing_is_known_change_nothing_the_branch_learns() -> None:
    matrix, means = random_matrix(30), pooled(features(30))
    known = matrix.known.clone()
    known[20:] = False
    for c in range(C):  # with enough negatives, so that blanks say nothing
        known[c, c], known[5 + c, c] = True, True
        matrix.labels[c, c], matrix.labels[5 + c, c] = True, False
    found = []
    for others in (0.0, 100.0):
        module, seen = branch(), means.clone()
        seen[20:] += others
        module.standard.measure = lambda parts: None  # that one looks at every picture
        train_image_head(module, seen[None], LabelMatrix(matrix.labels, known), TrainingSettings())
        found.append(module.layers.out.weight.clone())
    assert torch.equal(*found) and found[0].abs().max() > 0


def test_few_images_still_get_enough_steps() -> None:
    told: list[int] = []
    train_image_head(
        branch(batch_size=16),
        pooled(features(40))[None],
        random_matrix(40),
        TrainingSettings(),
        lambda _, done, total: told.append(total),
    )
    assert set(told) == {40 * 67}  # three batches a pass, two hundred steps at least


def test_a_rate_beyond_reason_is_named() -> None:
    with pytest.raises(TrainingError, match=r"image head is (nan|inf).*image_head.learning_"):
        train_image_head(
            branch(learning_rate=1e30, linear_rate=1e30),
            1e4 * pooled(features(40))[None],
            random_matrix(40),
            TrainingSettings(),
        )


def test_before_anything_is_learned_the_match_is_all_there_is() -> None:
    stacking = Stacking(categories=C, weights=[1.0, 1.0])
    match = torch.randn(4, C)
    assert torch.equal(stacking([match, torch.zeros(4, C)]), match)
    stacking.track([match, torch.full((4, C), 2.0)])  # a constant opinion spreads nothing
    assert torch.allclose(stacking([match, torch.full((4, C), 2.0)]), match, atol=1e-6)


def test_the_sum_by_hand() -> None:
    stacking = Stacking(categories=1, weights=[1.0, 2.0])
    match, other = torch.tensor([[1.0], [3.0]]), torch.tensor([[10.0], [30.0]])
    stacking.measure(torch.stack([match, other]))
    # The spread of the match is 2 ** 0.5, and the other lies 2 ** -0.5 spreads from its mean.
    assert torch.allclose(stacking([match, other]), torch.tensor([[-1.0], [5.0]]))


def test_with_few_images_spreads_follow_the_mean_ratio() -> None:
    torch.manual_seed(0)
    few = torch.randn(2, 3, C) * torch.tensor([1.0, 4.0])[:, None, None]
    stacking = Stacking(categories=C, weights=[1.0, 1.0])
    stacking.measure(few)
    ratio = (stacking.spread[1] / stacking.spread[0]).log()
    plain = (few.std(dim=1)[1] / few.std(dim=1)[0]).log()
    assert torch.allclose(ratio.mean(), plain.mean(), atol=1e-5)
    assert ratio.std() < plain.std() / 5
    flat = torch.cat([few[:1], torch.zeros(1, 3, C)])
    stacking.measure(flat)  # an opinion that says nothing still adds nothing
    assert torch.equal(stacking([flat[0], flat[1]]), flat[0])


def test_a_few_images_are_drawn_to_what_training_had() -> None:
    generator = torch.Generator().manual_seed(0)
    true = torch.tensor([[1.0], [3.0]]) * (0.5 + torch.rand(1, 40, generator=generator))
    for images, far in ((2, 0.4), (20, 0.4), (2000, 0.1)):
        stacking = Stacking(categories=40, weights=[1.0, 1.0])
        for _ in range(3):
            stacking.track(list(1 + true[:, None] * torch.randn(2, 500, 40, generator=generator)))
        before = stacking.spread.clone()
        # New images lie elsewhere and spread wider, in all categories alike.
        held = 2 + 1.5 * true[:, None] * torch.randn(2, images, 40, generator=generator)
        stacking.measure(held)
        wider = (stacking.spread / before).log()
        assert float((wider - wider.mean(dim=1, keepdim=True)).abs().max()) < far, images
    assert float(wider.mean()) == pytest.approx(float(torch.tensor(1.5).log()), abs=0.05)
    assert float(stacking.mean.mean()) == pytest.approx(2, abs=0.1)


def test_images_one_by_one_are_tracked_too() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.tensor([[[2.0]], [[-1.0]]]) + torch.tensor([[[1.0]], [[5.0]]]) * torch.randn(
        2, 600, C, generator=generator
    )
    stacking = Stacking(categories=C, weights=[1.0, 1.0])
    for image in range(600):
        stacking.track(list(logits[:, image : image + 1]))
    assert torch.allclose(stacking.mean.mean(dim=1), torch.tensor([2.0, -1.0]), atol=1.0)
    assert torch.allclose(
        stacking.spread.log().mean(dim=1).exp(), torch.tensor([1.0, 5.0]), rtol=0.3
    )


def test_labels_of_one_kind_or_hardly_any_leave_log_odds_within_reason() -> None:
    generator = torch.Generator().manual_seed(0)
    share = torch.full((C,), 0.3)
    for present in (True, False):
        stacking = Stacking(categories=C, weights=[1.0, 1.0])
        heads = torch.randn(2, 6, C, generator=generator)
        stacking.measure(heads)
        labels = torch.full((6, C), float(present))
        stacking.fit_weights(heads, labels, torch.ones(6, C), share)
        assert stacking.slope.tolist() == [1.0] * C and not stacking.offset.any()
    # Told apart without error, by a hand's breadth of labels: still no certainty.
    for images in (2, 4):
        labels = (torch.arange(images)[:, None] % 2).float().expand(images, C)
        heads = torch.stack([labels, labels]) + 0.1 * torch.randn(2, images, C, generator=generator)
        stacking = Stacking(categories=C, weights=[1.0, 1.0])
        stacking.track(list(torch.randn(2, 64, C, generator=generator)))
        stacking.measure(heads)
        stacking.fit_weights(heads, labels, torch.ones(images, C), share)
        said = stacking(list(torch.randn(2, 500, C, generator=generator))).abs()
        assert said.max() < 40 and said.median() < 5, images


def test_a_match_that_was_never_measured_keeps_its_logits() -> None:
    stacking = Stacking(categories=C, weights=[1.0, 1.0])  # one image is held out, one trained on
    heads = torch.randn(2, 1, C)
    stacking.measure(heads)
    stacking.fit_weights(
        heads, torch.tensor([[1.0, 0.0, 1.0]]), torch.ones(1, C), torch.full((C,), 0.3)
    )
    assert torch.equal(stacking(list(heads)), heads[0])


def test_many_pairs_weigh_as_a_sample_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    found, labels = separable(3000)
    weights = []
    for most in (10**6, 2000):
        monkeypatch.setattr("trmml.method.heads.stacking.MOST_PAIRS", most)
        stacking = Stacking(categories=C, weights=[1.0, 1.0])
        stacking.measure(found)
        stacking.fit_weights(found, labels, torch.ones_like(labels), torch.full((C,), 0.3))
        weights.append(stacking.weights)
    assert not torch.equal(*weights) and torch.allclose(*weights, atol=0.1)


def separable(images: int = 400) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of two heads of which the first is right, the second noise; and the labels."""
    generator = torch.Generator().manual_seed(0)
    labels = (torch.rand(images, C, generator=generator) < 0.3).float()
    right = 3 * labels + torch.randn(images, C, generator=generator)
    return torch.stack([right, torch.randn(images, C, generator=generator)]), labels


def test_an_opinion_counts_by_what_it_is_worth() -> None:
    found, labels = separable()
    for order in ([0, 1], [1, 0]):
        stacking = Stacking(categories=C, weights=[1.0, 1.0])
        stacking.measure(found[order])
        stacking.fit_weights(found[order], labels, torch.ones_like(labels), torch.full((C,), 0.3))
        good, noise = stacking.weights[order.index(0)], stacking.weights[order.index(1)]
        assert good > 8 * noise and float(stacking.weights.sum()) == pytest.approx(2)


def test_the_weighed_sum_compares_across_categories() -> None:
    generator = torch.Generator().manual_seed(0)
    share = torch.tensor([0.05, 0.2, 0.6])
    labels = (torch.rand(5000, C, generator=generator) < share).float()
    right = 2 * labels + torch.randn(labels.shape, generator=generator)
    # The match has another place and scale in each category, which say nothing of the labels.
    found = torch.stack([right * torch.tensor([0.1, 1, 9]) + torch.tensor([4, -3, 0]), right])
    stacking = Stacking(categories=C, weights=[1.0, 1.0])
    stacking.measure(found)
    before = stacking(list(found))
    stacking.fit_weights(found, labels, torch.ones_like(labels), share)
    after = stacking(list(found))
    assert torch.allclose(after.sigmoid().mean(dim=0), share, atol=0.1)
    assert not torch.allclose(before.sigmoid().mean(dim=0), share, atol=0.2)
    # Nothing changes places within a category, but by rounding.
    single = Stacking(categories=C, weights=[1.0, 1.0])
    single.measure(found)
    single.weights.copy_(stacking.weights)
    ordered = after.gather(0, single(list(found)).argsort(dim=0))
    assert float(ordered.diff(dim=0).min()) > -1e-4


def test_an_opinion_that_learned_anew_counts_as_before() -> None:
    generator = torch.Generator().manual_seed(0)
    match, before = torch.randn(2, 50, C, generator=generator)
    stacking = Stacking(categories=C, weights=[1.0, 2.0])
    stacking.measure(torch.stack([match, before]))
    said = stacking([match, before])
    after = 3 * before + 7  # the same opinion on another scale
    stacking.rescale(1, before[:20], after[:20])
    assert torch.allclose(stacking([match, after]), said, atol=1e-4)
    # One image has no spread to go by; what is there stays, and stays finite.
    kept = {name: value.clone() for name, value in stacking.state_dict().items()}
    stacking.rescale(1, before[:1], after[:1])
    stacking.adapt(torch.stack([match, before])[:, :1], torch.stack([match, after])[:, :1])
    assert all(torch.equal(value, kept[name]) for name, value in stacking.state_dict().items())


def test_opinions_that_agree_do_not_trade_their_weights_by_chance() -> None:
    shares = []
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        labels = (torch.rand(40, C, generator=generator) < 0.3).float()
        good = 2 * labels - 0.6 + torch.randn(40, C, generator=generator)
        twin = good + 0.1 * torch.randn(40, C, generator=generator)
        weak = 0.3 * labels + torch.randn(40, C, generator=generator)
        found = torch.stack([good, twin, weak])
        stacking = Stacking(categories=C, weights=[1.0, 1.0, 1.0])
        stacking.measure(found)
        stacking.fit_weights(found, labels, torch.ones_like(labels), torch.full((C,), 0.3))
        shares.append(stacking.weights / stacking.weights.sum())
    first, second, third = torch.stack(shares).T
    assert float((first - second).abs().max()) < 0.15  # twins count alike
    assert float(third.max()) < 0.1  # the weak one for little, not for a third


def test_unknown_labels_weigh_nothing() -> None:
    found, labels = separable()
    known = (torch.rand(labels.shape, generator=torch.Generator().manual_seed(1)) < 0.5).float()
    weights = []
    for shown in (labels, torch.where(known > 0, labels, 1 - labels)):
        stacking = Stacking(categories=C, weights=[1.0, 1.0])
        stacking.measure(found)
        stacking.fit_weights(found, shown * known, known, torch.full((C,), 0.3))
        weights.append(stacking.weights)
    assert torch.equal(*weights)


@pytest.mark.parametrize("images", [0, 1, 3])
def test_nothing_to_weigh_by_leaves_the_weights(images: int) -> None:
    stacking = Stacking(categories=C, weights=[1.0, 0.5])
    nothing = torch.zeros(images, C)
    stacking.measure(torch.randn(2, images, C))
    stacking.fit_weights(torch.randn(2, images, C), nothing, nothing, torch.full((C,), 0.5))
    assert stacking.weights.tolist() == [1.0, 0.5]
    assert stacking([torch.ones(2, C), torch.ones(2, C)]).isfinite().all()


def test_few_labels_change_little_and_many_decide() -> None:
    # The first orders both labelled pairs of each category rightly, the second only one category's.
    right = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    logits, labels = torch.stack([right, right * torch.tensor([1.0, -1.0])]), (right > 0).float()
    weights = []
    for copies in (1, 100):
        stacking = Stacking(categories=2, weights=[1.0, 1.0])
        many, shown = logits.repeat(1, copies, 1), labels.repeat(copies, 1)
        stacking.measure(many)
        stacking.fit_weights(many, shown, torch.ones_like(shown), torch.full((2,), 0.5))
        weights.append(float(stacking.weights[0]))
    # Least costs are at 1.673 and 2.000; balanced labels have a clear one, which rounding moves
    # by 1e-4. (Of random ones it moved the weight by 0.06.)
    assert 1.3 < weights[0] < 1.7 and weights[1] > 1.95


def test_permuting_categories_permutes_the_sum() -> None:
    found, _ = separable(20)
    order = [2, 0, 1]
    one, two = (Stacking(categories=C, weights=[1.0, 1.0]) for _ in range(2))
    one.measure(found)
    two.measure(found[:, :, order])
    assert torch.allclose(two(list(found[:, :, order])), one(list(found))[:, order], atol=1e-6)


def test_no_gradient_crosses_the_sum() -> None:
    stacking = Stacking(categories=C, weights=[1.0, 1.0])
    match = torch.randn(4, C, requires_grad=True)
    assert not stacking([match, match]).requires_grad
