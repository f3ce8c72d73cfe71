import pytest

from tests.sets import N, U, Y, image_bytes, read, states, write
from trmml.errors import DataError, MissingSplitError

FILES = {
    "train/cat/1.png": image_bytes(0), "train/cat/2.png": image_bytes(1),
    "train/dog/copy of 2.png": image_bytes(1), "train/dog/1.png": image_bytes(2),
    "val/owl/1.png": image_bytes(3),
}  # fmt: skip


def test_an_image_in_several_folders_has_all_their_categories(tmp_path):
    write(tmp_path, FILES)
    data = read("class-folders", tmp_path, blank="absent")
    assert data.images == ("train/cat/1.png", "train/cat/2.png", "train/dog/1.png")
    assert data.category_names == ("cat", "dog", "owl")
    assert states(data) == [[Y, N, N], [Y, Y, N], [N, Y, N]]
    single = read("class-folders", tmp_path, blank="unknown")
    assert states(single) == [[Y, U, U], [Y, Y, U], [U, Y, U]]
    assert states(read("class-folders", tmp_path, "test", blank="absent")) == [[N, N, Y]]


def test_a_category_may_be_a_link(tmp_path):
    write(tmp_path, {"set/train/cat/1.png": image_bytes(0), "elsewhere/2.png": image_bytes(1)})
    (tmp_path / "set/train/dog").symlink_to(tmp_path / "elsewhere")
    data = read("class-folders", tmp_path / "set", blank="absent")
    assert data.images == ("train/cat/1.png", "train/dog/2.png")
    assert states(data) == [[Y, N], [N, Y]]


def test_folders_without_a_split_are_to_train_on(tmp_path):
    write(tmp_path, {name[6:]: content for name, content in FILES.items() if name[0] == "t"})
    assert read("class-folders", tmp_path, blank="absent").category_names == ("cat", "dog")
    with pytest.raises(
        MissingSplitError, match=r"test/CATEGORY/IMAGE or validation.*--split train"
    ):
        read("class-folders", tmp_path, "test", blank="absent")


def test_a_category_may_be_called_train(tmp_path):
    files = ("boat/1.png", "car/1.png", "train/1.png", "train/steam/1.png")
    write(tmp_path, {name: image_bytes(number) for number, name in enumerate(files)})
    data = read("class-folders", tmp_path, blank="absent")
    assert data.images == files
    assert data.category_names == ("boat", "car", "train")
    with pytest.raises(MissingSplitError):
        read("class-folders", tmp_path, "test", blank="absent")
    (tmp_path / "train/1.png").unlink()
    with pytest.raises(DataError, match=r"in boat/, .*in train/ none do.*move its images"):
        read("class-folders", tmp_path, blank="absent")


def test_folders_that_hold_no_images_beside_splits_are_passed_over(tmp_path):
    write(tmp_path, FILES | {"notes/1.txt": b"", "spare/cat/1.png": image_bytes(5)})
    assert read("class-folders", tmp_path, blank="absent").category_names == ("cat", "dog", "owl")


def test_a_loose_image_beside_several_splits_makes_no_categories_of_them(tmp_path):
    files = FILES | {"test/cat/9.png": image_bytes(9), "samples/1.png": image_bytes(8)}
    write(tmp_path, files)
    assert "samples" not in read("class-folders", tmp_path, blank="absent").category_names


def test_what_class_folders_refuse(tmp_path):
    write(tmp_path, FILES)
    with pytest.raises(DataError, match=r"but not what they do not. Choose option blank=absent"):
        read("class-folders", tmp_path)
    write(tmp_path, {"train/Cat/3.png": image_bytes(4)})
    with pytest.raises(DataError, match=r"'Cat' .* and 'cat', .*case"):
        read("class-folders", tmp_path, blank="absent")
    (tmp_path / "train/Cat/3.png").rename(tmp_path / "train/3.png")
    (tmp_path / "train/Cat").rmdir()
    with pytest.raises(DataError, match=r"3\.png lies in no category's folder"):
        read("class-folders", tmp_path, blank="absent")
