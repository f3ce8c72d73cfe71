"""What tables say of images: in few bytes, and the last one first."""

import tracemalloc
from pathlib import Path

from tests.exchange.test_sidecars import image
from trmml.exchange.sources import joined, said_of
from trmml.exchange.words import Word


def test_the_last_table_counts_first(tmp_path) -> None:
    images = {image(tmp_path, name): tmp_path for name in ("a.jpg", "b.jpg")}
    (tmp_path / "first.csv").write_text("image,dog,cat\na.jpg,1,0\nb.jpg,1,\n")
    (tmp_path / "second.csv").write_text("image,Dog,owl\na.jpg,0,1\n")
    said = said_of([tmp_path / "first.csv", tmp_path / "second.csv"], images)
    tags = (Word("CAT"), Word("fox"))
    found = {path.name: words for path, words in joined(((i, tags) for i in images), said)}
    assert [word.name for word in found["a.jpg"]] == ["owl", "fox"]
    assert [word.name for word in found["b.jpg"]] == ["dog", "CAT", "fox"]


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
