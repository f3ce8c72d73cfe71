"""`trmml review ask`: questions in the terminal, of whole images or a pair at a time."""

import contextlib
import sys
import time
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
from trmml.cli.ask_images import image_session
from trmml.cli.output import print_json, printable, say, show
from trmml.cli.reading import TableOptions, read_images, read_names
from trmml.cli.terminal import draw_image, key
from trmml.settings.choices import ReviewKind

if TYPE_CHECKING:
    from trmml.curation.answers import Verdict
    from trmml.curation.queue import Question, Queue

KEYS: "dict[str, Verdict]" = {
    **dict.fromkeys(("y", "1"), "present"),
    **dict.fromkeys(("n", "0"), "absent"),
    **{"u": "unsure", "s": "skip"},
}
HELP = "y present, n absent, u unsure, s skip, b take back, q end"
Mode = Annotated[
    Literal["images", "blocks"] | None,
    typer.Option(
        help="Whole images, each with its probable categories marked; or one pair at a time, in"
        " blocks of one category. [default: images, blocks with --category]",
        show_default=False,
    ),
]


def ask(
    run: options.Run,
    images: ImagesNeeded,
    labels: LabelsNeeded,
    answers: AnswerFile,
    who: Annotated[str, typer.Option(help="Your name, where several people answer.")] = "",
    kind: Kind = "learn",
    category: CategoryOption = None,
    mode: Mode = None,
    top: Annotated[
        int | None, typer.Option(min=1, help="End after so many answers, or images.")
    ] = None,
    categories: options.Categories = None,
    blank: options.BlankOption = None,
    minus_one: options.MinusOne = None,
    separator: options.Separator = None,
    encoder: options.RunEncoder = None,
    trust: options.Trust = False,
    on_bad_image: options.BadImage = "error",
    device: options.Device = "auto",
    json: options.Json = False,
) -> None:
    """Ask in the terminal. Each answer is kept before the next question comes."""
    if mode == "images" and (kind != "learn" or category):
        raise typer.BadParameter(
            "--mode images asks about all open pairs of an image: leave --kind and --category out"
        )
    table = TableOptions(read_names(categories), blank, minus_one, separator)
    queue = open_queue(
        run, read_images(images, labels, table), answers, category, who,
        encoder=encoder, trust=trust, device=device, on_bad_image=on_bad_image,
    )  # fmt: skip
    by_image = mode == "images" or (mode is None and kind == "learn" and not category)
    try:
        # With --json the object alone goes to stdout.
        with contextlib.redirect_stdout(sys.stderr) if json else contextlib.nullcontext():
            count = image_session(queue, top) if by_image else _session(queue, kind, top)
    except KeyboardInterrupt:
        say(f"Interrupted. What was answered is in {answers}.")
        raise typer.Exit(130) from None
    from trmml.curation.tally import tally_of

    tally = tally_of(queue.answers.rows())
    again, same = tally.again, tally.as_before
    if json:
        print_json({"answers": count, "file": str(answers), "again": again, "as_before": same})
        return
    show(f"{count} answers given; all are in {answers}")
    if again:
        show(f"{same} of {again} questions that came again were answered as before")


def _session(queue: "Queue", kind: ReviewKind, top: int | None) -> int:
    """Ask until the person, the questions or `top` end it; the number of answers that count."""
    show(HELP)
    count = 0
    waiting: list[Question] = []
    shown: list[Question] = []  # those answered, newest last, for taking back
    while top is None or count < top:
        if not waiting:
            waiting = queue.block(kind)
            if waiting and waiting[0].why != "suspect":
                show(f"\n{waiting[0].category}: {len(waiting)} images")
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
        waiting = queue.still_open(waiting)  # others answer too
        shown.append(question)
        count += 1
    return count


def _ask_one(
    question: "Question", count: int, top: int | None
) -> "Verdict | Literal['back', 'end']":
    """What one key says."""
    draw_image(question.path)
    given = f", given: {question.was}" if question.why == "suspect" else ""
    number = f"{count + 1}" if top is None else f"{count + 1}/{top}"
    asked = f"[{number}] {question.category}? {question.p:.0%}{given}  {question.path}  "
    typer.echo(printable(asked), nl=False)
    while True:
        pressed = key().lower()
        if pressed in KEYS:
            typer.echo(KEYS[pressed])
            return KEYS[pressed]
        if pressed in ("b", "\x7f"):
            typer.echo("back")
            return "back"
        if pressed in ("q", "\x04", ""):
            typer.echo("end")
            return "end"
        if not pressed.isspace():
            typer.echo(f"\n{HELP}: ", nl=False)
