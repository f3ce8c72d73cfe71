"""Each threat of docs/serve.md, tried."""

import base64
import io
import logging
import os
import socket
import time
import zlib
from contextlib import ExitStack
from pathlib import Path

import pytest
from PIL import Image
from starlette.testclient import TestClient

from tests.cli.test_main import run
from tests.server.conftest import PORT, TOKEN, Served
from trmml.errors import ConfigError
from trmml.server.guard import Gate
from trmml.server.library import Library
from trmml.server.problems import Problem
from trmml.server.serve import token_for
from trmml.server.uploads import MOST_HELD, Intake

HERE = f"http://127.0.0.1:{PORT}"
WRITE = "/api/v1/answers"


def png(*size: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, "red").save(file, "PNG")
    return file.getvalue()


def sentence(answer) -> str:
    assert answer.headers["content-type"] == "application/problem+json"
    tree = answer.json()
    assert tree["status"] == answer.status_code and tree["type"] == "about:blank"
    return tree["detail"]


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example:8765", "evil@127.0.0.1", "", "127.0.0.1:80:80"]
)
def test_another_name_of_this_machine_is_refused(served: Served, host: str) -> None:
    answer = served.client(Host=host).get("/health")
    assert answer.status_code == 421 and "--allow-host" in sentence(answer)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost:8765", "LOCALHOST", "[::1]:8765", "[::1]"]
)
def test_our_own_names_pass(served: Served, host: str) -> None:
    assert served.client(Host=host).get("/health").status_code == 200


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://127.0.0.1:3000", "http://localhost:8765", "x"]
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_pages_of_others_are_refused(client: TestClient, origin: str, method: str) -> None:
    answer = client.request(method, WRITE, headers={"Origin": origin}, json={"answers": []})
    assert answer.status_code == 403 and "not this server's" in sentence(answer)


def test_nothing_is_told_without_the_token(served: Served) -> None:
    for wrong in ("", "Bearer", "Bearer wrong", f"Bearer {TOKEN}x", "Basic !", f"Digest {TOKEN}"):
        client = served.client(Authorization=wrong)
        paths = ["/api/v1/status", "/api/v1/run", "/api/v1/queue", "/metrics", "/report",
                 "/api/v1/openapi.json", f"/api/v1/thumb/{'0' * 64}"]  # fmt: skip
        for path in paths:
            answer = client.get(path)
            assert answer.status_code == 401 and "signed in" in sentence(answer), path
        assert client.post(WRITE, json={"answers": []}).status_code == 401
        assert client.get("/").status_code == 200  # the page has no secrets


def test_the_token_becomes_a_cookie_that_no_other_site_sends(served: Served) -> None:
    client = served.client()
    del client.headers["Authorization"]
    wrong = client.post("/api/v1/session", json={"token": "wrong"}, headers={"Origin": HERE})
    assert wrong.status_code == 401 and not client.cookies
    done = client.post("/api/v1/session", json={"token": TOKEN}, headers={"Origin": HERE})
    assert done.status_code == 204
    cookie = done.headers["set-cookie"]
    assert cookie.startswith(f"trmml-{PORT}=") and TOKEN not in cookie
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie
    assert client.get("/api/v1/status").status_code == 200


def test_a_form_of_another_site_cannot_write(served: Served) -> None:
    client = served.client()
    client.post("/api/v1/session", json={"token": TOKEN}, headers={"Origin": HERE})
    del client.headers["Authorization"]
    body = {"answers": []}
    assert client.post(WRITE, json=body, headers={"Origin": HERE}).status_code == 200
    assert "Origin" in sentence(client.post(WRITE, json=body))
    plain = client.post(WRITE, json=body, headers={"Origin": HERE, "X-Trmml": "0"})
    assert plain.status_code == 403 and "X-Trmml" in sentence(plain)
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        headers = {"Origin": HERE, "Content-Type": kind}
        answer = client.post(WRITE, content=b'{"answers": []}', headers=headers)
        assert answer.status_code == 415 and "application/json" in sentence(answer)


@pytest.mark.parametrize(
    "name",
    ["../../etc/passwd", "..%2f..%2fetc%2fpasswd", "%2e%2e/%2e%2e/etc/passwd", "....//etc/passwd",
     "..\\..\\windows\\win.ini", "/etc/passwd", "C:%5Cwindows%5Cwin.ini", "%00", "a.png%00.jpg",
     "..%252f..%252fetc%252fpasswd", "%c0%ae%c0%ae/etc/passwd", "file:///etc/passwd"],
)  # fmt: skip
@pytest.mark.parametrize("place", ["/static/", "/api/v1/thumb/", "/api/v1/images/"])
def test_no_path_leads_out(client: TestClient, place: str, name: str) -> None:
    answer = client.get(place + name)
    assert answer.status_code in (400, 404, 405, 422), answer.text
    assert "root:" not in answer.text and "[fonts]" not in answer.text


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    inside, secret = tmp_path / "images", tmp_path / "secret.png"
    inside.mkdir()
    secret.write_bytes(png(8, 8))
    (inside / "out.png").symlink_to(secret)
    library = Library([inside])
    assert library.id_of(inside / "out.png") is None
    assert library.id_of(inside / ".." / "secret.png") is None
    # A file that becomes such a link while the server runs.
    (inside / "plain.png").write_bytes(png(8, 9))
    name = library.id_of(inside / "plain.png")
    assert name is not None and library.jpeg(name, 320)
    (inside / "plain.png").unlink()
    (inside / "plain.png").symlink_to(secret)
    with pytest.raises(Problem, match="no image of this id"):
        library.jpeg(name, 1000)


def test_what_is_no_image_is_refused(client: TestClient) -> None:
    svg = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
    for content, words in (
        (svg, "SVG"),
        (b"\0" * 100, "no image"),
        (b"%PDF-1.7", "PDF"),
        (b"", ""),
    ):
        answer = client.post("/api/v1/tag", files={"image": ("../../x.svg", content)})
        assert answer.status_code == 415 and words.lower() in sentence(answer).lower()
        assert "../" not in answer.text


def test_a_bomb_is_not_decoded(client: TestClient) -> None:
    bomb = bytearray(png(1, 1))
    bomb[16:24] = (100_000).to_bytes(4, "big") * 2
    bomb[29:33] = zlib.crc32(bytes(bomb[12:29])).to_bytes(4, "big")
    answer = client.post("/api/v1/tag", files={"image": bytes(bomb)})
    assert answer.status_code == 422 and "too large" in sentence(answer)


def test_too_many_parts_and_too_many_bytes_are_refused(client: TestClient) -> None:
    many = client.post("/api/v1/tag", files=[("image", png(2, 2))] * 33)
    assert many.status_code in (400, 422) and "32" in sentence(many)
    much = client.post("/api/v1/tag", files={"image": b"\0" * (3 << 20)})
    assert much.status_code == 413 and "--max-upload" in sentence(much)
    rows = client.post(
        WRITE, content=b" " * (2 << 20), headers={"Content-Type": "application/json"}
    )
    assert rows.status_code == 413 and "--max-upload" not in sentence(rows)  # not of these


def ask(port: int, head: str, body: bytes = b"") -> bytes:
    """The beginning of the reply to a request that is sent as it is."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        lines = f"{head}\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\nX-Trmml: 1\r\n\r\n"
        connection.sendall(lines.encode() + body)
        return connection.recv(4000)


def test_an_upload_of_ten_gigabytes_is_refused_before_it_is_sent(port: int) -> None:
    kind = "Content-Type: multipart/form-data; boundary=x"
    reply = ask(port, f"POST /api/v1/tag HTTP/1.1\r\n{kind}\r\nContent-Length: {10 << 30}")
    assert b" 413 " in reply.partition(b"\r\n")[0]


def test_a_stream_without_a_length_is_counted(port: int) -> None:
    kind = "Content-Type: multipart/form-data; boundary=x"
    part = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
    chunks = [part, *[b"\0" * 0x80000] * 5]
    body = b"".join(b"%x\r\n%b\r\n" % (len(each), each) for each in chunks)
    reply = ask(port, f"POST /api/v1/tag HTTP/1.1\r\n{kind}\r\nTransfer-Encoding: chunked", body)
    assert reply.partition(b"\r\n")[0].split()[1] == b"413"


def test_scripts_in_names_stay_text(client: TestClient) -> None:
    page = client.get("/")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert "unsafe" not in page.headers["content-security-policy"]
    assert page.headers["x-content-type-options"] == "nosniff"
    assert "<script>" not in page.text and "onload=" not in page.text
    told = client.get("/api/v1/queue", params={"category": "<script>alert(1)</script>"})
    assert told.status_code == 422 and told.headers["content-type"] == "application/problem+json"


def test_the_report_is_a_stranger_to_the_pages(client: TestClient, finished_run: Path) -> None:
    """Styles and a script stand in it, so it gets a policy of its own, and reaches nothing."""
    path = finished_run / "report.html"
    before = path.read_bytes() if path.exists() else None
    path.write_text("<script>alert(1)</script>", "utf-8")
    try:
        policy = client.get("/report").headers["content-security-policy"]
    finally:
        path.unlink() if before is None else path.write_bytes(before)
    told = dict(each.strip().partition(" ")[::2] for each in policy.split(";"))
    assert told["sandbox"] == "allow-scripts" and told["default-src"] == "'none'"
    assert told["img-src"] == "data:" and "connect-src" not in told


def test_an_image_is_made_anew(client: TestClient, served: Served) -> None:
    """Bytes behind the pixels, as of a script, are not sent."""
    file = next(served.images.iterdir())
    told = client.post("/api/v1/images", files={"image": file.read_bytes() + b"<script>"}).json()
    answer = client.get(f"/api/v1/thumb/{told['images'][0]}")
    assert answer.headers["content-type"] == "image/jpeg" and b"<script>" not in answer.content
    assert answer.content.startswith(b"\xff\xd8") and "immutable" in answer.headers["cache-control"]


def test_other_machines_need_a_token(finished_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trmml.server.serve.listen", lambda *given: pytest.fail("it listened"))
    for host in ("0.0.0.0", "::", "192.168.1.5", ""):
        done = run("serve", finished_run, "--host", host, "--token", "none")
        assert done.exit_code == 2 and "needs a token" in done.stderr, host


def test_logs_hold_no_key_and_no_query(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    client = served.client()
    client.get("/api/v1/queue", params={"category": "secret-category"})
    client.post("/api/v1/session", json={"token": TOKEN})
    client.get("/api/v1/status", headers={"Authorization": f"Bearer {TOKEN}x"})
    client.get("/api/v1/status", params={"t": TOKEN})
    told = [each.getMessage() for each in caplog.records if each.name.startswith("trmml")]
    assert "GET /api/v1/queue 422" in told and "GET /api/v1/status 401" in told
    assert not any(TOKEN in each or "secret-category" in each for each in told)


def test_what_clients_make_up_is_not_counted_apart(served: Served, monkeypatch) -> None:
    client = served.client()
    for number in range(5):
        client.request(f"MADE{number}", "/api/v1/status", headers={"Host": "evil.example"})
        client.get(f"/made/up/{number}")
    monkeypatch.setattr("trmml.server.review.Desk.progress", lambda desk: 1 / 0)
    assert client.get("/api/v1/progress").status_code == 500
    told = client.get("/metrics").text
    assert "MADE" not in told and "/made/up" not in told
    assert 'trmml_requests_total{method="other",path="other",status="421"} 5.0' in told
    assert 'trmml_requests_total{method="GET",path="/api/v1/progress",status="500"} 1.0' in told


def upload(count: int) -> bytes:
    """The beginning of a request for tags that may be so long."""
    return (
        f"POST /api/v1/tag HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\n"
        f"X-Trmml: 1\r\nContent-Type: multipart/form-data; boundary=x\r\n"
        f"Content-Length: {count}\r\n\r\n--x"
    ).encode()


def test_slow_uploads_take_no_place(served: Served, port: int, monkeypatch) -> None:
    """A place in the queue is taken when a body is there: clients may send a byte now and then."""
    monkeypatch.setattr("trmml.server.batching.MOST_WAITING", 2)
    with ExitStack() as stack:
        for _ in range(4):
            slow = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            slow.sendall(upload(100_000))
        time.sleep(0.3)
        answer = served.client().post("/api/v1/tag", files={"image": png(8, 8)})
        assert answer.status_code == 200, answer.text


def test_bodies_that_are_held_are_bounded(served: Served, monkeypatch) -> None:
    intake = Intake(10)
    with intake.room() as first, pytest.raises(Problem) as told, intake.room() as second:
        for body in (first, second):
            body.take(MOST_HELD // 2 + 1)
    assert told.value.status_code == 503 and told.value.headers == {"Retry-After": "1"}
    with intake.room() as body:  # all was let go
        body.take(MOST_HELD)


def test_uploads_are_not_written(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.TemporaryFile", lambda *given, **how: pytest.fail("it wrote"))
    large = png(8, 8) + b"\0" * (3 << 19)
    assert client.post("/api/v1/tag", files={"image": large}).status_code == 200


def test_images_are_tagged_though_their_uploads_are_forgotten(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = served.client()
    monkeypatch.setattr("trmml.server.library.Recent.put", lambda *given: None)
    sent = [("image", png(8, 8 + n)) for n in range(3)]
    told = client.post("/api/v1/tag?explain=true&top=1", files=sent).json()["images"]
    assert [len(each["tags"]) for each in told] == [1, 1, 1] and all(
        "maps" in each for each in told
    )


def test_a_password_serves_as_a_token() -> None:
    gate = Gate(frozenset(["127.0.0.1"]), TOKEN, PORT)
    from starlette.datastructures import Headers

    basic = base64.b64encode(f"label-studio:{TOKEN}".encode()).decode()
    gate.check("GET", "/metrics", Headers({"host": "127.0.0.1", "authorization": f"Basic {basic}"}))


def test_a_token_file_is_private_and_long(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(TOKEN)
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="read by others"):
        token_for(str(path), tmp_path)
    path.chmod(0o600)
    assert token_for(str(path), tmp_path) == TOKEN
    path.write_text("short")
    with pytest.raises(ConfigError, match="5 characters"):
        token_for(str(path), tmp_path)
    with pytest.raises(ConfigError, match="cannot read"):
        token_for(str(tmp_path / "none"), tmp_path)


def test_the_token_of_a_run_stays_and_is_private(tmp_path: Path) -> None:
    first = token_for("auto", tmp_path)
    assert first is not None and len(first) >= 43 and token_for("auto", tmp_path) == first
    assert token_for("auto", tmp_path / "other") != first
    assert token_for("none", tmp_path) is None
    kept = [path for path in Path(os.environ["TRMML_CACHE"]).rglob("*.token")]
    assert all(path.stat().st_mode & 0o077 == 0 for path in kept)
