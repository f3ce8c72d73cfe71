"""Listening: the port, the token, and an end that loses nothing."""

import os
import secrets
import socket
import stat
from hashlib import sha256
from pathlib import Path

import uvicorn

from trmml.errors import CheckpointError, ConfigError
from trmml.search.table import open_images
from trmml.server.opening import Opening
from trmml.storage.cache import cache_folder
from trmml.storage.json_text import parse_object

# Shorter ones can be guessed.
SHORTEST_TOKEN = 32
# What requests in hand get when the server is told to end.
LAST_SECONDS = 10


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        ConfigError: the port is taken, or there is no such host here.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise ConfigError(
            f"cannot listen at {host}, port {port}: {error.strerror}. Name another with --port, or"
            " --port 0 for any that is free."
        ) from error
    # Taken over by its connections. asyncio sets it on sockets that name their protocol alone, and
    # without it a reply in two pieces waits 40 ms for the client's acknowledgement.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def check_index(index: Path | None, run: Path) -> None:
    """Raise where an index is not of the run's encoder. Only their cards are read, without torch.

    Args:
        index: folder; None where none is served.
        run: folder.

    Raises:
        CheckpointError: it is of another one, or there is no index.
    """
    if index is None:
        return
    card = open_images(index)[1]
    try:
        own = parse_object((run / "model.json").read_bytes())["encoder"]
        name, checksum = own["name"], own["image_checksum"]
    except (OSError, ValueError, KeyError, TypeError):
        return  # whoever loads the run says what is wrong with it
    if card.encoder["image_checksum"] != checksum:
        raise CheckpointError(
            f"{index} was made with the encoder {card.encoder['name']}, and {run} has {name}; make"
            f" an index with `trmml index DIR --run {run} --out`"
        )


def token_for(wanted: str, run: Path) -> str | None:
    """The token that opens the pages; None where none is asked for.

    Args:
        wanted: "auto": one of this run, made once and kept where only this user may read it, so
            that open pages go on after a restart; "none"; else a file that holds one.
        run: folder of the run.

    Raises:
        ConfigError: the file cannot be read, may be read by others, or holds a short token.
    """
    if wanted == "none":
        return None
    path = Path(wanted)
    if wanted == "auto":
        name = sha256(os.fsencode(run.resolve())).hexdigest()[:16]
        path = cache_folder() / "serve" / f"{name}.token"
        if not path.exists():
            _write_private(path, secrets.token_urlsafe(32))
    try:
        mode, token = path.stat().st_mode, path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the token in {path}: {error}") from error
    if os.name == "posix" and mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(f"{path} may be read by others; protect it with `chmod 600 {path}`")
    if len(token) < SHORTEST_TOKEN or not token.isascii():
        raise ConfigError(
            f"the token in {path} has {len(token)} characters; take {SHORTEST_TOKEN} or more in"
            " ASCII, or leave --token out"
        )
    return token


def _write_private(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)


def run_server(opening: Opening, listening: socket.socket) -> None:
    """Answer requests until somebody ends it; those in hand are finished first.

    Raises:
        TrmmlError: what is served cannot be loaded.
    """
    config = uvicorn.Config(
        opening, log_config=None, access_log=False, server_header=False,
        timeout_graceful_shutdown=LAST_SECONDS,
    )  # fmt: skip
    server = uvicorn.Server(config)
    opening.give_up = lambda: setattr(server, "should_exit", True)
    server.run(sockets=[listening])
    if opening.error is not None:
        raise opening.error
