from pathlib import Path

import pytest

from tests.sets import N, U, Y, read, states, write, write_images
from trmml.errors import DataError

IMAGES = {1: "001.Albatross/A_0046_18.jpg", 2: "001.Albatross/A 2.jpg", 10: "002.Ani/B_1.jpg",
          3: "002.Ani/B_2.jpg"}  # fmt: skip
NAMES = [
    "has_bill_shape::curved_(up_or_down)",
    "has_wing_color::blue",
    "has_size::small_(5_-_9_in)",
]
# The fifth field is a time; lines of image 10 have more fields or fewer, as some in the original.
LABELS = """\
1 1 1 4 27.708\r
1 2 0 1 0.5\r
1 3 1 2 9.0\r
10 1 1 3 0 0 5.018\r
10 2 1 1 3 2.3\r
10 3 0 4\r
2 1 0 3 1.0\r
2 2 0 2 1.0\r
3 3 1 4 1.0\r
3 1 0 1 1.0\r
3 2 0 3 1.0\r
"""


def write_cub(root: Path, base: str = "CUB_200_2011", labels: str = LABELS) -> Path:
    write(
        root,
        {
            "attributes.txt": "\ufeff"
            + "".join(f"{i} {name}\r\n" for i, name in enumerate(NAMES, 1)),
            f"{base}/images.txt": "".join(f"{i} {name}\n" for i, name in IMAGES.items()),
            f"{base}/train_test_split.txt": "3 0\n1 1\n2 0\n10 1\n",
            f"{base}/attributes/image_attribute_labels.txt": labels,
        },
    )
    write_images(root, [f"{base}/images/{name}" for name in IMAGES.values()])
    return root


def test_attributes_whatever_the_certainty(tmp_path):
    data = read("cub", write_cub(tmp_path))
    assert data.category_names == ("bill shape: curved (up or down)", "wing color: blue",
                                   "size: small (5 - 9 in)")  # fmt: skip
    assert data.images == (f"CUB_200_2011/images/{IMAGES[1]}", f"CUB_200_2011/images/{IMAGES[10]}")
    assert data.rows == (1, 10) and states(data) == [[Y, N, Y], [Y, Y, N]]
    test = read("cub", tmp_path, "test")
    assert test.rows == (2, 3) and states(test) == [[N, N, U], [N, N, Y]]


def test_what_was_not_seen_or_guessed_is_unknown(tmp_path, caplog):
    write_cub(tmp_path)
    assert states(read("cub", tmp_path, certainty="use")) == [[Y, U, U], [Y, U, N]]
    assert states(read("cub", tmp_path, "test", certainty="use")) == [[N, U, U], [U, N, Y]]
    assert "labels.txt: 1 of 12 pairs have no line and are unknown" in caplog.text


@pytest.mark.parametrize("base", [".", "CUB_200_2011/CUB_200_2011"])
def test_wherever_it_was_unpacked(tmp_path, base):
    write_cub(tmp_path, base)
    write(
        tmp_path, {f"{base}/attributes/attributes.txt": (tmp_path / "attributes.txt").read_bytes()}
    )
    data = read("cub", tmp_path)
    assert states(data) == [[Y, N, Y], [Y, Y, N]] and all(path.is_file() for path in data.paths)


@pytest.mark.parametrize(
    "labels, message",
    [
        ("1 1 1\n", r"filled line 1: '1 1 1' does not begin with image, attribute, 0 or 1"),
        ("1 1 1 4 2.0\n\n1 2 2 4 2.0\n", r"filled line 2: .* \(1 such lines\)"),
        ("1 1 1 5 2.0\n", "a certainty of 1 to 4"),
        ("4 1 1 4 2.0\n", "labels image 4 with attribute 1"),
        ("11 1 1 4 2.0\n", "labels image 11 with attribute 1"),
        ("1 4 1 4 2.0\n", "labels image 1 with attribute 4"),
        ("1 0 1 4 2.0\n", "labels image 1 with attribute 0"),
        ("1 1 1 4 2.0\n1 1 0 4 2.0\n", "both 0 and 1 of image 1, attribute 1"),
        ("\n", "is empty"),
    ],
)
def test_labels_that_make_no_sense(tmp_path, labels, message):
    with pytest.raises(DataError, match=message):
        read("cub", write_cub(tmp_path, labels=labels))


def test_a_line_twice_is_a_line(tmp_path):
    write_cub(tmp_path, labels=LABELS + "1 1 1 4 27.708\n")
    assert states(read("cub", tmp_path)) == [[Y, N, Y], [Y, Y, N]]


def test_files_that_do_not_fit(tmp_path):
    write_cub(tmp_path)
    write(tmp_path, {"CUB_200_2011/train_test_split.txt": "1 1\n2 0\n10 2\n3 0\n"})
    with pytest.raises(DataError, match=r"image 10 of images\.txt should be 1 .* but is '2'"):
        read("cub", tmp_path)
    write(tmp_path, {"CUB_200_2011/images.txt": "1 a.jpg\n1 b.jpg\n"})
    with pytest.raises(DataError, match=r"images\.txt line 2: the number 1 is there twice"):
        read("cub", tmp_path)
    write(tmp_path, {"CUB_200_2011/images.txt": "a.jpg\n"})
    with pytest.raises(DataError, match=r"line 1: expected a number and a text, got 'a\.jpg'"):
        read("cub", tmp_path)
    with pytest.raises(DataError, match=r"image list of CUB was expected at .* holds 001\.Alb"):
        read("cub", tmp_path / "CUB_200_2011/images")
