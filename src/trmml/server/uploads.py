"""Images that requests bring: read whole, in memory alone, before anything waits for them."""

import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager

from fastapi import Request
from pydantic import TypeAdapter, ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from trmml.server.problems import Problem
from trmml.server.review import Sha256

MOST_IMAGES = 32
_ID = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
# The two forms that a request may have, for the OpenAPI document.
FORMS = {
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
_IDS = TypeAdapter(dict[str, list[Sha256]])
# Bytes of bodies that are held at once; a request of the largest size that is allowed fits twice.
MOST_HELD = 512 << 20


class Intake:
    """Reads the images of requests.

    A slow client holds what it has sent, and no place in a queue that others wait for.

    Args:
        most_bytes: that one request may have.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most, self._held = max(MOST_HELD, 2 * most_bytes), 0

    @contextmanager
    def room(self) -> "Iterator[Body]":
        """Where one request's body is counted, until all is done with it."""
        body = Body(self)
        try:
            yield body
        finally:
            self._held -= body.size

    def take(self, count: int) -> None:
        """See `Body.take`."""
        self._held += count
        if self._held > self._most:
            told = f"uploads of {self._most:,} bytes wait already. Send it again in a second."
            raise Problem(503, told, {"Retry-After": "1"})


class Body:
    """The body of one request, counted as it comes.

    Args:
        intake: that bounds all.
    """

    def __init__(self, intake: Intake) -> None:
        self._intake, self.size = intake, 0

    def take(self, count: int) -> None:
        """Hold further bytes.

        Raises:
            Problem: too many are held.
        """
        self.size += count
        self._intake.take(count)

    async def images(self, request: Request) -> list[bytes | str]:
        """Contents of the images that are sent, or the ids that are named.

        Raises:
            Problem: there is none, or it is of no such form.
        """
        kind = request.headers["content-type"].partition(";")[0].strip().lower()
        try:
            async with aclosing(self._stream(request)) as stream:
                if kind == "application/json":
                    found: list[bytes | str] = [*_ids(b"".join([chunk async for chunk in stream]))]
                else:
                    found = [*await _parts(request, stream)]
        except ClientDisconnect:
            raise Problem(400, "the connection ended before the images had come") from None
        if not 0 < len(found) <= MOST_IMAGES:
            raise Problem(
                422, f"expected 1 to {MOST_IMAGES} images as parts called `image`, got {len(found)}"
            )
        return found

    async def _stream(self, request: Request) -> AsyncGenerator[bytes, None]:
        async for chunk in request.stream():
            self.take(len(chunk))
            yield chunk


class _InMemory(MultiPartParser):
    """Starlette's parser; that one writes parts above 1 MB to a file."""

    spool_max_size = sys.maxsize


async def _parts(request: Request, stream: AsyncGenerator[bytes, None]) -> list[bytes]:
    """The contents of the parts that are images."""
    most = {"max_files": MOST_IMAGES, "max_fields": MOST_IMAGES}
    parser = _InMemory(request.headers, stream, **most)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise Problem(400, error.message) from None
    try:
        parts = [part for part in form.getlist("image") if isinstance(part, UploadFile)]
        return [await part.read() for part in parts]
    finally:
        await form.close()


def _ids(body: bytes) -> list[str]:
    """The ids in a body of JSON."""
    try:
        return _IDS.validate_json(body)["images"]
    except (ValidationError, KeyError):
        raise Problem(422, 'expected {"images": [id, ...]}, each id 64 digits in hex') from None
