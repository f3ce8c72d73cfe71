"""`trmml review ask`: one question after the other in the terminal, a key each."""

import base64
import io
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from trmml.cli import options
from trmml.cli.answers import (
    AnswerFile,
    CategoryOption,
    ImagesNeeded,
    Kind,
    LabelsNeeded,
    open_queue,
)
from trmml.cli.output import say, show
from trmml.cli.reading import TableOptions, read_images, read_names

if TYPE_CHECKING:
    from trmml.curation.answers import Verdict
    from trmml.curation.queue import Question, Queue

KEYS: "dict[str, Verdict]" = {
    **dict.fromkeys(("y", "1"), "present"),
    **dict.fromkeys(("n", "0"), "absent"),
    **{"u": "unsure", "s": "skip"},
}
HELP = "y present, n absent, u unsure, s skip, b take back, q end"
# Sides of a shown image in pixels, and bytes of one piece of it that a terminal takes.
SIDE, PIECE = 480, 4096


def ask(
    run: options.Run,
    images: ImagesNeeded,
    labels: LabelsNeeded,
    answers: AnswerFile,
    who: Annotated[str, typer.Option(help="Your name, where several people answer.")] = "",
    kind: Kind = "learn",
    category: CategoryOption = None,
    top: Annotated[int | None, typer.Option(min=1, help="End after so many answers.")] = None,
    categories: options.Categories = None,
    blank: options.BlankOption = None,
    minus_one: options.MinusOne = None,
    separator: options.Separator = None,
    encoder: options.RunEncoder = None,
    trust: options.Trust = False,
    on_bad_image: options.BadImage = "error",
    device: options.Device = "auto",
) -> None:
    """Ask in the terminal, a key an answer. Each is kept before the next question comes."""
    table = TableOptions(read_names(categories), blank, minus_one, separator)
    queue = open_queue(
        run, read_images(images, labels, table), answers, category, who,
        encoder=encoder, trust=trust, device=device, on_bad_image=on_bad_image,
    )  # fmt: skip
    show(HELP)
    try:
        count = _session(queue, kind, top)
    except KeyboardInterrupt:
        say(f"Interrupted. What was answered is in {answers}.")
        raise typer.Exit(130) from None
    from trmml.curation.queue import agreement

    same, asked = agreement(queue.answers.rows())
    show(f"{count} answers given; all are in {answers}")
    if asked:
        show(f"{same} of {asked} questions that came again were answered as before")


def _session(queue: "Queue", kind: str, top: int | None) -> int:
    """Ask until the person, the questions or `top` end it; the number of answers that count."""
    count = 0
    waiting: list[Question] = []
    shown: list[Question] = []  # those answered, newest last, for taking back
    while top is None or count < top:
        waiting = waiting or _block(queue, kind)
        if not waiting:
            show("Nothing is left to ask.")
            break
        question = waiting[0]
        begun = time.monotonic()
        word = _ask_one(question, count, top)
        if word == "end":
            break
        if word == "back":
            if queue.undo() is None:
                show("  nothing to take back")
            else:
                count -= 1
                waiting.insert(0, shown.pop())
            continue
        queue.answer(waiting.pop(0), word, round((time.monotonic() - begun) * 1000))
        shown.append(question)
        count += 1
    return count


def _block(queue: "Queue", kind: str) -> "list[Question]":
    """The next questions: suspects first where both are wanted."""
    if kind != "learn":
        first, second = queue.suspects()
        if first or second or kind == "suspects":
            return first or second
    block = queue.next()
    if block:
        show(f"\n{block[0].category}: {len(block)} images")
    return block


def _ask_one(
    question: "Question", count: int, top: int | None
) -> "Verdict | Literal['back', 'end']":
    """What one key says."""
    _show_image(question.path)
    given = f", given: {question.was}" if question.why == "suspect" else ""
    number = f"{count + 1}" if top is None else f"{count + 1}/{top}"
    typer.echo(
        f"[{number}] {question.category}? {question.p:.0%}{given}  {question.path}  ", nl=False
    )
    while True:
        key = _key()
        if key in KEYS:
            typer.echo(KEYS[key])
            return KEYS[key]
        if key in ("b", "\x7f"):
            typer.echo("back")
            return "back"
        if key in ("q", "\x04", ""):
            typer.echo("end")
            return "end"
        if not key.isspace():
            typer.echo(f"\n{HELP}: ", nl=False)


def _key() -> str:
    """One key of the terminal, or one character of what is piped in; "" at its end."""
    if not sys.stdin.isatty() or os.name == "nt":
        return sys.stdin.read(1).lower()
    with _single_keys():
        key = os.read(sys.stdin.fileno(), 1).decode(errors="replace").lower()
    if key == "\x03":
        raise KeyboardInterrupt
    return key


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


def _show_image(path: Path) -> None:
    """Draw the image where the terminal can; elsewhere its path, which stands in the question."""
    if not sys.stdout.isatty() or "TMUX" in os.environ:
        return
    program = os.environ.get("TERM_PROGRAM", "")
    kitty = "KITTY_WINDOW_ID" in os.environ or program == "ghostty"
    if not kitty and program not in ("iTerm.app", "WezTerm"):
        return
    text = base64.b64encode(_thumbnail(path)).decode()
    if not kitty:
        typer.echo(f"\x1b]1337;File=inline=1:{text}\a")
        return
    pieces = [text[start : start + PIECE] for start in range(0, len(text), PIECE)]
    for number, piece in enumerate(pieces):
        head = "a=T,f=100," if number == 0 else ""
        more = int(number + 1 < len(pieces))
        typer.echo(f"\x1b_G{head}m={more};{piece}\x1b\\", nl=False)
    typer.echo()


def _thumbnail(path: Path) -> bytes:
    """A PNG of the image, at most 480 pixels wide and high."""
    from trmml.images import read_image

    image = read_image(path)
    image.thumbnail((SIDE, SIDE))
    made = io.BytesIO()
    image.save(made, "PNG")
    return made.getvalue()
