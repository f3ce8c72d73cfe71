import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from filelock import SoftFileLock

from trmml.errors import CheckpointError
from trmml.storage.held import held_folder

HOLD = (
    "import sys; from pathlib import Path\n"
    "from trmml.storage.held import held_folder\n"
    "with held_folder(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
)


def holder(folder: Path) -> subprocess.Popen[str]:
    """Another process that holds a folder until its standard input ends."""
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=pipe, stdout=pipe, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_the_second_says_who_holds_it_and_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "a"
    with holder(run) as process:
        said = rf"a is in use by process {process.pid} on .* since 20..-..-.. ..:..:..*; wait for"
        with pytest.raises(CheckpointError, match=said), held_folder(run):
            pass
        process.kill()
        process.wait()
        assert (run / ".lock").is_file()
        with held_folder(run):
            assert f"process {os.getpid()}" in (run / ".who.lock").read_text("utf-8")
    assert not list(run.iterdir())


def test_the_lock_keeps_what_its_maker_wrote_into_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without locks of the file system, the lock file says whose process must have ended."""
    monkeypatch.setattr("trmml.storage.held.FileLock", SoftFileLock)
    with held_folder(tmp_path / "run"):
        mark = (tmp_path / "run" / ".lock").read_text("utf-8")
        assert str(os.getpid()) in mark.splitlines()
    assert not list(tmp_path.iterdir())


def test_who_holds_a_folder_may_hold_it_again(tmp_path: Path) -> None:
    with held_folder(tmp_path / "new" / "run"):
        with held_folder(tmp_path / "new" / "run"):
            (tmp_path / "new" / "run" / "file").touch()
        refused: list[str] = []

        def other() -> None:
            try:
                with held_folder(tmp_path / "new" / "run"):
                    pass
            except CheckpointError as error:
                refused.append(str(error))

        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert "is in use by" in refused[0]
    assert [path.name for path in tmp_path.rglob("*")] == ["new", "run", "file"]


def test_a_folder_that_was_made_for_nothing_is_removed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no"), held_folder(tmp_path / "a" / "b"):
        raise ValueError("no")
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="file is a file; name a folder"):
        held_folder(tmp_path / "file").__enter__()
    with pytest.raises(CheckpointError, match=r"nothing can be written in .*run \(Not a directory"):
        held_folder(tmp_path / "file" / "run").__enter__()
