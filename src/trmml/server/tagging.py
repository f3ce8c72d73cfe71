"""Tags of images that are sent, or that are of the collection, with why."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query, Request
from pydantic import TypeAdapter, ValidationError
from starlette.datastructures import UploadFile

from trmml.errors import DataError
from trmml.server.batching import Batcher
from trmml.server.library import Library, status_of
from trmml.server.problems import Problem
from trmml.server.review import Desk, Name, Sha256
from trmml.tagging.scorer import Scorer
from trmml.tagging.tags import Choice, Tag

MOST_IMAGES = 32
_ID = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
# The two forms that a request may have, for the OpenAPI document.
_FORMS = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {"schema": {
                "type": "object", "required": ["image"],
                "properties": {"image": {"type": "array", "minItems": 1, "maxItems": MOST_IMAGES,
                                         "items": {"type": "string", "format": "binary"}}},
            }},
            "application/json": {"schema": {
                "type": "object", "required": ["images"],
                "properties": {"images": {"type": "array", "minItems": 1, "maxItems": MOST_IMAGES,
                                          "items": _ID}},
            }},
        },
    }
}  # fmt: skip


class Explainer:
    """Where in an image a run sees each tag, and which known images are alike.

    Args:
        load: loads the run with its features; called once, at the first question.
        desk: that knows images to compare with.
    """

    def __init__(self, load: Callable[[], Scorer], desk: Desk | None) -> None:
        self._load, self._desk = load, desk
        self._scorer: Scorer | None = None

    def explain(self, source: Any, names: Sequence[str]) -> dict[str, Any]:
        """Maps over the patches, row by row, the largest 1, and ids of images that are alike.

        Args:
            source: file or bytes of an image that can be read.
            names: of tags.
        """
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


def tag_routes(batcher: Batcher, library: Library, explainer: Explainer) -> APIRouter:
    """The part of the API that tags."""
    router = APIRouter(prefix="/api/v1", tags=["tag"])
    explaining = asyncio.Lock()

    @router.post("/tag", openapi_extra=_FORMS)
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
        with batcher.place():
            names = await _images(request, library)
            told = await asyncio.gather(
                *(_tagged(name, choice, batcher, library) for name in names)
            )
            if len(told) == 1 and "error" in told[0]:
                raise Problem(told[0]["status"], told[0]["error"])
            readable = [each for each in told if "error" not in each]
            for each in readable if explain else ():
                async with explaining:
                    shown = [*(tag["category"] for tag in each["tags"]), *(category or ())]
                    source = library.source(each["image"])
                    each |= await asyncio.to_thread(explainer.explain, source, shown)
        return {"images": told}

    @router.post("/images", openapi_extra=_FORMS)
    async def images(request: Request) -> dict[str, list[str]]:
        """Ids of images that are sent, to search with; they are forgotten after others."""
        return {"images": await _images(request, library)}

    return router


async def _tagged(name: str, choice: Choice, batcher: Batcher, library: Library) -> dict[str, Any]:
    """What is told of one image."""
    source = library.source(name)
    found = await batcher.probabilities(source)
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


async def _images(request: Request, library: Library) -> list[str]:
    """Ids of the images of a request: parts that are sent, or ids in JSON.

    Raises:
        Problem: there is none, or it is of no such form.
    """
    if request.headers["content-type"].partition(";")[0].strip().lower() == "application/json":
        names = _ids(await request.body())
    else:
        async with request.form(max_files=MOST_IMAGES, max_fields=MOST_IMAGES) as form:
            parts = [part for part in form.getlist("image") if isinstance(part, UploadFile)]
            names = [library.upload(await part.read()) for part in parts]
    if not 0 < len(names) <= MOST_IMAGES:
        raise Problem(
            422, f"expected 1 to {MOST_IMAGES} images as parts called `image`, got {len(names)}"
        )
    return names


def _ids(body: bytes) -> list[str]:
    """The ids in a body of JSON."""
    try:
        tree = TypeAdapter(dict[str, list[Sha256]]).validate_json(body)
        return tree["images"]
    except (ValidationError, KeyError):
        raise Problem(422, 'expected {"images": [id, ...]}, each id 64 digits in hex') from None
