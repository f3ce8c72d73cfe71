"""Read a folder of images with a CSV or Parquet table of their labels."""

import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from trmml.datasets.base import Dataset
from trmml.datasets.files import below
from trmml.datasets.formats.coco import read_coco_file
from trmml.datasets.formats.other_forms import is_coco, read_other_form
from trmml.datasets.image_files import ImageFiles
from trmml.datasets.tables.cells import ABSENT_COLUMN, holds_answers, is_long, present_columns
from trmml.datasets.tables.long import read_long
from trmml.datasets.tables.names import unique_names
from trmml.datasets.tables.row_per_label import join_rows
from trmml.datasets.tables.table import IMAGE_COLUMNS, Table, image_columns, read_table, read_text
from trmml.datasets.tables.wide import read_wide
from trmml.errors import ConfigError, DataError
from trmml.settings.choices import Blank


def read_folder(
    images: Path | str,
    labels: Path | str,
    *,
    blank: Blank | None = None,
    minus_one: Blank | None = None,
    categories: Sequence[str] | None = None,
    separator: str | None = None,
) -> Dataset:
    r"""Return the images of a folder that a table names, with their labels.

    The table has a column `image` (or `file`, `filename`, `path`) with names below the folder and
    either one column per category with 1, 0 or blank (also yes/no, true/false), or a column
    `present` (or `labels`, `tags`) with names as in `cat;dog` and perhaps a column `absent`.

    Args:
        images: the folder; names in the table may lead into folders below it.
        labels: a CSV file in UTF-8, a Parquet file, or a JSON file in COCO's form.
        blank: what a blank cell, or a name that a row does not list, means. None: unknown, but a
            table that lists only what is present requires a choice.
        minus_one: what -1 means in a table with a column per category. With "absent", 0 means
            unknown there; no and false stay absent.
        categories: the names to read, in this order. None: all columns in their order, or the
            sorted names in the lists.
        separator: between names in a list. None: `;`, and a list that seems to have another is
            refused.

    Raises:
        DataError: the folder or the table is missing or damaged, a cell has no clear meaning, an
            image is named twice, lies elsewhere or does not exist. The message names the line.
        ConfigError: `blank` or `minus_one` has another value, or `categories` is one string.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "a.jpg").write_bytes(b"")
        >>> _ = (folder / "labels.csv").write_text("image,cat,dog,owl\na.jpg,1,0,\n")
        >>> data = read_folder(folder, folder / "labels.csv")
        >>> data.category_names, data.matrix.labels.tolist(), data.matrix.known.tolist()
        (('cat', 'dog', 'owl'), [[True, False, False]], [[True, True, False]])
    """
    images = Path(images)
    files = ImageFiles(images)
    data, where = read_labels(
        images, Path(labels), blank, minus_one, categories=categories, separator=separator
    )
    return replace(data, images=_find_images(files, data, where))


def read_labels(
    images: Path,
    labels: Path,
    blank: Blank | None = None,
    minus_one: Blank | None = None,
    *,
    categories: Sequence[str] | None = None,
    separator: str | None = None,
) -> tuple[Dataset, str]:
    """Return what `read_folder` does, whether the images are there or not; and what a row is.

    Raises:
        DataError: as `read_folder`, but for images that do not exist.
        ConfigError: as `read_folder`.
    """
    _check_choice("blank", blank)
    _check_choice("minus_one", minus_one)
    wanted = _check_categories(categories)
    if is_coco(labels):
        data = read_coco_file(images, labels, blank)
        return (data if wanted is None else data.select(wanted)), f"{labels} image"
    table = read_other_form(labels, wanted) or read_table(labels)
    data = from_table(
        images,
        table,
        blank=blank,
        minus_one=minus_one,
        categories=wanted or table.declared or None,
        separator=separator,
    )
    return data, f"{table.path} {table.unit}"


def from_table(
    images: Path,
    table: Table,
    *,
    blank: Blank | None = None,
    minus_one: Blank | None = None,
    categories: Sequence[str] | None = None,
    separator: str | None = None,
) -> Dataset:
    """Return what `read_folder` does of a table, without looking whether the images are there.

    Raises:
        DataError: a cell has no clear meaning, or an image is named twice or lies elsewhere.
    """
    column = _image_column(table)
    named = categories is not None and set(categories) <= set(table.names)
    if not named:
        table = join_rows(table, column, separator, categories)
    if is_long(table, categories):
        names, matrix = read_long(table, column, categories, blank=blank, separator=separator)
    else:
        names, matrix = read_wide(table, column, categories, blank=blank, minus_one=minus_one)
    return Dataset(images, tuple(_image_names(table, column, images)), names, matrix, table.rows)


def image_names(table: Table) -> tuple[str, ...]:
    """Return the images that a table names, as `folder/image.jpg`.

    Raises:
        DataError: the table has no such column, or an image is named twice or lies elsewhere.
    """
    column = _image_column(table)
    return tuple(_image_names(join_rows(table, column, None), column))


def other_columns(labels: Path, data: Dataset, categories: Sequence[str] | None) -> list[str]:
    """Return the columns of a table that hold neither images nor what was read of it as labels.

    Args:
        labels: of the table; what is none has no columns.
        data: what was read of it.
        categories: those that were asked for.
    """
    if is_coco(labels) or read_other_form(labels, categories) is not None:
        return []
    table = read_table(labels)
    used = [_image_column(table), *data.category_names]
    if is_long(table, categories):
        used = [used[0], *present_columns(table, categories)]
        used += [name for name in table.names if name.casefold() == ABSENT_COLUMN]
    return [name for name in table.names if name not in used]


def read_categories(path: Path | str) -> list[str]:
    """Return the category names in a UTF-8 text file, one per line; blank lines are skipped.

    Raises:
        DataError: the file is missing or in another encoding, names nothing, or a name twice.
    """
    lines = read_text(Path(path), "a category name").split("\n")
    return list(unique_names([line for line in lines if line.strip()], str(path)))


def _check_choice(name: str, value: str | None) -> None:
    if value not in (None, "unknown", "absent"):
        raise ConfigError(f"{name} must be 'unknown' or 'absent', not {value!r}.")


def _check_categories(categories: Sequence[str] | None) -> tuple[str, ...] | None:
    if categories is None:
        return None
    if isinstance(categories, str):
        raise ConfigError(f"categories must be a list of names, not the text {categories!r}.")
    if not categories:
        raise DataError("categories is an empty list. Name at least one, or leave it out.")
    return unique_names(categories, "categories")


def _image_column(table: Table) -> str:
    found = image_columns(table.names)
    if found:  # a category may be called `path`
        names = (name for name in found if not holds_answers(table.column(name)))
        return next(names, found[0])
    raise DataError(
        f"{table.path} names no image column; its columns are {', '.join(table.names)[:200]}. "
        f"Call the column that holds the images' names one of {', '.join(IMAGE_COLUMNS)}."
    )


def _image_names(table: Table, column: str, images: Path | None = None) -> list[str]:
    """Return the names as `folder/image.jpg`, each inside the folder and none twice."""
    raw = table.column(column).to_list()
    first: dict[str, int] = {}
    names = []
    for index, value in enumerate(raw):
        if not isinstance(value, str) or not value.strip():
            raise DataError(
                f"{table.place(index)}, column {column!r}: an image name was expected, not "
                f"{value!r}. Write the name of a file in the folder, or remove the row."
            )
        name = below(value, table.place(index), images)
        key = unicodedata.normalize("NFC", name)
        if key in first:
            raise DataError(
                f"{table.place(index)}: image {value!r} is in {table.unit} "
                f"{table.rows[first[key]]} already ({_count_repeats(raw)} names occur more than "
                "once). Keep one row per image, with all that is known about it."
            )
        first[key] = index
        names.append(name)
    return names


def _count_repeats(names: Sequence[object]) -> int:
    cleaned = (
        unicodedata.normalize("NFC", str(PurePosixPath(str(name).strip().replace("\\", "/"))))
        for name in names
    )
    return sum(count > 1 for count in Counter(cleaned).values())


def _find_images(files: ImageFiles, data: Dataset, where: str) -> tuple[str, ...]:
    on_disk = [files.find(name) for name in data.images]
    missing = [index for index, name in enumerate(on_disk) if name is None]
    if missing:
        name = data.images[missing[0]]
        raise DataError(
            f"{where} {data.rows[missing[0]]}: there is no image {name!r} in {files.root}"
            f"{files.suggest(name)} {len(missing)} of {len(data)} images are missing. "
            "Correct the table, or name the folder that holds the images."
        )
    first: dict[str | None, int] = {}
    for index, path in enumerate(on_disk):
        if first.setdefault(path, index) != index:
            raise DataError(
                f"{where} {data.rows[index]}: the image {path} is that of "
                f"{data.rows[first[path]]} already. Keep one row per image."
            )
    return tuple(name for name in on_disk if name is not None)
