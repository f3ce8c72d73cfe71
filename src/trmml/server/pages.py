"""What the pages show: images, the run's figures; signing in, and what watches the server."""

from pathlib import Path
from typing import Annotated, Any

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Query, Response
from fastapi.responses import FileResponse
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from pydantic import BaseModel
from starlette.types import Scope

from trmml.reporting.report import score_run
from trmml.server.guard import METHODS, Gate
from trmml.server.library import Library
from trmml.server.problems import Problem
from trmml.server.review import Name, Sha256
from trmml.storage.json_text import parse_object
from trmml.storage.sessions import cores
from trmml.training.run_folder import load_card

# The report is a page of its own with styles and a script in it; it may reach nothing of ours.
REPORT_POLICY = (
    "sandbox allow-scripts; default-src 'none'; style-src 'unsafe-inline';"
    " script-src 'unsafe-inline'; img-src data:"
)


class Key(BaseModel):
    """What the page reads from its address: the token."""

    token: Name


class Meter:
    """Counts for Prometheus.

    Args:
        waiting: how many requests for tags wait.
    """

    def __init__(self, waiting: Any) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "trmml_requests", "Requests.", ("method", "path", "status"), registry=self.registry
        )
        self._seconds = Histogram(
            "trmml_seconds", "Seconds that requests took.", ("path",), registry=self.registry
        )
        Gauge("trmml_waiting", "Requests for tags.", registry=self.registry).set_function(waiting)

    def count(self, scope: Scope, status: int, seconds: float) -> None:
        """Take note of a request; what a client makes up is no label, or each would be kept."""
        path = getattr(scope.get("route"), "path", "other")  # of the route: ids are not counted
        method = scope["method"] if scope["method"] in METHODS else "other"
        self._requests.labels(method, path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)


def session_routes(gate: Gate) -> APIRouter:
    """Signing in, which a page does once with the token of its address."""
    router = APIRouter(prefix="/api/v1", tags=["server"])

    @router.post("/session", status_code=204)
    def session(key: Key, response: Response) -> None:
        """Sign a browser in: the token becomes a cookie that no script can read."""
        if not gate.admits(key.token):
            raise Problem(401, "this is not the token that `trmml serve` printed")
        response.set_cookie(
            gate.cookie, gate.session, httponly=True, samesite="strict", max_age=30 * 86400
        )

    return router


def image_routes(library: Library) -> APIRouter:
    """Images, by ids alone and always as JPEGs made anew."""
    router = APIRouter(prefix="/api/v1", tags=["images"])
    # What an id stands for never changes.
    headers = {"Cache-Control": "private, max-age=31536000, immutable"}
    # Those that wait to be decoded hold no thread: other requests need one.
    decoding = CapacityLimiter(cores())

    async def jpeg(name: str, width: int) -> Response:
        content = await to_thread.run_sync(library.jpeg, name, width, limiter=decoding)
        return Response(content, media_type="image/jpeg", headers=headers)

    @router.get("/thumb/{name}", response_class=Response)
    async def thumb(name: Sha256, w: Annotated[int, Query(ge=16, le=2048)] = 320) -> Response:
        """An image at most a little larger than `w` pixels."""
        return await jpeg(name, w)

    @router.get("/images/{name}", response_class=Response)
    async def image(name: Sha256) -> Response:
        """An image at most 2048 pixels long."""
        return await jpeg(name, 2048)

    return router


def run_routes(run: Path, status: dict[str, Any], meter: Meter) -> APIRouter:
    """What is told of the run and the server."""
    router = APIRouter(tags=["server"])

    @router.get("/health")
    async def health() -> dict[str, str]:
        """Whether the server lives."""
        return {"status": "UP"}

    @router.get("/api/v1/status")
    async def tell() -> dict[str, Any]:
        """What this server has: its run, categories, and which parts work."""
        return status

    @router.get("/metrics", response_class=Response)
    def metrics() -> Response:
        """Counts for Prometheus."""
        return Response(generate_latest(meter.registry), media_type="text/plain; version=0.0.4")

    @router.get("/api/v1/run")
    def figures() -> dict[str, Any]:
        """The run's figures, of its held-out images, and those of its test set where it has any."""
        card = load_card(run)
        found: dict[str, Any] = score_run(run, card).metrics.to_dict()
        test = run / "results.json"
        known = {name: card.data.get(name) for name in ("images", "known_share")}
        return {
            "held_out": found,
            "methods": parse_object(test.read_bytes())["methods"] if test.is_file() else {},
            "training": {**known, "encoder": card.encoder.name, "size": card.encoder.size},
            "report": (run / "report.html").is_file(),
        }

    @router.get("/report", include_in_schema=False)
    def report() -> FileResponse:
        if not (run / "report.html").is_file():
            raise Problem(404, f"the run has no report yet; write one with `trmml report {run}`")
        return FileResponse(run / "report.html", headers={"Content-Security-Policy": REPORT_POLICY})

    return router
