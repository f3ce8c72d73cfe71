"""What is shown of names that hold control characters, and names that come on stdin."""

import csv
import io
import json
import sys
from pathlib import Path

import pytest
import typer

from trmml.cli.output import fail, print_json, print_tags, say, show
from trmml.cli.reading import named_paths
from trmml.tagging.tags import Tag, TaggedImage

ODD = "a\x1b[31m\x9b\u202e\u2028\nb ä 猫.jpg"
ESCAPED = "a\\x1b[31m\\x9b\\u202e\\u2028"


def test_lines_show_control_characters_as_escapes(capsys: pytest.CaptureFixture[str]) -> None:
    say(ODD)
    show(ODD)
    with pytest.raises(typer.Exit):
        fail(f"there is no image {ODD}")
    shown = capsys.readouterr()
    assert shown.out == f"{ESCAPED}\nb ä 猫.jpg\n"
    # A line of an error is one line, whatever a name holds.
    assert shown.err.splitlines()[-1].startswith("Error: there is no image a\\x1b[31m")
    assert "\x1b" not in shown.err and "\x9b" not in shown.err and "\u202e" not in shown.err


def test_json_is_escaped_and_means_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    tree = {"image": ODD, "shy": "\x7f\U000e0001"}
    print_json(tree)
    print_tags(iter([TaggedImage(Path(ODD))]), "jsonl")
    shown = capsys.readouterr().out
    whole, line = shown[: shown.index("}") + 1], shown.splitlines()[-1]
    assert json.loads(whole) == tree and json.loads(line)["image"] == ODD
    assert all(c.isprintable() or c == "\n" for c in shown)


def test_csv_is_escaped_on_a_terminal_and_exact_in_a_file(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def rows() -> list[list[str]]:
        images = [
            TaggedImage(Path(ODD), (Tag("c\x1b", 0.5, 0.25),)),
            TaggedImage(Path("b"), error="no \x1b"),
        ]
        print_tags(iter(images), "csv")
        return list(csv.reader(io.StringIO(capsys.readouterr().out)))[1:]

    assert rows()[0] == [ODD, "c\x1b", "0.5", "0.25", "", ""]
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert rows() == [
        [ESCAPED + r"\nb ä 猫.jpg", r"c\x1b", "0.5", "0.25", "", ""],
        ["b", "", "", "", "", r"no \x1b"],
    ]


@pytest.mark.parametrize(
    ("content", "null", "names"),
    [
        ("\ufeffa.jpg\r\n\nb\u2028c.jpg\n d\x0b\x85.jpg ".encode(), False,
         ["a.jpg", "b\u2028c.jpg", " d\x0b\x85.jpg "]),
        (b"a\nb.jpg\0c.jpg\0", True, ["a\nb.jpg", "c.jpg"]),
        (b"\xe9.jpg\n", False, ["\udce9.jpg"]),
        (b"", False, []),
    ],
)  # fmt: skip
def test_names_on_stdin(
    monkeypatch: pytest.MonkeyPatch, content: bytes, null: bool, names: list[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert named_paths(["x", "-"], null) == ["x", *names]


def test_no_name_at_all_on_stdin_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\n")))
    with pytest.raises(typer.BadParameter, match="there is none"):
        named_paths(["-"], False)
    assert named_paths([], False) == []


def test_zero_bytes_on_stdin_name_the_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a\0b\0")))
    with pytest.raises(typer.BadParameter, match="give -0"):
        named_paths(["-"], False)
