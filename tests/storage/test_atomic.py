import json

import pytest
import torch

from trmml.errors import CheckpointError
from trmml.storage import tensors as tensor_files
from trmml.storage.atomic import write_json, write_text
from trmml.storage.tensors import load_tensors, save_tensors


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

    monkeypatch.setattr(tensor_files, "save_file", broken)
    with pytest.raises(OSError, match="disk full"):
        save_tensors(path, {"a": torch.zeros(1)}, {})
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_missing_and_damaged_files_are_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"nothing\.safetensors, which does not exist"):
        load_tensors(tmp_path / "nothing.safetensors")
    write_text(tmp_path / "bad.safetensors", "no tensors here")
    with pytest.raises(CheckpointError, match=r"bad\.safetensors is damaged"):
        load_tensors(tmp_path / "bad.safetensors")


def test_a_file_may_be_read_by_whom_the_umask_allows(tmp_path):
    write_text(tmp_path / "plain.txt", "äöü")
    write_json(tmp_path / "tree.json", {"a": ["ä"]})
    save_tensors(tmp_path / "x.safetensors", {"a": torch.ones(1)})
    (tmp_path / "touched").touch()
    assert len({path.stat().st_mode for path in tmp_path.iterdir()}) == 1
    assert (tmp_path / "plain.txt").read_bytes() == "äöü".encode()
    assert json.loads((tmp_path / "tree.json").read_text("utf-8")) == {"a": ["ä"]}
