import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from trmml.storage.drafts import draft_folder


def test_a_draft_lies_beside_its_place_and_is_removed(tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    with draft_folder(out) as draft:
        (draft / "a").write_text("x")
        assert draft.parent.parent == out.parent and draft.parent.name.startswith(".out.")
        draft.rename(out)
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    assert (out / "a").read_text() == "x"


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no"), draft_folder(tmp_path / "out") as draft:
        (draft / "a").write_text("x")
        raise ValueError("no")
    assert not list(tmp_path.iterdir())


def test_the_draft_of_a_killed_process_is_removed_by_the_next(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from trmml.storage.drafts import draft_folder\n"
        "with draft_folder(Path(sys.argv[1])): os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "out")], check=False)
    assert len(list(tmp_path.iterdir())) == 1
    with draft_folder(tmp_path / "out"):
        assert len(list(tmp_path.iterdir())) == 1
    assert not list(tmp_path.iterdir())


def test_a_draft_in_use_stays(tmp_path: Path) -> None:
    with draft_folder(tmp_path / "out") as first, draft_folder(tmp_path / "out"):
        assert first.is_dir()


def test_a_folder_without_a_lock_is_removed_once_it_is_old(tmp_path: Path) -> None:
    old, new = tmp_path / ".out.a.draft", tmp_path / ".out.b.draft"
    old.mkdir()
    new.mkdir()
    os.utime(old, (0, 0))
    with draft_folder(tmp_path / "out"):
        assert not old.exists() and new.exists()


def test_a_draft_that_fills_the_disk_is_told_and_removed(tmp_path: Path) -> None:
    said = r"No space left on device: more than 300 bytes are needed and \d+ are free"
    with pytest.raises(OSError, match=said) as caught, draft_folder(tmp_path / "out") as draft:
        (draft / "half").write_bytes(b"x" * 300)
        raise OSError(errno.ENOSPC, "whatever", "some file within")
    assert caught.value.filename == str(tmp_path / "out") and not list(tmp_path.iterdir())
