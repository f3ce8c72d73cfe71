"""Annotations in JSON: COCO, Label Studio, Visual Genome and Hugging Face's cards."""

import json
from typing import Any

import polars as pl

from tests.fuzz.damage import as_json, as_text, json_lines, one_of, words
from tests.fuzz.target import Target, of_data_set
from tests.sets import image_bytes

COCO: dict[str, Any] = {
    "images": [
        {"id": 1, "file_name": "a.png", "width": 8, "height": 4},
        {"id": 2, "coco_url": "http://x/y/b.png", "width": 8, "height": 4,
         "neg_category_ids": [7]},
    ],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 5, "bbox": [1, 1, 2, 2.5], "iscrowd": 0},
        {"id": 2, "image_id": 2, "category_id": 5, "bbox": [], "iscrowd": 1},
    ],
    "categories": [{"id": 7, "name": "cat"}, {"id": 5, "name": "dog", "supercategory": "x"}],
}  # fmt: skip
TASKS: list[dict[str, Any]] = [
    {
        "id": 1,
        "data": {"image": "/data/upload/1/0123abcd-a.png"},
        "annotations": [
            {
                "ground_truth": False,
                "was_cancelled": False,
                "result": [
                    {"type": "choices", "from_name": "c", "value": {"choices": ["cat", "dog"]}},
                    {"type": "taxonomy", "from_name": "t",
                     "value": {"taxonomy": [["animal", "owl"], ["thing"]]}},
                    {"type": "rectanglelabels", "from_name": "r", "original_width": 8,
                     "original_height": 4, "value": {"x": 10, "y": 20, "width": 30, "height": 5,
                                                     "rotation": 7, "rectanglelabels": ["fox"]}},
                ],
            },
            {"result": []},
        ],
    },
    {"id": 2, "data": {"image": "/data/local-files/?d=x/b.png"}, "completions": [{"result": []}]},
]  # fmt: skip
INTERFACE = """<View><Image name="image" value="$image"/>
<Choices name="c" toName="image"><Choice value="cat"/><Choice value="d" alias="dog"/></Choices>
<Taxonomy name="t" toName="image"><Choice value="animal"><Choice value="owl"/></Choice>
<Choice value="thing"/></Taxonomy>
<RectangleLabels name="r" toName="image"><Label value="fox"/></RectangleLabels></View>"""
SHORT: list[dict[str, Any]] = [
    {"image": "a.png", "id": 1, "c": {"choices": ["cat", "dog"]}, "t": [["animal", "owl"]]},
    {"image": "y/b.png", "id": 2, "c": "cat", "r": [
        {"x": 1, "y": 2, "width": 3, "height": 4, "rectanglelabels": ["fox"]}]},
]  # fmt: skip
SHORT_CSV = """annotation_id,id,image,c
1,1,a.png,"{""choices"": [""cat"", ""dog""]}"
2,2,y/b.png,cat
"""
IMAGES = {
    "images/a.png": image_bytes(0),
    "images/b.png": image_bytes(1),
    "images/y/b.png": image_bytes(2),
}
VG = {
    "train_list_500.txt": "a.png\nb.png\n",
    "vg_category_200_labels_index.json": json.dumps({"a.png": [0, 17], "b.png": []}),
    "vg_category_200.txt": "\n".join(f"name {n}" for n in range(200)),
} | IMAGES


def _arrow() -> dict[str, str | bytes]:
    """A set as `save_to_disk` leaves it."""
    import io

    file = io.BytesIO()
    pl.DataFrame(
        {"image": [image_bytes(0), image_bytes(1)], "labels": [[0], [1]]}
    ).write_ipc_stream(file)
    feature = {"feature": {"names": ["cat", "dog"], "_type": "ClassLabel"}, "_type": "Sequence"}
    return {
        "train/data.arrow": file.getvalue(),
        "train/state.json": json.dumps({"_data_files": [{"filename": "data.arrow"}]}),
        "train/dataset_info.json": json.dumps({"features": {"labels": feature}}),
    }


_LINES = "".join(
    json.dumps({"file_name": f"{name}.png", "labels": labels, "absent": []}) + "\n"
    for name, labels in (("a", ["cat"]), ("b", []))
)
_BESIDE = {"train/a.png": image_bytes(0), "train/b.png": image_bytes(1)}


def _hugging(name: str, file: str, files: dict[str, str | bytes], damage: Any) -> Target:
    return of_data_set(name, "huggingface", file, files, damage, blank="absent")


TARGETS = (
    of_data_set("coco", "coco", "train.json", IMAGES | {"train.json": json.dumps(COCO)}, as_json),
    of_data_set(
        "coco-annotated", "coco", "train.json", IMAGES | {"train.json": json.dumps(COCO)}, as_json,
        images="annotated", crowd="drop", blank="unknown",
    ),
    of_data_set(
        "label-studio", "label-studio", "train.json",
        IMAGES | {"train.json": json.dumps(TASKS)}, as_json,
    ),
    of_data_set(
        "label-studio-leaf", "label-studio", "train.json",
        IMAGES | {"train.json": json.dumps(TASKS), "config.xml": INTERFACE}, as_json,
        taxonomy="leaf", blank="absent",
    ),
    of_data_set(
        "label-studio-interface", "label-studio", "config.xml",
        IMAGES | {"train.json": json.dumps(TASKS), "config.xml": INTERFACE}, as_text,
    ),
    of_data_set(
        "label-studio-min", "label-studio", "train.json",
        IMAGES | {"train.json": json.dumps(SHORT), "config.xml": INTERFACE}, as_json,
    ),
    of_data_set(
        "label-studio-csv", "label-studio", "train.csv",
        IMAGES | {"train.csv": SHORT_CSV}, as_text, train="train.csv",
    ),
    of_data_set("vg-labels", "vg200", "vg_category_200_labels_index.json", VG, as_json),
    of_data_set("vg-list", "vg200", "train_list_500.txt", VG, as_text),
    of_data_set("vg-names", "vg200", "vg_category_200.txt", VG, words),
    _hugging("huggingface-state", "train/state.json", _arrow(), as_json),
    _hugging("huggingface-info", "train/dataset_info.json", _arrow(), as_json),
    _hugging(
        "huggingface-lines", "train/metadata.jsonl", _BESIDE | {"train/metadata.jsonl": _LINES},
        one_of(json_lines, words),
    ),
    _hugging(
        "huggingface-table", "train/metadata.csv",
        _BESIDE | {"train/metadata.csv": 'file_name,labels\na.png,"[""cat""]"\nb.png,[]\n'},
        as_text,
    ),
)  # fmt: skip
