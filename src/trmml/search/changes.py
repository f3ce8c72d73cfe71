"""Which images of a folder an index lacks, or describes no longer."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path

from trmml.errors import DataError
from trmml.features.base import Progress
from trmml.image_search import find_images
from trmml.search.labels import Labels, Row, labels_of
from trmml.storage.hashes import hash_file

logger = logging.getLogger(__name__)

# Images from which looking at each deserves a progress bar.
MANY = 10_000


@dataclass(frozen=True)
class File:
    """An image as it lies in the folder, with what is known of it.

    Attributes:
        name: below the folder.
        size: in bytes; 0 where it is gone, as where a link leads nowhere.
        mtime_ns: time of its last change; 0 where it is gone.
        sha256: of its bytes; "" where it cannot be read.
        given: categories that are known to be present.
        absent: categories that are known to be absent.
        error: why it could not be read before, where its row is right if it still cannot.
    """

    name: str
    size: int
    mtime_ns: int
    sha256: str
    given: Sequence[str] = ()
    absent: Sequence[str] = ()
    error: str | None = None


def check_root(root: Path) -> None:
    """Refuse a folder whose name an index cannot hold.

    Raises:
        DataError: its name, or that of a folder around it, is no UTF-8.
    """
    if not _is_unicode(str(root.absolute())):
        raise DataError(
            f"an index holds names in UTF-8, and that of the folder {str(root.absolute())!a}"
            " is none; rename it"
        )


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


def look_at(
    root: Path, names: Sequence[str], old: Mapping[str, Row], progress: Progress | None
) -> list[File]:
    """The images as they lie in their folder now.

    Args:
        root: folder of the images.
        names: of the images there.
        old: rows of the table that is written to.
        progress: called with ("look", done, total).
    """
    files = []
    for place, name in enumerate(names):
        files.append(_look(root, name, old.get(name)))
        if progress is not None and len(names) >= MANY:
            progress("look", place + 1, len(names))
    return files


def to_describe(
    files: Sequence[File], old: Mapping[str, Row], known: Mapping[str, Labels]
) -> list[File]:
    """The images whose row is missing or is no longer right, with what is known of them.

    Args:
        files: from `look_at`.
        old: rows of the table that is written to.
        known: labels by the image's name.
    """
    todo = []
    for file in files:
        row = old.get(file.name)
        given, absent = known.get(file.name, ((), ()))
        same = (
            row is not None
            and _stat_of(row) == (file.size, file.mtime_ns)
            and row["sha256"] == file.sha256  # it was closed to us before
            and labels_of(row) == (given, absent)
        )
        error = row["error"] if row is not None and same else None
        if not same or error is not None:  # a package that reads it may be there now
            todo.append(replace(file, given=given, absent=absent, error=error))
    return todo


def _look(root: Path, name: str, row: Row | None) -> File:
    """A file as it lies there; it is read where its size or time differ from its row's."""
    try:
        stat = (root / name).stat()
    except OSError:  # it is gone, or a link leads nowhere, which its row will say
        return File(name, 0, 0, "")
    now = stat.st_size, stat.st_mtime_ns
    known = "" if row is None or _stat_of(row) != now else row["sha256"]
    return File(name, *now, known or _digest(root / name))


def _stat_of(row: Row) -> tuple[int, int]:
    return row["size"], row["mtime_ns"]


def _digest(path: Path) -> str:
    """SHA-256 of a file; "" where it cannot be read, which its row will say."""
    try:
        return hash_file(path)
    except OSError:
        return ""
