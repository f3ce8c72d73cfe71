"""A collection: the run's logits, its order of categories, features, and readable images."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.conftest import ToyImages
from tests.toy import COLOURS, ToyEncoder
from trmml.curation.collection import held_out_of, read_collection
from trmml.datasets.formats.folder import read_folder
from trmml.errors import CheckpointError, DataError
from trmml.labels.matrix import LabelMatrix
from trmml.storage.hashes import hash_file
from trmml.storage.tensors import load_tensors, save_tensors
from trmml.tagging.evaluate import evaluate
from trmml.training.run_folder import load_card


def test_logits_are_those_that_evaluate_scores(
    finished_run: Path, toy_images: ToyImages, encoder: ToyEncoder
) -> None:
    data = read_folder(toy_images.train, toy_images.train_table)
    collection = read_collection(finished_run, data, encoder=encoder)
    scored = evaluate(finished_run, data, encoder=encoder)
    assert torch.allclose(collection.logits.sigmoid().double(), scored.probabilities, atol=1e-6)
    assert torch.allclose(collection.features.norm(dim=1), torch.ones(len(data)), atol=1e-5)
    assert collection.means.shape == (len(data), 12)
    assert collection.run == hash_file(finished_run / "model.json")
    assert collection.out_of_sample.shape == collection.logits.shape
    assert collection.out_of_sample.isfinite().all()


def test_held_out_images_are_found_by_name_with_the_first_training_s_logits(
    finished_run: Path, toy_images: ToyImages, encoder: ToyEncoder, tmp_path: Path
) -> None:
    data = read_folder(toy_images.train, toy_images.train_table)
    found = read_collection(finished_run, data, encoder=encoder).held_out
    held, _ = load_tensors(finished_run / "held_out.safetensors")
    assert found is not None and found.images.tolist() == held["images"].tolist()
    order = torch.arange(len(data)).flip(0)
    calibration = load_card(finished_run).calibration
    turned = held_out_of(finished_run, data.subset(order.tolist()), calibration)
    assert turned is not None and torch.equal(order[turned.images], found.images)
    assert torch.equal(turned.logits, found.logits)
    some = held_out_of(finished_run, data.subset(found.images[1:3].tolist()), calibration)
    assert some is not None and torch.equal(some.logits, found.logits[1:3])


def test_other_images_and_runs_of_before_tell_of_none_or_by_place(
    finished_run: Path, toy_images: ToyImages, encoder: ToyEncoder, tmp_path: Path
) -> None:
    data = read_folder(toy_images.train, toy_images.train_table)
    calibration = load_card(finished_run).calibration
    held, _ = load_tensors(finished_run / "held_out.safetensors")
    save_tensors(tmp_path / "held_out.safetensors", held)  # as it was before 2026-12
    found = held_out_of(tmp_path, data, calibration)
    assert found is not None and found.images.tolist() == held["images"].tolist()
    others = replace(data, matrix=LabelMatrix(~data.matrix.labels, data.matrix.known))
    for run in (tmp_path, finished_run):
        assert held_out_of(run, others, calibration) is None  # names that fit, other labels
    renamed = replace(data, images=tuple(f"other{n}" for n in range(len(data))))
    assert held_out_of(finished_run, renamed, calibration) is None
    assert held_out_of(tmp_path / "none", data, calibration) is None


def test_columns_come_in_the_run_s_order_and_missing_ones_are_unknown(
    finished_run: Path, toy_images: ToyImages, encoder: ToyEncoder, tmp_path: Path
) -> None:
    table = tmp_path / "labels.csv"
    table.write_text("image,violet,blue,red\n000.png,1,1,0\n001.png,0,,1\n")
    data = read_folder(toy_images.train, table)
    collection = read_collection(finished_run, data, encoder=encoder)
    assert collection.category_names == tuple(COLOURS)
    known, labels = collection.matrix.known, collection.matrix.labels
    assert known.tolist() == [[True, False, True, False], [True, False, False, False]]
    assert labels.tolist() == [[False, False, True, False], [True, False, False, False]]


def test_unreadable_images_are_left_out(
    finished_run: Path, toy_images: ToyImages, encoder: ToyEncoder, tmp_path: Path
) -> None:
    (tmp_path / "a.png").write_bytes((toy_images.train / "000.png").read_bytes())
    (tmp_path / "b.png").write_bytes(b"no image")
    (tmp_path / "labels.csv").write_text("image,red\nb.png,1\na.png,0\n")
    data = read_folder(tmp_path, tmp_path / "labels.csv")
    with pytest.raises(DataError, match=r"b\.png"):
        read_collection(finished_run, data, encoder=encoder)
    collection = read_collection(finished_run, data, encoder=encoder, on_bad_image="skip")
    assert collection.data.images == ("a.png",)
    assert [bad.name for bad in collection.bad] == [str(tmp_path / "b.png")]


def test_errors(
    finished_run: Path, toy_images: ToyImages, encoder: ToyEncoder, tmp_path: Path
) -> None:
    (tmp_path / "labels.csv").write_text("image,violet\n000.png,1\n")
    data = read_folder(toy_images.train, tmp_path / "labels.csv")
    with pytest.raises(DataError, match=r"none of the table's 1 categories \(violet\)"):
        read_collection(finished_run, data, encoder=encoder)
    data = read_folder(toy_images.train, toy_images.train_table)
    with pytest.raises(CheckpointError, match="encodes images differently"):
        read_collection(finished_run, data, encoder=ToyEncoder(seed=1))
