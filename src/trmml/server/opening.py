"""Pages from the first second, while the run is loaded in a thread.

Importing torch and open_clip takes seconds, and the first look at a folder encodes all of it. A
page that tells how far this is beats none. Nothing here imports torch, or FastAPI.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from trmml.server.guard import METHODS, PAGES, Gate, Guard
from trmml.server.problems import Problem, answer

STATIC = Path(__file__).parent / "static"
# What the stages of loading are called on the page; others go by their own name.
STAGES = {
    "hash": "hashing", "read": "reading", "check": "checking", "encode": "encoding",
    "score": "scoring",
}  # fmt: skip


@dataclass(frozen=True)
class Site:
    """All that a server answers, and how its threads are ended."""

    app: ASGIApp
    close: Callable[[], None]


class Opening:
    """An app that has its pages at once, and the rest of its site when that is loaded.

    Until then every other request gets 503 with `Retry-After`, and a sentence on how far it is.

    Args:
        gate: who may ask.
        load: makes the site, in a thread; it calls what it is given with (what, done, total).
    """

    def __init__(self, gate: Gate, load: Callable[[Callable[[str, int, int], None]], Site]) -> None:
        self._load, self._ended = load, False
        self._site: Site | None = None
        self._told = "The run is being loaded."
        # Told when loading failed, with nothing left to wait for.
        self.give_up: Callable[[], None] = lambda: None
        self.error: Exception | None = None
        self._thread = threading.Thread(target=self._work, name="load")
        rest = Route("/{rest:path}", self._wait, methods=METHODS)
        early = Starlette(
            routes=[*page_routes(), Route("/health", _health), rest], lifespan=self._living
        )
        self._early = Guard(early, gate, lambda scope, status, seconds: None)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        site = None if scope["type"] == "lifespan" else self._site
        await (self._early if site is None else site.app)(scope, receive, send)

    @asynccontextmanager
    async def _living(self, app: Starlette) -> AsyncIterator[None]:
        self._thread.start()
        yield
        self._ended = True
        await asyncio.to_thread(self._thread.join)  # requests in hand go on
        if self._site is not None:
            self._site.close()

    def _work(self) -> None:
        try:
            self._site = self._load(self._tell)
        except KeyboardInterrupt:  # of `_tell`
            return
        except Exception as error:  # the command tells it, as it tells its own
            self.error = error
            self.give_up()

    def _tell(self, what: str, done: int, total: int) -> None:
        if self._ended:
            raise KeyboardInterrupt  # what everything that tells its progress is ended by
        stage = STAGES.get(what, what)
        self._told = f"The run is being loaded: {stage} images, {done:,} of {total:,}."

    async def _wait(self, request: Request) -> Response:
        return answer(Problem(503, self._told, {"Retry-After": "1"}))


def page_routes() -> list[BaseRoute]:
    """The pages, which are one file, and what that file loads."""
    pages = [Route(path, _page) for path in PAGES]
    return [*pages, Mount("/static", StaticFiles(directory=STATIC))]


async def _page(request: Request) -> Response:
    return FileResponse(STATIC / "index.html")


async def _health(request: Request) -> Response:
    return JSONResponse({"status": "UP"})
