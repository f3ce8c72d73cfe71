"""Layers that the heads share."""

import pytest
import torch

from trmml.method.layers import Dropout, Standardisation


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_dropout_drops_its_share_and_keeps_the_mean(share: float, kind: torch.dtype) -> None:
    torch.manual_seed(0)
    values = torch.full((1001, 301), 2.0, dtype=kind, requires_grad=True)
    dropped = Dropout(share)(values)
    assert dropped.dtype == kind
    kept = dropped != 0
    # 301,301 draws: five standard deviations are less than this.
    assert float(kept.double().mean()) == pytest.approx(1 - share, abs=0.005)
    assert torch.equal(dropped[kept].unique(), torch.tensor([2.0]).to(kind) / (1 - share))
    dropped.sum().backward()
    assert values.grad is not None and torch.equal(values.grad != 0, kept)
    by_row = kept.double().mean(dim=1)  # no pattern along the numbers of one draw
    assert float((by_row - (1 - share)).abs().max()) < 0.2
    assert not torch.equal(Dropout(share)(values), dropped)


def test_dropout_out_of_training_and_at_its_ends() -> None:
    values = torch.randn(5, 7)
    assert torch.equal(Dropout(0.5).eval()(values), values)
    assert torch.equal(Dropout(0.0)(values), values)
    assert not Dropout(1.0)(values).any()
    assert len(Dropout(0.5)(torch.zeros(0, 3))) == 0


def test_dropout_follows_the_seed() -> None:
    values, drawn = torch.ones(4, 33), []
    for _ in range(2):
        torch.manual_seed(3)
        drawn.append(Dropout(0.3)(values))
    assert torch.equal(*drawn)


def test_a_channel_that_was_constant_in_training_says_nothing_of_new_images() -> None:
    values = torch.randn(50, 4)
    values[:, 1], values[:, 2] = 0.0, 5.0
    standard = Standardisation(4)
    standard.measure([values[:20], values[20:]])
    assert torch.allclose(standard(values)[:, [0, 3]].std(dim=0), torch.ones(2))
    assert not standard(values + 0.1)[:, 1:3].any()
    assert standard(values + 0.1).isfinite().all()
    again = Standardisation(4)
    again.load_state_dict(standard.state_dict())
    assert torch.equal(again(values), standard(values))
    standard.measure([torch.ones(3, 4)])  # of much the same images nothing is left, nor nan
    assert not standard(torch.full((1, 4), 2.0)).any()
