"""A sheet of one image's categories: what keys do to it, and what it keeps."""

from pathlib import Path

import pytest
from PIL import Image

from trmml.cli.ask_images import LETTERS, Sheet
from trmml.cli.terminal import half_blocks
from trmml.curation.queue import Question


def sheet(count: int = 30, rest_absent: bool = False) -> Sheet:
    """Categories 000, 001 ... of falling probability, two of them above 1/2."""
    return Sheet(
        [
            Question(0, "a.jpg", Path("a.jpg"), f"{n:03}", "unknown", 0.9 - 0.3 * n, "learn")
            if n < 3
            else Question(0, "a.jpg", Path("a.jpg"), f"{n:03}", "unknown", 0.1, "learn")
            for n in range(count)
        ],
        rest_absent,
    )


def verdicts(found: Sheet) -> dict[str, list[str]]:
    said: dict[str, list[str]] = {}
    for asked, verdict in found.said():
        said.setdefault(verdict, []).append(asked.category)
    return said


def test_probable_ones_are_marked_and_what_was_not_shown_stays_open() -> None:
    found = verdicts(sheet())
    assert found["present"] == ["000", "001"]
    assert found["absent"] == [f"{n:03}" for n in range(2, len(LETTERS))]


def test_letters_turn_about_and_capitals_are_unsure() -> None:
    found = sheet()
    for pressed in "acD":
        assert found.press(pressed)
    assert verdicts(found)["unsure"] == ["002"]
    assert "present" not in verdicts(found)
    found.press("D")
    assert "002" in verdicts(found)["absent"]


def test_the_rest_is_absent_only_where_somebody_says_so() -> None:
    found = sheet()
    assert "open: 7" in found.lines(100)[-1]
    found.press("-")
    assert len(verdicts(found)["absent"]) == 28
    assert "all the rest" in found.lines(100)[-1]
    found.press("-")
    assert len(verdicts(found)["absent"]) == len(LETTERS) - 2


def test_pages() -> None:
    found = sheet()
    assert found.press(" ")
    assert found.lines(100)[0].startswith("a [ ] 023")
    assert found.press("c")
    assert not found.press("z")  # no category has it on this page
    assert verdicts(found)["present"] == ["000", "001", "024"]
    assert len(found.said()) == 30  # all were shown now
    found.press(" ")
    assert found.lines(100)[0].startswith("a [x] 000")


def test_a_category_by_its_name() -> None:
    found = sheet()
    assert found.add("029") == ""
    assert found.add("02") == "'02': 020, 021, 022, 023, 024, 025, 026, 027"
    assert found.add("zebra") == "'zebra': no open category"
    assert verdicts(found)["present"] == ["000", "001", "029"]


@pytest.mark.parametrize("width", [20, 40, 100])
def test_lines_are_as_wide_as_the_terminal(width: int) -> None:
    lines = sheet().lines(width)
    assert max(map(len, lines)) <= width
    assert sum(line.count("[") for line in lines) == len(LETTERS)


def test_two_pixels_are_one_character() -> None:
    image = Image.new("RGB", (2, 2), (1, 2, 3))
    image.putpixel((0, 1), (4, 5, 6))
    (line,) = half_blocks(image)
    assert line.startswith("\x1b[38;2;1;2;3m\x1b[48;2;4;5;6m▀")
    assert line.count("▀") == 2
