"""Ray's workers write the rows of the local engine, whatever is killed."""

import contextlib
import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.scale.test_run import job, manifest, rows_of
from trmml.errors import ConfigError, MissingExtraError
from trmml.scale.job import read_job
from trmml.scale.manifest import write_manifest

__all__ = ["manifest"]  # a fixture


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_ray_writes_the_same_rows(
    finished_run: Path, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")
    monkeypatch.setenv("RAY_worker_niceness", "0")
    job(finished_run, manifest, tmp_path / "local")
    try:
        done = job(finished_run, manifest, tmp_path / "ray", engine="ray", workers=1)
        assert (done.done, done.errors, done.failed) == (19, 3, 0)
        assert rows_of(tmp_path / "ray").equals(rows_of(tmp_path / "local"))
        lost = min((tmp_path / "ray").glob("part-*"))
        lost.unlink()
        job(finished_run, manifest, tmp_path / "ray", engine="ray", workers=1)
        assert rows_of(tmp_path / "ray").equals(rows_of(tmp_path / "local"))
    finally:
        ray.shutdown()


def test_a_missing_ray_names_its_extra(
    finished_run: Path, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setitem(sys.modules, "ray.data", None)
    with pytest.raises(MissingExtraError, match=r"pip install '\.\[ray\]'"):
        job(finished_run, manifest, tmp_path / "out", engine="ray")


@pytest.fixture
def fake_ray(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Ray in this process, as far as the engine asks it; gives what it was asked."""
    asked: dict[str, Any] = {}

    class Data:
        def __init__(self, items: list[dict[str, Any]]) -> None:
            self.items = items

        def map_batches(self, kind: Any, *, fn_constructor_kwargs: Any, **how: Any) -> "Data":
            asked.update(how, **fn_constructor_kwargs)
            worker, rows = kind(**fn_constructor_kwargs), []
            for item in self.items:
                batch = {name: np.array([value], dtype=object) for name, value in item.items()}
                rows.append({name: values[0] for name, values in worker(batch).items()})
            return Data(rows)

        def iter_rows(self) -> Iterator[dict[str, Any]]:
            return iter(self.items)

    ray, data = ModuleType("ray"), ModuleType("ray.data")
    vars(ray).update(
        data=data,
        is_initialized=lambda: False,
        init=lambda address, **how: asked.update(how, address=address),
    )
    vars(data).update(
        from_items=lambda items, override_num_blocks: Data(items),
        ActorPoolStrategy=lambda size: size,
        DataContext=SimpleNamespace(get_current=lambda: SimpleNamespace()),
    )
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setitem(sys.modules, "ray.data", data)
    return asked


def test_workers_find_the_run_from_any_folder_and_ray_is_started_here(
    finished_run: Path,
    manifest: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fake_ray: dict[str, Any],
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    job(finished_run, manifest, tmp_path / "local")
    monkeypatch.chdir(finished_run.parent)
    job(Path(finished_run.name), manifest, tmp_path / "ray", engine="ray")
    assert fake_ray["loading"].run == finished_run.absolute()
    assert fake_ray["address"] == "local" and fake_ray["num_gpus"] == 0
    assert rows_of(tmp_path / "ray").equals(rows_of(tmp_path / "local"))


def test_the_driver_needs_no_card_and_workers_no_number(
    finished_run: Path, manifest: Path, tmp_path: Path, fake_ray: dict[str, Any]
) -> None:
    words: dict[str, Any] = {"engine": "ray", "address": "10.0.0.1:6379"}
    with pytest.raises(ConfigError, match="cuda:1 names none"):
        job(finished_run, manifest, tmp_path / "out", device="cuda:1", **words)
    with pytest.raises(ConfigError, match="cannot tell what the cluster's workers have"):
        job(finished_run, manifest, tmp_path / "out", device="auto", **words)
    assert not (tmp_path / "out").exists()

    def stop(*_: object, **__: object) -> None:
        raise RuntimeError("as far as the driver goes")

    vars(sys.modules["ray"])["init"] = stop
    with pytest.raises(RuntimeError, match="as far as"):
        job(finished_run, manifest, tmp_path / "out", device="cuda", **words)
    begun = read_job(tmp_path / "out")
    assert begun is not None and (begun.device, begun.by) == ("cuda", "torch")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_full_disk_of_a_worker_ends_the_job_and_another_error_does_not(
    finished_run: Path,
    manifest: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fake_ray: dict[str, Any],
    number: int,
) -> None:
    def broken(*_: object) -> None:
        raise OSError(number, "as it is", "/there/part")

    monkeypatch.setattr("trmml.scale.part.tag_part", broken)
    if number == errno.ENOSPC:
        with pytest.raises(OSError, match="as it is") as caught:
            job(finished_run, manifest, tmp_path / "out", engine="ray")
        assert (caught.value.errno, caught.value.filename) == (number, "/there/part")
    else:
        assert job(finished_run, manifest, tmp_path / "out", engine="ray").failed == 4


DRIVER = """
import sys
from pathlib import Path
from tests.scale.test_run import job
job(*map(Path, sys.argv[1:4]), engine="ray", workers=1, part=2)
"""


@pytest.mark.slow
def test_ten_kills_with_ray_leave_the_same_rows(finished_run: Path, tmp_path: Path) -> None:
    """Of a worker, the driver, or all processes of the machine."""
    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    images, listed, out = tmp_path / "set", tmp_path / "m.parquet", tmp_path / "out"
    images.mkdir()
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (1600, 1600, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(images / "000.png")
    for number in range(1, 160):
        shutil.copy(images / "000.png", images / f"{number:03}.png")
    write_manifest([str(images)], listed)
    job(finished_run, listed, tmp_path / "local", part=2)
    kills = {"worker": 0, "driver": 0, "machine": 0}
    process = _driver(finished_run, listed, out)
    try:
        while sum(kills.values()) < 10:
            _wait_for_one_more(out, process)
            assert process.poll() is None, "it ended before ten kills"
            what = min(kills, key=lambda kind: kills[kind])  # each in its turn
            ours = _descendants(process.pid)
            workers = [pid for pid in ours if _words(pid).startswith("ray::MapWorker")]
            victims = {"worker": workers, "driver": [process.pid], "machine": [process.pid, *ours]}
            for pid in victims[what]:
                os.kill(pid, signal.SIGKILL)
            kills[what] += bool(victims[what])
            if what != "worker":
                process.wait()
                process = _driver(finished_run, listed, out)
        assert process.wait(300) == 0
    finally:
        for pid in [process.pid, *_descendants(process.pid)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()
    assert rows_of(out).equals(rows_of(tmp_path / "local")) and min(kills.values()) > 0


def _driver(run: Path, listed: Path, out: Path) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-c", DRIVER, str(run), str(listed), str(out)]
    return subprocess.Popen(words, env={**os.environ, "RAY_worker_niceness": "0"})


def _wait_for_one_more(out: Path, process: subprocess.Popen[bytes]) -> None:
    before, end = len(list(out.glob("part-*"))), time.monotonic() + 200
    while len(list(out.glob("part-*"))) == before and process.poll() is None:
        assert time.monotonic() < end, "no part was written"
        time.sleep(0.01)


def _words(pid: int) -> str:
    """The command line of a process, which a worker of Ray changes to its title."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text("utf-8", "replace")
    return ""


def _descendants(pid: int) -> list[int]:
    """Processes that a process started, and those that they did."""
    parents: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            parents.setdefault(parent, []).append(int(path.parent.name))
    found, left = list[int](), [pid]
    while left:
        found += (children := parents.get(left.pop(), []))
        left += children
    return found
