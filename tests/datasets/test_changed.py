"""Changed cells of a table: bytes that are not filled stay, whatever the dialect."""

from pathlib import Path

import pytest

from trmml.datasets.tables.changed import with_cells
from trmml.datasets.tables.table import read_table


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("image,cat,dog\na.jpg,1,\nb.jpg,,0\n", "image,cat,dog\na.jpg,1,0\nb.jpg,1,0\n"),
        (
            '\ufeffimage;note;"cat";dog\r\n"a.jpg";"x;""y""\nz";TRUE;\r\n\r\nb.jpg;;  ;no',
            '\ufeffimage;note;"cat";dog\r\n"a.jpg";"x;""y""\nz";TRUE;0\r\n\r\nb.jpg;;1;no',
        ),
        (
            "sep=,\nimage,cat,dog\na.jpg,1.0,\r\nb.jpg,,0\n",
            "sep=,\nimage,cat,dog\na.jpg,1.0,0\r\nb.jpg,1,0\n",
        ),
        (
            "image\tdog\tcat\ra.jpg\t\tyes\rb.jpg\t0\t",
            "image\tdog\tcat\ra.jpg\t0\tyes\rb.jpg\t0\t1",
        ),
    ],
)  # fmt: skip
def test_only_named_cells_differ(before: str, after: str, tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    table.write_bytes(before.encode())
    first, second = read_table(table).rows
    filled = with_cells(table, {(first, "dog"): "0", (second, "cat"): "1"})
    assert filled.decode() == after
    assert with_cells(table, {}) == table.read_bytes() == before.encode()
