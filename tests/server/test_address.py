"""Which address `trmml serve` prints, by which names it is called, and that one opens the other."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from starlette.datastructures import Headers

from tests.cli.test_main import run
from trmml.server.guard import Gate
from trmml.server.problems import Problem


class Listening:
    """A socket that is bound to nothing."""

    def getsockname(self) -> tuple[str, int]:
        return "", 8765


@pytest.mark.parametrize(
    ("host", "printed", "called", "strange"),
    [
        ("127.0.0.1", "127.0.0.1", ["127.0.0.1:8765", "localhost"], "192.168.1.5"),
        ("::1", "[::1]", ["[::1]:8765"], "[fe80::1]"),
        ("192.168.1.5", "192.168.1.5", ["192.168.1.5:8765", "127.0.0.1"], "192.168.1.6"),
        ("fd00::A", "[fd00::A]", ["[fd00::a]:8765", "[fd00::A]"], "fd00::a"),
        ("0.0.0.0", "127.0.0.1", ["127.0.0.1:8765"], "0.0.0.0"),
        ("::", "[::1]", ["[::1]:8765"], "::"),
    ],
)
def test_the_printed_address_opens_the_server(
    finished_run: Path, monkeypatch: pytest.MonkeyPatch, host, printed, called, strange
) -> None:
    gates: list[Gate] = []

    @contextmanager
    def listen(*given: object) -> Iterator[Listening]:
        yield Listening()

    def made(*given: object, **named: object) -> Gate:
        gates.append(Gate(*given, **named))  # type: ignore[arg-type]
        return gates[-1]

    monkeypatch.setattr("trmml.server.serve.listen", listen)
    monkeypatch.setattr("trmml.server.serve.run_server", lambda *given: None)
    monkeypatch.setattr("trmml.server.guard.Gate", made)
    done = run("serve", finished_run, "--host", host)
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith(f"http://{printed}:8765/#t=")
    for name in called:
        gates[0].check("GET", "/", Headers({"host": name}))
    with pytest.raises(Problem, match="not called"):
        gates[0].check("GET", "/", Headers({"host": strange}))
