import csv
import io
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trmml.datasets import Dataset
from trmml.datasets.formats.folder import read_categories, read_folder
from trmml.datasets.tables.names import folded
from trmml.datasets.tables.table import read_table
from trmml.errors import ConfigError, DataError, TrmmlError
from trmml.labels.matrix import LabelMatrix

State = bool | None
Write = Callable[..., Path]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    for name in ("a.jpg", "b.jpg", "c.jpg", "sub/d e.png", "sub/deep/ß.webp"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str | bytes, name: str = "labels.csv") -> Path:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def states(data: Dataset) -> list[list[State]]:
    pairs = zip(data.matrix.labels.tolist(), data.matrix.known.tolist(), strict=True)
    return [[yes if there else None for yes, there in zip(*pair, strict=True)] for pair in pairs]


WIDE = "image,cat,dog,owl\na.jpg,1,0,\nb.jpg,yes,no,\nsub/d e.png,TRUE,False,  \n"


def test_wide_by_hand(root: Path, write: Write) -> None:
    data = read_folder(root, write(WIDE))
    assert data.images == ("a.jpg", "b.jpg", "sub/d e.png")
    assert data.category_names == ("cat", "dog", "owl")
    assert data.rows == (2, 3, 4)
    assert states(data) == [[True, False, None]] * 3
    assert data.paths[2] == root / "sub" / "d e.png" and len(data) == 3
    part = data.subset([2, 0])
    assert part.images == ("sub/d e.png", "a.jpg") and part.rows == (4, 2)
    assert torch.equal(part.matrix.known, data.matrix.known[[2, 0]])


def test_long_by_hand(root: Path, write: Write) -> None:
    table = write("image,present,absent\na.jpg,cat; owl,dog\nb.jpg,,cat\nc.jpg,,\n")
    data = read_folder(root, table)
    assert data.category_names == ("cat", "dog", "owl")
    assert states(data) == [[True, False, True], [False, None, None], [None, None, None]]
    closed = read_folder(root, table, blank="absent")
    assert states(closed) == [[True, False, True], [False] * 3, [False] * 3]


@pytest.mark.parametrize("name", ["present", "labels", "tags", "Tags"])
def test_long_without_absent_needs_blank(root: Path, write: Write, name: str) -> None:
    table = write(f"image,{name}\na.jpg,cat;dog;cat;;\nb.jpg,dog\n")
    with pytest.raises(DataError, match=r"labels\.csv lists in '.*' what is present, but not"):
        read_folder(root, table)
    absent = read_folder(root, table, blank="absent")
    assert states(absent) == [[True, True], [False, True]]
    assert states(read_folder(root, table, blank="unknown")) == [[True, True], [None, True]]


def test_wide_blank_is_absent_only_when_said(root: Path, write: Write) -> None:
    assert states(read_folder(root, write(WIDE), blank="absent")) == [[True, False, False]] * 3


def test_minus_one(root: Path, write: Write) -> None:
    table = write("image,cat,dog,owl,fox\na.jpg,1,0,-1,\n")
    with pytest.raises(
        DataError, match=r"labels\.csv line 2, column 'owl' holds -1.*unknown.*DualCoOp.*HCP-MLR"
    ):
        read_folder(root, table)
    unknown = read_folder(root, table, minus_one="unknown")
    assert states(unknown) == [[True, False, None, None]]
    absent = read_folder(root, table, minus_one="absent")
    assert states(absent) == [[True, None, False, None]]
    words = write("image,cat,dog\na.jpg,no,-1\n")
    assert states(read_folder(root, words, minus_one="absent")) == [[False, False]]


def test_wide_categories_restrict_and_order(root: Path, write: Write) -> None:
    table = write("split,image,cat,dog,note\ntrain,a.jpg,1,0,see below\n")
    data = read_folder(root, table, categories=["dog", " cat "])
    assert data.category_names == ("dog", "cat") and states(data) == [[False, True]]


def test_long_categories_leave_other_words_out(root: Path, write: Write) -> None:
    table = write("image,tags\na.jpg,cat;sky\nb.jpg,sky\n")
    data = read_folder(root, table, blank="absent", categories=["dog", "cat"])
    assert data.category_names == ("dog", "cat")
    assert states(data) == [[False, True], [False, False]]


@pytest.mark.parametrize("column", ["image", "file", "filename", "path", "Image", " FILE "])
def test_names_of_the_image_column(root: Path, write: Write, column: str) -> None:
    assert read_folder(root, write(f"{column},cat\na.jpg,1\n")).images == ("a.jpg",)


@pytest.mark.parametrize(
    "text",
    [
        "\ufeff" + WIDE,
        WIDE.replace("\n", "\r\n"),
        WIDE.replace("\n", "\r"),
        WIDE.rstrip("\n"),
        WIDE.replace(",", ";"),
        WIDE.replace(",", "\t"),
        WIDE.replace("a.jpg", '"a.jpg"').replace("cat", '" cat "'),
        WIDE.replace("1,0,", "1.0,0.0,"),
        WIDE.replace(",yes,", ", YES ,"),
    ],
    ids=["mark", "crlf", "cr", "no last end", ";", "tab", "quoted", "floats", "spaces"],
)
def test_spellings_of_one_table(root: Path, write: Write, text: str) -> None:
    data = read_folder(root, write(text))
    assert data.category_names == ("cat", "dog", "owl") and data.rows == (2, 3, 4)
    assert states(data) == [[True, False, None]] * 3


def test_lines_are_those_of_an_editor(root: Path, write: Write) -> None:
    text = '\nimage,"a ""b"",\nc",dog\n\na.jpg,1,0\n\n\n"b.jpg",0,\n,,\nc.jpg,,\n\n'
    data = read_folder(root, write(text.replace("\n", "\r\n")))
    assert data.category_names == ('a "b",\nc', "dog")
    assert data.rows == (5, 8, 10) and data.images == ("a.jpg", "b.jpg", "c.jpg")


def test_lists_between_quotes_in_a_table_with_semicolons(root: Path, write: Write) -> None:
    data = read_folder(root, write('image;present;absent\na.jpg;"cat;dog";owl\n'))
    assert states(data) == [[True, True, False]]
    with pytest.raises(DataError, match=r"line 2 has 4 fields .* 3 .*by ';'; put a field .* quot"):
        read_folder(root, write("image;present;absent\na.jpg;cat;dog;owl\n"))


@pytest.mark.parametrize(
    "name", [r"sub\d e.png", "./sub/d e.png", "sub//d e.png", " sub/./d e.png "]
)
def test_spellings_of_an_image_name(root: Path, write: Write, name: str) -> None:
    assert read_folder(root, write(f"image,cat\n{name},1\n")).images == ("sub/d e.png",)


@pytest.mark.parametrize("on_disk", ["NFC", "NFD"])
@pytest.mark.parametrize("in_table", ["NFC", "NFD"])
def test_accents_may_be_stored_apart(root: Path, write: Write, on_disk: str, in_table: str) -> None:
    name = "été/ñandú.jpg"
    path = root / unicodedata.normalize(on_disk, name)  # type: ignore[arg-type]
    path.parent.mkdir()
    path.touch()
    text = unicodedata.normalize(in_table, f"image,ñandú\n{name},1\n")  # type: ignore[arg-type]
    data = read_folder(root, write(text), categories=["n\u0303andu\u0301"])
    assert data.paths == [path] and data.paths[0].exists()
    assert data.category_names == ("ñandú",)


def test_parquet_of_every_cell_type(root: Path, tmp_path: Path) -> None:
    columns = {
        "bool": pl.Series([True, False, None]),
        "int": pl.Series([1, 0, None], dtype=pl.Int8),
        "unsigned": pl.Series([1, 0, None], dtype=pl.UInt64),
        "float": pl.Series([1.0, 0.0, float("nan")]),
        "text": pl.Series(["Yes", "0", ""]),
        "category": pl.Series(["true", "no", None], dtype=pl.Categorical),
    }
    path = tmp_path / "labels.parquet"
    pl.DataFrame({"file": ["a.jpg", "b.jpg", "c.jpg"], **columns}).write_parquet(path)
    data = read_folder(root, path)
    assert data.category_names == tuple(columns) and data.rows == (1, 2, 3)
    assert states(data) == [[True] * 6, [False] * 6, [None] * 6]


def test_parquet_of_lists(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "labels.parquet"
    lists = [["cat", "salt; pepper"], [], None]
    frame = pl.DataFrame({"image": ["a.jpg", "b.jpg", "c.jpg"], "tags": lists})
    frame.write_parquet(path)
    data = read_folder(root, path, blank="absent")
    assert data.category_names == ("cat", "salt; pepper")
    assert states(data) == [[True, True], [False, False], [False, False]]


def test_a_parquet_of_nothing_known(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "labels.parquet"
    pl.DataFrame({"image": ["a.jpg"], "cat": [None]}).write_parquet(path)
    assert states(read_folder(root, path)) == [[None]]


def test_columns_that_are_not_read_are_named(
    root: Path, write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    table = write("image,tags,absent,split\na.jpg,cat,dog,train\n")
    read_folder(root, table, categories=["cat", "owl"])
    assert "the columns ['split'] are not read" in caplog.text
    assert "never lists 1 categories: ['owl']" in caplog.text


def test_a_column_that_is_no_category_may_be_left_out(root: Path, write: Write) -> None:
    table = write("image,cat,note\na.jpg,1,nice\n")
    with pytest.raises(DataError, match=r"--categories FILE; .* option categories=FILE or its cat"):
        read_folder(root, table)


def test_categories_of_a_file(write: Write) -> None:
    path = write("\ufeffcat\r\n\r\n ice cream \nn\u0303u, or so\n", "words.txt")
    assert read_categories(path) == ["cat", "ice cream", "ñu, or so"]
    for text, message in (
        ("cat\n\nCat\ncat\n", r"words\.txt names 'cat' twice"),
        (" \n", r"words\.txt is empty\. It needs a category name per line\."),
        (b"caf\xe9", r"words\.txt line 1 is not UTF-8: byte 0xe9\. Save it as UTF-8"),
    ):
        with pytest.raises(DataError, match=message):
            read_categories(write(text, "words.txt"))
    with pytest.raises(
        DataError, match=r"none\.txt: no such file. Name a text file with a category name"
    ):
        read_categories(path.with_name("none.txt"))


# Whatever the names: wide = long, and CSV = Parquet

names = st.text(
    st.characters(codec="utf-8", exclude_characters="\0\r;\u200b\u2060\ufeff\u00ad"),
    min_size=1,
    max_size=8,
).filter(lambda name: name.strip() != "" and name.strip() == unicodedata.normalize("NFC", name))
reserved = {"image", "file", "filename", "path", "present", "labels", "tags", "absent"}
reserved |= {"1", "1.0", "yes", "true", "0", "0.0", "no", "false", "-1", "-1.0"}
category_lists = st.lists(
    names.filter(lambda name: name.casefold() not in reserved), min_size=1, max_size=5, unique=True
)


def as_csv(header: list[str], rows: list[list[str]], separator: str) -> bytes:
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter=separator, quoting=csv.QUOTE_MINIMAL)
    writer.writerows([header, *rows])
    return file.getvalue().encode()


def test_a_name_that_begins_with_a_comma_does_not_set_the_separator(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    (tmp_path / "t.csv").write_bytes(b"image\t,0\na.jpg\t1\n")
    assert read_folder(tmp_path, tmp_path / "t.csv").category_names == (",0",)


@settings(max_examples=60, deadline=None)
@given(
    categories=category_lists,
    cells=st.lists(
        st.lists(st.sampled_from([True, False, None]), min_size=5, max_size=5),
        min_size=1,
        max_size=6,
    ),
    separator=st.sampled_from(",;\t"),
)
def test_odd_names_survive_every_form(
    tmp_path_factory: pytest.TempPathFactory,
    categories: list[str],
    cells: list[list[State]],
    separator: str,
) -> None:
    folder = tmp_path_factory.mktemp("odd")
    cells = [row[: len(categories)] for row in cells]
    files = [f"{index}, é;.jpg" for index in range(len(cells))]
    for name in files:
        (folder / name).touch()
    sign = {True: "1", False: "0", None: ""}
    wide = [[name, *(sign[cell] for cell in row)] for name, row in zip(files, cells, strict=True)]

    def listed(wanted: bool) -> list[list[str]]:
        return [
            [c for c, cell in zip(categories, row, strict=True) if cell is wanted] for row in cells
        ]

    long = [
        [name, ";".join(present), ";".join(absent)]
        for name, present, absent in zip(files, listed(True), listed(False), strict=True)
    ]
    header = ["image", "present", "absent"]
    (folder / "wide.csv").write_bytes(as_csv(["image", *categories], wide, separator))
    (folder / "long.csv").write_bytes(as_csv(header, long, separator))
    columns = {name: [row[i] for row in cells] for i, name in enumerate(categories)}
    types = dict.fromkeys(categories, pl.Boolean)
    frame = pl.DataFrame({"image": files, **columns}, schema_overrides=types)
    frame.write_parquet(folder / "wide.parquet")
    pl.DataFrame(
        {"image": files, "present": listed(True), "absent": listed(False)},
        schema_overrides={"present": pl.List(pl.String), "absent": pl.List(pl.String)},
    ).write_parquet(folder / "long.parquet")
    for name in ("wide.csv", "wide.parquet", "long.csv", "long.parquet"):
        if name.startswith("long") and not any(any(c is not None for c in row) for row in cells):
            with pytest.raises(DataError, match="lists no category"):
                read_folder(folder, folder / name)
            continue
        alike = len(set(map(folded, categories))) < len(categories)
        wanted = None if name.startswith("wide") and not alike else categories
        data = read_folder(folder, folder / name, categories=wanted)
        assert data.category_names == tuple(categories)
        assert data.images == tuple(files)
        assert states(data) == cells


# Failures: (table, message). Every message names the table and, where there is one, the line.

BROKEN_TABLES: dict[str, tuple[str | bytes, str]] = {
    "empty file": ("", r"is empty\. It needs a header line"),
    "only a mark": (b"\xef\xbb\xbf\n", r"is empty\."),
    "only a header": ("image,cat\n", "has a header and no row"),
    "only blank rows": ("image,cat\n,\n,\n", "has a header and no row"),
    "no image column": (
        "name,cat\na.jpg,1\n",
        r"line 1 names no image column: 'name,cat'.*filename",
    ),
    "a header without end": (f"image{'x' * 140_000}\n", "line 1 names no image column: 'imagex"),
    "no category": ("image\na.jpg\n", "has no category. Add a column per category"),
    "bad cell": (
        "image,cat\na.jpg,1\nb.jpg,maybe\n",
        r"line 3, column 'cat': 'maybe' is not one of 1",
    ),
    "number": (
        "image,cat\na.jpg,2\n",
        r"line 2, column 'cat': '2' is not .*Leave unknown cells bl",
    ),
    "not a category": (
        "image,cat,split\na.jpg,1,train\n",
        r"line 2, column 'split': 'train'.*categories",
    ),
    "cell after break": ('image,"c\nat"\na.jpg,x\n', r"line 3, column 'c\\nat': 'x'"),
    "image twice": (
        "image,cat\na.jpg,1\nb.jpg,\na.jpg,0\n",
        r"line 4: image 'a\.jpg' is in line 2",
    ),
    "image twice, spelled": (
        "image,cat\nsub/d e.png,1\nsub\\d e.png,0\n",
        "line 3: .* in line 2 already",
    ),
    "no image name": ("image,cat\n,1\n", "line 2, column 'image': an image name was expected"),
    "absolute": (
        "image,cat\n/etc/a.jpg,1\n",
        "line 2: '/etc/a.jpg' leads out of the images folder",
    ),
    "drive": ("image,cat\nC:\\a.jpg,1\n", r"line 2: 'C:\\\\a\.jpg' leads out"),
    "share": ("image,cat\n\\\\nas\\a.jpg,1\n", "line 2: .* leads out"),
    "parent": ("image,cat\nsub/../../a.jpg,1\n", "line 2: .* leads out .*without drive"),
    "missing image": (
        "image,cat\na.jpg,1\nbb.jpg,0\nzzz,1\n",
        r"line 3: there is no image 'bb\.jpg' in .*did you mean 'b\.jpg'\? 2 of 3 images are",
    ),
    "other suffix": ("image,cat\nC.png,1\n", r"line 2: .*did you mean 'c\.jpg'\? 1 of 1"),
    "missing folder": ("image,cat\nsup/a.jpg,1\n", r"line 2: there is no image 'sup/a\.jpg'"),
    "a folder": ("image,cat\nsub,1\n", "line 2: there is no image 'sub'"),
    "category twice": ("image,cat, cat \na.jpg,1,0\n", "header names 'cat' twice, as 2 and 3"),
    "twice but for accents": ("image,\u00e9,e\u0301\na.jpg,1,0\n", "header names 'é' twice"),
    "no column name": ("image,cat,\na.jpg,1,0\n", "column 3 has no name. Name it, remove it, or"),
    "short row": (
        "image,cat,dog\na.jpg,1,0\nb.jpg,1\n",
        "line 3 has 2 fields and the header has 3",
    ),
    "long row": ("image,cat\na.jpg,1\n\nb.jpg,1,0\n", "line 4 has 3 fields and the header has 2"),
    "open quote": ('image,cat\n"a.jpg,1\nb.jpg,0\n', r"opened and never closed.*line 2\. Close it"),
    "quote in a field": ('image,cat\na.jpg,1\n"b"x.jpg,0\n', r"line 3: .*double the quote inside"),
    "latin-1": (
        "image,café\na.jpg,1\n".encode("latin-1"),
        "line 1 is not UTF-8: byte 0xe9. Save it",
    ),
    "latin-1 below": (b"image,cat\na.jpg,1\nb\xfc.jpg,1\n", "line 3 is not UTF-8: byte 0xfc"),
    "utf-16": (WIDE.encode("utf-16"), "is UTF-16 or binary, not UTF-8 text. Save it as UTF-8"),
    "utf-16 no mark": (WIDE.encode("utf-16-le"), "is UTF-16 or binary"),
    "spreadsheet": (b"PK\x03\x04rest", "is a spreadsheet or zip file.*CSV UTF-8"),
    "broken parquet": (b"PAR1 and nothing else", "is a damaged Parquet file: .*Write it again"),
    "contradiction": (
        "image,present,absent\na.jpg,cat,\nb.jpg,cat;dog,owl; dog\n",
        "line 3: 'dog' is both present and absent .*Remove it from one",
    ),
    "two lists": ("image,tags,labels\na.jpg,cat,dog\n", "columns 'tags' and 'labels', which both"),
    "absent misspelled": (
        "image,tags,abesnt\na.jpg,cat,dog\n",
        "'abesnt' is unknown; did you mean 'absent'",
    ),
    "lists of nothing": ("image,tags,absent\na.jpg,,\n", "lists no category in 'tags'"),
    "wide as long": (
        "image,cat,tags\na.jpg,1,1\nb.jpg,0,0\n",
        "should list names as in 'cat;dog', but",
    ),
}


@pytest.mark.parametrize(("table", "message"), BROKEN_TABLES.values(), ids=BROKEN_TABLES.keys())
def test_broken_tables(root: Path, write: Write, table: str | bytes, message: str) -> None:
    path = write(table)
    blank = "unknown" if b"tags" in path.read_bytes() else None
    with pytest.raises(DataError, match=message) as caught:
        read_folder(root, path, blank=blank)
    assert str(path) in str(caught.value)


def test_broken_parquet_tables(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "labels.parquet"

    def message(**columns: object) -> str:
        pl.DataFrame(columns).write_parquet(path)
        with pytest.raises(DataError) as caught:
            read_folder(root, path, blank="absent")
        return str(caught.value).removeprefix(str(path))

    two = ["a.jpg", "b.jpg"]
    assert message(image=two, cat=[1, 7]).startswith(" row 2, column 'cat': 7 is not one of 1, 0")
    assert message(image=two, cat=[0.5, 1]).startswith(" row 1, column 'cat': 0.5 is not one of")
    assert message(image=two, cat=[[1], [0]]).startswith(": column 'cat' holds lists or objects,")
    assert message(image=two, tags=[1, 0]).startswith(": column 'tags' holds numbers, not lists")
    assert message(image=[1, 2], cat=[1, 0]).startswith(" row 1, column 'image': an image name was")
    assert message(image=[None, "a.jpg"], cat=[1, 0]).startswith(" row 1, column 'image': an image")
    assert message(name=two, cat=[1, 0]).startswith(
        " names no image column; its columns are name, "
    )
    assert message(**{"image": two, " cat": [1, 0], "cat": [1, 0]}).startswith(": the header names")
    path.write_text(WIDE)
    with pytest.raises(DataError, match=r"labels\.parquet is no Parquet file"):
        read_folder(root, path)


def test_places_that_are_not_there(root: Path, write: Write) -> None:
    table = write(WIDE)
    with pytest.raises(DataError, match=r"cannot read .*none\.csv: no such file. Name a CSV"):
        read_folder(root, table.with_name("none.csv"))
    with pytest.raises(DataError, match=r"cannot read .*images: it is a folder"):
        read_folder(root, root)
    with pytest.raises(
        DataError, match=r"the images folder .*none does not exist. Name the folder"
    ):
        read_folder(root / "none", table)
    with pytest.raises(DataError, match=r"the images folder .*labels\.csv is a file, not a folder"):
        read_folder(table, table)


def test_broken_category_lists(root: Path, write: Write) -> None:
    table = write(WIDE)
    with pytest.raises(
        DataError,
        match=r"no column 'dgo'; did you mean 'dog'\? 2 of 3 categories .* leave the name",
    ):
        read_folder(root, table, categories=["cat", "dgo", "cow"])
    with pytest.raises(DataError, match="categories names 'cat' twice, as 1 and 2"):
        read_folder(root, table, categories=["cat", " cat"])
    with pytest.raises(DataError, match="categories: name 2 is blank"):
        read_folder(root, table, categories=["cat", " "])
    with pytest.raises(DataError, match="categories is an empty list"):
        read_folder(root, table, categories=[])
    long = write("image,tags\na.jpg,cat\n")
    with pytest.raises(DataError, match=r"none of the 1 categories: 'Cat' .*did you mean 'cat'\?"):
        read_folder(root, long, blank="absent", categories=["Cat"])


def test_settings_with_another_value(root: Path, write: Write) -> None:
    from trmml.datasets.formats import folder

    with pytest.raises(ConfigError, match="blank must be 'unknown' or 'absent', not 'no'"):
        folder._check_choice("blank", "no")
    with pytest.raises(ConfigError, match="categories must be a list of names, not the text 'cat'"):
        read_folder(root, write(WIDE), categories="cat")


def test_a_dataset_of_unequal_parts_is_refused(root: Path) -> None:
    bits = torch.zeros(2, 3, dtype=torch.bool)
    with pytest.raises(DataError, match=r"of 2 images, 1 categories and 2 rows .*shape \(2, 3\)"):
        Dataset(root, ("a", "b"), ("cat",), LabelMatrix(bits, bits), (1, 2))


@settings(max_examples=150, deadline=None)
@given(
    st.binary(max_size=60), st.sampled_from([b"", b"image,", b"image,cat\n", b"PAR1", b'image,"'])
)
def test_random_bytes_never_raise_anything_else(
    tmp_path_factory: pytest.TempPathFactory, tail: bytes, head: bytes
) -> None:
    folder = tmp_path_factory.mktemp("bytes")
    path = folder / "labels.csv"
    path.write_bytes(head + tail)
    with pytest.raises(TrmmlError, match=r"labels\.csv"):
        read_folder(folder, path)


def test_more_names_than_anybody_trains_on_are_refused(root: Path, write: Write) -> None:
    names = [f"c{number}" for number in range(25_001)]
    table = write(f"image,tags\na.jpg,{';'.join(names)}\n")
    with pytest.raises(DataError, match=r"lists 25,001 names; at most 25,000 can be cat"):
        read_folder(root, table, blank="absent")
    assert len(read_folder(root, table, blank="absent", categories=names[:3]).category_names) == 3
    table = write(f"image,{','.join(names)}\na.jpg{',1' * len(names)}\n")
    with pytest.raises(DataError, match=r"labels\.csv has 25,002 columns; at most 25,000"):
        read_folder(root, table, categories=names[:3])


@pytest.mark.parametrize("blank", ["absent", "unknown"])
def test_many_columns_of_answers_are_read_as_numbers(root: Path, write: Write, blank: Any) -> None:
    names = [f"c{number}" for number in range(120)]
    lines = ["1,0,,-1" + ",0" * 116, '"1", 0,"",1' + ",1" * 116]
    rows = [f"{image},{line}" for image, line in zip(("a.jpg", "b.jpg"), lines, strict=True)]
    path = write("\n".join([f"image,{','.join(names)}", *rows]))
    table = read_table(path)
    assert {column.dtype for column in table.frame} == {pl.String, pl.Int8}
    assert table.frame.drop("0").estimated_size() <= 2 * 240  # bytes a cell, also with blanks
    data = read_folder(root, path, blank=blank, minus_one="absent")
    write("\n".join([f"image,{','.join(names)},x", *(f"{row},no" for row in rows)]))
    texts = read_folder(root, path, blank=blank, minus_one="absent", categories=names)
    assert read_table(path).column("c0").dtype == pl.String
    assert states(data) == states(texts)
    assert states(data)[0][:5] == [True, None, blank != "absent" and None, False, None]


@pytest.mark.parametrize("cell", ["01", "+1", "-0", "00", "2", "-2", "128", "1e0", "--1"])
def test_many_columns_with_another_number(root: Path, write: Write, cell: str) -> None:
    names = ",".join(f"c{number}" for number in range(120))
    for cells in (f"0{',1' * 118},{cell}", f'"{cell}"{",1" * 119}'):
        with pytest.raises(DataError, match=rf"line 2, column 'c\d+': '{re.escape(cell)}' is not"):
            read_folder(root, write(f"image,{names}\na.jpg,{cells}\n"))
    first = write(f"{names},image\n{cell}{',1' * 119},a.jpg\n")
    with pytest.raises(DataError, match=rf"line 2, column 'c0': '{re.escape(cell)}' is not"):
        read_folder(root, first)


def test_decimal_commas(root: Path, write: Write) -> None:
    assert states(read_folder(root, write("image;cat;dog\na.jpg;1,0;0,00\n"))) == [[True, False]]
