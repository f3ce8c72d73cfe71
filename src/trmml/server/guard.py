"""What every request passes first: who asks, from which page, how much, and for how long.

A tool on one's own machine is attacked by the pages in the browser beside it: they may send it
requests (forgery), or give their own name our address (rebinding). docs/serve.md has the threats.
"""

import asyncio
import base64
import binascii
import hashlib
import hmac
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from trmml.server.problems import Problem, answer

logger = logging.getLogger(__name__)

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
# What is no secret: the pages themselves, which ask for the token, and that the server lives.
PAGES = ("/", "/tag", "/review", "/search", "/run", "/api")
OPEN = frozenset((*PAGES, "/health", "/api/v1/session"))
SAFE = frozenset(("GET", "HEAD", "OPTIONS"))
METHODS = (*SAFE, "POST", "PUT", "PATCH", "DELETE")
# Bytes of a request without images.
SMALL = 1 << 20
UPLOADS = ("/api/v1/tag", "/api/v1/images")
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


@dataclass(frozen=True)
class Gate:
    """Who may ask.

    Attributes:
        hosts: names by which this server is called.
        token: that must be shown; None lets everyone in who can reach the port.
        port: of the server, a part of the cookie's name: ports share cookies.
        most_bytes: of a request with images.
        seconds: that a request may take.
    """

    hosts: frozenset[str]
    token: str | None
    port: int
    most_bytes: int = 50 << 20
    seconds: float = 30.0

    @property
    def cookie(self) -> str:
        """Name of the cookie."""
        return f"trmml-{self.port}"

    @property
    def session(self) -> str:
        """What the cookie holds, which is not the token itself."""
        return hashlib.sha256(b"cookie:" + (self.token or "").encode()).hexdigest()

    def admits(self, token: str) -> bool:
        """Whether this is the token."""
        return self.token is None or hmac.compare_digest(token.encode(), self.token.encode())

    def check(self, method: str, path: str, headers: Headers) -> None:
        """Let a request pass.

        Raises:
            Problem: it does not.
        """
        hosts = headers.getlist("host")
        if len(hosts) != 1 or _name(hosts[0]) not in self.hosts:
            raise Problem(
                421,
                f"this server is not called {', '.join(hosts)!r:.80}; start it with --allow-host",
            )
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != hosts[0]:
            raise Problem(403, f"a page of {origin!r:.80} asks, which is not this server's")
        if not (path in OPEN or path.startswith("/static/") or self._knows(headers)):
            raise Problem(
                401, "this page is not signed in. Open the address that `trmml serve` printed."
            )
        if method not in SAFE:
            self._check_write(path, headers)

    def _check_write(self, path: str, headers: Headers) -> None:
        named = "authorization" in headers  # no page of another site can send that
        if not path.startswith("/label-studio/"):
            if headers.get("x-trmml") != "1":
                raise Problem(403, "a request that changes something needs the header X-Trmml: 1")
            if "origin" not in headers and not named and self.token is not None:
                raise Problem(403, "a request by cookie needs the header Origin; scripts send"
                              " Authorization: Bearer TOKEN instead")  # fmt: skip
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind not in ("application/json", "multipart/form-data"):
            raise Problem(
                415, f"expected application/json or multipart/form-data, got {kind!r:.80}"
            )
        length, most = headers.get("content-length", "0"), self.limit(path)
        if not length.isdecimal() or int(length[:20]) > most:
            raise too_large(path, most)

    def limit(self, path: str) -> int:
        """Bytes that a request may have."""
        return self.most_bytes if path in UPLOADS else SMALL

    def _knows(self, headers: Headers) -> bool:
        """Whether a cookie, a bearer or a password is ours."""
        if self.token is None:
            return True
        how, _, what = headers.get("authorization", "").partition(" ")
        if how.lower() == "bearer":
            return self.admits(what.strip())
        if how.lower() == "basic":
            return self.admits(_password(what))
        cookies = [part.strip().partition("=") for part in headers.get("cookie", "").split(";")]
        held = [value for name, _, value in cookies if name == self.cookie]
        return any(hmac.compare_digest(each.encode(), self.session.encode()) for each in held)


def too_large(path: str, most: int) -> Problem:
    """What is said of a request that is too long."""
    advice = "; --max-upload sets the limit" if path in UPLOADS else " at a time"
    return Problem(413, f"the request is longer than {most:,} bytes. Send less{advice}.")


def _name(host: str) -> str:
    """A host without its port, in lower case."""
    name, _, port = host.rpartition(":")
    return (name if name and port.isdecimal() else host).lower()


def _password(basic: str) -> str:
    try:
        return base64.b64decode(basic.strip(), validate=True).decode().partition(":")[2]
    except (binascii.Error, ValueError):
        return ""


class Guard:
    """An app behind a gate.

    Args:
        app: that answers what passes.
        gate: who may ask.
        count: told each request with its status and seconds.
    """

    def __init__(
        self, app: ASGIApp, gate: Gate, count: Callable[[Scope, int, float], None]
    ) -> None:
        self._app, self._gate, self._count = app, gate, count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close", "code": 1008})
        started = time.monotonic()
        passage = _Passage(scope, receive, send, self._gate.limit(scope["path"]))
        try:
            self._gate.check(scope["method"], scope["path"], Headers(scope=scope))
            async with asyncio.timeout(self._gate.seconds):
                await self._app(scope, passage.receive, passage.send)
        except HTTPException as problem:
            await passage.refuse(problem)
        except TimeoutError:
            told = f"it took longer than {self._gate.seconds:.0f} seconds. Send less at a time."
            await passage.refuse(Problem(503, told, {"Retry-After": "5"}))
        finally:  # an error of ours comes through here after its reply was sent
            logger.info("%s %s %d", scope["method"], scope["path"], passage.status)
            self._count(scope, passage.status, time.monotonic() - started)


class _Passage:
    """One request on its way: bytes are counted, headers are added."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, most: int) -> None:
        self._scope, self._receive, self._send = scope, receive, send
        self._most, self._count, self.status = most, 0, 0

    async def receive(self) -> Message:
        message = await self._receive()
        self._count += len(message.get("body", b""))
        if self._count > self._most:
            raise too_large(self._scope["path"], self._most)
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
            headers.setdefault("Cache-Control", "no-store")
        await self._send(message)

    async def refuse(self, problem: HTTPException) -> None:
        if not self.status:
            await answer(problem)(self._scope, self._receive, self.send)
