import io
from pathlib import Path

import numpy as np
import pytest

from tests.sets import read, write, write_images
from trmml.datasets.formats.nus_wide import NUS_NAMES
from trmml.errors import DataError

TRAIN = ["actor\\0001_2124494179.jpg", "zebra\\0002_2.jpg", "actor\\0003_3.jpg"]
TEST = ["zebra\\0009_9.jpg"]
MARKS = {("sky", 0): 1, ("zebra", 0): 1, ("airport", 2): 1}


def test_there_are_81_concepts_in_order():
    assert len(NUS_NAMES) == 81 == len(set(NUS_NAMES)) and list(NUS_NAMES) == sorted(NUS_NAMES)


def write_official(
    root: Path, truth: str = "Groundtruth/TrainTestLabels", end: str = "\r\n"
) -> Path:
    files = {
        "ImageList/TrainImagelist.txt": "\ufeff" + end.join(TRAIN) + end,
        "ImageList/TestImagelist.txt": end.join(TEST),
    }
    for name in NUS_NAMES:
        marks = (str(MARKS.get((name, index), 0)) for index in range(len(TRAIN)))
        files[f"{truth}/Labels_{name}_Train.txt"] = end.join(marks) + end
        files[f"{truth}/Labels_{name}_Test.txt"] = "1\n" if name == "sky" else "0\n"
    write(root, files)
    write_images(root, [f"Flickr/{name}".replace("\\", "/") for name in TRAIN + TEST])
    return root


def present(data) -> list[set[str]]:
    names = data.category_names
    return [{names[i] for i in row.nonzero()[:, 0].tolist()} for row in data.matrix.labels]


def test_the_official_lists(tmp_path):
    data = read("nuswide", write_official(tmp_path))
    assert data.images == ("Flickr/actor/0001_2124494179.jpg", "Flickr/zebra/0002_2.jpg",
                           "Flickr/actor/0003_3.jpg")  # fmt: skip
    assert data.category_names == NUS_NAMES and data.rows == (1, 2, 3)
    assert present(data) == [{"sky", "zebra"}, set(), {"airport"}]
    assert data.matrix.known_share == 1
    assert present(read("nuswide", tmp_path, "test")) == [{"sky"}]


def test_images_without_a_concept_may_be_dropped(tmp_path):
    data = read("nuswide", write_official(tmp_path, "TrainTestLabels"), empty="drop")
    assert data.rows == (1, 3) and present(data) == [{"sky", "zebra"}, {"airport"}]


def test_an_order_of_concepts_of_its_own(tmp_path):
    names = NUS_NAMES[::-1]
    write(write_official(tmp_path), {"ConceptsList/Concepts81.txt": "\r\n".join(names)})
    data = read("nuswide", tmp_path)
    assert data.category_names == names and present(data)[0] == {"sky", "zebra"}
    write(tmp_path, {"Concepts81.txt": "\n".join(NUS_NAMES[1:])})
    with pytest.raises(DataError, match=r"81 concepts of NUS-WIDE, but differs in 'airport'"):
        read("nuswide", tmp_path)


def test_tags_say_what_is_there_and_nothing_else(tmp_path):
    row = ["0"] * 81
    row[2] = "1"
    lines = [" ".join(row), " ".join(["0"] * 81), " ".join(row)]
    write(write_official(tmp_path), {"NUS_WID_Tags/Train_Tags81.txt": " \n".join(lines)})
    data = read("nuswide", tmp_path, labels="tags")
    assert present(data) == [{"beach"}, set(), {"beach"}]
    assert int(data.matrix.known.sum()) == 2
    ragged = [" ".join(row[:-1]), " ".join([*row, "0"]), " ".join(row)]
    write(tmp_path, {"NUS_WID_Tags/Train_Tags81.txt": "\n".join(ragged)})
    with pytest.raises(DataError, match=r"Train_Tags81\.txt line 1: expected 81 times 0 or 1"):
        read("nuswide", tmp_path, labels="tags")
    with pytest.raises(DataError, match="published for the official lists"):
        read("nuswide", tmp_path, labels="tags", version="asl")


def test_official_files_that_do_not_fit(tmp_path):
    write_official(tmp_path)
    file = "Groundtruth/TrainTestLabels/Labels_sky_Train.txt"
    for content, message in (
        ("1\n0\n", r"Labels_sky_Train\.txt has 2 lines for 3 images"),
        ("1\n0\n2\n", r"Labels_sky_Train\.txt line 3: expected 1 times 0 or 1, got '2'"),
        ("1\n-1\n0\n", r"line 2: expected 1 times 0 or 1, got '-1'"),
        ("1 0\n0 0\n2 0\n", r"line 1: expected 1 times"),
        ("", r"Labels_sky_Train\.txt is empty"),
    ):
        write(tmp_path, {file: content})
        with pytest.raises(DataError, match=message):
            read("nuswide", tmp_path)
    (tmp_path / file).unlink()
    with pytest.raises(DataError, match=r"ground truth of 'sky' was expected at Groundtruth/"):
        read("nuswide", tmp_path)
    with pytest.raises(DataError, match=r"the train list was expected .* which holds Labels_"):
        read("nuswide", tmp_path / "Groundtruth/TrainTestLabels")


# ASL and SCPNet -------------------------------------------------------------------------------

ASL = """\ufefffilepath,label,split_name\r
images/0_2124494179_b.jpg,"['clouds', 'sky']",train\r
images/2_3.jpg,"['zebra']",val\r
images/1_2.jpg,"[]",train\r
images/4_5.jpg,"['']",train\r
"""


def test_the_table_of_asl(tmp_path):
    write(tmp_path, {"nus_wid_data.csv": ASL})
    write_images(tmp_path, ["images/0_2124494179_b.jpg", "images/2_3.jpg", "images/1_2.jpg",
                        "images/4_5.jpg"])  # fmt: skip
    data = read("nuswide", tmp_path, version="asl")
    assert data.images == ("images/0_2124494179_b.jpg", "images/1_2.jpg", "images/4_5.jpg")
    assert present(data) == [{"clouds", "sky"}, set(), set()] and data.rows == (2, 4, 5)
    assert present(read("nuswide", tmp_path, "test", version="asl")) == [{"zebra"}]


@pytest.mark.parametrize(
    "line, message",
    [
        ("images/a.jpg,\"['unicorn']\",train", r"line 2: 'unicorn' is none of the 81"),
        ("images/a.jpg,sky,train", r"line 2: the label 'sky' is no list"),
        ("images/a.jpg,\"__import__('os')\",train", r"line 2: the label .* is no list"),
        ("images/a.jpg,\"['sky']\",test", r"line 2: the split is 'test', neither"),
        ("images/a.jpg,\"['sky']\",val", r"no line whose split_name is 'train'"),
    ],
)
def test_a_table_with_something_else(tmp_path, line, message):
    write(tmp_path, {"nus_wid_data.csv": f"filepath,label,split_name\n{line}\n"})
    with pytest.raises(DataError, match=message):
        read("nuswide", tmp_path, version="asl")


def test_the_lists_of_scpnet(tmp_path):
    write(
        tmp_path,
        {
            "nus_train_full.txt": "images/b.jpg, 55 13 55\r\nimages/a.jpg,\r\n",
            "nus_val.txt": "images/c.jpg, 80\n",
        },
    )
    write_images(tmp_path, ["images/a.jpg", "images/b.jpg", "images/c.jpg"])
    data = read("nuswide", tmp_path, version="asl")
    assert data.images == ("images/b.jpg", "images/a.jpg")
    assert present(data) == [{"clouds", "sky"}, set()]
    assert present(read("nuswide", tmp_path, "test", version="asl")) == [{"zebra"}]
    write(tmp_path, {"nus_val.txt": "images/c.jpg, 81\n"})
    with pytest.raises(DataError, match=r"nus_val\.txt line 1: .* indices below 81"):
        read("nuswide", tmp_path, "test", version="asl")


# Cole et al. ----------------------------------------------------------------------------------


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def write_cole(root: Path, images: object, labels: object, part: str = "train") -> Path:
    write(
        root,
        {
            f"formatted_{part}_images.npy": npy(np.array(images)),
            f"formatted_{part}_labels.npy": npy(np.array(labels)),
        },
    )
    return root


def test_the_arrays_of_cole(tmp_path):
    labels = np.zeros((2, 81))
    labels[0, [13, 55]] = 1.0
    write_cole(tmp_path, ["zebra/2.jpg", "1.jpg"], labels)
    write_cole(tmp_path, ["1.jpg"], labels[:1], "val")
    write_images(tmp_path, ["Flickr/zebra/2.jpg", "Flickr/1.jpg"])
    data = read("nuswide", tmp_path, version="cole")
    assert data.images == ("Flickr/zebra/2.jpg", "Flickr/1.jpg")
    assert present(data) == [{"clouds", "sky"}, set()]
    assert present(read("nuswide", tmp_path, version="cole", empty="drop")) == [{"clouds", "sky"}]
    assert len(read("nuswide", tmp_path, "test", version="cole")) == 1


def test_the_same_as_text(tmp_path):
    marks = ["0"] * 81
    marks[80] = "1.0"
    write(tmp_path, {"formatted_train_images.txt": "a.jpg\r\n",
                     "formatted_train_labels.txt": " ".join(marks) + "\r\n"})  # fmt: skip
    write_images(tmp_path, ["a.jpg"])
    assert present(read("nuswide", tmp_path, version="cole")) == [{"zebra"}]


def test_arrays_that_do_not_fit(tmp_path):
    write_cole(tmp_path, ["a.jpg"], np.zeros((2, 81)))
    with pytest.raises(DataError, match=r"0 or 1 for 1 images and 81 concepts, but has the shape"):
        read("nuswide", tmp_path, version="cole")
    write_cole(tmp_path, ["a.jpg"], np.full((1, 81), -1))
    with pytest.raises(DataError, match=r"0 or 1 for 1 images"):
        read("nuswide", tmp_path, version="cole")
    write_cole(tmp_path, np.array(["a.jpg", None], dtype=object), np.zeros((1, 81)))
    with pytest.raises(DataError, match="needs pickle is not read"):
        read("nuswide", tmp_path, version="cole")
    write_cole(tmp_path, [1.5], np.zeros((1, 81)))
    with pytest.raises(DataError, match="another kind of array"):
        read("nuswide", tmp_path, version="cole")
