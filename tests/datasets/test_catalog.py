import logging
import re
from pathlib import Path

import pytest

from tests.sets import N, U, Y, boxes, read, states, write, write_images
from trmml.datasets.catalog import READERS, Counts, expected_counts, find_reader
from trmml.datasets.options import parse_options
from trmml.errors import ConfigError, DataError
from trmml.synthetic import write_scenes

FOLDER = {
    "categories.txt": "\ufeffdog\r\ncat\r\n",
    "train.csv": "image,labels\r\na.png,cat;sky\r\nsub/b.png,\r\n",
    "test.csv": "image,cat,dog\nc.png,1,\n",
    "boxes.csv": "image,category,left,top,right,bottom\nc.png,cat,0.1,0,0.5,1.0\n"
    "a.png,sky,0,0,1,1\na.png,cat,0,0,1,0.5\n",
}


def write_folder(root: Path) -> Path:
    write(root, FOLDER)
    write_images(root, ["images/a.png", "images/sub/b.png", "images/c.png"])
    return root


def test_a_folder_must_say_what_its_lists_leave_open(tmp_path):
    write_folder(tmp_path)
    with pytest.raises(DataError, match=r"not what is absent\. .* by name: option blank=absent or"):
        read("folder", tmp_path)
    data = read("folder", tmp_path, blank="absent")
    assert data.category_names == ("dog", "cat") and data.images == ("a.png", "sub/b.png")
    assert states(data) == [[N, Y], [N, N]]
    assert boxes(data) == [("a.png", "cat", (0.0, 0.0, 1.0, 0.5))]
    assert states(read("folder", tmp_path, blank="unknown")) == [[U, Y], [U, U]]


def test_a_blank_in_a_column_stays_unknown(tmp_path):
    data = read("folder", write_folder(tmp_path), "test")
    assert states(data) == [[U, Y]]
    assert boxes(data) == [("c.png", "cat", (0.1, 0.0, 0.5, 1.0))]
    with pytest.raises(DataError, match=r"data set by name: option minus_one=unknown or minus_one"):
        write(tmp_path, {"test.csv": "image,cat,dog\nc.png,1,-1\n"})
        read("folder", tmp_path, "test")
    assert states(read("folder", tmp_path, "test", minus_one="absent")) == [[N, Y]]


@pytest.mark.parametrize("name", ["corel5k", "posters"])
def test_published_lists_are_exhaustive(tmp_path, name):
    data = read(name, write_folder(tmp_path))
    assert states(data) == [[N, Y], [N, N]]


@pytest.mark.parametrize(
    "row, message",
    [
        ("c.png,cat,0,0,8,4", r"boxes\.csv line 2: expected edges as shares .* Divide"),
        ("c.png,cat,a,0,1,1", "expected numbers, got"),
        ("c.png,cat,-0.5,0,1,1", "expected edges as shares"),
        ("c.png,cat,0,nan,1,1", "expected edges as shares"),
        ("c.png,cat,0.9,0,0.1,1", r"boxes\.csv line 2 has a box with .*\[0\.9, .* left <= right"),
        ("c.png,dgo,0,0,1,1", r"boxes\.csv line 2: 'dgo' is none of .*did you mean 'dog'\?"),
        ("a.png,cat,0,0,1,1\nq.png,cat,0,0,1,1",
         r"line 3: image 'q\.png' is not in .*test\.csv nor in .*train\.csv \(1 such images"),
    ],
)  # fmt: skip
def test_boxes_of_another_kind(tmp_path, row, message):
    head = "image,category,left,top,right,bottom\n"
    write(write_folder(tmp_path), {"boxes.csv": head + row})
    with pytest.raises(DataError, match=message):
        read("folder", tmp_path, "test")


def test_boxes_of_the_other_table_s_images_are_no_fault(tmp_path):
    write_folder(tmp_path)  # its boxes.csv is of both tables, and of a category left out
    assert len(boxes(read("folder", tmp_path, "test"))) == 1
    (tmp_path / "train.csv").unlink()
    with pytest.raises(DataError, match=r"line 3: image 'a\.png' is not in .*test\.csv \(1 "):
        read("folder", tmp_path, "test")


def test_a_folder_that_lacks_something(tmp_path):
    with pytest.raises(DataError, match=r"the train table was expected at train\.csv or .* empty"):
        read("folder", tmp_path)
    write_folder(tmp_path)
    (tmp_path / "images/a.png").unlink()
    with pytest.raises(DataError, match=r"1 of the 2 train images .*a\.png \(entry 2"):
        read("folder", tmp_path, blank="absent")
    write(tmp_path, {"boxes.csv": "image,category\nc.png,cat\n"})
    with pytest.raises(DataError, match="has no column 'left'"):
        read("folder", tmp_path, "test")


# Scenes ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scenes")
    for split, seed in (("train", 1), ("test", 2)):
        write_scenes(root / split, images=4, seed=seed, processes=1)
    return root


def test_scenes_in_two_folders(scenes):
    data = read("scenes", scenes)
    assert len(data) == 4 and data.root == scenes / "train" and data.matrix.known_share == 1
    partly = read("scenes", scenes, labels="labels_partial.csv")
    assert 0 < partly.matrix.known_share < 0.6
    test = read("scenes", scenes, "test", labels="labels_partial.csv")
    assert test.root == scenes / "test" and test.matrix.known_share == 1
    assert data.boxes is not None
    labelled = {(i, c) for i, c in data.matrix.labels.nonzero().tolist()}
    boxed = zip(data.boxes.image.tolist(), data.boxes.category.tolist(), strict=True)
    assert set(boxed) == labelled  # each object that can be seen has its box, and no other


def test_one_folder_of_scenes_is_cut(scenes):
    train, test = (read("scenes", scenes / "train", split) for split in ("train", "test"))
    assert (len(train), len(test)) == (3, 1)
    assert (*train.images, *test.images) == read("scenes", scenes).images
    assert len(read("scenes", scenes / "train", "test", test_share="0.5")) == 2


# Names and options ----------------------------------------------------------------------------


def test_an_unknown_name(tmp_path):
    with pytest.raises(ConfigError, match=r"no data set 'voc2008'; did you mean 'voc2007'\?"):
        read("voc2008", tmp_path)


def test_a_root_that_is_no_folder(tmp_path):
    write(tmp_path, {"file": "x"})
    for name in READERS:
        with pytest.raises(DataError, match="file is a file, not a folder"):
            read(name, tmp_path / "file")
        with pytest.raises(DataError, match="nowhere does not exist"):
            read(name, tmp_path / "nowhere")


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("split", ["train", "test"])
def test_an_empty_folder_is_told_what_belongs_there(tmp_path, name, split):
    with pytest.raises(DataError, match=r"(was|were) expected (at|in) .* which is empty\."):
        read(name, tmp_path, split)


@pytest.mark.parametrize("name", READERS)
def test_every_option_is_explained_and_has_a_default(name):
    model = READERS[name].options
    assert model() is not None and (model.__doc__ or "").strip()
    assert all(field.description for field in model.model_fields.values())


def test_images_may_be_missing_but_not_all(tmp_path, caplog):
    write_folder(tmp_path)
    for name in ("a.png", "sub/b.png"):
        (tmp_path / "images" / name).unlink()
        with caplog.at_level(logging.WARNING), pytest.raises(DataError, match=r"1 of the|2 of the"):
            read("corel5k", tmp_path)
    with pytest.raises(DataError, match="2 of the 2 train images"):
        read("corel5k", tmp_path, missing="drop")


def counts(name: str, **options: str) -> list[tuple[int, int] | None]:
    reader = find_reader(name)
    chosen = parse_options(reader.options, options, name)
    both = (expected_counts(reader, split, chosen) for split in ("train", "test"))
    return [None if count is None else (count.images, count.categories) for count in both]


def test_published_counts_follow_the_options():
    assert counts("coco2014") == [(82_783, 80), (40_504, 80)]
    assert counts("coco2014", images="annotated") == [(82_081, 80), (40_137, 80)]
    assert counts("coco2014", images="annotated", crowd="drop") == [(82_081, 80), (40_137, 80)]
    assert counts("voc2007", difficult="unknown") == [(5_011, 20), (4_952, 20)]
    assert counts("voc2012") == [(5_717, 20), (5_823, 20)]
    assert counts("vg200") == [(98_249, 200), (10_000, 200)]
    assert counts("nuswide") == [(161_789, 81), (107_859, 81)]
    assert counts("nuswide", empty="drop") == [(125_449, 81), (83_898, 81)]
    assert counts("nuswide", empty="drop", labels="tags") == [None, None]
    assert counts("nuswide", version="asl") == [(119_103, 81), (50_720, 81)]
    assert counts("nuswide", version="cole") == [(150_000, 81), (60_260, 81)]
    assert counts("cub") == [(5_994, 312), (5_794, 312)]
    assert counts("corel5k") == [(4_500, 242), (499, 242)]
    assert counts("yolo") == [None, None]


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == "trmml.datasets.catalog"]


def test_other_counts_than_published_are_told_once(tmp_path, caplog, published):
    write_folder(tmp_path)
    published(Counts(2, 2, 1), Counts(1, 3, 5))
    with caplog.at_level(logging.WARNING):
        read("folder", tmp_path, blank="absent")
        assert warnings_of(caplog) == []  # all agree
        read("folder", tmp_path, "test")
    assert warnings_of(caplog) == [
        "folder test: 2 categories, but 3 were published for these options; 1 positives, but 5 "
        "were published for these options; `trmml data check folder ROOT` shows more"
    ]


def test_counts_are_of_what_the_files_list(tmp_path, caplog, published):
    write_folder(tmp_path)
    published(Counts(2, 2, 1), Counts(1, 2))
    (tmp_path / "images/a.png").unlink()
    with caplog.at_level(logging.WARNING):
        read("folder", tmp_path, blank="absent", missing="drop")
    assert warnings_of(caplog) == ["folder: 1 train images are not there and were left out"]


def test_the_documents_list_every_name_with_its_options():
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text("utf-8")
    section = page.partition("## Data sets by name")[2].partition("\n## ")[0]
    packed = section.partition("**Packed files**")[2].partition("\n**")[0]
    everywhere = section.partition("**Missing images.**")[2].partition("\n\n")[0]
    for name, reader in READERS.items():
        row = section.partition(f"\n| `{name}` |")[2].partition("\n")[0]
        assert row, name
        text = row + everywhere + (packed if "packed files" in row else "")
        for option in reader.options.model_fields:
            assert re.search(rf"`{option}[`=]", text), f"{name}: {option}"


@pytest.mark.parametrize("name", READERS)
def test_the_documents_give_the_published_counts(name):
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text("utf-8")
    row = page.partition(f"\n| `{name}` |")[2].partition("\n")[0]
    for pair in filter(None, READERS[name].counts.values()):
        assert f"{pair[0].images:,} / {pair[1].images:,}" in re.sub(
            "(trainval|train|test|val) ", "", row
        )
