"""Files that hold images and labels: WebDataset shards, Parquet and Arrow."""

import io
import json
import tarfile
import tempfile
from collections.abc import Mapping
from random import Random
from typing import Any

import polars as pl

from tests.fuzz.damage import VALUES, as_json, bits, cut, one_of, words
from tests.fuzz.tables import parquet
from tests.fuzz.target import Target, of_data_set
from tests.sets import image_bytes

_UNPACK = tempfile.mkdtemp(prefix="trmml-fuzz-unpacked-")
_KINDS = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE,
          tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.GNUTYPE_SPARSE)  # fmt: skip


def shard(files: Mapping[str, bytes]) -> bytes:
    """A tar file."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return file.getvalue()


def other_members(data: bytes, random: Random) -> bytes:
    """A tar file in which a member has another name, kind or content."""
    file = io.BytesIO()
    form = random.choice((tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT, tarfile.GNU_FORMAT))
    with tarfile.open(fileobj=io.BytesIO(data)) as old:
        members = [(entry, old.extractfile(entry).read()) for entry in old]  # type: ignore[union-attr]
    place, act = random.randrange(len(members)), random.randrange(4)
    entry, content = members[place]
    if act == 0:
        entry.type = random.choice(_KINDS)
    elif act == 1:
        entry.name = random.choice(("../x.png", "/x.json", "x.y/0.json", ".json", "é.png", "0.cls",
                                    "0.txt", "1.json", "0.seg.png", "a" * 90 + ".png"))  # fmt: skip
    elif act == 2:
        content = random.choice(VALUES).encode()
    else:
        content = as_json(content, random) if entry.name.endswith("json") else bits(content, random)
    members[place] = (entry, content)
    with tarfile.open(fileobj=file, mode="w", format=form) as archive:
        for each, inside in members:
            each.size = len(inside)
            archive.addfile(each, io.BytesIO(inside))
    return file.getvalue()


def _shard(name: str, first: Any, second: Any, **options: str) -> Target:
    members = {
        "0.png": image_bytes(0), "0.json": json.dumps(first).encode(),
        "1.png": image_bytes(1), "1.json": json.dumps(second).encode(),
    }  # fmt: skip
    damage = one_of(other_members, bits)
    files = {"train.tar": shard(members), "names.txt": "cat\ndog\n"}
    return of_data_set(
        name, "webdataset", "train.tar", files, damage,
        unpack=_UNPACK, blank="absent", **options,
    )  # fmt: skip


def _texts() -> Target:
    members = {
        "0.png": image_bytes(0),
        "0.txt": b"cat;dog",
        "1.png": image_bytes(1),
        "1.txt": b"cat\n",
    }
    files = {"train.tar": shard(members)}
    return of_data_set(
        "webdataset-texts", "webdataset", "train.tar", files, one_of(other_members, bits, words),
        unpack=_UNPACK, blank="unknown",
    )  # fmt: skip


def _parquet(name: str, columns: Mapping[str, Any], **options: str) -> Target:
    file = io.BytesIO()
    frame = pl.DataFrame({"image": [image_bytes(0), image_bytes(1)], **columns})
    frame.write_parquet(file)
    files = {"train.parquet": file.getvalue(), "names.txt": "cat\ndog\n"}
    return of_data_set(
        name, "parquet", "train.parquet", files, one_of(parquet, bits),
        unpack=_UNPACK, blank="absent", **options,
    )  # fmt: skip


def _arrow() -> Target:
    file = io.BytesIO()
    frame = pl.DataFrame({"image": [image_bytes(0), image_bytes(1)], "labels": [["cat"], []]})
    frame.write_ipc_stream(file)
    files = {
        "train/data.arrow": file.getvalue(),
        "train/state.json": json.dumps({"_data_files": [{"filename": "data.arrow"}]}),
    }
    return of_data_set(
        "huggingface-arrow", "huggingface", "train/data.arrow", files, one_of(bits, cut),
        unpack=_UNPACK, blank="absent",
    )  # fmt: skip


TARGETS = (
    _shard("webdataset-lists", {"present": ["cat"], "absent": []}, {"present": [], "absent": []}),
    _shard("webdataset-keys", {"cat": 1, "dog": 0}, {"cat": None, "dog": True}),
    _shard("webdataset-field", {"a": {"b": ["cat"]}}, {"a": None}, labels="a.b"),
    _shard("webdataset-numbers", {"labels": [0]}, {"labels": []}, categories="names.txt"),
    _shard(
        "webdataset-vector", {"labels": [0, 1]}, {"labels": [1, 1]}, categories="names.txt",
        numbers="vector",
    ),
    _texts(),
    _parquet("parquet-lists", {"present": [["cat"], []], "absent": [["dog"], None]}),
    _parquet("parquet-wide", {"cat": [1, None], "dog": [0, 1]}, minus_one="unknown"),
    _parquet("parquet-numbers", {"labels": [[0], [1]]}, categories="names.txt"),
    _parquet(
        "parquet-vector", {"labels": [[0, 1], [1, 1]]}, categories="names.txt", numbers="vector"
    ),
    _parquet(
        "parquet-field", {"objects": [{"category": ["cat"]}, None]}, labels="objects.category"
    ),
    _arrow(),
)  # fmt: skip
