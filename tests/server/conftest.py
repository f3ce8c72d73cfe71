"""A server on the tiny images, asked without a network or over loopback."""

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.testclient import TestClient
from starlette.types import ASGIApp

from tests.conftest import TOY_SPEC, ToyImages
from tests.server.browser import chromium, signed_in
from trmml.curation.answers import Answers
from trmml.curation.standing import standing
from trmml.datasets.formats.folder import read_folder
from trmml.labels.matrix import LabelMatrix
from trmml.server.guard import LOOPBACK, Gate
from trmml.server.serve import listen
from trmml.server.site import Wish, open_site

TOKEN = "t" * 43
PORT = 8765


@dataclass(frozen=True)
class Served:
    """An app, with what it was made of."""

    app: ASGIApp
    images: Path
    answers: Path

    def client(self, **headers: str) -> TestClient:
        """A client that knows the token, as a script does."""
        told = {"Authorization": f"Bearer {TOKEN}", "X-Trmml": "1", **headers}
        return TestClient(
            self.app, f"http://127.0.0.1:{PORT}", headers=told, raise_server_exceptions=False
        )


# What a stranger might call a file.
STRANGE = "<img src=x onerror=alert(1)>.png"


def make(
    run: Path,
    toy: ToyImages,
    folder: Path,
    *,
    index: Path | None = None,
    seconds: float = 30.0,
    read_only: bool = False,
    label_studio: bool = False,
) -> Served:
    """A server with a collection of its own, half of its labels hidden."""
    images = folder / "images"
    shutil.copytree(toy.train, images)
    data = read_folder(images, toy.train_table)
    first, *others = data.images
    (images / first).rename(images / STRANGE)
    known = data.matrix.known.clone()
    known[24:] = False
    data = type(data)(
        data.root,
        (STRANGE, *others),
        data.category_names,
        LabelMatrix(data.matrix.labels, known),
        data.rows,
    )
    wish = Wish(
        run,
        data,
        index,
        folder / "answers.sqlite",
        encoder=TOY_SPEC,
        read_only=read_only,
        label_studio=label_studio,
    )
    gate = Gate(frozenset(LOOPBACK), TOKEN, PORT, most_bytes=2 << 20, seconds=seconds)
    return Served(open_site(wish, gate).app, images, folder / "answers.sqlite")


def answers(path: Path) -> list[Any]:
    """All rows of a journal."""
    with Answers(path) as journal:
        return journal.rows()


def count(path: Path) -> int:
    """Answers that stand."""
    rows = answers(path)
    taken = standing(rows).taken
    return sum(row.answer is not None and row.id not in taken for row in rows)


@pytest.fixture(scope="module")
def served(
    finished_run: Path, toy_images: ToyImages, tmp_path_factory: pytest.TempPathFactory
) -> Served:
    return make(finished_run, toy_images, tmp_path_factory.mktemp("served"))


@pytest.fixture(autouse=True)
def no_gold(monkeypatch: pytest.MonkeyPatch) -> None:
    """A question that was answered before would keep its block open."""
    monkeypatch.setattr("trmml.curation.queue.GOLD_SHARE", 0.0)


@pytest.fixture
def client(served: Served) -> TestClient:
    return served.client()


@contextmanager
def listening(app: ASGIApp) -> Iterator[int]:
    """The port of a server over loopback."""
    with listen("127.0.0.1", 0) as opened:
        config = uvicorn.Config(app, log_config=None, access_log=False)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([opened],))
        thread.start()
        yield opened.getsockname()[1]
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def port(served: Served) -> Iterator[int]:
    with listening(served.app) as number:
        yield number


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture
def page(browser: Any, port: int) -> Iterator[Any]:
    with signed_in(browser, port, TOKEN) as found:
        yield found
