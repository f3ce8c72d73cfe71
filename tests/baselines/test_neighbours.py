"""Nearest neighbours in a benchmark: no steps, but every mask is another memory."""

from pathlib import Path

import pytest
import torch

from tests.conftest import ToyImages
from tests.toy import ToyEncoder
from trmml.benchmark.catalog import METHODS
from trmml.benchmark.data import BenchmarkData, encode_benchmark_data
from trmml.benchmark.grid import run_benchmark
from trmml.benchmark.records import Cell
from trmml.datasets.formats.folder import read_folder
from trmml.labels.masks import share_known
from trmml.labels.matrix import LabelMatrix
from trmml.method.heads.neighbour_head import NeighbourHead
from trmml.metrics.average_precision import average_precisions, mean_defined

NEIGHBOURS = METHODS["neighbours"]


@pytest.fixture(scope="module")
def data(toy_images: ToyImages) -> BenchmarkData:
    train, test = (
        read_folder(images, table)
        for images, table in (
            (toy_images.train, toy_images.train_table),
            (toy_images.test, toy_images.test_table),
        )
    )
    return encode_benchmark_data("toys", train, test, ToyEncoder())


@pytest.fixture
def memories(monkeypatch: pytest.MonkeyPatch) -> list[LabelMatrix]:
    """The labels that heads were given to remember, in order."""
    given, remember = list[LabelMatrix](), NeighbourHead.remember

    def noted(head: NeighbourHead, pooled: torch.Tensor, matrix: LabelMatrix) -> None:
        given.append(matrix)
        remember(head, pooled, matrix)

    monkeypatch.setattr(NeighbourHead, "remember", noted)
    return given


def cells(data: BenchmarkData, out: Path, share: float, refit: bool) -> list[Cell]:
    done = run_benchmark(
        data, out, methods=[NEIGHBOURS], known=[share_known(share)], seeds=[0, 1], refit=refit
    )
    return [finished.cell for finished in done]


def remembered(data: BenchmarkData, mask: LabelMatrix) -> float:
    """Test mAP of the head that remembers all training images."""
    model = NEIGHBOURS.build(data.frozen, data.train.category_names, NEIGHBOURS.settings())
    head, truth = model.neighbour_head(), data.test.matrix
    assert head is not None
    train, test = (
        images.features(pooled=True, views=1).batch(torch.arange(count)).hidden_patches[:, 0]
        for images, count in (
            (data.encoded_train, len(data.train.matrix)),
            (data.encoded_test, len(truth)),
        )
    )
    head.remember(train.half(), mask)
    return mean_defined(average_precisions(head(test), truth.labels, truth.known))


def test_each_mask_is_another_memory(
    data: BenchmarkData, tmp_path: Path, memories: list[LabelMatrix]
) -> None:
    few, many = (cells(data, tmp_path / "out", share, refit=False) for share in (0.3, 0.9))
    known = [memory.known.numpy().tobytes() for memory in memories]
    assert len(set(known)) == len(known) == len([*few, *many]) == 4
    shares = [memory.known.float().mean().item() for memory in memories]
    assert max(shares[:2]) < min(shares[2:])
    assert many[0].refit_map is None


def test_refit_is_made_up_for_in_a_finished_grid(data: BenchmarkData, tmp_path: Path) -> None:
    assert cells(data, tmp_path / "out", 0.9, refit=False)
    again = cells(data, tmp_path / "out", 0.9, refit=True)
    assert [cell.refit_map is None for cell in again] == [False, False]
    assert all(cell.seconds["train"] > 0 for cell in again)
    assert not cells(data, tmp_path / "out", 0.9, refit=True)


def test_with_refit_the_held_out_images_are_remembered_too(
    data: BenchmarkData, tmp_path: Path, memories: list[LabelMatrix]
) -> None:
    done = cells(data, tmp_path / "out", 0.9, refit=True)
    pairs = list(zip(memories[::2], memories[1::2], strict=True))
    for cell, (part, all_) in zip(done, pairs, strict=True):
        mask = share_known(0.9).apply(data.train.matrix, cell.seed)
        assert len(part) < len(all_) == len(mask) and torch.equal(all_.known, mask.known)
        assert cell.refit_map == pytest.approx(remembered(data, mask), abs=1e-6)
