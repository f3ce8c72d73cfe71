from dataclasses import replace

import pytest
import torch

from tests.toy import ToyEncoder
from trmml.errors import CheckpointError
from trmml.training import run_folder as checkpoint
from trmml.training.run_folder import load_card, load_model, load_tensors, save_tensors, write_text


def test_tensors_and_metadata_round_trip(tmp_path):
    tensors = {"a": torch.randn(3, 2), "b": torch.tensor([True, False])}
    save_tensors(tmp_path / "x.safetensors", tensors, {"k": "v"})
    loaded, metadata = load_tensors(tmp_path / "x.safetensors")
    assert metadata == {"k": "v"}
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "x.safetensors"
    save_tensors(path, {"a": torch.ones(1)}, {})
    before = path.read_bytes()

    def broken(tensors, file, metadata):
        file.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(checkpoint, "save_file", broken)
    with pytest.raises(OSError, match="disk full"):
        save_tensors(path, {"a": torch.zeros(1)}, {})
    assert path.read_bytes() == before


def test_missing_and_damaged_files_are_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"nothing\.safetensors, which does not exist"):
        load_tensors(tmp_path / "nothing.safetensors")
    write_text(tmp_path / "bad.safetensors", "no tensors here")
    with pytest.raises(CheckpointError, match=r"bad\.safetensors is damaged"):
        load_tensors(tmp_path / "bad.safetensors")


def test_a_card_survives_the_round_trip(finished_run):
    card = load_card(finished_run)
    again = type(card).from_dict(card.to_dict(), "here")
    assert again.to_dict() == card.to_dict()


def test_the_encoder_must_be_the_one_trained_on(finished_run):
    card = load_card(finished_run)
    assert load_model(finished_run, ToyEncoder(), card).baked
    without = ToyEncoder()
    without.has_text = False
    assert load_model(finished_run, without, card).baked
    with pytest.raises(CheckpointError, match=r"at 24 px \(weights .*pictures differently"):
        load_model(finished_run, ToyEncoder(seed=1), card)
    other_text = replace(card, encoder=replace(card.encoder, checksum="0" * 64))
    with pytest.raises(CheckpointError, match=r"with text 000000000000\).*texts differently"):
        load_model(finished_run, ToyEncoder(), other_text)
    assert load_model(finished_run, without, other_text).baked


def test_another_format_is_refused(finished_run):
    for other in (1, 99):
        tree = load_card(finished_run).to_dict() | {"format": other}
        reads = r"this version of trmml reads 5 and 6\. Train again"
        message = rf"model\.json has format {other}; {reads}"
        with pytest.raises(CheckpointError, match=message):
            checkpoint.RunCard.from_dict(tree, "model.json")
