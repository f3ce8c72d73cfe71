"""Read PASCAL VOC 2007 and 2012, and any folder of VOC-style XML files.

VOC is at http://host.robots.ox.ac.uk/pascal/VOC/: VOCtrainval_06-Nov-2007.tar,
VOCtest_06-Nov-2007.tar and VOCtrainval_11-May-2012.tar, unpacked into one folder:

    VOCdevkit/VOC2007/ImageSets/Main/trainval.txt, test.txt     image numbers, one a line
    VOCdevkit/VOC2007/Annotations/000001.xml                    objects, boxes, the flag `difficult`
    VOCdevkit/VOC2007/JPEGImages/000001.jpg

| | train | test | used for |
|---|---|---|---|
| `voc2007` | trainval, 5,011 | test, 4,952 | partial labels (SST, SARB, DualCoOp, SCPNet) |
| `voc2012` | train, 5,717 | val, 5,823 | single positives (Cole et al., SCPNet, large loss) |

20 categories in alphabetical order. All of them were checked in every image, so what is not
annotated is absent. The field differs on objects marked `difficult`: `difficult=negative` skips
them, so that a category with nothing else is absent (HCP-MLR-PL, DualCoOp, Cole et al.);
`unknown` leaves such a pair out, as VOC's own evaluation does; `positive` counts them.
"""

import xml.etree.ElementTree as Xml
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from pydantic import Field

from trmml.datasets.base import Boxes, Dataset, Edges, ordered
from trmml.datasets.files import below, find_file, find_folder, read_lines, read_xml
from trmml.datasets.formats.folder import read_categories
from trmml.datasets.image_files import ImageFiles, locate
from trmml.datasets.options import ReaderOptions, Split
from trmml.datasets.tables.table import clean_name
from trmml.errors import DataError
from trmml.images import SUFFIXES
from trmml.labels.matrix import LabelMatrix

VOC_NAMES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)  # fmt: skip
_LISTS = {"2007": ("trainval", "test"), "2012": ("train", "val")}

Difficult = Literal["negative", "unknown", "positive"]


class VocOptions(ReaderOptions):
    """Choices of `voc2007` and `voc2012`."""

    difficult: Difficult = Field(
        "negative", description="what a category is whose objects are all marked difficult"
    )


class VocXmlOptions(ReaderOptions):
    """Choices of `voc-xml`: any folder of such files."""

    train: str = Field(
        "train.txt",
        description="list of the training set's XML files or images; where it is not there, all"
        " XML files that the test list does not name",
    )
    test: str = Field("test.txt", description="list of the test set's XML files or images")
    annotations: str = Field("Annotations", description="folder of the XML files below the root")
    image_folder: str = Field("JPEGImages", description="folder of the images below the root")
    categories: str = Field(
        "", description="file with the names, one per line; all names that occur when empty"
    )
    difficult: Difficult = Field(
        "positive", description="what a category is whose objects are all marked difficult"
    )
    blank: Literal["absent", "unknown"] = Field(
        "absent", description="what a category means that an image has no object of"
    )


class _Line(NamedTuple):
    """A line of a list: its number, its place for messages and what it names."""

    row: int
    where: str
    text: str


class _Object(NamedTuple):
    name: str
    difficult: bool
    edges: Edges | None


class _Annotation(NamedTuple):
    """An XML file: the line of the list that named it, its image and what is in it."""

    row: int
    path: Path
    stem: str
    image: str
    objects: list[_Object]


def read_voc2007(root: Path, split: Split, options: VocOptions) -> Dataset:
    """Return VOC 2007's trainval or test; see the module.

    Raises:
        DataError: a list or an XML file is missing or damaged, or names another category.
    """
    return _read_devkit(root, "2007", split, options)


def read_voc2012(root: Path, split: Split, options: VocOptions) -> Dataset:
    """Return VOC 2012's train or, as test set, val; see the module.

    Raises:
        DataError: a list or an XML file is missing or damaged, or names another category.
    """
    return _read_devkit(root, "2012", split, options)


def read_voc_xml(root: Path, split: Split, options: VocXmlOptions) -> Dataset:
    """Return a list's images from a folder of XML files as VOC and LabelImg write them.

    Categories are all names in the XML files of both lists, sorted, unless a file gives them. A
    list may name XML files or images, with or without suffix. An XML file's image is the one that
    it names, or, where that is not there, the one that is called as it is.

    Raises:
        DataError: a list or an XML file is missing or damaged, or names another category, or two
            XML files have the same image.
    """
    lists = _xml_lists(root, options)
    if split not in lists:
        find_file(root, [options.test], "the test list (option test=FILE)")
    parts = {part: _annotations(root, lines, options.annotations) for part, lines in lists.items()}
    if options.categories:
        names = tuple(read_categories(root / options.categories))
    else:
        objects = (found for part in parts.values() for entry in part for found in entry.objects)
        names = tuple(sorted({found.name for found in objects}))
    if not names:
        raise DataError(
            f"no XML file in {root / options.annotations} holds an object. Give the names as "
            "option categories=FILE if that is meant."
        )
    entries = _with_images(root, parts[split], options.image_folder)
    return _dataset(root, [options.image_folder], entries, names, options.difficult, options.blank)


def _xml_lists(root: Path, options: VocXmlOptions) -> dict[Split, list[_Line]]:
    """Return the lines of each list that is there."""
    lists: dict[Split, list[_Line]] = {}
    if (root / options.test).is_file():
        lists["test"] = _list_lines(root / options.test)
    if (root / options.train).is_file():
        lists["train"] = _list_lines(root / options.train)
        return lists
    find_folder(root, [options.annotations], "XML files (option annotations=FOLDER)")
    tested = {_stem(line.text) for line in lists.get("test", [])}
    folder = root / options.annotations
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.xml"))
    rest = [name for name in files if _stem(name) not in tested]
    if not rest:
        raise DataError(f"{folder} holds no XML file to train on. Name the folder that does.")
    lists["train"] = [_Line(row, str(folder), name) for row, name in enumerate(rest, start=1)]
    return lists


def _list_lines(path: Path) -> list[_Line]:
    lines = [_Line(row, f"{path} line {row}", text) for row, text in read_lines(path)]
    return [line._replace(text=below(line.text, line.where)) for line in lines]


def _stem(name: str) -> str:
    """Return a name without the suffix of an image or an XML file; `a.b` has none."""
    head, dot, suffix = name.rpartition(".")
    return head if f"{dot}{suffix}".lower() in (*SUFFIXES, ".xml") else name


def _with_images(root: Path, annotations: Sequence[_Annotation], folder: str) -> list[_Annotation]:
    """Return the annotations with images that are there, as far as there are any; none twice."""
    files = ImageFiles(root)
    endings = ("", *SUFFIXES, *map(str.upper, SUFFIXES))
    first: dict[str, Path] = {}
    found = []
    for entry in annotations:
        # A <filename> may have no suffix, no folder, or be that of before the files were renamed.
        names = (stem + ending for stem in (entry.image, entry.stem) for ending in endings)
        image = next((name for name in names if files.find(f"{folder}/{name}")), entry.image)
        if image in first:
            raise DataError(
                f"{entry.path} is of image {image!r}, and so is {first[image]}. Correct the "
                "<filename> of one, or remove it."
            )
        first[image] = entry.path
        found.append(entry._replace(image=image))
    return found


def _read_devkit(root: Path, year: str, split: Split, options: VocOptions) -> Dataset:
    places = [f"VOCdevkit/VOC{year}", f"VOC{year}", "."]
    sets = [f"{place}/ImageSets/Main" for place in places]
    part = _LISTS[year][split == "test"]
    base = find_folder(root, sets, f"the image lists of VOC {year}").removesuffix("/ImageSets/Main")
    path = find_file(root, [f"{base}/ImageSets/Main/{part}.txt"], f"VOC {year}'s list {part}")
    lines = [line._replace(text=line.text.split()[0]) for line in _list_lines(path)]
    annotations = _annotations(root, lines, f"{base}/Annotations")
    annotations = [entry._replace(image=f"{entry.stem}.jpg") for entry in annotations]
    folder = f"{base}/JPEGImages".removeprefix("./")
    return _dataset(root, [folder], annotations, VOC_NAMES, options.difficult, "absent")


def _annotations(root: Path, lines: Sequence[_Line], folder: str) -> list[_Annotation]:
    """Return what the XML files of a list hold."""
    seen: dict[str, int] = {}
    annotations = []
    for row, where, text in lines:
        stem = _stem(text)
        if stem in seen:
            raise DataError(f"{where}: {stem!r} stands in line {seen[stem]} already. Remove one.")
        seen[stem] = row
        file = root / folder / f"{stem}.xml"
        if not file.is_file():
            raise DataError(
                f"{where}: there is no {file}. Unpack the annotations there, or take the line out "
                "of the list."
            )
        tree = read_xml(file)
        image = below(_text(tree, "filename") or stem, str(file))
        annotations.append(_Annotation(row, file, stem, image, list(_objects(tree, file))))
    return annotations


def _text(element: Xml.Element, name: str) -> str:
    return (element.findtext(name) or "").strip()


def _objects(tree: Xml.Element, path: Path) -> Iterator[_Object]:
    size = tree.find("size")
    width, height = (0.0 if size is None else _number(size, key, path) for key in _SIZE)
    for entry in tree.findall("object"):
        name = clean_name(_text(entry, "name"))
        if not name:
            raise DataError(f"{path} has an object without a name. Name it, or remove it.")
        box = entry.find("bndbox")
        edges = None
        if box is not None and width > 0 and height > 0:
            left, top, right, bottom = (_number(box, key, path) for key in _EDGES)
            ordered((left, top, right, bottom), str(path))
            # VOC counts pixels from 1 and includes the last one.
            edges = ((left - 1) / width, (top - 1) / height, right / width, bottom / height)
        yield _Object(name, _text(entry, "difficult") == "1", edges)


_SIZE = ("width", "height")
_EDGES = ("xmin", "ymin", "xmax", "ymax")


def _number(element: Xml.Element, name: str, path: Path) -> float:
    text = _text(element, name)
    try:
        return float(text)
    except ValueError:
        raise DataError(f"{path}: {name} is {text!r}, not a number. Correct it.") from None


def _dataset(
    root: Path,
    folders: Sequence[str],
    annotations: Sequence[_Annotation],
    names: tuple[str, ...],
    difficult: Difficult,
    blank: str,
) -> Dataset:
    columns = {name: column for column, name in enumerate(names)}
    easy, hard = (torch.zeros(len(annotations), len(names), dtype=torch.bool) for _ in range(2))
    boxes: list[tuple[int, int, Edges]] = []
    for row, annotation in enumerate(annotations):
        for found in annotation.objects:
            if found.name not in columns:
                raise DataError(
                    f"{annotation.path}: object {found.name!r} is none of the {len(names)} "
                    f"categories ({', '.join(names[:8])} ...). Correct the name."
                )
            column = columns[found.name]
            (hard if found.difficult else easy)[row, column] = True
            if found.edges is not None and (difficult == "positive" or not found.difficult):
                boxes.append((row, column, found.edges))
    labels = easy | hard if difficult == "positive" else easy
    known = labels.clone() if blank == "unknown" else torch.ones_like(labels)
    if difficult != "positive":
        known[hard & ~easy] = difficult == "negative"
    found_images = locate(root, folders, [annotation.image for annotation in annotations])
    rows = tuple(annotation.row for annotation in annotations)
    matrix = LabelMatrix(labels, known)
    return Dataset(root, found_images, names, matrix, rows, Boxes.collect(boxes))
