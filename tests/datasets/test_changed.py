"""Changed cells of a table: bytes that are not filled stay, whatever the dialect."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from trmml.datasets.tables.changed import Cells, signs_of, with_cells
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
    names, texts = ("owl", "cat", "dog"), signs_of(None)  # the table lacks owls
    lines, columns, signs = np.array([[second, first], [1, 2], [2, 1]])
    some = Cells(lines, columns, signs, names, texts)
    assert with_cells(table, some).decode() == after
    other = Cells(lines[:1], columns[:1] - 1, signs[:1] - 1, names[1:], texts)
    assert with_cells(table, other, some).decode() == after  # the later counts
    none = Cells(lines[:0], columns[:0], signs[:0], names, texts)
    assert with_cells(table, none) == with_cells(table) == table.read_bytes() == before.encode()


def test_a_large_table_makes_no_object_for_each_cell(tmp_path: Path) -> None:
    table, rows, columns = tmp_path / "labels.csv", 2000, 100
    names = [f"c{n}" for n in range(columns)]
    lines = [f"{n}.jpg{',' * columns}" for n in range(rows)]
    table.write_text("\n".join([",".join(["image", *names]), *lines]) + "\n")
    line, column = (each.ravel() for each in np.mgrid[2 : rows + 2, :columns])
    cells = Cells(line, column, column % 2 + 1, names, signs_of(None))
    tracemalloc.start()
    try:
        filled = with_cells(table, cells)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert filled.decode().split("\n")[rows] == f"{rows - 1}.jpg" + ",0,1" * (columns // 2)
    # Arrays of eight bytes a cell; a list of pieces takes over 150 in all, a dict as much again.
    assert most < 110 * rows * columns
