"""What `trmml serve` costs over the bare model, and whether many clients starve a page.

    python -m benchmarks.speed.serve runs/demo [--before PYTHON] [--brief]

The server is a process of its own on the run's data; the clients are threads of this one, so both
share the processors. In order: the start until the first page and until the run is loaded, also of
another installation; POST /tag of one image at a time beside the encoder's own time on
the decoded image; images a second of 16 clients beside the same kept file by `tag`; an answer until
its reply, which is sent after the commit; in Chromium the first paint, and from a key to the next
repaint; the page's requests while 64 clients tag and 16 more send uploads slowly; and tagging again
with ViT-B-32 of random weights. The answers go to a file of the benchmark's own. Prints a table and
writes benchmarks/results/serve.json.
"""

import argparse
import http.client
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.record import write_results
from benchmarks.speed.tagging import finished_run, write_weights
from benchmarks.speed.training import COCO

from trmml.curation.answers import new_id
from trmml.deploy.kept import keep, open_kept
from trmml.tagging.tags import Choice

EDGE = "benchmark"
# On, back, an answer, and its undoing; as fast as the page repaints, which no person is.
KEYS_SCRIPT = """async () => {
  const taken = [];
  for (let n = 0; n < 240; n++) {
    const began = performance.now();
    document.body.dispatchEvent(new KeyboardEvent("keydown", {key: "jkyz"[n % 4], bubbles: true}));
    await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
    taken.push(performance.now() - began);
  }
  return taken;
}"""


class Client:
    """A connection that is kept open.

    Args:
        port: of the server.
        token: of the server.
    """

    def __init__(self, port: int, token: str) -> None:
        self._headers = {"Authorization": f"Bearer {token}", "X-Trmml": "1"}
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def ask(self, path: str, body: bytes | None = None, kind: str = "application/json") -> Any:
        """The status and the body of a reply."""
        how = "GET" if body is None else "POST"
        headers = self._headers | ({} if body is None else {"Content-Type": kind})
        self._connection.request(how, path, body, headers)
        answer = self._connection.getresponse()
        return answer.status, answer.read()

    def tag(self, content: bytes) -> int:
        """The status of a request for the tags of one image."""
        head = f'--{EDGE}\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
        body = head.encode() + content + f"\r\n--{EDGE}--\r\n".encode()
        status, _ = self.ask("/api/v1/tag", body, f"multipart/form-data; boundary={EDGE}")
        return int(status)

    def json(self, path: str, tree: Any = None) -> Any:
        """The JSON of a reply."""
        _, answer = self.ask(path, None if tree is None else json.dumps(tree).encode())
        return json.loads(answer)


@contextmanager
def starting(
    run: Path, answers: Path, python: str = sys.executable, **environment: str
) -> Iterator[tuple[int, str, int]]:
    """Port, token and process id of a server on the data of a demo, which may still load it."""
    words = [python, "-m", "trmml", "serve", run, "--port", "0", "--answers", answers]
    process = subprocess.Popen(
        [*map(str, words)], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
    )  # fmt: skip
    assert process.stdout is not None
    home, _, token = process.stdout.readline().strip().partition("#t=")
    try:
        yield int(home.rstrip("/").rpartition(":")[2]), token, process.pid
    finally:
        process.terminate()
        process.wait()


@contextmanager
def server(run: Path, answers: Path) -> Iterator[tuple[int, str, int]]:
    """The same once the run is loaded."""
    with starting(run, answers) as (port, token, pid):
        until_loaded(Client(port, token))
        yield port, token, pid


def until_loaded(client: Client) -> None:
    """Ask as often as a page does."""
    while client.ask("/api/v1/status")[0] == 503:
        time.sleep(0.4)


def starts(run: Path, pythons: dict[str, str], rounds: int) -> dict[str, Any]:
    """Medians of some starts by turns, after one that fills the page cache and compiles."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in pythons}
    with tempfile.TemporaryDirectory() as folder:
        # Some machines forbid Python to keep what it compiled, and no user's does.
        kept = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": f"{folder}/compiled"}
        for number in range(rounds + 1):
            for name, python in pythons.items():
                answers = Path(folder) / f"{name}-{number}.sqlite"
                found[name].append(one_start(run, answers, python, kept))
    return {
        name: {key: float(np.median([each[key] for each in taken[1:]])) for key in taken[0]}
        for name, taken in found.items()
    }


def one_start(
    run: Path, answers: Path, python: str, environment: dict[str, str]
) -> dict[str, float]:
    """Seconds, and those of the processor, until the first page and until the run is loaded."""
    began = time.perf_counter()
    with starting(run, answers, python, **environment) as (port, token, pid):
        client = Client(port, token)
        assert client.ask("/review")[0] == 200
        page = {"page_s": time.perf_counter() - began, "page_processor_s": processor_seconds(pid)}
        until_loaded(client)
        loaded = {"loaded_s": time.perf_counter() - began}
        return page | loaded | {"loaded_processor_s": processor_seconds(pid)}


def processor_seconds(pid: int) -> float:
    """What a process took so far, in user and system mode."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def timed(work: Callable[[], object], times: int) -> np.ndarray:
    """Milliseconds of each of some calls."""
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        taken.append(1000 * (time.perf_counter() - began))
    return np.array(taken)


def told(taken: np.ndarray) -> dict[str, float]:
    """Median and 95th percentile."""
    return {"median_ms": float(np.median(taken)), "p95_ms": float(np.quantile(taken, 0.95))}


def rate(contents: Sequence[bytes], clients: int, connect: Callable[[], Client]) -> float:
    """Images a second that so many clients have tagged."""
    waiting, lock = iter(contents), threading.Lock()

    def work() -> None:
        client = connect()
        while True:
            with lock:
                content = next(waiting, None)
            if content is None:
                return
            assert client.tag(content) == 200

    began = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        for done in [pool.submit(work) for _ in range(clients)]:
            done.result()
    return len(contents) / (time.perf_counter() - began)


def tagging(run: Path, port: int, token: str, paths: Sequence[Path]) -> dict[str, Any]:
    """One image at a time beside the bare model; 16 clients beside `tag` by the same file."""
    kept = open_kept(run)
    assert kept is not None, "tag with the run once, so that its ONNX file is kept"
    client, contents = Client(port, token), [path.read_bytes() for path in paths]
    pixels, times = kept.prepare(paths[0]), len(paths) // 4
    client.tag(contents[0])
    # Right after the first request: a connection that rests for 5 s is closed.
    tree: dict[str, Any] = {"tag": told(timed(lambda: client.tag(contents[0]), times))}
    tree["encoder"] = told(timed(lambda: kept.score([pixels]), times))
    commands, clients = list[float](), list[float]()
    for _ in range(3):  # by turns, for the load of a machine changes
        began = time.perf_counter()
        assert len(list(kept.tag(paths, Choice(), on_bad_image="error"))) == len(paths)
        commands.append(len(paths) / (time.perf_counter() - began))
        clients.append(rate(contents, 16, lambda: Client(port, token)))
    tree |= {
        "command_rate": float(np.median(commands)),
        "rate_16_clients": float(np.median(clients)),
    }
    return tree | {"share": tree["rate_16_clients"] / tree["command_rate"]}


def with_vit(paths: Sequence[Path]) -> dict[str, Any]:
    """The same with ViT-B-32 of random weights: what people use is of this size."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = finished_run(folder, write_weights(folder / "vit.safetensors"), COCO)
        keep(run)
        with server(run, folder / "answers.sqlite") as (port, token, _):
            return tagging(run, port, token, paths)


def one_answer(client: Client, asked: dict[str, Any]) -> dict[str, Any]:
    """A row that answers a question."""
    plain = {name: asked[name] for name in ("image", "category", "was", "p", "why")}
    return {
        "id": new_id(),
        "answer": "present" if asked["likely"] else "absent",
        "ms": 900,
        **plain,
    }


def slow_upload(port: int, token: str, stop: threading.Event) -> None:
    """Send a byte of an upload now and then."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.putrequest("POST", "/api/v1/tag")
    for name, value in (
        ("Authorization", f"Bearer {token}"), ("X-Trmml", "1"), ("Content-Length", "100000"),
        ("Content-Type", f"multipart/form-data; boundary={EDGE}"),
    ):  # fmt: skip
        connection.putheader(name, value)
    connection.endheaders()
    while not stop.wait(0.2):
        with suppress(OSError):
            connection.send(b"-")


def crowded(port: int, token: str, contents: Sequence[bytes], seconds: float) -> dict[str, Any]:
    """What the page's own requests take while 64 clients tag and 16 send slowly."""
    stop, statuses = threading.Event(), list[int]()

    def work(number: int) -> None:
        client = Client(port, token)
        while not stop.is_set():
            statuses.append(client.tag(contents[number % len(contents)]))
            number += 1

    with ThreadPoolExecutor(80) as pool:
        for number in range(64):
            pool.submit(work, number)
        for _ in range(16):
            pool.submit(slow_upload, port, token, stop)
        page, taken = Client(port, token), list[float]()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            taken += [*timed(lambda: page.ask("/review"), 1)]
            taken += [*timed(lambda: page.ask("/api/v1/status"), 1)]
            time.sleep(0.1)
        stop.set()
    refused = sum(status == 503 for status in statuses)
    return {**told(np.array(taken)), "tagged": statuses.count(200), "told_to_wait": refused}


def in_chromium(port: int, token: str) -> dict[str, float]:
    """First paint, and from a key to the next repaint; nothing where there is no Chromium."""
    from tests.server.browser import CHROMIUM, chromium, signed_in

    if CHROMIUM is None:
        return {}
    with chromium() as browser, signed_in(browser, port, token) as page:
        page.locator(".tile").first.wait_for()
        page.reload()
        page.locator(".tile").first.wait_for()
        paint = page.evaluate(
            "() => performance.getEntriesByName('first-contentful-paint')[0].startTime"
        )
        page.wait_for_load_state("networkidle")  # thumbs, and what the answers are worth
        keys = np.array(page.evaluate(KEYS_SCRIPT))[40:]  # the first compile and draw
    return {"first_paint_ms": paint, "key_median_ms": float(np.median(keys)),
            "key_p95_ms": float(np.quantile(keys, 0.95))}  # fmt: skip


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """All figures."""
    run, count = options.run, 40 if options.brief else 400
    paths = sorted((run / "data" / "test" / "images").iterdir())[:count]
    contents = [path.read_bytes() for path in paths]
    pythons = {"before": options.before} if options.before else {}
    pythons["now"] = sys.executable
    tree: dict[str, Any] = {
        "images": count,
        "start": starts(run, pythons, 1 if options.brief else 3),
    }
    with tempfile.TemporaryDirectory() as folder:
        with server(run, Path(folder) / "answers.sqlite") as (port, token, _):
            tree["bundled"] = tagging(run, port, token, paths)
            client = Client(port, token)
            asked = client.json("/api/v1/queue?n=24")["questions"]
            tree["answer"] = told(timed(
                lambda: client.json("/api/v1/answers", {"answers": [one_answer(client, asked[0])]}),
                count // 2,
            ))  # fmt: skip
            tree["page"] = in_chromium(port, token)
            tree["crowded"] = crowded(port, token, contents, 5 if options.brief else 20)
    if not options.brief:
        tree["ViT-B-32"] = with_vit(paths[:64])
    return tree


def publish(
    name: str, options: argparse.Namespace, measure: Callable[[argparse.Namespace], dict[str, Any]]
) -> int:
    """Measure, print, write benchmarks/results/<name>.json."""
    tree = {"load": os.getloadavg()[0], **measure(options)}
    for key, value in tree.items():
        print(f"{key:16} {json.dumps(value)}")
    print(f"written: {write_results(name, tree, quick=options.brief)}")
    return 0


def parser(about: str) -> argparse.ArgumentParser:
    """What every measurement of the server is told."""
    found = argparse.ArgumentParser(description=about.partition("\n")[0])
    found.add_argument("run", type=Path, help="of `trmml demo`")
    found.add_argument("--brief", action="store_true", help="few requests; not to be quoted")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    options = parser(__doc__)
    options.add_argument("--before", help="Python of an installation whose start is compared")
    return publish("serve", options.parse_args(arguments), measured)


if __name__ == "__main__":
    raise SystemExit(main())
