import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.sets import N, U, Y, boxes, read, states, write, write_images
from trmml.errors import ConfigError, DataError

# Ids of categories are neither in order nor without gaps, as in the original (1 to 90).
CATEGORIES = [
    {"id": 18, "name": "dog", "supercategory": "animal"},
    {"id": 1, "name": "person", "supercategory": "person"},
    {"id": 90, "name": "toothbrush", "supercategory": "indoor"},
]
IMAGES = [
    {"id": 57870, "file_name": "COCO_train2014_000000057870.jpg", "width": 8, "height": 4},
    {"id": 9, "file_name": "COCO_train2014_000000000009.jpg", "width": 8, "height": 4},
    {"id": 25, "file_name": "COCO_train2014_000000000025.jpg", "width": 8, "height": 4},
    {"id": 30, "file_name": "COCO_train2014_000000000030.jpg", "width": 8, "height": 4},
]
ANNOTATIONS = [
    {"id": 4, "image_id": 25, "category_id": 90, "bbox": [2, 1, 4, 2], "iscrowd": 0, "area": 8},
    {"id": 1, "image_id": 9, "category_id": 18, "bbox": [-1, 0, 3, 4], "iscrowd": 0},
    {"id": 9, "image_id": 9, "category_id": 18, "bbox": [-1, 0, 3, 4], "iscrowd": 0},
    {"id": 2, "image_id": 25, "category_id": 1, "bbox": [4, 0, 0, 3], "iscrowd": 0},
    {"id": 900100, "image_id": 30, "category_id": 1, "bbox": [0, 2, 8, 2], "iscrowd": 1},
]
NAMES = ("person", "dog", "toothbrush")


def tree(**changes: Any) -> dict[str, Any]:
    parts = {"images": IMAGES, "annotations": ANNOTATIONS, "categories": CATEGORIES}
    return {"info": {}, "licenses": []} | parts | changes


def write_coco(root: Path, content: str | None = None) -> Path:
    text = json.dumps(tree()) if content is None else content
    val = text.replace("train2014", "val2014")
    write(
        root,
        {
            "annotations/instances_train2014.json": text,
            "annotations/instances_val2014.json": val,
        },
    )
    for part in ("train2014", "val2014"):
        names = (image["file_name"].replace("train2014", part) for image in IMAGES)
        write_images(root, [f"{part}/{name}" for name in names])
    return root


def test_all_images_in_the_order_of_the_file(tmp_path):
    data = read("coco2014", write_coco(tmp_path))
    assert data.category_names == NAMES
    assert data.images == tuple(f"train2014/{image['file_name']}" for image in IMAGES)
    assert data.rows == (1, 2, 3, 4)
    assert states(data) == [[N, N, N], [N, Y, N], [Y, N, Y], [Y, N, N]]
    dog, brush, crowd = (data.images[index] for index in (1, 2, 3))
    assert boxes(data) == [
        (brush, "toothbrush", (0.25, 0.25, 0.75, 0.75)),
        (dog, "dog", (0.0, 0.0, 0.25, 1.0)),
        (crowd, "person", (0.0, 0.5, 1.0, 1.0)),
    ]


def test_the_test_set_is_val2014(tmp_path):
    data = read("coco2014", write_coco(tmp_path), "test")
    assert data.images[0] == "val2014/COCO_val2014_000000057870.jpg" and len(data) == 4


def test_only_annotated_images_whether_or_not_crowds_count(tmp_path):
    root = write_coco(tmp_path)
    kept = read("coco2014", root, images="annotated")
    assert kept.rows == (2, 3, 4) and states(kept) == [[N, Y, N], [Y, N, Y], [Y, N, N]]
    dropped = read("coco2014", root, images="annotated", crowd="drop")
    assert dropped.rows == (2, 3, 4) and states(dropped) == [[N, Y, N], [Y, N, Y], [N, N, N]]
    assert [box[1] for box in boxes(dropped)] == ["toothbrush", "dog"]


@pytest.mark.parametrize("start", ["\ufeff", "\r\n"])
def test_byte_order_mark_and_line_ends(tmp_path, start):
    text = start + json.dumps(tree(), indent=1).replace("\n", "\r\n")
    assert states(read("coco2014", write_coco(tmp_path, text)))[2] == [Y, N, Y]


def test_the_rule_of_known_shares_meets_the_pairs_that_the_field_s_does(tmp_path):
    matrix = read("coco2014", write_coco(tmp_path)).matrix.hide(0.5, seed=0)
    expected = np.random.RandomState(0).random_sample((4, 3)) < 0.5
    assert torch.equal(matrix.known, torch.from_numpy(expected))


def test_a_listed_image_that_is_not_there(tmp_path):
    root = write_coco(tmp_path)
    (root / "train2014" / IMAGES[1]["file_name"]).unlink()
    with pytest.raises(DataError, match=r"1 of the 4 train images .*0009\.jpg \(entry 2 .*missing"):
        read("coco2014", root)
    data = read("coco2014", root, missing="drop")
    assert data.rows == (1, 3, 4) and states(data) == [[N, N, N], [Y, N, Y], [Y, N, N]]
    assert [data.images.index(box[0]) for box in boxes(data)] == [1, 2]


CONTRADICTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "category": ({"annotations": [{"image_id": 9, "category_id": 2}]},
                 "annotation 1 is of category 2, which is none of the 3 ids"),
    "image": ({"annotations": [{"image_id": 8, "category_id": 1}]}, "annotation 1 is of image 8"),
    "no id": ({"annotations": [{"image_id": 9}]}, "annotation 1 has no 'category_id'"),
    "twice": ({"images": [IMAGES[0], IMAGES[0]]}, "image 2: the id 57870 is that of image 1 too"),
    "same file": ({"images": [IMAGES[0], IMAGES[0] | {"id": 9}]},
                  r"image 2: the file 'COCO_train2014_000000057870\.jpg' is that of image 1 too"),
    "upwards": ({"images": [{"id": 1, "file_name": "../a.jpg"}], "annotations": []}, "leads out"),
    "names": ({"categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "cat "}]}, "'cat' twice"),
    "ids": ({"categories": [{"id": 1, "name": "cat"}, {"id": 1, "name": "dog"}]}, "category 2"),
    "none": ({"categories": []}, "lists no category"),
    "size": ({"images": [{"id": 9, "file_name": "a.jpg"}],
              "annotations": [{"image_id": 9, "category_id": 1, "bbox": [1, 1, 2, 2]}]},
             "image 1 has a box but no width"),
    "box": ({"annotations": [{"id": 5, "image_id": 9, "category_id": 1, "bbox": [1, 2, 3]}]},
            "annotation 5: bbox"),
    "negative": ({"annotations": [ANNOTATIONS[0] | {"id": 5, "bbox": [4, 0, -2, 2]}]},
                 r"annotation 5 has a box with .*\[4\.0, 0\.0, 2\.0, 2\.0\]"),
    "part": ({"annotations": None}, "no list of 'annotations'"),
    "nothing": ({"images": [], "annotations": []}, "no image left"),
}  # fmt: skip


@pytest.mark.parametrize("change, message", CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_files_that_contradict_themselves(tmp_path, change, message):
    write_coco(tmp_path, json.dumps(tree(**change)))
    with pytest.raises(DataError, match=message):
        read("coco2014", tmp_path)


WRONG_TYPES: dict[str, tuple[str, int, dict[str, Any], str]] = {
    "bbox": ("annotations", 1, {"bbox": 5}, "annotation 1: bbox 5 is not left"),
    "bbox of text": ("annotations", 0, {"bbox": "2 1 4 2"}, "annotation 4: bbox '2 1 4 2' is not"),
    "width": ("images", 1, {"width": "20px"}, "image 2: 'width' is '20px', not a number of pixels"),
    "height": ("images", 1, {"height": [4]}, r"image 2: 'height' is \[4\], not a number of pixels"),
    "id": ("images", 1, {"id": [1]}, r"image 2: 'id' is \[1\], not a number"),
    "image": ("annotations", 1, {"image_id": [9]}, r"annotation 2: 'image_id' is \[9\], not a"),
    "category": ("annotations", 1, {"category_id": {}}, r"'category_id' is \{\}, not a"),
    "category's id": ("categories", 2, {"id": True}, "category 3: 'id' is True, not a number"),
    "category's name": ("categories", 2, {"name": None}, "category 3: the name is None, not text"),
    "file": ("images", 2, {"file_name": None}, "image 3: 'file_name' is None, not text"),
    "crowd": ("annotations", 2, {"iscrowd": "0"}, "annotation 3: 'iscrowd' is '0', not 0 or 1"),
    "absent": ("images", 0, {"neg_category_ids": 3}, "image 1: neg_category_ids is 3, not a list"),
    "absent ids": ("images", 0, {"neg_category_ids": [[3]]}, r"ids names \[3\], which is"),
}  # fmt: skip


@pytest.mark.parametrize("part, index, change, message", WRONG_TYPES.values(), ids=WRONG_TYPES)
def test_values_of_another_type(tmp_path, part, index, change, message):
    content = json.loads(json.dumps(tree()))
    content[part][index] |= change
    with pytest.raises(DataError, match=rf"instances_train2014\.json, .*{message}"):
        read("coco2014", write_coco(tmp_path, json.dumps(content)))


def test_ids_may_be_text_and_what_is_null_is_not_told(tmp_path):
    images = [{"id": "a", "file_name": IMAGES[0]["file_name"], "width": None, "height": None}]
    annotations = [{"image_id": "a", "category_id": 1, "iscrowd": None, "bbox": None}]
    text = json.dumps(tree(images=images, annotations=annotations))
    data = read("coco2014", write_coco(tmp_path, text), crowd="drop")
    assert states(data) == [[Y, N, N]] and boxes(data) == []


@pytest.mark.parametrize("text, message", [("", "is empty"), ('{"images": [', "line 1 is no JSON")])
def test_files_that_were_cut_off(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        read("coco2014", write_coco(tmp_path, text))


def test_a_wrong_folder_says_what_was_expected_and_what_is_there(tmp_path):
    write_coco(tmp_path)
    with pytest.raises(DataError, match=r"json below .*train2014, which holds COCO_train.*"):
        read("coco2014", tmp_path / "train2014")
    with pytest.raises(DataError, match="does not exist"):
        read("coco2014", tmp_path / "nowhere")


def test_options_are_checked(tmp_path):
    with pytest.raises(ConfigError, match=r"no option 'image'; did you mean 'images'\?"):
        read("coco2014", tmp_path, image="all")
    with pytest.raises(ConfigError, match=r"option crowd=maybe: .*'keep' or 'drop'"):
        read("coco2014", tmp_path, crowd="maybe")


# Any JSON of this form ------------------------------------------------------------------------


def test_an_export_with_its_own_folders(tmp_path):
    text = json.dumps(tree(images=[i | {"file_name": f"sub\\{i['id']}.jpg"} for i in IMAGES]))
    write(tmp_path, {"train/_annotations.coco.json": text})
    write_images(tmp_path, [f"train/sub/{image['id']}.jpg" for image in IMAGES])
    options = {"train": "train/_annotations.coco.json", "train_images": "train"}
    data = read("coco", tmp_path, blank="absent", **options)
    assert data.images[1] == "train/sub/9.jpg"
    assert states(data) == [[N, N, N], [N, Y, N], [Y, N, Y], [Y, N, N]]
    open_world = read("coco", tmp_path, blank="unknown", **options)
    assert states(open_world) == [[U, U, U], [U, Y, U], [Y, U, Y], [Y, U, U]]
    with pytest.raises(DataError, match=r"test set's COCO JSON .option test=FILE. was expected at"):
        read("coco", tmp_path, "test", **options)


def test_a_federated_set_knows_what_was_looked_for(tmp_path):
    images = [{"id": 1, "file_name": "a.jpg", "neg_category_ids": [90]},
              {"id": 2, "file_name": "b.jpg", "neg_category_ids": []}]  # fmt: skip
    annotations = [{"image_id": 1, "category_id": 18}]
    write(tmp_path, {"train.json": json.dumps(tree(images=images, annotations=annotations))})
    write_images(tmp_path, ["images/a.jpg", "images/b.jpg"])
    assert states(read("coco", tmp_path)) == [[U, Y, N], [U, U, U]]
    images[1]["neg_category_ids"] = [7]
    write(tmp_path, {"train.json": json.dumps(tree(images=images, annotations=annotations))})
    with pytest.raises(DataError, match="image 2: neg_category_ids names 7"):
        read("coco", tmp_path)


def test_lvis_names_its_files_by_their_urls(tmp_path):
    image = {"id": 1, "coco_url": "http://images.example.org/train2017/000000391895.jpg"}
    image |= {"neg_category_ids": [90]}
    annotations = [{"image_id": 1, "category_id": 18}]
    write(tmp_path, {"train.json": json.dumps(tree(images=[image], annotations=annotations))})
    write_images(tmp_path, ["images/train2017/000000391895.jpg"])
    assert read("coco", tmp_path).images == ("images/train2017/000000391895.jpg",)


def test_images_without_annotation_are_asked_about(tmp_path):
    write(tmp_path, {"train.json": json.dumps(tree())})
    write_images(tmp_path, [f"images/{image['file_name']}" for image in IMAGES])
    with pytest.raises(DataError, match=r"1 of 4 images have no annotation, first COCO_.*57870"):
        read("coco", tmp_path)
    assert states(read("coco", tmp_path, blank="absent"))[0] == [N, N, N]
    assert states(read("coco", tmp_path, blank="unknown"))[0] == [U, U, U]
    assert states(read("coco", tmp_path, images="annotated"))[0] == [N, Y, N]
    write(tmp_path, {"train.json": json.dumps(tree(annotations=[]))})  # as CVAT exports tags
    with pytest.raises(DataError, match=r"4 of 4 images have no annotation.* blank=unknown if not"):
        read("coco", tmp_path)


# Roboflow's ------------------------------------------------------------------------------------


def write_roboflow(root: Path, project: str, used: dict[str, list[int]]) -> Path:
    """A set whose project is above cat and dog; `used` are the annotated categories of a split."""
    categories = [
        {"id": 0, "name": project, "supercategory": "none"},
        {"id": 1, "name": "cat", "supercategory": project},
        {"id": 2, "name": "dog", "supercategory": project},
    ]
    for split, numbers in used.items():
        images = [{"id": 0, "file_name": f"{split}.png", "width": 8, "height": 4}]
        annotations = [{"id": n, "image_id": 0, "category_id": n} for n in numbers]
        whole = tree(images=images, annotations=annotations, categories=categories)
        write(root, {f"{split}/_annotations.coco.json": json.dumps(whole)})
        write_images(root, [f"{split}/{split}.png"])
    return root


@pytest.mark.parametrize("project", ["animals", "cat"])  # the name may be that of a category
def test_roboflow_s_own_category_is_left_out_of_all_splits(tmp_path, project, caplog):
    caplog.set_level("INFO")
    write_roboflow(tmp_path, project, {"train": [1], "valid": [2]})
    for split, expected in (("train", [[Y, N]]), ("test", [[N, Y]])):
        data = read("roboflow", tmp_path, split)
        assert data.category_names == ("cat", "dog") and states(data) == expected
    assert f"'{project}' is above all categories" in caplog.text


def test_a_category_above_others_that_is_annotated_anywhere_is_kept(tmp_path):
    write_roboflow(tmp_path, "animals", {"train": [1, 2], "valid": [0]})
    for split, expected in (("train", [[N, Y, Y]]), ("test", [[Y, N, N]])):
        data = read("roboflow", tmp_path, split)
        assert data.category_names == ("animals", "cat", "dog") and states(data) == expected
