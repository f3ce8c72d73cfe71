"""The library: what was read is remembered, what is held is bounded, waiting holds no thread."""

import http.client
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from PIL import Image

from tests.server.conftest import TOKEN
from trmml.server.library import Library, Recent
from trmml.storage import hashes
from trmml.storage.sessions import cores


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """Twenty images of a minute ago: younger files may change again within a tick."""
    found = [tmp_path / f"{n:02}.png" for n in range(20)]
    for n, path in enumerate(found):
        Image.new("RGB", (4, 4 + n), "red").save(path)
        os.utime(path, (10**9, 10**9))
    return found


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that are read, one after another."""
    found: list[Path] = []
    real = hashes.hash_file

    def hash_file(path: Path, make: Callable[[], object]) -> str:
        found.append(path)
        return real(path, make)

    monkeypatch.setattr(hashes, "hash_file", hash_file)
    return found


def test_a_first_look_tells_how_far_it_is_and_can_be_ended(tmp_path, paths, read) -> None:
    told = []

    def stop(what: str, done: int, total: int) -> None:
        told.append((what, done, total))
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Library([tmp_path]).add(paths, stop)
    assert told == [("hash", n, 20) for n in range(1, 6)] and read == paths[:5]
    assert Library([tmp_path]).add(paths) == list(range(20))
    assert read == paths  # those five are remembered


def test_a_killed_first_look_loses_seconds_of_work(tmp_path, paths, read, monkeypatch) -> None:
    monkeypatch.setattr("trmml.server.library.SAVE_SECONDS", 0.0)
    left: list[int] = []

    def look(what: str, done: int, total: int) -> None:
        if done == 10:
            Library([tmp_path]).add(paths[:9])  # another process, as after a kill of this one
            left.append(len(read))

    Library([tmp_path]).add(paths, look)
    assert left == [10]


def test_what_is_held_is_bounded_by_bytes() -> None:
    recent = Recent(10)
    for name in "abc":
        recent.put(name, b"1234")
    assert recent.get("a") is None and recent.get("b") == b"1234"
    recent.put("d", b"56")  # b was asked for since, so c is the oldest; ten bytes are held
    assert [name for name in "bcd" if recent.get(name)] == ["b", "c", "d"]
    recent.get("b")
    recent.put("e", b"7")
    assert [name for name in "bcde" if recent.get(name)] == ["b", "d", "e"]
    recent.put("e", b"7")  # again: it counts once
    recent.put("f", b"8" * 30)
    assert [name for name in "bdef" if recent.get(name)] == ["f"]
    recent.put("g", b"9")
    assert recent.get("f") is None and recent.get("g") == b"9"


def test_thumbs_that_wait_hold_no_thread(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fifty are asked for at once, and other requests have a pool of forty threads."""
    go, began = threading.Event(), threading.Semaphore(0)

    def slow(library: Library, name: str, width: int) -> bytes:
        began.release()
        assert go.wait(20)
        return b""

    monkeypatch.setattr(Library, "jpeg", slow)
    with ThreadPoolExecutor(50) as pool:
        asked = [pool.submit(status, port, f"/api/v1/thumb/{n:064x}") for n in range(50)]
        try:
            for _ in range(cores()):
                assert began.acquire(timeout=20)
            assert status(port, "/health") == 200
            assert status(port, "/api/v1/progress") == 200  # from a thread
            assert not began.acquire(blocking=False)
        finally:
            go.set()
        assert {each.result() for each in asked} == {200}


def status(port: int, path: str, body: bytes | None = None) -> int:
    """What a request on a connection of its own is answered."""
    headers = {"Authorization": f"Bearer {TOKEN}", "X-Trmml": "1"}
    headers |= {} if body is None else {"Content-Type": "application/json"}
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=15)) as connection:
        connection.request("GET" if body is None else "POST", path, body, headers)
        answer = connection.getresponse()
        answer.read()
        return answer.status
