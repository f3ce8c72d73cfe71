"""What tables say of images: in few bytes, and the last one first."""

import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from tests.exchange.test_sidecars import image
from trmml.curation import standing
from trmml.curation.answers import Answer, Answers, Verdict, new_id, now
from trmml.datasets.formats import folder
from trmml.errors import DataError
from trmml.exchange import sources
from trmml.exchange.naming import found_images
from trmml.exchange.sources import joined, said_of
from trmml.exchange.words import Word
from trmml.storage import hashes
from trmml.storage.hashes import hash_file


def test_the_last_table_counts_first(tmp_path) -> None:
    images = {image(tmp_path, name): tmp_path for name in ("a.jpg", "b.jpg")}
    (tmp_path / "first.csv").write_text("image,dog,cat\na.jpg,1,0\nb.jpg,1,\n")
    (tmp_path / "second.csv").write_text("image,Dog,owl\na.jpg,0,1\n")
    said = said_of([tmp_path / "first.csv", tmp_path / "second.csv"], images)
    tags = (Word("CAT"), Word("fox"))
    found = {path.name: words for path, words in joined(((i, tags) for i in images), said)}
    assert [word.name for word in found["a.jpg"]] == ["owl", "fox"]
    assert [word.name for word in found["b.jpg"]] == ["dog", "CAT", "fox"]


def told(root: Path, table: Path, *named: str) -> dict[str, list[str]]:
    """The words that a table has for what is named, by the names of the images below a folder."""
    images = found_images([str(root / name) for name in named])
    worded = joined(((each, ()) for each in images), said_of([table], images))
    return {
        path.relative_to(root).as_posix(): [word.name for word in words] for path, words in worded
    }


@pytest.mark.parametrize("reverse", [False, True])
def test_a_name_stands_for_one_image_of_all_that_are_named(tmp_path, reverse: bool) -> None:
    for name in ("a.jpg", "2019/a.jpg", "2020/b.jpg"):
        image((tmp_path / name).parent, name.rpartition("/")[2])
    lines = ["a.jpg,1,", "2019/a.jpg,,1", "2020/b.jpg,1,1"]
    (table := tmp_path / "t.csv").write_text(
        "\n".join(["image,top,below", *lines[:: -1 if reverse else 1]])
    )
    named = ["a.jpg", "2019/a.jpg", "2020/b.jpg"]
    every = {"a.jpg": ["top"], "2019/a.jpg": ["below"], "2020/b.jpg": ["top", "below"]}
    assert told(tmp_path, table, *named) == told(tmp_path, table, "") == every
    assert told(tmp_path, table, "*.jpg", "*/*.jpg") == every
    below = {name: words for name, words in every.items() if "/" in name}
    assert told(tmp_path, table, "2019", "2020") == below
    assert told(tmp_path, table, "2020") == {"2020/b.jpg": ["top", "below"]}
    with pytest.raises(DataError, match=r"'(2019/)?a.jpg' is the image .*2019/a.jpg, and so is"):
        told(tmp_path, table, "2019")  # below it both names stand for one file
    table.write_text("image,top,below\na.jpg,1,\n")
    assert told(tmp_path, table, *named) == {"a.jpg": ["top"], "2019/a.jpg": [], "2020/b.jpg": []}
    assert told(tmp_path, table, "2019") == {"2019/a.jpg": ["top"]}  # its names begin in 2019
    with pytest.raises(DataError, match=f"Its names are looked for below {tmp_path}. Name the"):
        told(tmp_path, table, "2019", "2020")


def test_a_table_is_read_once_for_images_of_many_folders(tmp_path, monkeypatch) -> None:
    for year in range(5):
        image(tmp_path / f"{year}", "a.jpg")
    lines = "".join(f"{year}/a.jpg,1\n" for year in range(5))
    (table := tmp_path / "t.csv").write_text(f"image,dog\n{lines}")
    read, calls = folder.read_labels, list[Path]()

    def counted(images: Path, *more: object, **how: object) -> object:
        calls.append(images)
        return read(images, *more, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(folder, "read_labels", counted)
    found = told(tmp_path, table, *(f"{year}/a.jpg" for year in range(5)))
    assert calls == [tmp_path] and list(found.values()) == [["dog"]] * 5


def answers(path: Path, *said: tuple[str, str, str, Verdict]) -> Path:
    """A journal of a person's answers: name of the image, its hash, category, answer."""
    with Answers(path) as journal:
        journal.add([
            Answer(new_id(), now(), "Ann", *what, "unknown", None, "learn", "") for what in said
        ])  # fmt: skip
    return path


def test_answers_under_a_name_count_with_those_under_the_hash(tmp_path) -> None:
    sha256 = hash_file(image(tmp_path / "below", "a.jpg", "x"))
    image(tmp_path / "below", "b.jpg", "xx")
    copied = (tmp_path / "copy.jpg").write_bytes((tmp_path / "below/a.jpg").read_bytes())
    journal = answers(
        tmp_path / "a.sqlite",
        ("below/a.jpg", sha256, "dog", "present"), ("below/a.jpg", "", "dog", "absent"),
        ("below/a.jpg", sha256, "Owl", "absent"), ("below/a.jpg", sha256, "owl", "present"),
        ("below/b.jpg", "", "cat", "present"), ("old name.jpg", sha256, "sea", "present"),
    )  # fmt: skip
    found = told(tmp_path, journal, "")
    assert copied and {name: {*words} for name, words in found.items()} == {
        "below/a.jpg": {"owl", "sea"}, "below/b.jpg": {"cat"}, "copy.jpg": {"dog", "owl", "sea"}
    }  # fmt: skip


def test_few_images_are_read_for_few_answers(tmp_path, monkeypatch) -> None:
    paths = [image(tmp_path, f"{number}.jpg", "x" * (1 + number)) for number in range(20)]
    journal = answers(tmp_path / "a.sqlite", ("3.jpg", hash_file(paths[3]), "dog", "present"))
    copy = tmp_path / "copy.jpg"
    copy.write_bytes(paths[3].read_bytes())
    read = list[Path]()

    def counted(path: Path, *how: Any) -> str:
        read.append(path)
        return hash_file(path, *how)

    monkeypatch.setattr(hashes, "hash_file", counted)
    monkeypatch.setattr(standing, "hash_file", counted)
    monkeypatch.setattr(sources, "hash_file", counted)
    found = told(tmp_path, journal, "")
    assert found["3.jpg"] == found["copy.jpg"] == ["dog"] and sum(map(len, found.values())) == 2
    assert {*read} == {journal, paths[3], copy}


def test_a_full_table_is_held_without_an_object_for_each_pair(tmp_path) -> None:
    images = {tmp_path / f"{number}.jpg": tmp_path for number in range(400)}
    for path in images:
        path.touch()
    lines = [f"{path.name},{','.join('01' * 25)}\n" for path in images]
    header = ",".join(f"word {number}" for number in range(50))
    table: Path = tmp_path / "t.csv"
    table.write_text("".join([f"image,{header}\n", *lines]))
    said_of([table], images)  # what is imported stays
    tracemalloc.start()
    try:
        said = said_of([table], images)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # 20,000 pairs; two objects for each took 4 MB, and 400 paths take a tenth of one.
    assert held < 1_000_000
    assert sum(len(words) for _, words in joined(((i, ()) for i in images), said)) == 400 * 25
