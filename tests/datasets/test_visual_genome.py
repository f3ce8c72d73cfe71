import json
import logging
from pathlib import Path

import pytest

from tests.sets import read, write, write_images
from trmml.errors import DataError

LABELS = {"2.jpg": [0, 17, 17], "713.jpg": [], "1.jpg": [199], "9.jpg": [3]}


def write_vg(root: Path, labels: object = None, size: int = 200) -> Path:
    write(
        root,
        {
            "train_list_500.txt": "\ufeff713.jpg\r\n2.jpg\r\n1.jpg",  # no line end at the end
            "test_list_500.txt": "9.jpg\n",
            f"vg_category_{size}_labels_index.json": json.dumps(labels or LABELS),
        },
    )
    write_images(root, ["VG_100K/713.jpg", "VG_100K_2/2.jpg", "VG_100K/1.jpg", "VG_100K/9.jpg"])
    return root


def present(data) -> list[list[int]]:
    assert data.matrix.known_share == 1
    return [row.nonzero()[:, 0].tolist() for row in data.matrix.labels]


def test_lists_and_labels_in_any_order_and_two_folders(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        data = read("vg200", write_vg(tmp_path))
    assert data.images == ("VG_100K/713.jpg", "VG_100K_2/2.jpg", "VG_100K/1.jpg")
    assert data.rows == (1, 2, 3) and data.boxes is None
    assert present(data) == [[], [0, 17], [199]]
    assert len(data.category_names) == 200 and data.category_names[17] == "category 17"
    assert "categories have numbers for names" in caplog.text
    assert present(read("vg200", tmp_path, "test")) == [[3]]


def test_names_that_are_given(tmp_path):
    write(write_vg(tmp_path), {"names.txt": "\n".join(f"thing {i}" for i in range(200))})
    assert read("vg200", tmp_path, names="names.txt").category_names[199] == "thing 199"
    write(tmp_path, {"names.txt": "one\ntwo\n"})
    with pytest.raises(DataError, match="holds 2 names, not 200"):
        read("vg200", tmp_path, names="names.txt")


def test_the_file_of_500_is_cut_at_200(tmp_path):
    labels = LABELS | {"2.jpg": [0, 200, 499]}
    assert present(read("vg200", write_vg(tmp_path, labels, 500))) == [[], [0], [199]]


@pytest.mark.parametrize("entry", [[200], [-1], ["cat"], "cat", None])
def test_labels_that_are_no_indices(tmp_path, entry):
    with pytest.raises(DataError, match=r"'2\.jpg' has .*, not a list of indices from 0 to 199"):
        read("vg200", write_vg(tmp_path, LABELS | {"2.jpg": entry}))


def test_what_does_not_fit(tmp_path):
    with pytest.raises(DataError, match=r"train_list_500\.txt line 2: .* no labels of '2\.jpg'"):
        read("vg200", write_vg(tmp_path, {"713.jpg": []}))
    write_vg(tmp_path)
    (tmp_path / "VG_100K_2/2.jpg").unlink()
    with pytest.raises(DataError, match=r"first expected at .*VG_100K/2\.jpg \(entry 2"):
        read("vg200", tmp_path)
    assert present(read("vg200", tmp_path, missing="drop")) == [[], [199]]
    write(tmp_path, {"train_list_500.txt": "1.jpg\n1.jpg\n"})
    with pytest.raises(DataError, match=r"line 2: '1\.jpg' is in line 1 already"):
        read("vg200", tmp_path)
    (tmp_path / "train_list_500.txt").unlink()
    with pytest.raises(DataError, match=r"the train list of VG-200 was expected at train_list_500"):
        read("vg200", tmp_path)
