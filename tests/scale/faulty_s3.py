"""Moto's S3 on loopback, which can fail: errors, slow and cut bodies, by the name of the object."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server


class FaultyS3:
    """A WSGI application before moto's.

    An object whose name holds "error500" fails twice with a 500, "slow" is slow once, "cut" ends
    early once, "gone" fails always.

    Attributes:
        requests: how many of each method and path.
        slow_seconds: that a slow body pauses.
        refuse: code of an error that objects are refused with; "" for none.
        failing_lists: how many of the next lists fail with a 500.
    """

    slow_seconds = 1.0
    refuse = ""
    failing_lists = 0

    def __init__(self) -> None:
        self._moto = DomainDispatcherApplication(create_backend_app)
        self.requests: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        with self._lock:
            self.requests[environ["REQUEST_METHOD"], path] += 1
            count = self.requests[environ["REQUEST_METHOD"], path]
        if environ["REQUEST_METHOD"] == "GET" and self._list_fails(environ["QUERY_STRING"]):
            start("500 Internal Server Error", [("Content-Type", "text/plain")])
            return [b"broken"]
        if environ["REQUEST_METHOD"] != "GET" or path.count("/") < 2:
            return self._moto(environ, start)
        if self.refuse:
            start("403 Forbidden", [("Content-Type", "application/xml")])
            return [f"<Error><Code>{self.refuse}</Code><Message>No.</Message></Error>".encode()]
        if "gone" in path or ("error500" in path and count <= 2):
            start("500 Internal Server Error", [("Content-Type", "text/plain")])
            return [b"broken"]
        body = self._moto(environ, start)
        if "slow" in path and count == 1:
            return self._slowly(body)
        if "cut" in path and count == 1:
            return [b"".join(body)[:20]]  # the head has promised more
        return body

    def _list_fails(self, query: str) -> bool:
        """Whether a request is for a page of a list, which fails now."""
        with self._lock:
            fails = "list-type=2" in query and self.failing_lists > 0
            self.failing_lists -= fails
        return fails

    def _slowly(self, body: Iterable[bytes]) -> Iterator[bytes]:
        content = b"".join(body)
        yield content[:10]
        time.sleep(self.slow_seconds)
        yield content[10:]


@contextmanager
def served() -> Iterator[tuple[str, FaultyS3]]:
    """The address of a running server, and the server."""
    app = FaultyS3()
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.port}", app
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
