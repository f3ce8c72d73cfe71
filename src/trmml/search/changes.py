"""Which images of a folder an index lacks, or describes no longer."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np

from trmml.datasets.base import Dataset
from trmml.datasets.tables.names import same
from trmml.errors import DataError
from trmml.features.base import Progress
from trmml.image_search import find_images
from trmml.search.table import (
    IMAGES,
    REPLACED,
    IndexCard,
    connect,
    has_table,
    image_schema,
    open_images,
)
from trmml.storage.hashes import hash_file

logger = logging.getLogger(__name__)

# Of a row, what says whether it is still right, and what people know.
COLUMNS = ("image", "sha256", "size", "mtime_ns", "given", "absent", "error")
# Images from which looking at each deserves a progress bar.
MANY = 10_000


@dataclass(frozen=True)
class File:
    """An image as it lies in the folder, with what is known of it."""

    name: str
    size: int
    mtime_ns: int
    sha256: str
    given: Sequence[str] = ()
    absent: Sequence[str] = ()


def image_names(root: Path, exclude: Sequence[str]) -> list[str]:
    """Names of the images below a folder."""
    if not root.is_dir():
        raise DataError(f"{root} is no folder; name the folder of the images")
    found = [path.relative_to(root).as_posix() for path in find_images([root])]
    names = [name for name in found if _is_unicode(name)]
    if odd := [ascii(name) for name in found if not _is_unicode(name)]:
        logger.warning(
            "%d images are left out, for their names are no UTF-8: %s; rename them",
            len(odd), ", ".join(odd[:3]),
        )  # fmt: skip
    left = [name for name in names if not any(fnmatch(name, pattern) for pattern in exclude)]
    if not left:
        raise DataError(f"--exclude {' '.join(exclude)} leaves none of the {len(names)} images")
    return left


def _is_unicode(name: str) -> bool:
    """Whether a table can hold a name; a file system has bytes, and some are no text."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def old_rows(table: Any) -> dict[str, dict[str, Any]]:
    """What the index has, by the image's name."""
    rows = table.search().select([*COLUMNS]).limit(None).to_arrow().to_pylist()
    return {row["image"]: row for row in rows}


def labelled_rows(folder: Path) -> dict[str, dict[str, Any]]:
    """What the index has, and what one had that a killed build was to replace."""
    before = has_table(folder, REPLACED)
    found = old_rows(connect(folder).open_table(REPLACED)) if before else {}
    return found | old_rows(open_images(folder)[0]) if has_table(folder, IMAGES) else found


def keep_aside(folder: Path, rows: Mapping[str, Mapping[str, Any]], card: IndexCard) -> None:
    """Write what `labelled_rows` found, before the table is emptied."""
    import pyarrow as pa

    schema = pa.schema([image_schema(card).field(name) for name in COLUMNS])
    table = pa.Table.from_pylist(list(rows.values()), schema=schema)
    connect(folder).create_table(REPLACED, table, mode="overwrite")


def to_describe(
    root: Path,
    names: Sequence[str],
    old: Mapping[str, Mapping[str, Any]],
    labels: Dataset | None,
    progress: Progress | None,
    labelled: Mapping[str, Mapping[str, Any]],
    categories: Sequence[str],
) -> list[File]:
    """The images whose row is missing or is no longer right.

    Args:
        root: folder of the images.
        names: of the images there.
        old: rows of the table that is written to.
        labels: what is known now; None keeps what was.
        progress: called with ("look", done, total).
        labelled: rows of the table before, which may have been made anew.
        categories: the run's; labels that differ from one in case alone are of it.
    """
    known = None if labels is None else _labels_by_image(labels, categories)
    there = set(names)
    moved = {row["sha256"]: row for name, row in old.items() if name not in there}
    todo = []
    for place, name in enumerate(names):
        row, now = old.get(name), _look(root, name, old.get(name))
        before = _labels_of(row or moved.get(now.sha256) or labelled.get(name))
        given, absent = before if known is None else known.get(name, ((), ()))
        right = (
            row is not None and row["error"] is None and _stat_of(row) == (now.size, now.mtime_ns)
        )
        if not right or (given, absent) != before:
            todo.append(replace(now, given=given, absent=absent))
        if progress is not None and len(names) >= MANY:
            progress("look", place + 1, len(names))
    return todo


def _look(root: Path, name: str, row: Mapping[str, Any] | None) -> File:
    """A file as it lies there; it is read where its size or time differ from its row's."""
    stat = (root / name).stat()
    now = stat.st_size, stat.st_mtime_ns
    known = row is not None and _stat_of(row) == now
    return File(name, *now, row["sha256"] if row is not None and known else _digest(root / name))


def _stat_of(row: Mapping[str, Any]) -> tuple[int, int]:
    return row["size"], row["mtime_ns"]


def _labels_of(row: Mapping[str, Any] | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What a row says is present, and absent."""
    return ((), ()) if row is None else (tuple(row["given"]), tuple(row["absent"]))


def _digest(path: Path) -> str:
    """SHA-256 of a file; "" where it cannot be read, which its row will say."""
    try:
        return hash_file(path)
    except OSError:
        return ""


def _labels_by_image(
    labels: Dataset, categories: Sequence[str]
) -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    """Names of the categories that are known to be present, and absent, by image."""
    own = {same(name): name for name in categories} | {name: name for name in categories}
    spelt = [own.get(name) or own.get(same(name), name) for name in labels.category_names]
    names = np.asarray(spelt, dtype=object)
    present = (labels.matrix.labels & labels.matrix.known).numpy()
    absent = (~labels.matrix.labels & labels.matrix.known).numpy()
    return {
        image: (tuple(names[present[row]]), tuple(names[absent[row]]))
        for row, image in enumerate(labels.images)
    }
