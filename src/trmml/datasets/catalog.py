"""Data sets by name: the reader of each, its options, and the published counts."""

import difflib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trmml.datasets.base import Dataset, without_contradictions
from trmml.datasets.formats.class_folders import ClassFolderOptions, read_class_folders
from trmml.datasets.formats.coco import (
    Coco2014Options,
    CocoJsonOptions,
    read_coco2014,
    read_coco_json,
)
from trmml.datasets.formats.cub import CubOptions, read_cub
from trmml.datasets.formats.cvat import CvatOptions, read_cvat
from trmml.datasets.formats.huggingface import HuggingFaceOptions, read_huggingface
from trmml.datasets.formats.label_studio import LabelStudioOptions, read_label_studio
from trmml.datasets.formats.nus_wide import NusWideOptions, read_nus_wide
from trmml.datasets.formats.packed import ShardOptions
from trmml.datasets.formats.parquet import ParquetOptions, read_parquet_set
from trmml.datasets.formats.plain import (
    FolderOptions,
    ListedFolderOptions,
    ScenesOptions,
    read_listed_folder,
    read_plain_folder,
    read_roboflow,
    read_scenes,
)
from trmml.datasets.formats.visual_genome import Vg200Options, read_vg200
from trmml.datasets.formats.voc import (
    VocOptions,
    VocXmlOptions,
    read_voc2007,
    read_voc2012,
    read_voc_xml,
)
from trmml.datasets.formats.webdataset import read_webdataset
from trmml.datasets.formats.yolo import YoloOptions, read_yolo
from trmml.datasets.image_files import ImageFiles
from trmml.datasets.options import ReaderOptions, Split, parse_options
from trmml.errors import ConfigError, DataError

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Counts:
    """What a split should hold.

    Args:
        images: how many.
        categories: how many.
        positives: present pairs; None where no source gives them.
        tolerance: by how many images and positives the source may differ; "about" in our tables.
        known: pairs that are present or absent; None where no source gives them.
    """

    images: int
    categories: int
    positives: int | None = None
    tolerance: int = 0
    known: int | None = None


@dataclass(frozen=True)
class Reader:
    """A name's reader.

    Args:
        read: returns a split; it need not check that the images exist.
        options: its choices.
        title: what the name means, in one line.
        counts: the published counts of train and test by the options that change them, as in
            {"images=all": (...)}; the first entry whose options are set counts. None, and no
            entry: none were published.
    """

    read: Callable[[Path, Split, Any], Dataset]
    options: type[ReaderOptions]
    title: str
    counts: Mapping[str, tuple[Counts, Counts] | None]


def _sizes(train: int, test: int, categories: int, tolerance: int = 0) -> tuple[Counts, Counts]:
    return (
        Counts(train, categories, tolerance=tolerance),
        Counts(test, categories, tolerance=tolerance),
    )


# The reader's module names the source of each count.
READERS: Mapping[str, Reader] = {
    "coco2014": Reader(
        read_coco2014, Coco2014Options, "MS-COCO 2014",
        {"images=annotated crowd=keep": (Counts(82_081, 80, 241_035), Counts(40_137, 80)),
         "images=annotated": _sizes(82_081, 40_137, 80),
         "images=all": _sizes(82_783, 40_504, 80)},
    ),
    "voc2007": Reader(
        read_voc2007, VocOptions, "PASCAL VOC 2007", {"": _sizes(5_011, 4_952, 20)}
    ),
    "voc2012": Reader(
        read_voc2012, VocOptions, "PASCAL VOC 2012", {"": _sizes(5_717, 5_823, 20)}
    ),
    "vg200": Reader(
        read_vg200, Vg200Options, "Visual Genome, 200 categories",
        {"": _sizes(98_249, 10_000, 200)},
    ),
    "nuswide": Reader(
        read_nus_wide, NusWideOptions, "NUS-WIDE, 81 concepts",
        {"labels=tags empty=drop": None,
         "version=official empty=drop": _sizes(125_449, 83_898, 81, tolerance=100),
         "version=official": _sizes(161_789, 107_859, 81),
         "version=asl": (Counts(119_103, 81, 289_460), Counts(50_720, 81)),
         "version=cole empty=keep": _sizes(150_000, 60_260, 81)},
    ),
    "cub": Reader(
        read_cub, CubOptions, "CUB-200-2011, 312 attributes",
        {"certainty=ignore": (Counts(5_994, 312, known=1_870_128),
                              Counts(5_794, 312, known=1_807_728)),
         "": _sizes(5_994, 5_794, 312)},
    ),
    "corel5k": Reader(
        read_listed_folder, ListedFolderOptions, "Corel5k as a folder",
        {"": _sizes(4_500, 499, 242)},
    ),
    "posters": Reader(
        read_listed_folder, ListedFolderOptions, "film posters as a folder",
        {"": _sizes(4_000, 2_000, 22)},
    ),
    "folder": Reader(
        read_plain_folder, FolderOptions, "train.csv and test.csv beside images/", {}
    ),
    "roboflow": Reader(read_roboflow, FolderOptions, "Roboflow's _classes.csv or COCO export", {}),
    "class-folders": Reader(
        read_class_folders, ClassFolderOptions, "a folder of images per category", {}
    ),
    "scenes": Reader(read_scenes, ScenesOptions, "what trmml scenes draws", {}),
    "coco": Reader(read_coco_json, CocoJsonOptions, "any JSON in COCO's form", {}),
    "voc-xml": Reader(read_voc_xml, VocXmlOptions, "any folder of VOC-style XML", {}),
    "yolo": Reader(read_yolo, YoloOptions, "YOLO label folders", {}),
    "label-studio": Reader(
        read_label_studio, LabelStudioOptions, "Label Studio's exports", {}
    ),
    "cvat": Reader(read_cvat, CvatOptions, "CVAT for images 1.1", {}),
    "parquet": Reader(read_parquet_set, ParquetOptions, "Parquet with image bytes", {}),
    "webdataset": Reader(read_webdataset, ShardOptions, "WebDataset tar shards", {}),
    "huggingface": Reader(
        read_huggingface, HuggingFaceOptions, "a Hugging Face data set's folder", {}
    ),
}  # fmt: skip


def read_named(name: str, root: Path, split: Split, options: Mapping[str, str]) -> Dataset:
    """Return a split of a data set by its name; every image of it exists.

    Counts that differ from the published ones are logged as one warning.

    Args:
        name: one of `READERS`.
        root: the folder that holds its files, as docs/data.md shows them.
        split: "train", or "test", which some sets call val.
        options: the reader's choices, as {"difficult": "unknown"}.

    Raises:
        ConfigError: there is no such name or option.
        DataError: files or images are missing, damaged or contradict each other.
    """
    reader = find_reader(name)
    chosen = parse_options(reader.options, options, name)
    data, missing = read_unchecked(reader, Path(root), split, chosen)
    differences = count_differences(data, expected_counts(reader, split, chosen))
    if differences:
        _log.warning(
            "%s %s: %s; `trmml data check %s ROOT` shows more",
            name, split, "; ".join(differences), name,
        )  # fmt: skip
    if not missing:
        return data
    if chosen.missing == "error" or len(missing) == len(data):
        raise DataError(
            f"{name}: {len(missing)} of the {len(data)} {split} images are not there, the first "
            f"expected at {data.root / data.images[missing[0]]} (entry {data.rows[missing[0]]} of "
            f"its list). Copy them there; `trmml data check {name} ROOT` lists them all, and "
            "option missing=drop leaves them out."
        )
    _log.warning("%s: %d %s images are not there and were left out", name, len(missing), split)
    return leave_out(data, missing)


def leave_out(data: Dataset, missing: Sequence[int]) -> Dataset:
    """Return the data without the images at these indices."""
    gone = set(missing)
    return data.subset([index for index in range(len(data)) if index not in gone])


def find_reader(name: str) -> Reader:
    """Return the reader of a name.

    Raises:
        ConfigError: there is none.
    """
    if name in READERS:
        return READERS[name]
    close = difflib.get_close_matches(name, READERS, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    raise ConfigError(f"there is no data set {name!r}{hint} Known: {', '.join(READERS)}.")


def read_unchecked(
    reader: Reader, root: Path, split: Split, options: ReaderOptions
) -> tuple[Dataset, list[int]]:
    """Return a split as its files list it, and the indices of the images that are not there.

    Raises:
        DataError: files are missing, damaged or contradict each other.
    """
    if not root.is_dir():
        what = "is a file, not a folder" if root.exists() else "does not exist"
        raise DataError(f"the data set's folder {root} {what}. Name the folder of its files.")
    try:
        data = reader.read(root, split, options)
    except OSError as error:  # a name longer than names can be, a file that may not be read
        raise DataError(
            f"cannot read {error.filename or root!s:.200}: {error.strerror or error}. Correct the "
            "name, or allow reading the file."
        ) from error
    if not len(data):
        raise DataError(f"the {split} set in {root} holds no image. Check its list and options.")
    files = ImageFiles(data.root)
    on_disk = [files.find(name) for name in data.images]
    missing = [index for index, name in enumerate(on_disk) if name is None]
    names = tuple(path or name for path, name in zip(on_disk, data.images, strict=True))
    return without_contradictions(replace(data, images=names)), missing


def count_differences(data: Dataset, expected: Counts | None) -> list[str]:
    """Return in words each count of a split that is not the published one.

    Args:
        data: all that its files list, also images that are not there.
        expected: from `expected_counts`; without any, nothing differs.
    """
    if expected is None:
        return []
    matrix, tolerance = data.matrix, expected.tolerance
    counts = [("images", len(data), expected.images, tolerance),
              ("categories", len(data.category_names), expected.categories, 0),
              ("positives", int(matrix.positives.sum()), expected.positives, tolerance),
              ("known pairs", int(matrix.known.sum()), expected.known, 0)]  # fmt: skip
    return [
        f"{count:,} {what}, but {'about ' if about else ''}{published:,} were published for these "
        "options"
        for what, count, published, about in counts
        if published is not None and abs(count - published) > about
    ]


def expected_counts(reader: Reader, split: Split, options: ReaderOptions) -> Counts | None:
    """Return the published counts of a split under these options; None where there are none."""
    chosen = {f"{key}={value}" for key, value in options.model_dump().items()}
    for needed, pair in reader.counts.items():
        if set(needed.split()) <= chosen:
            return None if pair is None else pair[split == "test"]
    return None
