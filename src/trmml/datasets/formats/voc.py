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

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from trmml.datasets.base import Dataset
from trmml.datasets.files import below, below_folder, find_file, find_folder, read_lines
from trmml.datasets.formats.folder import read_categories
from trmml.datasets.formats.voc_xml import (
    Annotation,
    Difficult,
    ListLine,
    as_dataset,
    read_annotations,
)
from trmml.datasets.image_files import ImageFiles, stem_of
from trmml.datasets.options import ReaderOptions, Split
from trmml.datasets.tables.names import refuse_look_alikes
from trmml.errors import DataError
from trmml.image_search import files_below

VOC_NAMES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)  # fmt: skip
_LISTS = {"2007": ("trainval", "test"), "2012": ("train", "val")}


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
    blank: Literal["absent", "unknown"] | None = Field(
        None,
        description="what a category means that an image has no object of; absent, but required"
        " where no image has any object",
    )


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
    folders = {name: below_folder(getattr(options, name), name, root)
               for name in ("annotations", "image_folder")}  # fmt: skip
    options = options.model_copy(update=folders)
    lists = _xml_lists(root, options)
    if split not in lists:
        find_file(root, [options.test], "the test list (option test=FILE)", "test")
    parts = {
        part: read_annotations(root, lines, options.annotations) for part, lines in lists.items()
    }
    if options.categories:
        names = tuple(read_categories(root / options.categories))
    else:
        objects = (each for part in parts.values() for entry in part for each in entry.objects)
        counts = Counter(each.name for each in objects)
        refuse_look_alikes(counts, counts, str(root / options.annotations))
        names = tuple(sorted(counts))
    if not names:
        raise DataError(
            f"no XML file in {root / options.annotations} holds an object. Give the names as "
            "option categories=FILE if that is meant."
        )
    if options.blank is None and not any(entry.objects for entry in parts[split]):
        raise DataError(
            f"{root}: none of the {len(parts[split])} XML files of the {split} set has an object. "
            "Choose option blank=absent if every image was checked for every category, "
            "blank=unknown if not."
        )
    entries = _with_images(root, parts[split], options.image_folder)
    return as_dataset(
        root, [options.image_folder], entries, names, options.difficult, options.blank
    )


def _xml_lists(root: Path, options: VocXmlOptions) -> dict[Split, list[ListLine]]:
    """Return the lines of each list that is there."""
    lists: dict[Split, list[ListLine]] = {}
    if (root / options.test).is_file():
        lists["test"] = _list_lines(root / options.test)
    if (root / options.train).is_file():
        lists["train"] = _list_lines(root / options.train)
        return lists
    find_folder(root, [options.annotations], "XML files (option annotations=FOLDER)")
    tested = {stem_of(line.text) for line in lists.get("test", [])}
    folder = root / options.annotations
    found = (Path(path) for path in files_below(folder) if path.endswith(".xml"))
    files = sorted(path.relative_to(folder).as_posix() for path in found)
    rest = [name for name in files if stem_of(name) not in tested]
    if not rest:
        raise DataError(f"{folder} holds no XML file to train on. Name the folder that does.")
    lists["train"] = [ListLine(row, str(folder), name) for row, name in enumerate(rest, start=1)]
    return lists


def _list_lines(path: Path) -> list[ListLine]:
    lines = [ListLine(row, f"{path} line {row}", text) for row, text in read_lines(path)]
    return [line._replace(text=below(line.text, line.where)) for line in lines]


def _with_images(root: Path, annotations: Sequence[Annotation], folder: str) -> list[Annotation]:
    """Return the annotations with images that are there, as far as there are any; none twice."""
    files = ImageFiles(root)
    first: dict[str, Path] = {}
    located = []
    for entry in annotations:
        # A <filename> may have no suffix, no folder, or be that of before the files were renamed.
        places = (files.find(f"{folder}/{name}") for name in (entry.image, entry.stem))
        place = next(filter(None, places), f"{folder}/{entry.image}")
        image = place.removeprefix(f"{folder}/")
        if image in first:
            raise DataError(
                f"{entry.path} is of image {image!r}, and so is {first[image]}. Correct the "
                "<filename> of one, or remove it."
            )
        first[image] = entry.path
        located.append(entry._replace(image=image))
    return located


def _read_devkit(root: Path, year: str, split: Split, options: VocOptions) -> Dataset:
    places = [f"VOCdevkit/VOC{year}", f"VOC{year}", "."]
    sets = [f"{place}/ImageSets/Main" for place in places]
    part = _LISTS[year][split == "test"]
    base = find_folder(root, sets, f"the image lists of VOC {year}").removesuffix("/ImageSets/Main")
    path = find_file(root, [f"{base}/ImageSets/Main/{part}.txt"], f"VOC {year}'s list {part}")
    lines = [line._replace(text=line.text.split()[0]) for line in _list_lines(path)]
    annotations = read_annotations(root, lines, f"{base}/Annotations")
    annotations = [entry._replace(image=f"{entry.stem}.jpg") for entry in annotations]
    folder = f"{base}/JPEGImages".removeprefix("./")
    return as_dataset(root, [folder], annotations, VOC_NAMES, options.difficult, "absent")
