import json
from pathlib import Path

import polars as pl
import pytest

from tests.sets import N, U, Y, image_bytes, read, states, write, write_images
from trmml import read_folder
from trmml.datasets.tables.name_lists import _made_of_names, check_separator, parse_lists
from trmml.errors import DataError


def table(root: Path, *cells: str) -> tuple[Path, Path]:
    names = [f"{index}.png" for index in range(len(cells))]
    write_images(root, names)
    lines = [f'{name},"{cell}"' for name, cell in zip(names, cells, strict=True)]
    write(root, {"labels.csv": "\n".join(["image,tags", *lines])})
    return root, root / "labels.csv"


@pytest.mark.parametrize("separator", [",", "|", "#"])
def test_another_separator_is_asked_about(tmp_path, separator):
    cells = ("sun", separator.join(("sun", "sea")), "")
    with pytest.raises(DataError, match=r"1 of 2 names hold .*'sun' is a part of several.*--sep"):
        read_folder(*table(tmp_path, *cells), blank="absent")
    data = read_folder(*table(tmp_path, *cells), blank="absent", separator=separator)
    assert data.category_names == ("sea", "sun") and states(data) == [[N, Y], [Y, Y], [N, N]]
    kept = read_folder(*table(tmp_path, *cells), blank="absent", separator=";")
    assert kept.category_names == ("sun", cells[1])


@pytest.mark.parametrize(
    "cells",
    [
        ("salt, pepper", "cat", "salt, pepper"),  # no part in another name
        ("salt, pepper;salt", "cat"),  # the usual separator is in use
        ("red car", "cat", "car"),
    ],
)
def test_names_may_hold_separators(tmp_path, cells):
    names = {name.strip() for cell in cells for name in cell.split(";")}
    assert set(read_folder(*table(tmp_path, *cells), blank="absent").category_names) == names


def test_categories_that_are_asked_for_are_names(tmp_path):
    root, path = table(tmp_path, "NY, city", "NY, state")
    data = read_folder(root, path, blank="absent", categories=["NY, city", "NY, state"])
    assert states(data) == [[Y, N], [N, Y]]


def test_spaces_are_noted(tmp_path, caplog):
    check_separator("labels.csv", ["haze primary", "clear primary"])
    assert "'primary' is a part of several" in caplog.text
    assert "--separator ' '" in caplog.text
    read = read_folder(*table(tmp_path, "haze primary", "primary"), blank="absent", separator=" ")
    assert read.category_names == ("haze", "primary")


def test_lists_in_brackets_are_lists(tmp_path):
    data = read_folder(*table(tmp_path, "['sun', 'sea']", "[]", "['sun']"), blank="absent")
    assert data.category_names == ("sea", "sun") and states(data) == [[Y, Y], [N, N], [N, Y]]
    for text in ("[sun", "['sun'", "[sun]"):
        assert parse_lists(pl.Series([text, "[]"])).to_list() == [text, "[]"]


def test_separators_of_packed_files_and_metadata(tmp_path):
    write(tmp_path, {"train/a.png": image_bytes(1), "train/b.png": image_bytes(2)})
    write(tmp_path, {"train/metadata.csv": 'file_name,labels\na.png,"sun,sea"\nb.png,sun\n'})
    with pytest.raises(DataError, match="'sun' is a part of several"):
        read("huggingface", tmp_path, blank="absent")
    data = read("huggingface", tmp_path, blank="absent", separator=",")
    assert states(data) == [[Y, Y], [N, Y]]


def test_most_names_holding_a_separator_are_asked_about(tmp_path):
    with pytest.raises(DataError, match=r"2 of 3 names hold ',', as in 'a,b'\. If"):
        read_folder(*table(tmp_path, "a,b", "c,d", "e"), blank="absent")


@pytest.mark.parametrize("other", ["Gull", "gu_ll", "gu ll", "GULL"])
def test_names_that_nearly_agree(tmp_path, other, caplog):
    root, path = table(tmp_path, "gull;owl", other, "")
    with pytest.raises(
        DataError, match=rf"names '{other}' \(1 times\) and 'gull'|names 'gull' \(1"
    ):
        read_folder(root, path, blank="absent")
    with pytest.raises(
        DataError, match=rf"names '{other}' \(1 times\) and 'gull', which differ in"
    ):
        read_folder(root, path, blank="absent", categories=["gull", "owl"])
    both = read_folder(root, path, blank="absent", categories=["gull", other])
    assert states(both) == [[Y, N], [N, Y], [N, N]]
    assert "1 names that are none of the 2 categories and are left out: 'owl' (1" in caplog.text


def test_columns_that_nearly_agree(tmp_path):
    write_images(tmp_path, ["a.png"])
    write(tmp_path, {"wide.csv": "image,gull,Gull\na.png,1,0\n"})
    with pytest.raises(DataError, match=r"wide\.csv names 'gull' \(1 times\) and 'Gull'"):
        read_folder(tmp_path, tmp_path / "wide.csv")
    data = read_folder(tmp_path, tmp_path / "wide.csv", categories=["gull", "Gull"])
    assert states(data) == [[Y, N]]


def test_a_nearly_right_name_is_told_with_the_right_one(tmp_path, caplog):
    root, path = table(tmp_path, "gull", "gul", "gul")
    assert states(read_folder(root, path, blank="absent", categories=["gull"])) == [[Y], [N], [N]]
    assert "'gul' (2 times); did you mean 'gull'" in caplog.text


def test_invisible_characters_are_no_part_of_a_name(tmp_path):
    root, path = table(tmp_path, "gull\u200b", "\ufeffgull", "gu\u00adll")
    assert states(read_folder(root, path, blank="absent")) == [[Y], [Y], [Y]]


def test_entries_of_one_image_never_contradict_each_other(tmp_path, caplog):
    write_images(tmp_path, ["train/a.png", "train/b.png"])
    entries = {"a.png": ["sun", "sea"], "b.png": []}.items()
    rows = [{"file_name": name, "labels": labels} for name, labels in entries]
    rows.append({"file_name": "a.png", "labels": ["sun"]})
    write(tmp_path, {"train/metadata.jsonl": "\n".join(map(json.dumps, rows))})
    data = read("huggingface", tmp_path, blank="absent")
    assert data.category_names == ("sea", "sun")
    assert states(data) == [[U, Y], [N, N], [U, Y]]
    assert "2 labels in which their rows contradict each other are taken as unknown" in caplog.text


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("['cat' 'dog']", ["cat", "dog"]),  # numpy's
        ("['cat'\n 'dog']", ["cat", "dog"]),
        ("{'dog', 'cat'}", ["cat", "dog"]),
        ("('cat', 'dog')", ["cat", "dog"]),
        ("{cat,dog}", ["cat", "dog"]),  # PostgreSQL's
        ('{"sea lion",dog}', ["sea lion", "dog"]),
    ],
)
def test_lists_of_other_programs_are_read(text: str, names: list[str]) -> None:
    assert parse_lists(pl.Series([text, text])).to_list() == [names, names]


@pytest.mark.parametrize("separator", ["\n", "\uff1b", "、", "•"])
def test_separators_of_other_scripts_are_asked_about(separator: str) -> None:
    with pytest.raises(DataError, match="choose --separator"):
        check_separator("labels.csv", ["cat", f"cat{separator}dog", f"dog{separator}bird"])


@pytest.mark.parametrize("separator", [" ", "/", ":", "~", "_", " and ", "."])
def test_names_made_of_other_names_are_noted(
    separator: str, caplog: pytest.LogCaptureFixture
) -> None:
    names = ["cat", "dog", "bird", "polar bear", "sea lion", f"cat{separator}dog"]
    check_separator("labels.csv", names)
    assert f"names hold {separator!r}" in caplog.text


def test_one_usual_separator_does_not_hide_another() -> None:
    with pytest.raises(DataError, match="names hold ','"):
        check_separator("labels.csv", ["cat;dog", "bird;cat", "cat,dog", "dog,bird"])
    check_separator("labels.csv", ["cat;salt, pepper", "salt, vinegar;dog"])  # names with commas


def test_separators_are_checked_by_one_set_of_all_names() -> None:
    class Names(list[str]):
        read = 0

        def __iter__(self):
            self.read += 1
            return super().__iter__()

    names = Names(f"name_{index}" for index in range(100))
    assert not _made_of_names(names, list(names), "_")
    assert names.read < 5  # a set for each of them took hours for a table of 100,000


VECTORS = {
    "labels.csv": 'image,labels\na.png,"[0, 0, 1, 1]"\nb.png,"[1, 0, 0, -1]"\n',
    "texts.csv": "image,labels\na.png,0;0;1;1\nb.png,\n",
    "floats.csv": 'image,labels\na.png,"[0.0, 0.0, 1.0, 1.0]"\nb.png,\n',
    "lines.jsonl": '{"image": "a.png", "labels": [0, 0, 1, 1]}\n'
    '{"image": "b.png", "labels": [1, 0, 0, 0]}\n',
    "object.json": '{"a.png": [0, 0, 1, 1], "b.png": [1, 0, 0, 0]}',
}


@pytest.mark.parametrize("name", VECTORS)
def test_answers_in_a_list_are_not_numbers_of_categories(tmp_path: Path, name: str) -> None:
    write_images(tmp_path, ["a.png", "b.png"])
    write(tmp_path, {name: VECTORS[name]})
    with pytest.raises(DataError, match=r"each list has 4 entries .* Make a column per category"):
        read_folder(tmp_path, tmp_path / name, blank="absent", categories=list("abcd"))


def test_numbers_of_categories_that_look_like_answers_are_read(tmp_path: Path) -> None:
    data = read_folder(*table(tmp_path, "0;1", "1;0"), blank="absent", categories=["cat", "dog"])
    assert states(data) == [[Y, Y], [Y, Y]]
    data = read_folder(*table(tmp_path, "[1, 1]", "[]"), blank="absent", categories=["cat", "dog"])
    assert states(data) == [[N, Y], [N, N]]
