"""What goes wrong, as problem JSON (RFC 9457) with the sentences of the command line."""

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from trmml.errors import JournalError, TrmmlError

if TYPE_CHECKING:
    from fastapi import FastAPI

logger = logging.getLogger(__name__)


class Problem(HTTPException):
    """A request that is not done.

    Args:
        status: of HTTP.
        sentence: what was expected, what came, what to do.
        headers: beside it.
    """

    def __init__(
        self, status: int, sentence: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(status, sentence, headers)


def answer(problem: HTTPException) -> JSONResponse:
    """The response that tells a problem."""
    tree = {
        "type": "about:blank",
        "title": HTTPStatus(problem.status_code).phrase,
        "status": problem.status_code,
        "detail": problem.detail,
    }
    return JSONResponse(
        tree, problem.status_code, problem.headers, media_type="application/problem+json"
    )


def add_handlers(app: "FastAPI") -> None:
    """Have an app tell every error in this form."""
    from fastapi.exceptions import RequestValidationError  # the first pages do without it

    @app.exception_handler(HTTPException)
    async def known(request: Request, error: HTTPException) -> JSONResponse:
        return answer(error)

    @app.exception_handler(TrmmlError)
    async def bad_input(request: Request, error: TrmmlError) -> JSONResponse:
        return answer(Problem(422, str(error)))

    @app.exception_handler(JournalError)
    async def not_now(request: Request, error: JournalError) -> JSONResponse:
        return answer(Problem(503, str(error), {"Retry-After": "5"}))  # the request is in order

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        return answer(Problem(422, f"{place}: {first['msg']}. /api has the form of each request."))

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        logger.error("%s %s", request.method, request.url.path, exc_info=error)
        told = (
            f"unexpected {type(error).__name__}; `trmml serve --verbose` shows where it comes from"
        )
        return answer(Problem(500, told))
