"""What a server answers while its run is loaded, and what becomes of a run that cannot be."""

import json
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from tests.cli.test_main import run
from tests.conftest import ToyImages
from tests.server.browser import chromium, needs_chromium, signed_in
from tests.server.conftest import PORT, TOKEN, listening
from tests.toy import ToyEncoder
from trmml.errors import DataError
from trmml.search.build import build_index
from trmml.server.guard import LOOPBACK, PAGES, Gate
from trmml.server.opening import Opening, Site
from trmml.server.serve import check_index, listen, run_server

GATE = Gate(frozenset(LOOPBACK), TOKEN, PORT)
KNOWN = {"Authorization": f"Bearer {TOKEN}", "X-Trmml": "1"}
Tell = Callable[[str, int, int], None]


class Loading:
    """A run that is loaded when the test says so."""

    def __init__(self) -> None:
        self.go, self.closed = threading.Event(), threading.Event()
        self.tell: Tell | None = None

    def __call__(self, tell: Tell) -> Site:
        self.tell = tell
        assert self.go.wait(60)
        return Site(PlainTextResponse("the site"), self.closed.set)


def until(what: Callable[[], object]) -> None:
    end = time.monotonic() + 20
    while not what():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.01)


@pytest.fixture
def loading() -> Loading:
    return Loading()


@pytest.fixture
def client(loading):
    app = Opening(GATE, loading)
    with TestClient(app, f"http://127.0.0.1:{PORT}", headers=KNOWN) as found:
        yield found
        loading.go.set()


def test_the_pages_are_there_before_the_run(client) -> None:
    for path in (*PAGES, "/static/app.js", "/health"):
        assert client.get(path).status_code == 200, path
    assert "script" in client.get("/review").text


def test_all_else_is_told_to_wait_and_how_far_it_is(client, loading) -> None:
    until(lambda: loading.tell)
    answer = client.post("/api/v1/answers", json={"answers": []})
    assert answer.status_code == 503 and answer.headers["retry-after"] == "1"
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["detail"] == "The run is being loaded."
    loading.tell("encode", 1200, 1500)
    told = client.get("/api/v1/status").json()["detail"]
    assert told == "The run is being loaded: encoding images, 1,200 of 1,500."


def test_the_gate_holds_from_the_start(client) -> None:
    assert client.get("/review", headers={"Host": "evil.example"}).status_code == 421
    assert client.get("/api/v1/status", headers={"Authorization": "no"}).status_code == 401
    assert client.get("/static/%2e%2e/guard.py").status_code == 404


def test_then_the_site_answers_and_is_closed_at_the_end(loading) -> None:
    with TestClient(Opening(GATE, loading), f"http://127.0.0.1:{PORT}", headers=KNOWN) as client:
        loading.go.set()
        until(lambda: client.get("/api/v1/status").text == "the site")
        assert not loading.closed.is_set()
    assert loading.closed.is_set()


def test_a_run_that_cannot_be_loaded_ends_the_server() -> None:
    def fail(tell: Tell) -> Site:
        raise DataError("no such table")

    with listen("127.0.0.1", 0) as opened, pytest.raises(DataError, match="no such table"):
        run_server(Opening(GATE, fail), opened)


def test_a_server_that_is_ended_loads_no_further() -> None:
    told = list[int]()

    def endless(tell: Tell) -> Site:
        for done in range(10**6):
            told.append(done)
            tell("encode", done, 10**6)
            time.sleep(0.01)
        raise AssertionError("it went on")

    opening = Opening(GATE, endless)
    with TestClient(opening, f"http://127.0.0.1:{PORT}"):
        until(lambda: told)
    time.sleep(0.05)
    count = len(told)
    time.sleep(0.05)
    assert len(told) == count and opening.error is None


@needs_chromium
def test_a_page_tells_how_far_it_is_then_goes_on(loading, served) -> None:
    """It is signed in only then: the key is taken by the site."""

    def load(tell: Tell) -> Site:
        tell("encode", 3, 40)
        loading(tell)
        return Site(served.app, lambda: None)

    with listening(Opening(GATE, load)) as port, chromium() as browser:
        try:
            with signed_in(browser, port, TOKEN) as page:
                page.get_by_text("encoding images, 3 of 40").wait_for()
                loading.go.set()
                page.locator(".tile").first.wait_for()
        finally:
            loading.go.set()


def test_an_index_of_another_encoder_is_told_before_anything_listens(
    finished_run: Path, toy_images: ToyImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("lancedb", reason="the extra `search` is not installed")
    build_index(finished_run, toy_images.test, tmp_path / "index", encoder=ToyEncoder())
    check_index(tmp_path / "index", finished_run)
    other = tmp_path / "run"
    shutil.copytree(finished_run, other)
    tree = json.loads((other / "model.json").read_text("utf-8"))
    tree["encoder"] |= {"name": "another", "image_checksum": "0" * 64}
    (other / "model.json").write_text(json.dumps(tree))
    monkeypatch.setattr("trmml.server.serve.listen", lambda *given: pytest.fail("it listened"))
    done = run("serve", other, "--index", tmp_path / "index", "--port", "0")
    assert done.exit_code == 1 and "was made with the encoder" in done.stderr
    assert "has another; make an index with `trmml index DIR" in done.stderr
