"""Read our own plain form by name: a folder with train.csv and test.csv, and drawn scenes.

`folder`, and what `trmml data convert` writes:

    images/...              the images
    train.csv, test.csv     tables as docs/data.md explains them (.parquet serves as well)
    categories.txt          the names to read, one per line; all columns where it is not there
    boxes.csv               optional: image,category,left,top,right,bottom as shares in [0, 1],
                            of the images of both tables

`corel5k` and `posters` are such folders whose tables (`image,labels`, names joined by ";") list
what is present; what they do not list is absent. `folder` requires a choice. No download has this
form; the two were made of:

- `corel5k`, 4,500 / 499 images: https://github.com/ParkByungYoon/corel-5k at 6fc96e0, the
  usual split. categories.txt names the 242 of its 374 words that at least 5 training and 1 test
  images have. An image has at most 5 words, so what counts as absent is often only unlisted.
- `posters`, 4,000 / 2,000 film posters: images of
  https://github.com/srijonsarkar/Movie-Genre-Prediction at e3820ba, genres of
  https://github.com/d-misra/Multi-label-movie-poster-genre-classification at 8c2c190,
  joined on the IMDb number; 6,000 of the 34,919 labelled posters, drawn with seed 0. categories.txt
  names the 22 of 28 genres that at least 50 training posters have. Which posters were drawn is in
  no public file: other draws give other figures.

`roboflow`: an export of Roboflow, folders train/ and test/ or valid/ of images, each with a table
_classes.csv ("Multi-Label Classification") or with _annotations.coco.json ("COCO"). The category of
the project's name, which Roboflow puts above the others, is left out where nothing is annotated so.

`scenes`: what `trmml scenes` draws. ROOT holds the folders train/ and test/ (drawn from different
seeds), or is one such folder, of which the last images are the test set.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Literal

from PIL import Image
from pydantic import Field

from trmml.datasets.base import Boxes, Dataset, Edges, is_share, ordered
from trmml.datasets.files import find_file, find_folder
from trmml.datasets.formats.coco import read_roboflow_coco
from trmml.datasets.formats.folder import from_table, image_names, read_categories
from trmml.datasets.options import SPLIT_NAMES, ReaderOptions, Split
from trmml.datasets.tables.cells import names_in
from trmml.datasets.tables.names import clean_name, suggest
from trmml.datasets.tables.table import Table, read_table
from trmml.errors import DataError
from trmml.settings.choices import Blank

_ROBOFLOW = ("_classes.csv", "_annotations.coco.json")
EDGES = ("left", "top", "right", "bottom")
_PRESENT_SHARE = 0.3  # visible share of an object below which `trmml scenes` calls it absent


class FolderOptions(ReaderOptions):
    """Choices of `folder` and `roboflow`."""

    blank: Blank | None = Field(
        None, description="what a blank, or a name that is not listed, means"
    )
    minus_one: Blank | None = Field(None, description="what -1 means")
    separator: str | None = Field(None, description="between names in a list; ; by default")


class ListedFolderOptions(ReaderOptions):
    """Choices of `corel5k` and `posters`."""

    blank: Literal["absent", "unknown"] = Field(
        "absent", description="what a name that is not listed means"
    )


class ScenesOptions(ReaderOptions):
    """Choices of `scenes`."""

    labels: Literal["labels.csv", "labels_partial.csv"] = Field(
        "labels.csv", description="the complete table, or the one with blanks, to train on"
    )
    test_share: float = Field(
        0.25, gt=0, lt=1, description="share of a single folder that is the test set"
    )


def read_plain_folder(root: Path, split: Split, options: FolderOptions) -> Dataset:
    """Return the images of train.csv or test.csv; see the module.

    Raises:
        DataError: the table, the names or the boxes are missing or damaged.
    """
    return _read(root, split, options.blank, options.minus_one, options.separator)


def read_listed_folder(root: Path, split: Split, options: ListedFolderOptions) -> Dataset:
    """Return the images of a table that lists what is present; see the module.

    Raises:
        DataError: the table, the names or the boxes are missing or damaged.
    """
    return _read(root, split, options.blank, None, ";")


def read_roboflow(root: Path, split: Split, options: FolderOptions) -> Dataset:
    """Return the images beside a table or a COCO file in the split's folder; see the module.

    Raises:
        DataError: there is none of them, or it is damaged.
    """
    places = [f"{folder}/{file}" for folder in SPLIT_NAMES[split] for file in _ROBOFLOW]
    path = find_file(root, places, f"the labels of the {split} set", split)
    if path.suffix == ".json":
        beside = (root / folder / path.name for names in SPLIT_NAMES.values() for folder in names)
        return read_roboflow_coco(path, [file for file in beside if file.is_file()], options.blank)
    return from_table(
        path.parent,
        read_table(path),
        blank=options.blank,
        minus_one=options.minus_one,
        separator=options.separator,
    )


def read_scenes(root: Path, split: Split, options: ScenesOptions) -> Dataset:
    """Return drawn scenes with boxes around the visible objects; see the module.

    Raises:
        DataError: a table is missing or damaged.
    """
    alone = (root / "labels.csv").is_file()
    folder = root if alone else root / find_folder(root, [split], f"the {split} scenes")
    table = options.labels if split == "train" else "labels.csv"
    path = find_file(folder, [table], "the table of the scenes")
    labels, boxes = (read_table(p) for p in (path, find_file(folder, ["boxes.csv"], "the boxes")))
    data = _with_boxes(from_table(folder, labels), boxes, labels, pixels=True)
    if not alone:
        return data
    first = len(data) - max(1, round(options.test_share * len(data)))
    return data.subset(range(first) if split == "train" else range(first, len(data)))


def _read(
    root: Path,
    split: Split,
    blank: Blank | None,
    minus_one: Blank | None,
    separator: str | None,
) -> Dataset:
    path = find_file(root, [f"{split}.csv", f"{split}.parquet"], f"the {split} table", split)
    names = root / "categories.txt"
    categories = read_categories(names) if names.is_file() else None
    labels, boxes = read_table(path), root / "boxes.csv"
    data = from_table(
        root / "images",
        labels,
        blank=blank,
        minus_one=minus_one,
        categories=categories,
        separator=separator,
    )
    if not boxes.is_file():
        return data
    other = "test" if split == "train" else "train"
    places = [root / f"{other}{suffix}" for suffix in (".csv", ".parquet")]
    rest = next((place for place in places if place.is_file()), None)
    return _with_boxes(data, read_table(boxes), labels, rest, separator, pixels=False)


def _with_boxes(
    data: Dataset,
    table: Table,
    labels: Table,
    rest: Path | None = None,
    separator: str | None = None,
    *,
    pixels: bool,
) -> Dataset:
    """Return the data with a table's boxes; those of images that `rest` names are left out."""
    lacking = [name for name in ("image", "category", *EDGES) if name not in table.names]
    if lacking:
        raise DataError(f"{table.path} has no column {lacking[0]!r}. See docs/data.md for boxes.")
    _check_names(data, table, labels, rest, separator)
    boxes = Boxes.collect(_boxes(data, table, pixels=pixels))
    return replace(data, boxes=boxes)


def _check_names(
    data: Dataset, table: Table, labels: Table, rest: Path | None, separator: str | None
) -> None:
    """Refuse boxes of images that neither table names, and of categories that no column does."""
    images = [_image_key(cell) for cell in table.column("image")]
    here = set(map(clean_name, data.images))
    strange = set(images) - here
    if strange and rest is not None:
        strange -= set(map(clean_name, image_names(read_table(rest))))
    if strange:
        row = next(row for row, image in enumerate(images) if image in strange)
        also = "" if rest is None else f" nor in {rest}"
        raise DataError(
            f"{table.place(row)}: image {images[row]!r} is not in {labels.path}{also} "
            f"({len(strange)} such images). Correct the name, or remove its boxes."
        )
    names = [clean_name(str(cell)) for cell in table.column("category")]
    unknown = {name for image, name in zip(images, names, strict=True) if image in here}
    unknown -= set(data.category_names)
    if unknown:  # categories.txt may leave out some of the table's categories
        unknown -= names_in(labels, separator)
    if unknown:
        row = next(r for r, image in enumerate(images) if image in here and names[r] in unknown)
        raise DataError(
            f"{table.place(row)}: {names[row]!r} is none of the {len(data.category_names)} "
            f"categories{suggest(names[row], data.category_names)} Correct the name, or remove "
            "its boxes."
        )


def _image_key(cell: object) -> str:
    return clean_name(str(PurePosixPath(str(cell).strip().replace("\\", "/"))))


def _boxes(data: Dataset, table: Table, *, pixels: bool) -> Iterator[tuple[int, int, Edges]]:
    images = {clean_name(name): index for index, name in enumerate(data.images)}
    columns = {name: index for index, name in enumerate(data.category_names)}
    shares = table.column("visible_share") if "visible_share" in table.names else None
    names, categories = (table.column(name) for name in ("image", "category"))
    edges = [table.column(name) for name in EDGES]
    for row in range(len(table.rows)):
        image = images.get(_image_key(names[row]))
        column = columns.get(clean_name(str(categories[row])))
        hidden = shares is not None and _numbers(table, row, [shares[row]])[0] < _PRESENT_SHARE
        if image is None or column is None or hidden:
            continue
        numbers = _numbers(table, row, [values[row] for values in edges])
        scale = (1.0, 1.0)
        if pixels:
            scale = _size(data.root / data.images[image])
        elif not all(map(is_share, numbers)):
            raise DataError(
                f"{table.place(row)}: expected edges as shares in [0, 1], got {numbers}. Divide "
                "pixels by the image's width and height."
            )
        left, top, right, bottom = ordered(
            (numbers[0], numbers[1], numbers[2], numbers[3]), table.place(row)
        )
        width, height = scale
        yield image, column, (left / width, top / height, right / width, bottom / height)


def _numbers(table: Table, row: int, cells: Sequence[object]) -> list[float]:
    try:
        return [float(str(cell)) for cell in cells]
    except ValueError:
        raise DataError(f"{table.place(row)}: expected numbers, got {cells}.") from None


def _size(path: Path) -> tuple[float, float]:
    """Return width and height in pixels, from the file's head."""
    try:
        with Image.open(path) as image:
            return float(image.width), float(image.height)
    except OSError as error:
        raise DataError(f"{path} is not there or no image, so its boxes have no scale.") from error
