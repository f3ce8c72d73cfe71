"""Lists, XML and YAML: VOC, YOLO, CUB-200, NUS-WIDE and the plain folder."""

import io
from random import Random
from typing import Any

import numpy as np

from tests.fuzz.damage import as_text, bits, one_of, words
from tests.fuzz.target import Target, of_data_set
from tests.sets import image_bytes
from trmml.datasets.formats.nus_wide import NUS_NAMES

XML = """<?xml version="1.0" encoding="utf-8"?><annotation><filename>a.png</filename>
<size><width>8</width><height>4</height><depth>3</depth></size>
<object><name>cat</name><difficult>0</difficult>
<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>4</xmax><ymax>3.5</ymax></bndbox></object>
<object><name>dog</name><difficult>1</difficult></object></annotation>"""
VOC: dict[str, str | bytes] = {
    "train.txt": "a.png\nb.xml\n", "Annotations/a.xml": XML,
    "Annotations/b.xml": XML.replace("a.png", "b"),
    "JPEGImages/a.png": image_bytes(0), "JPEGImages/b.png": image_bytes(1),
}  # fmt: skip
KIT: dict[str, str | bytes] = {
    "VOC2007/ImageSets/Main/trainval.txt": "000001\n000002 1\n",
    "VOC2007/Annotations/000001.xml": XML, "VOC2007/Annotations/000002.xml": XML,
    "VOC2007/JPEGImages/000001.jpg": image_bytes(0),
    "VOC2007/JPEGImages/000002.jpg": image_bytes(1),
}  # fmt: skip
CARD = """path: ../x
train: images/train
val: [images/val]
nc: 2
names:
  0: cat
  1: dog
"""
YOLO: dict[str, str | bytes] = {
    "data.yaml": CARD, "images/train/a.png": image_bytes(0), "images/train/b.png": image_bytes(1),
    "labels/train/a.txt": "0 0.5 0.5 0.2 0.2\n1 0.1 0.1 0.2 0.1 0.3 0.3\n",
    "labels/train/b.txt": "",
}  # fmt: skip
LISTED: dict[str, str | bytes] = {
    "train.txt": "all/a.png\n./all/b.png\n", "obj.names": "cat\ndog\n",
    "all/a.png": image_bytes(0), "all/b.png": image_bytes(1), "all/a.txt": "0 0.5 0.5 0.2 0.2\n",
}  # fmt: skip
CUB: dict[str, str | bytes] = {
    "CUB_200_2011/attributes/attributes.txt": "1 has_bill::curved_(up)\n2 has_wing::blue\n",
    "CUB_200_2011/images.txt": "1 001.X/a.png\n2 001.X/b.png\n",
    "CUB_200_2011/train_test_split.txt": "1 1\n2 1\n",
    "CUB_200_2011/attributes/image_attribute_labels.txt":
        "1 1 0 3 27.7\n1 2 1 4 1.5\n2 1 1 1 0\n2 2 0 2 0 9\n",
    "CUB_200_2011/images/001.X/a.png": image_bytes(0),
    "CUB_200_2011/images/001.X/b.png": image_bytes(1),
}  # fmt: skip
_FLICKR = {"Flickr/actor/a.png": image_bytes(0), "Flickr/actor/b.png": image_bytes(1)}
NUS: dict[str, str | bytes] = {
    "ImageList/TrainImagelist.txt": "actor\\a.png\nactor\\b.png\n",
    "Concepts81.txt": "\n".join(NUS_NAMES),
    "NUS_WID_Tags/Train_Tags81.txt": "1 " * 81 + "\n" + "0 " * 81 + "\n",
} | _FLICKR | {
    f"Groundtruth/TrainTestLabels/Labels_{name}_Train.txt": "0\n1\n" for name in NUS_NAMES
}  # fmt: skip
ASL: dict[str, str | bytes] = {
    "nus_wid_data.csv": "filepath,label,split_name\nactor/a.png,\"['clouds', 'sky']\",train\n"
    "actor/b.png,[],val\n",
} | _FLICKR  # fmt: skip
ASL_LIST: dict[str, str | bytes] = {
    "nus_train_full.txt": "actor/a.png, 13 55\nactor/b.png,\n",
} | _FLICKR  # fmt: skip
SHARES = "image,category,left,top,right,bottom\na.png,cat,0,0,0.5,1\nb.png,dog,0.1,0.1,0.2,0.9\n"
PLAIN: dict[str, str | bytes] = {
    "train.csv": "image,labels\na.png,cat\nb.png,cat;dog\n", "boxes.csv": SHARES,
    "categories.txt": "cat\ndog\n", "images/a.png": image_bytes(0), "images/b.png": image_bytes(1),
}  # fmt: skip
PIXELS = "image,category,left,top,right,bottom,visible_share\na.png,cat,0,0,4,4,1\n"
SCENES: dict[str, str | bytes] = {
    "labels.csv": "image,cat,dog\na.png,1,0\nb.png,,1\n", "boxes.csv": PIXELS,
    "a.png": image_bytes(0), "b.png": image_bytes(1),
}  # fmt: skip


def npy(array: Any) -> bytes:
    """A NumPy file."""
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def other_array(data: bytes, random: Random) -> bytes:
    """A NumPy file of another kind or shape."""
    kinds = ("?", "i1", "u1", "i8", "u8", "f2", "f4", "f8", "c8", "U3", "S3", "M8[s]", "O")
    shape = random.choice(((), (0,), (1,), (2,), (2, 2), (2, 81), (2, 0), (2, 3, 2)))
    array = np.zeros(shape, random.choice(kinds))
    if array.size and array.dtype.kind in "fiub":
        array.flat[0] = random.choice((0, 1, -1, 3, float("nan"))) if array.dtype.kind == "f" else 1
    return npy(array)


COLE: dict[str, str | bytes] = {
    "formatted_train_images.npy": npy(np.array(["actor/a.png", "actor/b.png"])),
    "formatted_train_labels.npy": npy(np.eye(2, 81)),
} | _FLICKR  # fmt: skip
CVAT: dict[str, str | bytes] = {
    "annotations.xml": '<annotations><image name="a.png" width="8" height="4"><tag label="cat"/>'
    '<box label="dog" source="auto" xtl="1" ytl="1" xbr="2" ybr="3"/>'
    '<box label="owl" xtl="1" ytl="1" xbr="2" ybr="3"/></image></annotations>',
    "images/a.png": image_bytes(0),
}
as_array = one_of(bits, words, other_array)


def _of(name: str, reader: str, file: str, files: Any, damage: Any, **options: str) -> Target:
    found = [place for place in files if place.endswith(file)]
    return of_data_set(name, reader, found[0], files, damage, **options)


TARGETS = (
    _of("voc-xml", "voc-xml", "a.xml", VOC, as_text),
    _of("voc-xml-list", "voc-xml", "train.txt", VOC, as_text, difficult="unknown"),
    _of("voc2007-xml", "voc2007", "000001.xml", KIT, as_text, difficult="positive"),
    _of("voc2007-list", "voc2007", "trainval.txt", KIT, as_text),
    _of("cvat", "cvat", "annotations.xml", CVAT, as_text, blank="unknown"),
    _of("yolo-labels", "yolo", "a.txt", YOLO, as_text),
    _of("yolo-card", "yolo", "data.yaml", YOLO, as_text),
    _of("yolo-list", "yolo", "train.txt", LISTED, as_text),
    _of("cub-names", "cub", "attributes.txt", CUB, as_text),
    _of("cub-images", "cub", "images.txt", CUB, as_text),
    _of("cub-split", "cub", "split.txt", CUB, as_text),
    _of("cub-labels", "cub", "labels.txt", CUB, as_text, certainty="use"),
    _of("nus-list", "nuswide", "TrainImagelist.txt", NUS, as_text),
    _of("nus-concepts", "nuswide", "Concepts81.txt", NUS, words),
    _of("nus-truth", "nuswide", "Labels_sky_Train.txt", NUS, as_text),
    _of("nus-tags", "nuswide", "Train_Tags81.txt", NUS, as_text, labels="tags"),
    _of("nus-asl-table", "nuswide", "data.csv", ASL, as_text, version="asl"),
    _of("nus-asl-list", "nuswide", "full.txt", ASL_LIST, as_text, version="asl"),
    _of("nus-cole-labels", "nuswide", "labels.npy", COLE, as_array, version="cole"),
    _of("nus-cole-images", "nuswide", "images.npy", COLE, as_array, version="cole"),
    _of("folder-boxes", "folder", "boxes.csv", PLAIN, as_text, blank="absent"),
    _of("folder-table", "folder", "train.csv", PLAIN, as_text, blank="unknown"),
    _of("scenes-boxes", "scenes", "boxes.csv", SCENES, as_text),
)
