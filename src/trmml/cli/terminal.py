"""What `trmml review ask` needs of a terminal: single keys, and an image drawn in it."""

import base64
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from PIL.Image import Image

# Sides of a shown image in pixels, and bytes of one piece of it that a terminal takes.
SIDE, PIECE = 480, 4096
# What the bytes of one key come within.
SEQUENCE_SECONDS = 0.05
# Sides of an image that is drawn in characters: one is a pixel wide and two high.
CHARACTERS = 64


def key() -> str:
    """One key of the terminal, or one character of what is piped in; "" at its end."""
    if not sys.stdin.isatty() or os.name == "nt":
        return sys.stdin.read(1)
    with _single_keys():
        pressed = _byte()
        if pressed == "\x1b":
            _drop_sequence()
    if pressed == "\x03":
        raise KeyboardInterrupt
    return pressed


def _byte(seconds: float | None = None) -> str:
    """One byte of the terminal as text; "" if none comes in time."""
    import select

    terminal = sys.stdin.fileno()
    if seconds is not None and not select.select([terminal], [], [], seconds)[0]:
        return ""
    return os.read(terminal, 1).decode(errors="replace")


def _drop_sequence() -> None:
    """Read past what an arrow or a function key sends behind its escape: no letter was pressed."""
    kind = _byte(SEQUENCE_SECONDS)
    if kind == "O":  # one letter follows
        _byte(SEQUENCE_SECONDS)
    if kind != "[":  # Alt and a key, or the key of escape alone
        return
    last = _byte(SEQUENCE_SECONDS)
    if last == "[":  # the Linux console's F1 to F5
        _byte(SEQUENCE_SECONDS)
        return
    while last and not "@" <= last <= "~":
        last = _byte(SEQUENCE_SECONDS)


@contextmanager
def _single_keys() -> Iterator[None]:
    """Keys come as they are pressed, Ctrl-C as one of them: its signal may be ignored."""
    import termios
    import tty

    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    tty.setcbreak(terminal, termios.TCSADRAIN)
    single = termios.tcgetattr(terminal)
    single[3] &= ~termios.ISIG
    termios.tcsetattr(terminal, termios.TCSADRAIN, single)
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def draw_image(path: Path) -> None:
    """Draw the image as well as the terminal can; nothing where it has no colours."""
    if not sys.stdout.isatty():
        return
    program, inside = os.environ.get("TERM_PROGRAM", ""), "TMUX" in os.environ
    if not inside and ("KITTY_WINDOW_ID" in os.environ or program == "ghostty"):
        _draw_kitty(_thumbnail(path, SIDE))
    elif not inside and program in ("iTerm.app", "WezTerm"):
        text = base64.b64encode(_png(_thumbnail(path, SIDE))).decode()
        typer.echo(f"\x1b]1337;File=inline=1:{text}\a")
    elif os.environ.get("COLORTERM") in ("truecolor", "24bit"):
        typer.echo("\n".join(half_blocks(_thumbnail(path, CHARACTERS))))


def _draw_kitty(image: "Image") -> None:
    text = base64.b64encode(_png(image)).decode()
    pieces = [text[start : start + PIECE] for start in range(0, len(text), PIECE)]
    for number, piece in enumerate(pieces):
        head = "a=T,f=100," if number == 0 else ""
        more = int(number + 1 < len(pieces))
        typer.echo(f"\x1b_G{head}m={more};{piece}\x1b\\", nl=False)
    typer.echo()


def half_blocks(image: "Image") -> list[str]:
    """Lines of characters whose upper and lower halves have the colours of two pixels."""
    width, height = image.size[0], image.size[1] // 2 * 2
    pixels = image.convert("RGB").load()
    assert pixels is not None
    return [
        "".join(
            "\x1b[38;2;{};{};{}m\x1b[48;2;{};{};{}m▀".format(*pixels[x, y], *pixels[x, y + 1])  # type: ignore[misc]
            for x in range(width)
        )
        + "\x1b[0m"
        for y in range(0, height, 2)
    ]


def _thumbnail(path: Path, side: int) -> "Image":
    from trmml.images import read_image

    image = read_image(path)
    image.thumbnail((side, side))
    return image


def _png(image: "Image") -> bytes:
    made = io.BytesIO()
    image.save(made, "PNG")
    return made.getvalue()
