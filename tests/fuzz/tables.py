"""Label tables, wide and long, as CSV and Parquet, lists of names, and image files."""

import io
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import polars as pl
from PIL import Image

from tests.fuzz.damage import Damage, as_json, as_text, bits, json_lines, one_of, words
from tests.fuzz.target import Target, in_folder
from tests.sets import image_bytes
from trmml.datasets.formats.folder import read_categories, read_folder
from trmml.images import read_image

WIDE = "image,cat,dog\na.png,1,0\nb.png,,-1\n"
LONG = 'image;present;absent\na.png;"cat;dog";\nb.png;;owl\n'
TABS = "file\tlabels\na.png\tcat\nb.png\tcat;dog\n"
ROWS = "ImageID,label,confidence\na,cat,1\na,dog;owl,0\nb.png,cat,1\n"
LISTED = "a.png,0 2\nb.png\t1\n"
LINES = '{"image": "a.png", "labels": ["cat"]}\n{"image": "b.png", "labels": []}\n'
CREATE_ML = '[{"image": "a.png", "annotations": [{"label": "cat"}]}, {"image": "b", "cat": 1}]'
FIFTY_ONE = '{"classes": ["cat"], "labels": {"a": [{"label": "dog"}], "b": [0]}}'
CVAT = """<annotations><meta/><image id="0" name="a.png"><tag label="cat"/></image>
<image name="b.png"><box label="dog" xtl="1"/></image></annotations>"""
IMAGES = {"a.png": image_bytes(0), "b.png": image_bytes(1)}


def _read(table: str, root: Path, minus_one: Any = None) -> object:
    return read_folder(root, root / table, blank="absent", minus_one=minus_one)


def _csv(name: str, text: str, minus_one: Any = None) -> Target:
    files = IMAGES | {"t.csv": text}
    return in_folder(name, "t.csv", files, partial(_read, "t.csv", minus_one=minus_one), as_text)


def _form(name: str, file: str, content: str, damage: Damage) -> Target:
    """A form in place of a table."""

    def read(root: Path) -> object:
        return read_folder(root, root / file, blank="absent", categories=_LISTED.get(name))

    return in_folder(name, file, IMAGES | {file: content}, read, damage)


_LISTED = {"form-list": ["cat", "dog", "owl"]}


def parquet(data: bytes, random: Random) -> bytes:
    """The rows of a Parquet file with a column of another kind, name or place."""
    try:
        frame = pl.read_parquet(io.BytesIO(data))
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
        return data  # damaged already
    name = random.choice(frame.columns)
    frame = frame.with_columns(_column(name, frame.height, random))
    if random.random() < 0.2:
        new = random.choice(("", "a", "image", "present", "absent", "\xe4"))
        frame = frame if new in frame.columns else frame.rename({name: new})
    if random.random() < 0.1:
        frame = frame.head(random.randrange(2))
    file = io.BytesIO()
    frame.write_parquet(file)
    return file.getvalue()


_CELLS: tuple[tuple[list[Any], Any], ...] = (
    ([1, None], pl.Int8), ([2**63 - 1, -1], pl.Int64), ([2**64 - 1, 0], pl.UInt64),
    ([float("nan"), 1e300], pl.Float64), ([True, None], pl.Boolean), ([None, None], pl.Null),
    (["", "a"], pl.String), (["a", "b"], pl.Categorical), (["\0", "a\u2028"], pl.String),
    ([b"", b"\xff"], pl.Binary), ([[], None], pl.List(pl.String)), ([["cat"], [None]], None),
    ([[0], [-1, 2**40]], pl.List(pl.Int64)), ([[2**64 - 1], []], pl.List(pl.UInt64)),
    ([[[0]], [[1]]], None), ([{"a": 1}, None], None), ([[{"a": 1}], []], None),
    ([[True], [False]], None), ([[0.5], [1.0]], None), ([0, 1], pl.Date),
    ([0, 1], pl.Datetime), ([0, 1], pl.Duration), ([1, 0], pl.Decimal(10, 2)),
    ([{"bytes": b"", "path": None}, {"bytes": None, "path": "x"}], None),
    ([{"category": ["cat"]}, {"category": None}], None), ([[1, 0], [0, 1]], pl.Array(pl.Int64, 2)),
)  # fmt: skip


def _column(name: str, height: int, random: Random) -> pl.Series:
    values, kind = random.choice(_CELLS)
    repeated = (values * height)[:height]
    if kind in (pl.Date, pl.Datetime, pl.Duration):
        return pl.Series(name, repeated, pl.Int32 if kind == pl.Date else pl.Int64).cast(kind)
    return pl.Series(name, repeated, kind)


def _parquet_table(name: str, frame: pl.DataFrame) -> Target:
    file = io.BytesIO()
    frame.write_parquet(file)
    files = IMAGES | {"t.parquet": file.getvalue()}
    damage: Damage = one_of(parquet, bits)
    return in_folder(name, "t.parquet", files, partial(_read, "t.parquet"), damage)


def _image(form: str) -> Target:
    return Target(f"image-{form.lower()}", image_bytes(3, (9, 7), form), read_image, bits)


def _gif() -> bytes:
    frames = [Image.new("P", (8, 4), shade) for shade in range(3)]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    return file.getvalue()


TARGETS = (
    _csv("table-wide", WIDE, "unknown"),
    _csv("table-wide-unsaid", WIDE.replace("-1", "0")),
    _csv("table-long", LONG),
    _csv("table-tabs", TABS),
    _parquet_table(
        "table-parquet-wide",
        pl.DataFrame({"image": ["a.png", "b.png"], "cat": [1, 0], "dog": [None, 1]}),
    ),
    _parquet_table(
        "table-parquet-long",
        pl.DataFrame({"image": ["a.png", "b.png"], "present": [["cat"], []], "absent": ["x", ""]}),
    ),
    _form("form-rows", "t.csv", ROWS, as_text),
    _form("form-list", "t.txt", LISTED, as_text),
    _form("form-lines", "t.jsonl", LINES, one_of(json_lines, as_text)),
    _form("form-createml", "t.json", CREATE_ML, as_json),
    _form("form-fiftyone", "t.json", FIFTY_ONE, as_json),
    _form("form-cvat", "t.xml", CVAT, as_text),
    in_folder(
        "categories", "c.txt", {"c.txt": "cat\ndog\n"},
        lambda root: read_categories(root / "c.txt"), words,
    ),
    *map(_image, ("PNG", "JPEG", "WEBP", "TIFF", "BMP")),
    Target("image-gif", _gif(), read_image, bits),
)  # fmt: skip
