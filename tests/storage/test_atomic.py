import json
import os
import subprocess
import sys

import pytest
import torch

from trmml.errors import CheckpointError
from trmml.storage.atomic import FULL, sweep, whole_file, write_json, write_text
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

    def broken(file):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", broken)
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


# Parts ---------------------------------------------------------------------------------------


def killed_while_writing(path):
    """What a process leaves that is killed in the middle of a file."""
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from trmml.storage.atomic import whole_file\n"
        "with whole_file(Path(sys.argv[1])) as part:\n"
        "    part.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=False)


def test_the_next_use_removes_what_a_killed_process_left(tmp_path):
    killed_while_writing(tmp_path / ("x" * 250))  # as long as a name may nearly be
    (left,) = tmp_path.iterdir()
    with whole_file(tmp_path / "y") as own:  # a process that lives is left alone
        own.write_text("y")
        sweep(tmp_path)
        assert own.is_file() and not left.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["y"]


def test_a_container_that_shares_the_name_of_the_machine_is_another_place(tmp_path, monkeypatch):
    killed_while_writing(tmp_path / "x")  # for another container its writer may live
    own, (left,) = os.readlink, tmp_path.iterdir()
    spaces = {"/proc/self/ns/pid": "pid:[4026532999]"}
    with monkeypatch.context() as patch:
        patch.setattr(os, "readlink", lambda path: spaces.get(path) or own(path))
        sweep(tmp_path)
        assert left.is_file()
    sweep(tmp_path)
    assert not left.exists()


def test_parts_of_others_are_removed_when_they_are_old(tmp_path):
    elsewhere = tmp_path / ".x.00000000-1-0123abcd.part"
    older = tmp_path / ".x.0123abcd.part"
    strange = tmp_path / ".download.part"
    for path in (elsewhere, older, strange):
        path.touch()
    sweep(tmp_path)
    assert len(list(tmp_path.iterdir())) == 3
    for path in (elsewhere, older, strange):
        os.utime(path, (0, 0))
    sweep(tmp_path)
    assert list(tmp_path.iterdir()) == [strange]


@pytest.mark.parametrize("number", FULL)
def test_a_full_disk_is_told_with_what_was_needed(tmp_path, monkeypatch, number):
    def full(file):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"600 bytes are needed and \d+ are free") as caught:
        write_text(tmp_path / "big.txt", "ab" * 300)
    assert caught.value.filename == str(tmp_path / "big.txt") and caught.value.errno == number
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_is_written_as_it_is(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    with whole_file(tmp_path / "pipe") as part:
        part.write_text("through")
    write_text(tmp_path / "pipe", " and forced")
    assert os.read(reader, 100) == b"through and forced"
    os.close(reader)
