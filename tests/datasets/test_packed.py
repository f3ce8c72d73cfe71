import bz2
import gzip
import hashlib
import io
import json
import lzma
import os
import random
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.sets import N, State, U, Y, image_bytes, read, states, write
from trmml.datasets.formats.arrow import read_arrow
from trmml.datasets.formats.unpack import _identity, unpack
from trmml.errors import DataError

JPEG, PNG, WEBP = (image_bytes(k, form=form) for k, form in enumerate(("JPEG", "PNG", "WEBP")))
IMAGES = [PNG, JPEG, image_bytes(9), WEBP]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRMML_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "unpacked"


def name_of(data: bytes, suffix: str) -> str:
    digest = hashlib.sha256(data).hexdigest()
    return f"{digest[:2]}/{digest}{suffix}"


NAMES = tuple(map(name_of, IMAGES, (".png", ".jpg", ".png", ".webp")))


# Unpacking ------------------------------------------------------------------------------------


def test_images_are_unpacked_once_and_named_by_content(tmp_path):
    write(tmp_path, {"source.tar": "s"})
    calls = []

    def images():
        calls.append(1)
        yield from (*IMAGES, PNG)

    names = unpack(tmp_path / "source.tar", images, tmp_path / "out")
    assert tuple(names) == (*NAMES, NAMES[0]) and len(calls) == 1
    files = sorted(
        p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.*")
    )
    assert [name for name in files if not name.startswith("sources")] == sorted(set(NAMES))
    assert (tmp_path / "out" / NAMES[1]).read_bytes() == JPEG
    assert unpack(tmp_path / "source.tar", images, tmp_path / "out") == names and len(calls) == 1
    (tmp_path / "out" / NAMES[1]).unlink()
    assert unpack(tmp_path / "source.tar", images, tmp_path / "out") == names and len(calls) == 2
    assert (tmp_path / "out" / NAMES[1]).read_bytes() == JPEG
    os.utime(tmp_path / "source.tar", ns=(1, 1))
    assert unpack(tmp_path / "source.tar", images, tmp_path / "out") == names and len(calls) == 3
    (record,) = (tmp_path / "out/sources").glob(f"{_identity(tmp_path / 'source.tar')}.json")
    for times, damaged in enumerate(("", "null", '{"images": [7]}', "[" * 99999), start=4):
        record.write_text(damaged)
        assert unpack(tmp_path / "source.tar", images, tmp_path / "out") == names
        assert len(calls) == times


def test_what_was_cut_off_leaves_no_record_and_no_half_image(tmp_path):
    write(tmp_path, {"source.tar": "s"})

    def broken():
        yield PNG
        raise DataError("cut off")

    with pytest.raises(DataError, match="cut off"):
        unpack(tmp_path / "source.tar", broken, tmp_path / "out")
    assert not (tmp_path / "out" / "sources").exists()
    kept = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert [path.read_bytes() for path in kept] == [PNG]
    with pytest.raises(DataError, match=r"source\.tar: image 2 is empty"):
        unpack(tmp_path / "source.tar", lambda: [PNG, b""], tmp_path / "out")


def test_a_folder_that_cannot_be_written(tmp_path):
    write(tmp_path, {"source.tar": "s", "file": "f"})
    with pytest.raises(DataError, match=r"cannot unpack .* another folder as option unpack=DIR"):
        unpack(tmp_path / "source.tar", lambda: [PNG], tmp_path / "file")


# Parquet --------------------------------------------------------------------------------------


def parquet(root: Path, name: str, **columns: Any) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    count = len(next(iter(columns.values())))
    images = [{"bytes": data, "path": None} for data in (IMAGES * 2)[:count]]
    pl.DataFrame({"image": images} | columns).write_parquet(path)
    return root


LISTS = {"tags": [["cat", "dog"], [], ["owl", "cat"], ["dog"]]}
CLOSED = [[Y, Y, N], [N, N, N], [Y, N, Y], [N, Y, N]]


def test_lists_of_names(tmp_path, cache):
    data = read("parquet", parquet(tmp_path, "train.parquet", **LISTS), blank="absent")
    assert data.root == cache and data.images == NAMES and data.rows == (1, 2, 3, 4)
    assert data.category_names == ("cat", "dog", "owl") and states(data) == CLOSED
    assert data.paths[1].read_bytes() == JPEG and not list(tmp_path.rglob("*.tmp"))
    opened = [[Y, Y, U], [U, U, U], [Y, U, Y], [U, Y, U]]
    assert states(read("parquet", tmp_path, blank="unknown")) == opened
    with pytest.raises(DataError, match="option blank=absent if every image was checked"):
        read("parquet", tmp_path)


def test_a_folder_for_the_images(tmp_path, cache):
    parquet(tmp_path, "train.parquet", **LISTS)
    data = read("parquet", tmp_path, blank="absent", unpack=str(tmp_path / "here"))
    assert data.root == tmp_path / "here" and all(path.is_file() for path in data.paths)
    assert not cache.exists()


def test_columns_of_answers(tmp_path):
    root = tmp_path / "set [1]"  # brackets are no pattern
    parquet(root, "train-0.parquet", cat=[1, 0, None], dog=[None, 1, 0])
    parquet(root, "train-1.parquet", cat=[1], dog=[1])
    data = read("parquet", root)
    assert states(data) == [[Y, U], [N, Y], [U, N], [Y, Y]]
    assert data.images == (*NAMES[:3], NAMES[0])
    parquet(root, "train-1.parquet", cat=[1], dog=[1], width=[640])
    with pytest.raises(DataError, match="have different columns"):
        read("parquet", root)


def test_present_and_absent(tmp_path):
    parquet(tmp_path, "train.parquet", present=[["cat"], []], absent=[["dog"], ["cat"]])
    assert states(read("parquet", tmp_path)) == [[Y, N], [N, U]]


def test_which_of_two_columns_holds_the_labels_must_be_said(tmp_path):
    parquet(tmp_path, "train.parquet", tags=[["cat"], ["dog"]], labels=[["dog"], ["dog"]])
    with pytest.raises(DataError, match=r"has both 'labels' and 'tags'\. .* option labels=NAME"):
        read("parquet", tmp_path, blank="absent")
    data = read("parquet", tmp_path, blank="absent", labels="tags")
    assert data.category_names == ("cat", "dog") and states(data) == [[Y, N], [N, Y]]


def test_null_is_no_answer_and_an_empty_list_is_one(tmp_path):
    parquet(tmp_path, "train.parquet", labels=[["cat"], [], None])
    assert states(read("parquet", tmp_path, blank="absent")) == [[Y], [N], [U]]
    parquet(tmp_path, "train.parquet", present=[["cat"], None], absent=[None, ["cat"]])
    assert states(read("parquet", tmp_path)) == [[Y], [N]]


def test_names_of_both_splits_count(tmp_path):
    parquet(tmp_path, "data/train-00000-of-00001.parquet", labels=[["cat"]])
    parquet(tmp_path, "data/validation-00000-of-00001.parquet", labels=[["owl"], []])
    assert states(read("parquet", tmp_path, blank="absent")) == [[Y, N]]
    assert states(read("parquet", tmp_path, "test", blank="absent")) == [[N, Y], [N, N]]


NUMBERS = {"objects": [{"category": [1, 0, 1]}, {"category": []}], "id": [7, 8]}


def test_numbers_need_names(tmp_path):
    parquet(tmp_path, "train.parquet", **NUMBERS)
    options = {"labels": "objects.category", "blank": "absent"}
    with pytest.raises(DataError, match=r"labels in 'objects\.category' are numbers.* categories="):
        read("parquet", tmp_path, **options)
    write(tmp_path, {"names.txt": "zebra\r\ncat\r\nowl\r\n"})
    data = read("parquet", tmp_path, categories="names.txt", **options)
    assert data.category_names == ("zebra", "cat", "owl")
    assert states(data) == [[Y, Y, N], [N, N, N]]
    write(tmp_path, {"names.txt": "zebra\n"})
    with pytest.raises(DataError, match=r"label 1 is none of the 1 names"):
        read("parquet", tmp_path, categories="names.txt", **options)
    write(tmp_path, {"names.txt": "zebra\ncat\nowl\n"})
    parquet(tmp_path, "both.parquet", present=[[0], []], absent=[[2], [0, 1]])
    both = read("parquet", tmp_path, categories="names.txt", train="both.parquet")
    assert states(both) == [[Y, U, N], [N, N, U]]
    parquet(tmp_path, "train.parquet", **NUMBERS)
    with pytest.raises(DataError, match="column 'objects' has no field 'kind'"):
        read("parquet", tmp_path, labels="objects.kind")
    with pytest.raises(DataError, match=r"no column 'kind', but objects, id"):
        read("parquet", tmp_path, labels="kind")


def test_a_number_or_an_answer_for_each(tmp_path):
    write(tmp_path, {"names.txt": "cat\ndog\n"})
    named = {"categories": "names.txt", "blank": "absent"}
    parquet(tmp_path, "train.parquet", label=[1, 0])
    assert states(read("parquet", tmp_path, **named)) == [[N, Y], [Y, N]]
    parquet(tmp_path, "train.parquet", labels=[[1, 0], [0, None]])
    vector = read("parquet", tmp_path, categories="names.txt", numbers="vector")
    assert states(vector) == [[Y, N], [N, U]]
    parquet(tmp_path, "train.parquet", labels=[[1, 0], [0]])
    with pytest.raises(DataError, match="has 1 entries for 2 names"):
        read("parquet", tmp_path, numbers="vector", **named)


VECTORS = [[0, 0, 1, 1], [1, 0, 0, 0]]
ANSWERS = [[N, N, Y, Y], [Y, N, N, N]]


@pytest.mark.parametrize("dtype", [pl.Int64, pl.Float32, pl.Float64])
def test_label_vectors_are_never_read_as_numbers_of_categories(tmp_path, dtype):
    write(tmp_path, {"names.txt": "\n".join("abcd")})
    options = {"categories": "names.txt", "blank": "absent"}
    parquet(tmp_path, "train.parquet", labels=pl.Series(VECTORS, dtype=pl.List(dtype)))
    with pytest.raises(DataError, match=r"has 4 entries of 0, 1 and -1.* option numbers=vector"):
        read("parquet", tmp_path, **options)
    assert states(read("parquet", tmp_path, numbers="vector", **options)) == ANSWERS
    arrays = pl.Series(VECTORS, dtype=pl.Array(dtype, 4))
    parquet(tmp_path, "train.parquet", labels=arrays)
    assert states(read("parquet", tmp_path, numbers="vector", **options)) == ANSWERS
    # Some number stands for no answer, or some list names less than all: no vectors.
    named = pl.Series([[0, 3, 1, 1], [2, 0, 1, 3]], dtype=pl.List(dtype))
    parquet(tmp_path, "train.parquet", labels=named)
    assert states(read("parquet", tmp_path, **options)) == [[Y, Y, N, Y], [Y, Y, Y, Y]]
    parquet(tmp_path, "train.parquet", labels=pl.Series([[1, 1], [0]], dtype=pl.List(dtype)))
    assert states(read("parquet", tmp_path, **options)) == [[N, Y, N, N], [Y, N, N, N]]


def test_vectors_of_floats_have_the_states_of_integers(tmp_path):
    write(tmp_path, {"names.txt": "\n".join("abcd")})
    rows = pl.Series([[1.0, 0.0, -1.0, float("nan")], [1.0, None, 0.0, 0.0], None])
    parquet(tmp_path, "train.parquet", labels=rows)
    data = read("parquet", tmp_path, categories="names.txt", numbers="vector", minus_one="unknown")
    assert states(data) == [[Y, N, U, U], [Y, U, N, N], [U] * 4]
    parquet(tmp_path, "train.parquet", label=[1.0, float("nan"), None])
    data = read("parquet", tmp_path, categories="names.txt", blank="absent")
    assert states(data) == [[N, Y, N, N], [U] * 4, [U] * 4]
    soft = pl.Series([[0.5, 0.0, 1.0, 1.0]])  # no answers, and no numbers of categories
    parquet(tmp_path, "train.parquet", labels=soft)
    with pytest.raises(DataError, match="lists none of the 4 categories"):
        read("parquet", tmp_path, categories="names.txt", numbers="vector", blank="absent")


def test_parquet_files_that_are_none(tmp_path):
    with pytest.raises(DataError, match=r"train set was expected at train\.parquet"):
        read("parquet", tmp_path)
    with pytest.raises(DataError, match=r"no file in .* matches 'a\*\.pq'"):
        read("parquet", tmp_path, train="a*.pq")
    write(tmp_path, {"train.parquet": "PAR1"})
    with pytest.raises(DataError, match="is no Parquet file, or damaged"):
        read("parquet", tmp_path)
    pl.DataFrame({"image": ["a.jpg"], "cat": [1]}).write_parquet(tmp_path / "train.parquet")
    with pytest.raises(DataError, match="'image' should hold the images' bytes, but holds String"):
        read("parquet", tmp_path)
    with pytest.raises(DataError, match=r"'photo' should hold .* does not exist"):
        read("parquet", tmp_path, image="photo")
    pl.DataFrame({"image": [PNG]}).write_parquet(tmp_path / "train.parquet")
    with pytest.raises(DataError, match="no column but 'image'"):
        read("parquet", tmp_path)
    rows = [{"bytes": None, "path": "/etc/hosts"}]
    schema = {"image": pl.Struct({"bytes": pl.Binary, "path": pl.String}), "cat": pl.Int8}
    pl.DataFrame({"image": rows, "cat": [1]}, schema=schema).write_parquet(
        tmp_path / "train.parquet"
    )
    with pytest.raises(DataError, match=r"row 1 holds no image but the path /etc/hosts"):
        read("parquet", tmp_path)


@pytest.mark.parametrize("count", [200, 400])  # polars panics; polars finds no header of a page
def test_a_parquet_file_that_is_damaged_in_its_labels(tmp_path, count):
    answers = [byte % 2 for byte in random.Random(0).randbytes(1_000)]
    frame = pl.DataFrame({"image": [b"x"] * len(answers), "cat": answers})
    frame.write_parquet(tmp_path / "train.parquet")
    data = (tmp_path / "train.parquet").read_bytes()
    end = len(data) - 8 - int.from_bytes(data[-8:-4], "little")  # the last column's, or near it
    write(tmp_path, {"train.parquet": data[: end - count] + b"\xff" * count + data[end:]})
    with pytest.raises(DataError, match=r"train\.parquet is damaged in the columns cat: "):
        read("parquet", tmp_path)


# WebDataset -----------------------------------------------------------------------------------


def shard(root: Path, name: str, members: Mapping[str, bytes | str]) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for member, content in members.items():
            data = content if isinstance(content, bytes) else content.encode()
            entry = tarfile.TarInfo(member)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return root


def test_samples_in_any_order(tmp_path, cache):
    members = {
        "b/0001.json": json.dumps({"labels": ["dog"], "caption": "a dog"}),
        "a/0001.png": PNG,
        "b/0001.jpg": JPEG,
        "b/notes.txt": "no image is called so",
        "a/0001.json": "\ufeff" + json.dumps({"labels": ["cat", "dog"]}),
        "c.d/0002.seg.png": WEBP,
        "c.d/0002.webp": WEBP,
    }
    shard(tmp_path, "train-000000.tar", members)
    shard(tmp_path, "train-000001.tar", {"0001.json": '{"labels": []}', "0001.PNG": IMAGES[2]})
    data = read("webdataset", tmp_path, blank="absent")
    assert data.root == cache and data.images == (*(NAMES[i] for i in (0, 1, 3)), NAMES[2])
    assert data.category_names == ("cat", "dog")
    assert states(data) == [[Y, Y], [N, Y], [U, U], [N, N]]


def test_an_image_with_nothing_beside_it_is_unknown(tmp_path):
    shard(tmp_path, "train.tar", {"a.png": PNG, "b.png": JPEG, "b.txt": "cat;dog\r\nowl\r\n"})
    assert states(read("webdataset", tmp_path, blank="absent")) == [[U, U, U], [Y, Y, Y]]


def test_texts_with_another_separator_are_asked_about(tmp_path):
    members = {"a.png": PNG, "a.txt": "cat,dog", "b.png": JPEG, "b.json": '{"labels": "dog"}'}
    shard(tmp_path, "train.tar", members)
    with pytest.raises(DataError, match=r"label files of the shards: .*'dog' is a part of several"):
        read("webdataset", tmp_path, blank="absent")
    assert states(read("webdataset", tmp_path, blank="absent", separator=",")) == [[Y, Y], [N, Y]]


FORMS: dict[str, tuple[dict[str, str], dict[str, str], list[list[State]]]] = {
    "answers": ({"a.json": '{"cat": 1, "dog": 0}', "b.json": '{"cat": null, "dog": true}'}, {},
                [[Y, N], [U, Y]]),
    "both": ({"a.json": '{"present": ["cat"], "absent": ["dog"]}', "b.json": '{"present": []}'}, {},
             [[Y, N], [U, U]]),
    "list": ({"a.json": '["cat"]', "b.json": '["dog"]'}, {"blank": "absent"}, [[Y, N], [N, Y]]),
    "key": ({"a.json": '{"tag": ["cat"]}', "b.json": '{"tag": ["dog"], "x": 1}'},
            {"blank": "unknown", "labels": "tag"}, [[Y, U], [U, Y]]),
    "number": ({"a.cls": "0", "b.cls": "1\n"}, {"blank": "absent", "categories": "names.txt"},
               [[Y, N], [N, Y]]),
    "lists called differently": (
        {"a.json": '{"present": ["cat"], "absent": ["dog"]}', "b.json": '{"labels": "cat; dog"}',
         "c.json": '{"absent": ["cat"]}', "d.txt": "dog"}, {},
        [[Y, N], [Y, Y], [N, U], [U, Y]]),
    "null": ({"a.json": '{"tags": ["cat", "dog"]}', "b.json": '{"tags": null}'},
             {"blank": "absent"}, [[Y, Y], [U, U]]),
    "field": ({"a.json": '{"o": {"id": [1]}, "x": 1}', "b.json": '{"o": null}'},
              {"labels": "o.id", "blank": "absent", "categories": "names.txt"}, [[N, Y], [U, U]]),
    "numbers": ({"a.cls": "0", "b.json": '{"label": 1, "absent": [0]}'},
                {"categories": "names.txt"}, [[Y, U], [N, Y]]),
    "absent as a category": ({"a.json": '{"cat": 1, "absent": 0}', "b.json": "{}"},
                             {"categories": "names2.txt"}, [[Y, N], [U, U]]),
    "json first": ({"a.cls": "1", "a.json": '["cat"]', "a.txt": "owl", "b.json": '["dog"]'},
                   {"blank": "absent"}, [[Y, N], [N, Y]]),
}  # fmt: skip


@pytest.mark.parametrize("members, options, expected", FORMS.values(), ids=FORMS)
def test_forms_of_labels(tmp_path, members, options, expected):
    write(tmp_path, {"names.txt": "cat\ndog\n", "names2.txt": "cat\nabsent\n"})
    images = {f"{letter}.png": image_bytes(ord(letter)) for letter in "abcd"[: len(expected)]}
    shard(tmp_path, "train/0.tar", images | members)
    data = read("webdataset", tmp_path, **options)
    names = ("cat", "absent") if "names2.txt" in options.values() else ("cat", "dog")
    assert data.category_names == names and states(data) == expected


@pytest.mark.parametrize(
    "first, second, message",
    [
        ('{"cat": 1}', '["cat"]', r"b\.json lists names, but .*a\.json has none of the keys"),
        ('{"present": ["cat"]}', '{"caption": "a cat"}', r"a\.json lists .* b\.json has none"),
        ('["cat"]', "[1]", r"a\.json lists names, but .*b\.json lists numbers"),
        ('["cat"]', '["cat", 1]', r"b\.json: expected a list of names, or of numbers"),
        ('["cat"]', '{"labels": {"cat": 1}}', r"b\.json: expected a list .* got {'cat': 1}"),
        ('["cat"]', "[99999999999999999999]", r"b\.json: expected a list .* got \[9+\]"),
        ('["cat"]', '{"tags": ["a"], "labels": []}', r"b\.json has both 'labels' and 'tags'"),
        ('{"cat": 1}', '{"cat": {"a": 1}}', r"b\.json should list names .*, or hold 1, 0"),
        ('{"names": ["cat"]}', '{"names": []}', r"a\.json should .* as option labels=NAME"),
    ],
)
@pytest.mark.parametrize("shards", [("train.tar", "train.tar"), ("train-0.tar", "test-0.tar")])
def test_labels_are_written_alike_or_refused(tmp_path, shards, first, second, message):
    members: dict[str, dict[str, bytes | str]] = {name: {} for name in shards}
    members[shards[0]] |= {"a.png": PNG, "a.json": first}
    members[shards[1]] |= {"b.png": JPEG, "b.json": second}
    for name, files in members.items():
        shard(tmp_path, name, files)
    with pytest.raises(DataError, match=message):
        read("webdataset", tmp_path)


def test_a_key_that_was_named_must_be_there(tmp_path):
    shard(tmp_path, "train.tar", {"a.png": PNG, "a.json": '{"tag": ["cat"]}',
                                  "b.png": JPEG, "b.json": '{"x": 1, "y": 2}'})  # fmt: skip
    with pytest.raises(DataError, match=r"b\.json has no key 'tag', but x, y\. Name another"):
        read("webdataset", tmp_path, labels="tag", blank="absent")


def test_members_that_only_look_like_images_are_counted(tmp_path, caplog):
    members = {"a.png": PNG, "a.json": '["cat"]', "a.left.png": PNG, "b.c.jpg": PNG, "d.cr2": "x"}
    shard(tmp_path, "train.tar", members)
    assert states(read("webdataset", tmp_path, blank="absent")) == [[Y]]
    (told,) = caplog.messages
    assert "holds 1 images. 2 images have a further dot" in told and "first a.left.png" in told
    assert "(1 .cr2; first d.cr2)" in told
    shard(tmp_path, "train.tar", {"a.left.png": PNG})
    with pytest.raises(DataError, match=r"holds no image .* 1 images have a further dot"):
        read("webdataset", tmp_path, blank="absent")


def test_shards_that_make_no_sense(tmp_path):
    def fails(message: str, members: Mapping[str, bytes | str], **options: str) -> None:
        shard(tmp_path, "train.tar", members)
        with pytest.raises(DataError, match=message):
            read("webdataset", tmp_path, **options)

    fails(r"holds no image", {"a.json": "[]"})
    fails(r"a\.png and a\.jpg share a name", {"a.png": PNG, "a.jpg": JPEG})
    fails(r"a\.json is no JSON", {"a.png": PNG, "a.json": "{"})
    fails(r"a\.json: expected an object", {"a.png": PNG, "a.json": "7"})
    fails(r"option blank=absent", {"a.png": PNG, "a.json": '["cat"]'})
    mixed = {"a.png": PNG, "a.json": '{"cat": 1}', "b.png": PNG, "b.json": '{"cat": "yes"}'}
    fails(r"'cat' holds numbers and str\. Write all alike", mixed)
    fails(r"image 1 is empty", {"a.png": b"", "a.json": '["cat"]'}, blank="absent")
    write(tmp_path, {"train.tar": b"\1" * 600})
    with pytest.raises(DataError, match="is no tar file, or cut off"):
        read("webdataset", tmp_path)
    with pytest.raises(DataError, match=r"the test set was expected at test\.tar"):
        read("webdataset", tmp_path, "test")


def test_a_shard_that_was_cut_anywhere_is_refused(tmp_path):
    members = {"a.png": PNG, "a.json": '["cat"]', "b.json": '["dog"]' + " " * 900, "b.png": JPEG}
    whole = (shard(tmp_path, "train.tar", members) / "train.tar").read_bytes()
    end = sum(512 + (len(data) + 511) // 512 * 512 for data in members.values())
    for size in range(256, end + 256, 256):
        write(tmp_path, {"train.tar": whole[:size]})
        with pytest.raises(DataError, match=r"train\.tar is (no tar file, or )?cut off"):
            read("webdataset", tmp_path, blank="absent")
    write(tmp_path, {"train.tar": whole[: end + 512]})
    assert states(read("webdataset", tmp_path, blank="absent")) == [[Y, N], [N, Y]]
    write(tmp_path, {"train.tar": whole[:end] + b"\1" * 10_240})
    with pytest.raises(DataError, match=f"no block of zeros closes it at byte {end:,}"):
        read("webdataset", tmp_path, blank="absent")


@pytest.mark.parametrize("pack", [bz2.compress, gzip.compress, lzma.compress])
def test_a_compressed_shard_that_was_cut_is_refused(tmp_path, pack):
    noise = random.Random(0).randbytes(40_000)  # does not become shorter
    shard(tmp_path, "train.tar", {"a.png": PNG, "a.json": '["cat"]', "b.txt": noise.hex()})
    packed = pack((tmp_path / "train.tar").read_bytes())
    write(tmp_path, {"train.tar": packed})
    assert states(read("webdataset", tmp_path, blank="absent"))[0][0] is Y
    write(tmp_path, {"train.tar": packed[:30_000]})
    with pytest.raises(DataError, match=r"train\.tar is no tar file, or cut off"):
        read("webdataset", tmp_path, blank="absent")


# Hugging Face ---------------------------------------------------------------------------------

FEATURES = {"image": {"_type": "Image"},
            "place": {"names": ["sea", "air", "land"], "_type": "ClassLabel"},
            "labels": {"feature": {"names": ["zebra", "cat"], "_type": "ClassLabel"},
                       "_type": "Sequence"}}  # fmt: skip


def arrow(images: list[bytes], labels: list[list[int]], *, footer: bool = False) -> bytes:
    frame = pl.DataFrame(
        {"image": [{"bytes": data, "path": None} for data in images], "labels": labels},
        schema_overrides={"labels": pl.List(pl.Int64)},
    )
    file = io.BytesIO()
    frame.write_ipc(file) if footer else frame.write_ipc_stream(file)
    return file.getvalue()


@pytest.mark.parametrize("footer", [False, True])
def test_a_set_that_was_saved_to_disk(tmp_path, cache, footer):
    files = {"dataset_dict.json": '{"splits": ["train", "test"]}'}
    for split in ("train", "test"):
        shards = [{"filename": f"data-0000{k}-of-00002.arrow"} for k in (1, 0)]
        files[f"{split}/state.json"] = json.dumps({"_data_files": shards})
        files[f"{split}/dataset_info.json"] = json.dumps({"features": FEATURES})
    write(tmp_path, files)
    first = arrow([PNG], [[1, 0]], footer=footer)
    second = arrow([WEBP, JPEG], [[], [1]], footer=footer)
    for split in ("train", "test"):
        write(tmp_path, {f"{split}/data-00000-of-00002.arrow": second,
                         f"{split}/data-00001-of-00002.arrow": first})  # fmt: skip
    data = read("huggingface", tmp_path, blank="absent")
    assert data.category_names == ("zebra", "cat") and data.root == cache
    assert data.images == (NAMES[0], NAMES[3], NAMES[1])
    assert states(data) == [[Y, Y], [N, N], [N, Y]]
    assert states(read("huggingface", tmp_path, "test", blank="absent")) == states(data)
    write(tmp_path, {"test/data-00000-of-00002.arrow": b"\xff\xff\xff\xff cut"})
    with pytest.raises(DataError, match="is no Arrow file, or damaged"):
        read("huggingface", tmp_path, "test", blank="absent")


@pytest.mark.parametrize("footer", [False, True])
def test_no_flipped_bit_of_an_arrow_file_ends_the_process(tmp_path, footer):
    """Polars alone aborts where a length becomes absurd: no test could fail then."""
    content, path = arrow([b"", b"x"], [[1, 0], []], footer=footer), tmp_path / "a.arrow"
    random.seed(0)
    refused = 0
    for place in range(0, len(content), 4):
        damaged = bytearray(content)
        damaged[place] ^= 1 << random.randrange(8)
        path.write_bytes(damaged)
        try:
            read_arrow(path)
        except DataError:
            refused += 1
    assert refused > len(content) // 40


@pytest.mark.parametrize(
    "state",
    ["[]", "{}", '{"_data_files": ["data.arrow"]}', '{"_data_files": {"filename": 5}}',
     '{"_data_files": [{"name": "x"}]}', '{"_data_files": [{"filename": 5}]}'],
)  # fmt: skip
def test_a_state_that_lists_no_files(tmp_path, state):
    write(tmp_path, {"train/state.json": state})
    with pytest.raises(DataError, match=r"train/state\.json should list files as in .* but holds"):
        read("huggingface", tmp_path)


def hub_parquet(path: Path, labels: list[list[int]]) -> None:
    path.parent.mkdir(parents=True)
    images = [{"bytes": data, "path": "a.png"} for data in IMAGES[: len(labels)]]
    pl.DataFrame({"image": images, "labels": labels}).write_parquet(
        path, metadata={"huggingface": json.dumps({"info": {"features": FEATURES}})}
    )


def test_a_folder_of_the_hub_s_cache(tmp_path):
    root = tmp_path / "datasets--me--zoo"
    for revision, labels in (("abc", [[0], [1]]), ("def", [[1], [1]])):
        hub_parquet(root / "snapshots" / revision / "data/train-00000-of-00001.parquet", labels)
    with pytest.raises(DataError, match=r"holds 2 revisions and .*main names none"):
        read("huggingface", root, blank="absent")
    write(root, {"refs/main": "abc\n"})
    data = read("huggingface", root, blank="absent")
    assert data.category_names == ("zebra", "cat") and states(data) == [[Y, N], [N, Y]]
    with pytest.raises(DataError, match="has no test split; none of test, validation"):
        read("huggingface", root, "test", blank="absent")


METADATA = {
    "train/metadata.csv": 'file_name,labels\r\na.png,"[""cat"", ""dog""]"\r\nsub/b.png,"[]"\r\n',
    "validation/metadata.jsonl": '{"file_name": "c.png", "labels": ["owl"]}\r\n\r\n',
}


def test_metadata_above_all_folders(tmp_path):
    write(tmp_path, {"train/a.png": PNG, "train/b.png": JPEG, "val/c.png": PNG})
    lines = [{"file_name": name, "labels": names} for name, names in
             (("train/a.png", ["cat"]), ("val/c.png", ["dog"]), ("train/b.png", []))]  # fmt: skip
    write(tmp_path, {"metadata.jsonl": "\n".join(map(json.dumps, lines))})
    data = read("huggingface", tmp_path, blank="absent")
    assert data.images == ("train/a.png", "train/b.png") and states(data) == [[Y, N], [N, N]]
    assert states(read("huggingface", tmp_path, "test", blank="absent")) == [[N, Y]]
    write(tmp_path, {"c.png": PNG, "metadata.jsonl": '{"file_name": "c.png", "labels": ["cat"]}'})
    assert read("huggingface", tmp_path, blank="absent").images == ("c.png",)


def test_a_folder_of_images_with_metadata(tmp_path):
    write(tmp_path, METADATA)
    write(tmp_path, {"train/a.png": PNG, "train/sub/b.png": JPEG, "validation/c.png": PNG})
    data = read("huggingface", tmp_path, blank="absent")
    assert data.images == ("train/a.png", "train/sub/b.png") and data.root == tmp_path
    assert states(data) == [[Y, Y, N], [N, N, N]]
    test = read("huggingface", tmp_path, "test", blank="absent")
    assert test.images == ("validation/c.png",) and states(test) == [[N, N, Y]]
    write(tmp_path, {"train/metadata.csv": "file_name,cat,dog\na.png,1,\nsub/b.png,0,1\n"})
    write(tmp_path, {"validation/metadata.jsonl": '{"file_name": "c.png", "cat": 1, "dog": 0}'})
    assert states(read("huggingface", tmp_path)) == [[Y, U], [N, Y]]
    write(tmp_path, {"validation/metadata.jsonl": '{"name": "c.png"}'})
    with pytest.raises(DataError, match="has no column 'file_name', but name"):
        read("huggingface", tmp_path)
    write(tmp_path, {"validation/metadata.jsonl": '{"file_name": 5, "cat": 1}'})
    with pytest.raises(DataError, match=r"metadata\.jsonl: the column .* but holds numbers"):
        read("huggingface", tmp_path)
    (tmp_path / "train/metadata.csv").unlink()
    with pytest.raises(DataError, match=r"Arrow or Parquet files, or its metadata was expected at"):
        read("huggingface", tmp_path)


def test_a_null_list_beside_an_image_is_unknown(tmp_path):
    write(tmp_path, {f"train/{name}.png": PNG for name in "abc"})
    lines = ['{"file_name": "a.png", "labels": ["cat"]}', '{"file_name": "b.png", "labels": []}',
             '{"file_name": "c.png", "labels": null}']  # fmt: skip
    write(tmp_path, {"train/metadata.jsonl": "\n".join(lines)})
    assert states(read("huggingface", tmp_path, blank="absent")) == [[Y], [N], [U]]
    (tmp_path / "train/metadata.jsonl").unlink()
    write(
        tmp_path, {"train/metadata.csv": 'file_name,labels\na.png,"[""cat""]"\nb.png,[]\nc.png,\n'}
    )
    assert states(read("huggingface", tmp_path, blank="absent")) == [[Y], [N], [U]]
    write(tmp_path, {"train/metadata.csv": "file_name,labels\na.png,cat;dog\nb.png,dog\nc.png,\n"})
    data = read("huggingface", tmp_path, blank="absent")
    assert states(data) == [[Y, Y], [N, Y], [N, N]]  # no cell holds JSON, so a blank lists nothing
