"""Figures that other projects' own code gave, for the same input; each names where it is from.

The figures come from a transcription of that code, run in double precision on a CPU. TaI-DPT's
are lines of its file.
"""

import hashlib
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from trmml.baselines.dualcoop import DualCoOp, DualCoOpSettings
from trmml.baselines.scpnet import corrected_loss
from trmml.features.base import Features
from trmml.labels.matrix import LabelMatrix
from trmml.method.classification import asymmetric_loss
from trmml.method.interface import Targets
from trmml.method.prompts import PromptLearner
from trmml.metrics.average_precision import average_precision

LOGITS = [[-3.0, -0.4, 0.0, 2.5], [1.2, -6.0, 4.0, -1.7]]
LABELS = torch.tensor([[0, 1, 0, 1], [0, 0, 1, 1]]).bool()


def logits() -> Tensor:
    return torch.tensor(LOGITS, dtype=torch.float64, requires_grad=True)


def total(
    known: Tensor, gamma_negative: float, gamma_positive: float, clip: float
) -> tuple[Tensor, Tensor]:
    """Our loss as ASL and CSL reduce it: a sum over pairs, of which those not known count 0."""
    given = logits()
    loss = asymmetric_loss(
        given,
        LABELS,
        known.double(),
        gamma_negative=gamma_negative,
        gamma_positive=gamma_positive,
        clip=clip,
        reduction="images",
    )
    return len(LABELS) * loss, given


# Alibaba-MIIL/ASL at 0a21a18, src/loss_functions/losses.py: AsymmetricLoss.
ASL = [
    ((4.0, 1.0, 0.05), 2.4946141127598125,
     [0, -0.35842691, 0.0186392, -0.00575446, 0.16845706, 0, -0.0003235, -0.71492899]),
    ((2.0, 1.0, 0.05), 2.907752867010588,
     [0, -0.35842691, 0.09204545, -0.00575446, 0.32629147, 0, -0.0003235, -0.71492899]),
    ((0.0, 0.0, 0.0), 5.085333628606026,
     [0.04742587, -0.59868766, 0.5, -0.07585818, 0.76852478, 0.00247262, -0.01798621, -0.84553473]),
]  # fmt: skip


@pytest.mark.parametrize(("shape", "value", "gradient"), ASL)
def test_asl(shape: tuple[float, float, float], value: float, gradient: list[float]) -> None:
    loss, given = total(torch.ones_like(LABELS), *shape)
    loss.backward()
    assert loss.item() == pytest.approx(value, rel=1e-9)
    assert given.grad.flatten().tolist() == pytest.approx(gradient, abs=1e-8)


def test_csl_ignores_what_is_unknown() -> None:
    """Alibaba-MIIL/PartialLabelingCSL at 210face, partial_asymmetric_loss.py, mode "ignore"."""
    known = torch.tensor([[1, 1, 0, 1], [0, 1, 1, 0]]).bool()
    loss, given = total(known, gamma_negative=4.0, gamma_positive=0.0, clip=0.05)
    loss.backward()
    assert loss.item() == pytest.approx(1.010054914610312, rel=1e-9)
    gradient = [0, -0.59868766, 0, -0.07585818, 0, 0, -0.01798621, 0]
    assert given.grad.flatten().tolist() == pytest.approx(gradient, abs=1e-8)


# jameslahm/SCPNet at 86708ca, loss.py: SPLC, where all that is not positive is a blank; in epoch 0,
# and in epoch 1, from which on it corrects.
SPLC = [
    (1.0, 4.514964811157356, 0.85402315),
    (0.6, 3.664812664652638, -0.03408559),
]  # fmt: skip


@pytest.mark.parametrize(("threshold", "value", "corrected"), SPLC)
def test_splc(threshold: float, value: float, corrected: float) -> None:
    nothing = torch.zeros_like(LABELS)
    targets, given = Targets(LABELS, LABELS, nothing, nothing), logits()
    every = torch.ones(LABELS.shape, dtype=torch.float64)
    loss = LABELS.numel() * corrected_loss(
        given, targets, every, threshold=threshold, margin=1.0, focus=2.0
    )
    loss.backward()
    assert loss.item() == pytest.approx(value, rel=1e-9)
    assert given.grad[1, 0].item() == pytest.approx(corrected, abs=1e-8)
    # The other gradients are the same before and after.
    others = [0.00031487, -0.92874487, 0.2982868, -0.01703111, 5e-8, -0.00031487, -1.1284956]
    found = given.grad.flatten().tolist()
    assert [*found[:4], *found[5:]] == pytest.approx(others, abs=1e-8)


class Texts(PromptLearner):
    """Text features of its own, without a text encoder behind them; it makes them unit length."""

    def __init__(self, values: Tensor) -> None:
        nn.Module.__init__(self)
        self.values = nn.Parameter(values)
        self.start_features = values

    def forward(self) -> Tensor:
        return nn.functional.normalize(self.values, dim=-1)


def sines(*shape: int, step: float) -> Tensor:
    numbers = [math.sin(step * (i + 1)) for i in range(math.prod(shape))]
    return torch.tensor(numbers, dtype=torch.float64).reshape(shape)


def test_dualcoop() -> None:
    """sunxm2357/DualCoOp at 49e71d7, models/dualcoop.py: forward, from both features on."""
    positive, negative = Texts(sines(3, 5, step=2.1)), Texts(sines(3, 5, step=0.7))
    model = DualCoOp(
        project=lambda hidden: hidden,
        positions=None,
        positive=positive,
        negative=negative,
        settings=DualCoOpSettings(dual={"bias": False}),
    ).double()
    found = model(Features(sines(2, 4, 5, step=1.3), torch.zeros(2, 5))).logits
    # Its softmax over (negative, positive) is the sigmoid of the difference.
    difference = [17.566834, 58.266199, -73.396657, 73.011402, 18.824585, -10.971386]
    assert found.flatten().tolist() == pytest.approx(difference, abs=1e-6)
    found.sum().backward()
    slopes = {
        positive: [31.43965, -43.322836, -65.525421, 8.477323, 80.756451],
        negative: [-77.504921, -3.375006, 41.07195, -4.983589, -55.509183],
    }
    for texts, first in slopes.items():
        assert texts.values.grad[0].tolist() == pytest.approx(first, abs=1e-6)


def test_dualcoops_average_precision() -> None:
    """sunxm2357/DualCoOp at 49e71d7, utils/helper.py; it adds 1e-8 to the number of positives."""
    scores = [[0.9, 0.2, 0.4], [0.8, 0.7, 0.1], [0.3, 0.6, 0.5],
              [0.6, 0.1, 0.8], [0.1, 0.9, 0.3], [0.5, 0.3, 0.9]]  # fmt: skip
    labels = [[1, 0, 0], [0, 1, 0], [1, 0, 1], [0, 0, 1], [0, 1, 0], [1, 1, 0]]
    columns = zip(torch.tensor(scores).T, torch.tensor(labels).bool().T, strict=True)
    found = [average_precision(*pair, torch.ones_like(pair[1])) for pair in columns]
    expected = [0.6999999976666668, 0.9166666636111112, 0.5833333304166666]
    assert found == pytest.approx(expected, abs=1e-8)


# HCPLab-SYSU/HCP-MLR-PL at 0cc908d, datasets/voc2007.py: changeLabelProportion, of VOC 2007's 5,011
# images and 20 categories: how many labels stay, and the beginning of the SHA-256 of their bits.
HCP = {0.1: (10_108, "6c449e375ae8"), 0.5: (50_163, "eaf149bf815e"), 0.9: (90_174, "aff8ef4f9085")}
# guozix/TaI-DPT at d160b7a, partial/VOC2007/partial-labels/train_proportion_0.1.txt: the categories
# that stay known in its first lines and in its last.
TAI_FIRST = [[14, 15, 16], [14], [3], [7, 9, 15], [2, 7, 17, 19], [], [6], [19], [6, 11, 13, 19]]
TAI_LAST = [[5, 7, 19], [], [0, 1, 6], [3], [], [0], [16], [4], [1, 9, 13], [1, 2, 18]]


def voc(share: float) -> LabelMatrix:
    every = torch.ones(5011, 20, dtype=torch.bool)
    return LabelMatrix(every, every).hide(share)


@pytest.mark.parametrize("share", HCP)
def test_hcp_mlr_pls_masks(share: float) -> None:
    known = voc(share).known
    bits = hashlib.sha256(np.packbits(known.numpy()).tobytes()).hexdigest()
    assert (int(known.sum()), bits[:12]) == HCP[share]


def test_tai_dpts_masks() -> None:
    rows = [row.nonzero()[:, 0].tolist() for row in voc(0.1).known]
    assert rows[: len(TAI_FIRST)] == TAI_FIRST and rows[-len(TAI_LAST) :] == TAI_LAST
