"""What must never reach a weight: held-out labels, and the truth behind hidden ones."""

import pytest
import torch

from tests.toy import ToyEncoder
from trmml.datasets.base import Dataset
from trmml.datasets.formats.folder import read_folder
from trmml.labels.matrix import LabelMatrix
from trmml.settings.sections import Settings
from trmml.storage.tensors import load_tensors
from trmml.training.fit import train_run
from trmml.training.schedule import hold_out

# Thresholds at which pseudo-labels exist on so few images; the epoch is not chosen by scores.
SETTINGS = Settings(
    regions={"mlp_size": 16},
    training={"epochs": 5, "batch_size": 16, "held_out_share": 0.3, "choose_epoch": "last"}
    | {"refit": False},  # which is there to learn from them
    neighbour_head={"use": True},
    losses={"pseudo": 0.5, "contrastive": 0.1, "distillation": 0.1},
    prototypes={"positive_above": 0.6, "negative_below": 0.3},
)


def trained(toy_images, out, change=None, truth=None):
    data = read_folder(toy_images.train, toy_images.train_table)
    matrix = data.matrix.hide(0.7)
    if change is not None:
        matrix = change(matrix)
    data = Dataset(data.root, data.images, data.category_names, matrix, data.rows)
    records = list(train_run(data, ToyEncoder(), out, settings=SETTINGS, truth=truth, device="cpu"))
    counted = [v for r in records for n, v in r.pseudo.items() if not n.endswith("_right")]
    assert truth is None or sum(counted) > 0
    return load_tensors(out / "model.safetensors")[0]


def flip_held_out(matrix: LabelMatrix) -> LabelMatrix:
    _, held = hold_out(matrix, SETTINGS.training.held_out_share, SETTINGS.training.seed)
    labels = matrix.labels.clone()
    labels[held] = ~labels[held]
    return LabelMatrix(labels, matrix.known)


def test_held_out_labels_reach_no_weight(toy_images, tmp_path):
    one = trained(toy_images, tmp_path / "one")
    two = trained(toy_images, tmp_path / "two", change=flip_held_out)
    # How much each opinion counts is what they are asked for; nothing else is.
    differ = {name for name in one if not torch.equal(one[name], two[name])}
    assert differ == {"heads.stacking.weights", "heads.stacking.slope", "heads.stacking.offset"}


def test_training_labels_do(toy_images, tmp_path):
    one = trained(toy_images, tmp_path / "one")
    two = trained(
        toy_images, tmp_path / "two", change=lambda m: LabelMatrix(m.labels.flip(0), m.known)
    )
    assert any(not torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("flip", [False, True])
def test_the_truth_only_counts_pseudo_labels(toy_images, tmp_path, flip):
    full = read_folder(toy_images.train, toy_images.train_table).matrix
    truth = LabelMatrix(~full.labels, full.known) if flip else full
    one = trained(toy_images, tmp_path / "one")
    two = trained(toy_images, tmp_path / "two", truth=truth)
    assert all(torch.equal(one[name], two[name]) for name in one)
