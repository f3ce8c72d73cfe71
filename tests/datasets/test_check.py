import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests import sets
from tests.datasets import test_coco, test_cub, test_nus_wide, test_visual_genome, test_voc
from trmml.datasets import catalog as named
from trmml.datasets.catalog import Counts
from trmml.datasets.check import Checked, check
from trmml.errors import ConfigError


def write_folder(root: Path) -> Path:
    tables = {"train.csv": "image,cat,dog\na.png,1,\nb.png,0,1\nc.png,,\n",
              "test.csv": "image,cat,dog\nd.png,1,0\n"}  # fmt: skip
    sets.write(root, tables)
    sets.write_images(root, [f"images/{name}.png" for name in "abcd"])
    return root


def problems_of(checked: Checked) -> list[str]:
    return [problem.what for problem in checked.problems]


def test_a_set_that_fits_its_counts(tmp_path, published):
    published(Counts(3, 2, 2), Counts(2, 2, None, 1))
    checked = check("folder", write_folder(tmp_path), {}, decode=True)
    assert checked.ok and not checked.problems
    train, test = checked.splits
    assert (train.images, train.categories, train.positives, train.negatives) == (3, 2, 2, 1)
    assert train.known_share == 0.5 and train.boxes is None and train.expected == Counts(3, 2, 2)
    assert (test.split, test.images, test.known_share) == ("test", 1, 1.0)
    assert checked.notes == (
        "train: 1 images have no known label",
        "test: 1 categories have no positive, first 'dog'",
    )


@pytest.mark.parametrize(
    "counts, what",
    [
        (Counts(4, 2, 2), "3 images, but 4 were published for these options"),
        (Counts(3, 80, 2), "2 categories, but 80 were published for these options"),
        (Counts(3, 2, 1_003), "2 positives, but 1,003 were published for these options"),
        (Counts(3, 2, 2, known=6), "3 known pairs, but 6 were published for these options"),
        (Counts(5, 2, None, 1), "3 images, but about 5 were published for these options"),
    ],
)
def test_a_wrong_set_is_refused(tmp_path, published, counts, what):
    published(counts, Counts(1, 2))
    checked = check("folder", write_folder(tmp_path), {})
    assert not checked.ok and problems_of(checked) == [what]
    assert checked.problems[0].split == "train" and "fetch again" in checked.problems[0].advice


def test_images_that_are_missing_are_all_listed(tmp_path):
    write_folder(tmp_path)
    for name in ("a", "c"):
        (tmp_path / f"images/{name}.png").unlink()
    checked = check("folder", tmp_path, {})
    assert problems_of(checked) == ["2 of 3 images are not there"]
    assert checked.problems[0].files == ("a.png", "c.png")
    assert "missing=drop" in checked.problems[0].advice
    assert checked.splits[0].images == 3


def test_images_that_are_left_out_are_a_note(tmp_path, published):
    published(Counts(3, 2, 2), Counts(1, 2))  # what the files list, not what is left
    write_folder(tmp_path)
    for name in ("a", "c"):
        (tmp_path / f"images/{name}.png").unlink()
    checked = check("folder", tmp_path, {"missing": "drop"}, decode=True)
    assert checked.ok and checked.notes[0] == (
        "train: 2 of 3 images are not there and were left out (missing=drop), first a.png"
    )
    train = checked.splits[0]
    assert (train.images, train.positives, train.negatives) == (1, 1, 1)
    (tmp_path / "images/b.png").unlink()
    checked = check("folder", tmp_path, {"missing": "drop"})
    assert problems_of(checked) == ["3 of 3 images are not there"]
    assert "missing=drop" not in checked.problems[0].advice


def test_images_that_are_broken_are_found_by_decoding(tmp_path):
    write_folder(tmp_path)
    whole = (tmp_path / "images/b.png").read_bytes()
    sets.write(tmp_path, {"images/b.png": whole[:40], "images/d.png": b""})
    (tmp_path / "images/a.png").unlink()
    assert problems_of(check("folder", tmp_path, {})) == ["1 of 3 images are not there"]
    steps: list[tuple[str, int, int]] = []
    checked = check("folder", tmp_path, {}, decode=True, progress=lambda *step: steps.append(step))
    assert [(p.split, p.files) for p in checked.problems] == [
        ("train", ("a.png",)),
        ("train", ("b.png",)),
        ("test", ("d.png",)),
    ]
    assert "1 images cannot be decoded, first: " in checked.problems[1].what
    assert steps == [("decode train", 2, 2), ("decode test", 1, 1)]


def test_a_split_that_cannot_be_read_does_not_hide_the_other(tmp_path):
    write_folder(tmp_path)
    (tmp_path / "test.csv").unlink()
    checked = check("folder", tmp_path, {})
    assert [count.split for count in checked.splits] == ["train"] and not checked.ok
    assert "the test table was expected at test.csv" in problems_of(checked)[0]
    assert check("folder", tmp_path, {}, splits=["train"]).ok


def test_an_error_that_no_reader_foresaw_does_not_end_the_check(tmp_path, monkeypatch):
    def read(root: Path, split: str, options: object) -> None:
        if split == "train":
            raise TypeError("object of type 'int' has no len()")
        return real(root, split, options)

    real = named.READERS["folder"].read
    reader = replace(named.READERS["folder"], read=read)
    monkeypatch.setattr(named, "READERS", {**named.READERS, "folder": reader})
    checked = check("folder", write_folder(tmp_path), {})
    assert [count.split for count in checked.splits] == ["test"]
    assert problems_of(checked) == [
        f"reading {tmp_path} ended in an unexpected TypeError: object of type 'int' has no len()"
    ]
    assert checked.problems[0].split == "train" and "--verbose" in checked.problems[0].advice


def test_splits_that_do_not_fit_together(tmp_path):
    write_folder(tmp_path)
    sets.write(tmp_path, {"test.csv": "image,cat,owl\na.png,1,0\n"})
    assert problems_of(check("folder", tmp_path, {})) == [
        "train and test have different categories: 'dog' is in one only",
        "1 images are in train and in test",
    ]
    sets.write(tmp_path, {"test.csv": "image,dog,cat\nd.png,1,0\n"})
    assert problems_of(check("folder", tmp_path, {})) == [
        "train and test have different categories: their order differs"
    ]


def test_copies_that_contradict_and_test_images_that_were_trained_on_are_noted(tmp_path):
    tables = {
        "train.csv": "image,cat,dog\na.png,1,\nb.png,,0\nc.png,,\ne.png,1,1\n",
        "test.csv": "image,cat,dog\nd.png,1,0\n",
    }
    sets.write(tmp_path, tables)
    (tmp_path / "images").mkdir()
    for name in "abcde":
        colour = (10 * (name == "c"), 0, 0)
        Image.new("RGB", (4, 4), colour).save(tmp_path / f"images/{name}.png")
    before = check("folder", tmp_path, {}).notes
    assert check("folder", tmp_path, {}, decode=True).notes == (
        *before,
        "images that are byte for byte the same and labelled otherwise: 1 groups, first e.png and"
        " b.png (dog)",
        "test images that are byte for byte training images: 1, first d.png and a.png; scores on"
        " them flatter",
    )


def test_a_file_that_cannot_be_read_ends_no_search_for_copies(tmp_path, monkeypatch):
    def unread(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("trmml.datasets.check.hash_file", unread)
    checked = check("folder", write_folder(tmp_path), {}, decode=True)
    assert not any("byte for byte" in note for note in checked.notes)


def test_two_rows_of_one_image_are_noted(tmp_path, monkeypatch):
    from tests.datasets.test_packed import LISTS, parquet

    monkeypatch.setenv("TRMML_CACHE", str(tmp_path / "cache"))
    parquet(tmp_path, "train.parquet", tags=[*LISTS["tags"], LISTS["tags"][0]])
    checked = check("parquet", tmp_path, {"blank": "absent"}, splits=["train"])
    assert checked.ok and checked.notes == ("train: 1 images are the same as another",)


def test_all_of_it_is_json(tmp_path, published):
    published(Counts(4, 2), Counts(1, 2))
    tree = check("folder", write_folder(tmp_path), {}).to_dict()
    assert json.loads(json.dumps(tree)) == tree | {
        "splits": [dict(s) for s in tree["splits"]],
        "problems": [p | {"files": list(p["files"])} for p in tree["problems"]],
        "notes": list(tree["notes"]),
    }
    assert tree["ok"] is False and tree["splits"][0]["expected"]["images"] == 4


def test_an_unknown_option_is_no_problem_of_the_set(tmp_path):
    with pytest.raises(ConfigError, match="folder has no option 'blanks'; did you mean 'blank'"):
        check("folder", write_folder(tmp_path), {"blanks": "absent"})


# A writer of each official form in miniature, the options, and the published images of both splits.
MINIATURES = {
    "coco2014": (test_coco.write_coco, {}, ("82,783", "40,504")),
    "coco2014, annotated": (test_coco.write_coco, {"images": "annotated"}, ("82,081", "40,137")),
    "voc2007": (test_voc.write_devkit, {}, ("5,011", "4,952")),
    "voc2012": (
        lambda root: test_voc.write_devkit(root, "2012", "VOC2012"), {}, ("5,717", "5,823"),
    ),
    "vg200": (test_visual_genome.write_vg, {}, ("98,249", "10,000")),
    "nuswide": (test_nus_wide.write_official, {}, ("161,789", "107,859")),
    "nuswide, answered": (
        test_nus_wide.write_official, {"empty": "drop"}, ("about 125,449", "about 83,898"),
    ),
    "cub": (test_cub.write_cub, {}, ("5,994", "5,794")),
}  # fmt: skip


@pytest.mark.parametrize("form", MINIATURES)
def test_miniatures_are_refused_by_the_published_counts(tmp_path, form):
    write, options, published = MINIATURES[form]
    checked = check(form.partition(",")[0], write(tmp_path), options)
    assert not checked.ok and [each.split for each in checked.splits] == ["train", "test"]
    found = [what for what in problems_of(checked) if "images, but" in what]
    images = [each.images for each in checked.splits]
    assert found == [
        f"{count} images, but {number} were published for these options"
        for count, number in zip(images, published, strict=True)
    ]


def test_labels_of_cub_that_were_cut_off_are_refused(tmp_path):
    found = problems_of(check("cub", test_cub.write_cub(tmp_path), {}))
    pairs = [what for what in found if "known pairs" in what]
    assert pairs == ["6 known pairs, but 1,870,128 were published for these options",
                     "5 known pairs, but 1,807,728 were published for these options"]  # fmt: skip
    assert not any(
        "pairs" in what for what in problems_of(check("cub", tmp_path, {"certainty": "use"}))
    )


def test_what_was_never_counted_is_told(tmp_path):
    labels = np.zeros((1, 81))
    labels[0, 13] = 1.0
    for part, name in (("train", "1.jpg"), ("val", "2.jpg")):
        test_nus_wide.write_cole(tmp_path, [name], labels, part)
    sets.write_images(tmp_path, ["Flickr/1.jpg", "Flickr/2.jpg"])
    checked = check("nuswide", tmp_path, {"version": "cole", "empty": "drop"})
    assert checked.ok and checked.notes[0] == (
        "train: no counts were published for these options to compare with"
    )
