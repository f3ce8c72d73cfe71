"""`trmml review ask --mode images`: an image, its probable categories, keys that correct them."""

import shutil
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import typer

from trmml.cli.output import show
from trmml.cli.terminal import draw_image, key

if TYPE_CHECKING:
    from trmml.curation.answers import Verdict
    from trmml.curation.queue import Question, Queue

# One for each category of a page; s, b and q are commands.
LETTERS = "acdefghijklmnoprtuvwxyz"
HELP = (
    "letter: present or not; capital: unsure; space: more categories; +: one by its name\n"
    "-: the rest is absent, or stays open; Enter: keep, next; s: skip; b: take back; q: end"
)
MARKS = {"present": "x", "unsure": "?"}
WIDEST = 24


@dataclass
class Sheet:
    """One image's questions, and what the person has marked so far.

    Attributes:
        questions: the most probable first; those of 1/2 and more begin as present.
        rest_absent: whether categories that were not shown are absent, or stay open.
    """

    questions: "list[Question]"
    rest_absent: bool
    page: int = 0
    seen: int = len(LETTERS)
    marks: "dict[int, Verdict]" = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Mark the probable ones."""
        self.marks = {n: "present" for n, asked in enumerate(self.questions) if asked.likely}

    def press(self, pressed: str) -> bool:
        """Whether a key changed something here: a letter's mark, the page or the rest."""
        if pressed == "-":
            self.rest_absent = not self.rest_absent
        elif pressed == " ":
            pages = -(-len(self.questions) // len(LETTERS))
            self.page = (self.page + 1) % pages
            self.seen = max(self.seen, (self.page + 1) * len(LETTERS))
        elif pressed.lower() in LETTERS:
            number = self.page * len(LETTERS) + LETTERS.index(pressed.lower())
            return self._mark(number, "present" if pressed.islower() else "unsure")
        else:
            return False
        return True

    def add(self, name: str) -> str:
        """Mark a category present by its name or its only beginning; else say what is wrong."""
        names = [asked.category for asked in self.questions]
        found = [name] if name in names else [each for each in names if each.startswith(name)]
        if name and len(found) == 1:
            self.marks[names.index(found[0])] = "present"
            return ""
        return f"{name!r}: {', '.join(found[:8]) or 'no open category'}"

    def said(self) -> "list[tuple[Question, Verdict]]":
        """What is kept: marks, and absent for what was shown without one, or for all the rest."""
        shown = len(self.questions) if self.rest_absent else self.seen
        return [
            (asked, self.marks.get(number, "absent"))
            for number, asked in enumerate(self.questions)
            if number in self.marks or number < shown
        ]

    def lines(self, width: int) -> list[str]:
        """The page as a person sees it, at most so many characters wide."""
        first = self.page * len(LETTERS)
        listed = self.questions[first : first + len(LETTERS)]
        wide = min(WIDEST, max(len(asked.category) for asked in listed))
        cells = [
            f"{LETTERS[place]} [{MARKS.get(self.marks.get(first + place, ''), ' ')}]"
            f" {asked.category[:wide]:{wide}} {asked.p:4.0%}"
            for place, asked in enumerate(listed)
        ]
        columns = max(1, min(3, width // (len(cells[0]) + 3)))
        rows = -(-len(cells) // columns)
        table = ["   ".join(cells[row::rows]) for row in range(rows)]
        return [*table, self._sum()[:width]]

    def _sum(self) -> str:
        said = self.said()
        present = [asked.category for asked, verdict in said if verdict == "present"]
        absent = sum(verdict == "absent" for _, verdict in said)
        left = len(self.questions) - len(said)
        rest = ", all the rest" if self.rest_absent else f"; open: {left}" if left else ""
        return f"absent: {absent}{rest}; present: {', '.join(present) or 'none'}"

    def _mark(self, number: int, verdict: "Verdict") -> bool:
        if number >= len(self.questions):
            return False
        if self.marks.get(number) == verdict:
            del self.marks[number]
        else:
            self.marks[number] = verdict
        return True


def image_session(queue: "Queue", top: int | None) -> int:
    """Ask about whole images until somebody or `top` ends it; the number of answers that count."""
    show(HELP)
    waiting: list[list[Question]] = []
    shown = set[int]()  # none comes twice
    kept: list[tuple[Sheet, int]] = []  # newest last, for taking back
    begun_sheets: list[Sheet] = []  # as the person left them; the one that is shown is the last
    rest_absent = False
    while top is None or len(kept) < top:
        if not begun_sheets:
            waiting = [*filter(None, map(queue.still_open, waiting))]  # others answer too
            waiting = waiting or queue.next_images(without=shown)
            shown.update(questions[0].place for questions in waiting)
            if not waiting:
                show("No image is left to ask about.")
                break
            begun_sheets.append(Sheet(waiting.pop(0), rest_absent))
        sheet, begun = begun_sheets[-1], time.monotonic()
        asked = sheet.questions[0]
        draw_image(asked.path)
        show(f"[{len(kept) + 1}{f'/{top}' if top else ''}] {asked.path}")
        show(f"known: {', '.join(queue.known_present(asked.place)) or 'none present'}")
        word = _ask_one(sheet)
        rest_absent = sheet.rest_absent
        if word == "end":
            break
        if word == "back":
            if queue.undo() is None:
                show("  nothing to take back")
            else:
                begun_sheets.append(kept.pop()[0])
            continue
        said = sheet.said() if word == "keep" else []
        queue.answer_all(said, round((time.monotonic() - begun) * 1000))
        kept.append((begun_sheets.pop(), len(said)))
    return sum(count for _, count in kept)


def _ask_one(sheet: Sheet) -> Literal["keep", "skip", "back", "end"]:
    """Show an image's sheet, again after each key, until one leaves it."""
    lines = _print(sheet)
    while True:
        pressed = key()
        if pressed in ("\n", "\r"):
            return "keep"
        if pressed == "s":
            return "skip"
        if pressed in ("b", "\x7f"):
            return "back"
        if pressed in ("q", "\x04", ""):
            return "end"
        note = ""
        if pressed == "+":
            typer.echo("present: ", nl=False)
            note = sheet.add(sys.stdin.readline().strip())
            lines += 1
        elif not sheet.press(pressed):
            note = HELP
        if sys.stdout.isatty() and not note:
            typer.echo(f"\x1b[{lines}A\x1b[J", nl=False)
        elif note:
            show(note)
        lines = _print(sheet)


def _print(sheet: Sheet) -> int:
    """Print the sheet; the number of its lines."""
    lines = sheet.lines(shutil.get_terminal_size().columns)
    show("\n".join(lines))
    return len(lines)
