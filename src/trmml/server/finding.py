"""Searching an index from the browser."""

import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from trmml.search.index import Index
from trmml.search.query import Query, parse_query
from trmml.server.library import Library
from trmml.server.problems import Problem
from trmml.server.review import Name, Sha256

Share = Annotated[float, Field(ge=0, le=1)]


class Wanted(BaseModel):
    """A query, as `trmml search` takes it.

    Attributes:
        like: id of an image to resemble.
        box: left, top, right, bottom of a part of that image, as shares of its sides.
        min: least score; "auto" is what chance hardly reaches.
        offset: hits that were shown already.
    """

    model_config = ConfigDict(extra="forbid")

    text: Annotated[list[Name], Field(max_length=10)] = []
    tags: Annotated[list[Name], Field(max_length=50)] = []
    without: Annotated[list[Name], Field(max_length=50)] = []
    like: Sha256 | None = None
    box: tuple[Share, Share, Share, Share] | None = None
    min: float | Literal["auto"] | None = None
    limit: Annotated[int, Field(ge=1, le=200)] = 40
    offset: Annotated[int, Field(ge=0, le=2000)] = 0


class Searcher:
    """An index to search.

    Args:
        index: with its embedder.
        library: that gives images their ids.
    """

    def __init__(self, index: Index, library: Library) -> None:
        self.index, self._library, self._lock = index, library, threading.Lock()

    def find(self, wanted: Wanted) -> dict[str, Any]:
        """Hits, and the score below which nothing is shown.

        Raises:
            DataError: see `query.parse_query` and `Index.search`.
        """
        source = None if wanted.like is None else self._library.source(wanted.like)
        with self._lock, _on_disk(source) as path:
            found = self.index.search(
                self._query(wanted, path),
                top=wanted.offset + wanted.limit + 1,
                least=wanted.min if wanted.text or wanted.like else None,
            )
        shown = found.hits[wanted.offset : wanted.offset + wanted.limit]
        hits = [
            {**hit.to_dict(), "path": None, "id": self._library.id_of(hit.path)} for hit in shown
        ]
        return {
            "hits": hits,
            "least": found.cut,
            "more": len(found.hits) > wanted.offset + len(hits),
        }

    def _query(self, wanted: Wanted, source: Path | None) -> Query:
        box = None if wanted.box is None else ",".join(map(str, wanted.box))
        like = [] if source is None else [self._name(source)]
        return parse_query(
            wanted.text, like=like, tags=wanted.tags, without=wanted.without, box=box
        )

    def _name(self, path: Path) -> str:
        """A file, or how the index calls one that is gone: its feature is there then."""
        if path.is_file():  # by its whole path, which no file where the server runs has, too
            return str(path.absolute())
        inside = path.is_relative_to(self.index.root)
        return str(path.relative_to(self.index.root)) if inside else str(path)


@contextmanager
def _on_disk(source: Path | bytes | None) -> Iterator[Path | None]:
    """The file of an image; what was sent lies in one meanwhile, as encoders read files."""
    if not isinstance(source, bytes):
        yield source
        return
    with tempfile.TemporaryDirectory(prefix="trmml-") as folder:
        path = Path(folder) / "upload"
        path.write_bytes(source)
        yield path


def search_routes(searcher: Searcher | None) -> APIRouter:
    """The part of the API that searches."""
    router = APIRouter(prefix="/api/v1", tags=["search"])

    searching = CapacityLimiter(1)  # those that wait hold no thread

    @router.post("/search")
    async def search(wanted: Wanted) -> dict[str, Any]:
        """Images that show what is asked for, best first."""
        if searcher is None:
            raise Problem(
                409,
                "there is no index to search: make one with `trmml index DIR --run RUN --out INDEX`"
                " and start `trmml serve` with --index INDEX",
            )
        if not (wanted.text or wanted.tags or wanted.without or wanted.like):
            raise Problem(
                422, "nothing is searched for: give `text`, `tags` or `without`, or `like` an image"
            )
        return await to_thread.run_sync(searcher.find, wanted, limiter=searching)

    return router
