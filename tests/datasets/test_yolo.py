from pathlib import Path

import pytest

from tests.sets import N, U, Y, boxes, read, states, write, write_images
from trmml.errors import DataError

YAML = "\ufefftrain: images/train\r\nval: images/val\r\nnc: 3\r\n"
YAML += "names:\r\n  0: cat\r\n  1: dog\r\n  2: owl\r\n"
LABELS = {
    "labels/train/a.txt": "2 0.5 0.5 0.5 1.0\r\n0 0.1 0.1 0.4 0.2 0.93\r\n2 0.5 0.5 0.5 1.0\r\n",
    "labels/train/b.txt": "",
    "labels/train/d.txt": "1 0.2 0.2 0.6 0.2 0.6 0.4 0.4 0.8\n",
    "labels/val/e.txt": "0 0.5 0.5 1 1\n",
}
IMAGES = [f"images/train/{name}.png" for name in "abcd"] + ["images/val/e.png"]


def write_yolo(root: Path) -> Path:
    write(root, {"data.yaml": YAML} | LABELS)
    write_images(root, IMAGES)
    return root


NO_FILE = {"unknown": [U, U, U], "absent": [N, N, N]}


@pytest.mark.parametrize("choice, unlabelled", NO_FILE.items())
def test_an_empty_file_is_an_answer_and_no_file_is_asked_about(tmp_path, choice, unlabelled):
    data = read("yolo", write_yolo(tmp_path), no_file=choice)
    assert data.images == tuple(IMAGES[:4]) and data.category_names == ("cat", "dog", "owl")
    assert states(data) == [[Y, N, Y], [N, N, N], unlabelled, [N, Y, N]]
    assert boxes(data) == [
        (IMAGES[0], "owl", (0.25, 0.0, 0.75, 1.0)),
        (IMAGES[0], "cat", (0.0, 0.0, 0.3, 0.2)),
        (IMAGES[3], "dog", (0.2, 0.2, 0.6, 0.8)),
    ]


def test_images_without_a_file_may_be_dropped(tmp_path):
    data = read("yolo", write_yolo(tmp_path), no_file="drop")
    assert data.images == (IMAGES[0], IMAGES[1], IMAGES[3])
    assert boxes(data)[-1][0] == IMAGES[3]
    assert read("yolo", tmp_path, no_file="unknown").matrix.known_share == 0.75


def test_without_a_word_nothing_is_made_up(tmp_path):
    assert states(read("yolo", write_yolo(tmp_path)))[2] == [U, U, U]


def test_the_test_set_may_be_called_val(tmp_path):
    data = read("yolo", write_yolo(tmp_path), "test")
    assert data.images == ("images/val/e.png",) and states(data) == [[Y, N, N]]
    with pytest.raises(DataError, match=r"a list, or images in images/test, was expected"):
        read("yolo", tmp_path, "test", test="test")


@pytest.mark.parametrize("form", ["{}/images/{}.png", "{}/images/sub/{}.png"])
def test_splits_outside_and_names_one_a_line(tmp_path, form):
    write(tmp_path, {"classes.txt": "cat\r\ndog\r\n"})
    for part, name, line in (("train", "a", "0 0.5 0.5 1 1"), ("valid", "b", "1 0.5 0.5 1 1")):
        image = form.format(part, name)
        write_images(tmp_path, [image])
        write(tmp_path, {image.replace("images", "labels").replace(".png", ".txt"): line})
    assert states(read("yolo", tmp_path)) == [[Y, N]]
    assert states(read("yolo", tmp_path, "test")) == [[N, Y]]


def test_lists_and_labels_beside_images(tmp_path):
    lists = {"train.txt": "./photos/a.png\r\nphotos/gone.png\r\n", "obj.names": "cat\n"}
    write(tmp_path, lists | {"photos/a.txt": "0 0.5 0.5 1 1\n", "data.yaml": "names: [cat]"})
    write_images(tmp_path, ["photos/a.png"])
    with pytest.raises(DataError, match=r"1 of the 2 train images .*gone\.png \(entry 2"):
        read("yolo", tmp_path)
    assert states(read("yolo", tmp_path, missing="drop")) == [[Y]]


def test_a_plain_folder_is_a_training_set(tmp_path):
    write(tmp_path, {"classes.txt": "cat", "labels/a.txt": ""})
    write_images(tmp_path, ["images/a.png"])
    with pytest.raises(DataError, match=r"all 1 label files .* are empty.* option blank=absent"):
        read("yolo", tmp_path)
    assert states(read("yolo", tmp_path, blank="absent")) == [[N]]
    assert states(read("yolo", tmp_path, blank="unknown")) == [[U]]
    with pytest.raises(DataError, match="a list, or images in images/test"):
        read("yolo", tmp_path, "test")


@pytest.mark.parametrize(
    "line, message",
    [
        ("3 0.5 0.5 1 1", r"a\.txt line 1: category 3 is none of the 3 names"),
        ("-1 0.5 0.5 1 1", "category -1 is none"),
        ("0.5 0.5 0.5 1 1", r"category 0\.5 is none"),
        ("0 0.5 0.5 1", "4 numbers .* got 3 numbers"),
        ("0 .1 .1 .2 .2 .3 .3 .4", "got 7 numbers"),
        ("cat 0.5 0.5 1 1", "expected numbers, got 'cat"),
        ("0 120 80 40 30", r"a\.txt line 1: expected shares .*got \[120\.0, 80.* Divide pixels"),
        ("0 nan .5 .2 .2", "expected shares of width and height in"),
        ("0 .5 .5 -.2 .2", "expected shares of width and height in"),
        ("0 .1 .1 .2 inf .3 .3", "expected shares of width and height in"),
    ],
)
def test_lines_that_make_no_sense(tmp_path, line, message):
    write(write_yolo(tmp_path), {"labels/train/a.txt": line})
    with pytest.raises(DataError, match=message):
        read("yolo", tmp_path)


def test_rounding_beyond_the_border_is_cut(tmp_path):
    line = "0 1.004 0.5 0.4 1.002 0.9\n1 -0.003 0 0.5 0 0.5 1.005\n"
    write(write_yolo(tmp_path), {"labels/train/a.txt": line})
    found = [box[1:] for box in boxes(read("yolo", tmp_path)) if box[0] == IMAGES[0]]
    assert found == [("cat", (0.804, 0.0, 1.0, 1.0)), ("dog", (0.0, 0.0, 0.5, 1.0))]


@pytest.mark.parametrize(
    "text, message",
    [
        ("names: {1: cat, 2: dog}", "a mapping that counts from 0"),
        ("nc: 3", "needs 'names'"),
        ("names: [cat, cat]", "'cat' twice"),
        ("names: [cat", "is no YAML"),
        ("names: [[cat]]", "needs 'names'"),
        ("nc: 2\nnames: [cat]", "has 1 names, but nc is '2'"),
        ("kpt_shape: [3]\nnames: [cat]", r"expected kpt_shape as in \[17, 3\]"),
        ("a: &a [cat]\nnames: *a", "holds YAML references"),
        (f"names: {'[' * 9000}", "lists lie in each other more than 20 deep"),
        (f"names: [cat]\nx: {'x' * (1 << 20)}", "is too long for names and folders"),
    ],
)
def test_names_that_are_none(tmp_path, text, message):
    write(write_yolo(tmp_path), {"data.yaml": text})
    with pytest.raises(DataError, match=message):
        read("yolo", tmp_path)


def test_a_folder_without_labels(tmp_path):
    write(tmp_path, {"classes.txt": "cat"})
    write_images(tmp_path, ["images/train/a.png"])
    with pytest.raises(DataError, match=r"none of the 1 images .* expected at labels/train/a\.txt"):
        read("yolo", tmp_path, no_file="absent")


def test_data_yaml_says_which_folder_is_which(tmp_path):
    names = [f"images/{part}2017/{name}.png" for part, name in (("train", "a"), ("val", "b"))]
    write_images(tmp_path, names)
    lines = {"labels/train2017/a.txt": "0 0.5 0.5 1 1\n", "labels/val2017/b.txt": "0 0.5 0.5 1 1\n"}
    write(tmp_path, lines | {"classes.txt": "cat\n"})
    with pytest.raises(DataError, match=r"holds folders \(train2017, val2017\).*data.yaml"):
        read("yolo", tmp_path)  # not both of them as the training set
    (tmp_path / "classes.txt").unlink()
    card = f"path: {tmp_path.name}\ntrain: images/train2017\nval: [images/val2017]\nnames: [cat]\n"
    write(tmp_path, {"data.yaml": card})
    assert read("yolo", tmp_path).images == (names[0],)
    assert read("yolo", tmp_path, "test").images == (names[1],)
    write(tmp_path, {"data.yaml": "train: ../elsewhere/images\nval: lists/v.txt\nnames: [cat]\n"})
    write(tmp_path, {"lists/v.txt": f"{names[1]}\n"})
    assert read("yolo", tmp_path, "test").images == (names[1],)


def write_parts(root: Path, card: str) -> list[str]:
    names = [f"images/{part}/{part}.png" for part in ("one", "two", "three")]
    write_images(root, names)
    labels = {name.replace("images", "labels").replace("png", "txt"): "" for name in names}
    lists = {"l1.txt": f"{names[1]}\n{names[0]}\n", "l2.txt": f"\n{names[2]}\n{names[1]}\n"}
    write(root, labels | lists | {"data.yaml": f"{card}\nnames: [cat]\n"})
    return names


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        ("[l1.txt, l2.txt]", [1, 0, 2]),
        ("[images/two, l1.txt]", [1, 0]),
        ("[l2.txt, images/one]", [2, 1, 0]),
        ("[images/three, images/one, images/three]", [2, 0]),
        ("l1.txt", [1, 0]),
    ],
)
def test_all_places_of_data_yaml_are_read_each_image_once(tmp_path, places, expected):
    names = write_parts(tmp_path, f"train: {places}")
    data = read("yolo", tmp_path, blank="absent")
    assert data.images == tuple(names[index] for index in expected)
    assert data.rows == tuple(range(1, len(expected) + 1))


def test_a_part_of_the_places_is_no_set(tmp_path):
    write_parts(tmp_path, "train: [images/one, images/four, l3.txt]")
    message = r"names 3 places for train, .* no images/four and no l3\.txt\. Correct them"
    with pytest.raises(DataError, match=message):
        read("yolo", tmp_path, blank="absent")


def test_the_usual_place_stands_in_and_is_told(tmp_path, caplog):
    names = write_parts(tmp_path, "train: ../train/images\ntest: test.txt\nval: images/two")
    with pytest.raises(DataError, match=r"holds folders \(one, three, two\)"):
        read("yolo", tmp_path, blank="absent")  # not all of images/
    write_images(tmp_path, ["train/images/a.png"])
    write(tmp_path, {"train/labels/a.txt": ""})
    assert read("yolo", tmp_path, blank="absent").images == ("train/images/a.png",)
    (told,) = caplog.messages
    assert "names ../train/images, which is not below" in told and "is train/images" in told
    assert read("yolo", tmp_path, "test", blank="absent").images == (names[1],)
    assert "names test.txt, which is not below" in caplog.messages[1]


def test_a_place_may_be_a_link(tmp_path):
    names = write_parts(tmp_path / "set", "train: images/linked")
    (tmp_path / "set/images/one").rename(tmp_path / "elsewhere")
    (tmp_path / "set/images/linked").symlink_to(tmp_path / "elsewhere")
    write(tmp_path / "set", {"labels/linked/one.txt": ""})
    data = read("yolo", tmp_path / "set", blank="absent")
    assert data.images == (names[0].replace("one/", "linked/"),)


def test_names_stay_text(tmp_path):
    write(write_yolo(tmp_path), {"data.yaml": "names: [no, null, 007, 1:30]\nnc: 4\n"})
    assert read("yolo", tmp_path).category_names == ("no", "null", "007", "1:30")


def test_key_points_are_no_polygon(tmp_path):
    line = "0 0.5 0.5 0.2 0.2  0.1 0.1 2  0.9 0.9 0\n"
    write(write_yolo(tmp_path), {"data.yaml": YAML + "kpt_shape: [2, 3]\n"})
    write(tmp_path, dict.fromkeys(LABELS, line))
    assert boxes(read("yolo", tmp_path))[0][2] == (0.4, 0.4, 0.6, 0.6)
    write(tmp_path, {"labels/train/a.txt": "1 0.5 0.5 0.2 0.2\n"})
    assert boxes(read("yolo", tmp_path))[0][1:] == ("dog", (0.4, 0.4, 0.6, 0.6))
    write(tmp_path, {"labels/train/a.txt": "0 0.5 0.5 0.2 0.2 0.1 0.1\n"})
    with pytest.raises(DataError, match=r"line 1: expected a category, 4 numbers and 6 of key"):
        read("yolo", tmp_path)


def test_lists_may_have_a_prefix_or_whole_paths(tmp_path):
    lines = ["data/trip/a.png", f"{tmp_path}/trip/b.png", f"file://{tmp_path}/trip/c%20d.png"]
    write(tmp_path, {"train.txt": "\n".join(lines), "obj.names": "cat\n"})
    names = ("trip/a.png", "trip/b.png", "trip/c d.png")
    write_images(tmp_path, names)
    write(tmp_path, {"trip/a.txt": "0 0.5 0.5 1 1\n"})
    assert read("yolo", tmp_path).images == names
    write(tmp_path, {"train.txt": "/elsewhere/trip/a.png\n"})
    with pytest.raises(
        DataError, match=r"train\.txt line 1: '/elsewhere.* leads out of the images folder"
    ):
        read("yolo", tmp_path)
