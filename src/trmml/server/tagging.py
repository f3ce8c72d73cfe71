"""Tags of images that are sent, or that are of the collection, with why."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query, Request

from trmml.errors import DataError
from trmml.server.batching import Batcher
from trmml.server.library import Library, status_of
from trmml.server.problems import Problem
from trmml.server.review import Desk, Name
from trmml.server.uploads import FORMS, Intake
from trmml.tagging.scorer import Scorer
from trmml.tagging.tags import Choice, Tag


class Explainer:
    """Where in an image a run sees each tag, and which known images are alike.

    Args:
        load: loads the run with its features; called once, at the first question.
        desk: that knows images to compare with.
    """

    def __init__(self, load: Callable[[], Scorer], desk: Desk | None) -> None:
        self._load, self._desk = load, desk
        self._scorer: Scorer | None = None
        # A request that ended for its 30 seconds leaves its thread at work.
        self._lock = threading.Lock()

    def explain(self, source: Any, names: Sequence[str]) -> dict[str, Any]:
        """Maps over the patches, row by row, the largest 1, and ids of images that are alike.

        Args:
            source: file or bytes of an image that can be read.
            names: of tags.
        """
        with self._lock:
            return self._explained(source, names)

    def _explained(self, source: Any, names: Sequence[str]) -> dict[str, Any]:
        self._scorer = scorer = self._scorer or self._load()
        strange = [name for name in names if name not in scorer.category_names]
        if strange:
            raise DataError(f"the run has no category {strange[0]!r:.80}")
        scored = scorer.score([scorer.prepare(source)])
        assert scored.features is not None
        rows, columns = scorer.grid
        maps, alike = dict[str, list[float]](), dict[str, list[str]]()
        for name in names:
            found = scored.maps[0, scorer.category_names.index(name)]
            maps[name] = np.round(found / max(float(found.max()), 1e-12), 3).tolist()
            if self._desk is not None:
                alike[name] = self._desk.alike(scored.features[0], name)
        return {"maps": {"rows": rows, "columns": columns, "values": maps}, "alike": alike}


def tag_routes(
    batcher: Batcher, library: Library, explainer: Explainer, intake: Intake
) -> APIRouter:
    """The part of the API that tags."""
    router = APIRouter(prefix="/api/v1", tags=["tag"])
    explaining = asyncio.Lock()

    @router.post("/tag", openapi_extra=FORMS)
    async def tag(
        request: Request,
        top: Annotated[int | None, Query(ge=1)] = None,
        threshold: Annotated[float | None, Query(ge=0, le=1)] = None,
        explain: bool = False,
        category: Annotated[list[Name] | None, Query(max_length=20)] = None,
    ) -> dict[str, Any]:
        """Tags of images, in the order given, as `trmml tag --jsonl` has them.

        With `explain`, also where each tag is, and images alike; and the same of `category`.
        """
        choice = Choice(top, threshold)
        with intake.room() as body:
            sources = [_source(each, library) for each in await body.images(request)]
            with batcher.place():
                told = await asyncio.gather(
                    *(_tagged(each, choice, batcher, library) for each in sources)
                )
                if len(told) == 1 and "error" in told[0]:
                    raise Problem(told[0]["status"], told[0]["error"])
                for (_, source), each in zip(sources, told, strict=True) if explain else ():
                    if "error" not in each:
                        shown = [*(tag["category"] for tag in each["tags"]), *(category or ())]
                        async with explaining:
                            each |= await asyncio.to_thread(explainer.explain, source, shown)
        return {"images": told}

    @router.post("/images", openapi_extra=FORMS)
    async def images(request: Request) -> dict[str, list[str]]:
        """Ids of images that are sent, to search with; they are forgotten after others."""
        with intake.room() as body:
            sources = [_source(each, library) for each in await body.images(request)]
            return {"images": [await _name(*each, batcher, library) for each in sources]}

    return router


Source = tuple[str | None, Path | bytes]  # the id of an image, and the file or what was sent


def _source(sent: bytes | str, library: Library) -> Source:
    """What an image of a request is: what is sent has no id yet.

    Raises:
        Problem: there is no image of this id.
    """
    return (None, sent) if isinstance(sent, bytes) else (sent, library.source(sent))


async def _name(known: str | None, source: Path | bytes, batcher: Batcher, library: Library) -> str:
    """The id of an image; what was sent is remembered under it."""
    if known is None and isinstance(source, bytes):
        return await batcher.in_pool(library.upload, source)
    return str(known)


async def _tagged(
    image: Source, choice: Choice, batcher: Batcher, library: Library
) -> dict[str, Any]:
    """What is told of one image."""
    _, source = image
    name, found = await asyncio.gather(
        _name(*image, batcher, library), batcher.probabilities(source)
    )
    if isinstance(found, DataError):
        status = status_of(source) if isinstance(source, bytes) else 422
        return {"image": name, "tags": [], "error": str(found), "status": status}
    scorer = batcher.scorer
    (tags,) = choice.tags(found[None], scorer.thresholds, scorer.category_names)
    return {"image": name, "tags": [_told(tag) for tag in tags]}


def _told(tag: Tag) -> dict[str, Any]:
    return {
        "category": tag.category,
        "probability": round(tag.probability, 6),
        "threshold": round(tag.threshold, 6),
    }
