"""Images in folders of this machine, listed with their sizes."""

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass

from trmml.errors import DataError
from trmml.image_search import SUFFIXES, folder_identity


@dataclass(frozen=True)
class Object:
    """One image of a manifest.

    Attributes:
        id: its name below the source; it is found by this name again.
        uri: absolute path, or URL.
        size: bytes; None where nobody has looked.
        etag: changes when the content does: the storage's own, or a file's time in nanoseconds.
    """

    id: str
    uri: str
    size: int | None
    etag: str | None


def listed(source: str) -> Iterator[Object]:
    """The images below a folder with their sizes; folder by folder, sorted by name.

    Raises:
        DataError: nothing is there, a folder may not be listed, or a name is no Unicode.
    """
    top = os.path.abspath(source)
    if not os.path.exists(top):
        raise DataError(f"{source} is not there; name a folder, a file, a URL or a list")
    if not os.path.isdir(top):
        yield file_object(source, os.path.basename(source))
        return
    for folder, entries in _folders(top):
        for entry in entries:
            if entry.name.lower().endswith(SUFFIXES) and entry.is_file():
                stat = entry.stat()
                name = os.path.relpath(entry.path, top) if folder != top else entry.name
                uri = _unicode(entry.path)
                yield Object(name.replace(os.sep, "/"), uri, stat.st_size, f"{stat.st_mtime_ns:x}")


def file_object(path: str, name: str) -> Object:
    """A file by its path, with its size where it is there."""
    uri = _unicode(os.path.abspath(path))
    try:
        stat = os.stat(path)
    except OSError:  # its row will say why
        return Object(name, uri, None, None)
    return Object(name, uri, stat.st_size, f"{stat.st_mtime_ns:x}")


def _folders(top: str) -> Iterator[tuple[str, list[os.DirEntry[str]]]]:
    """Each folder with what lies in it; names that begin with a dot are passed over.

    Links to folders are followed, but for one that leads to a folder it lies in.
    """
    waiting = [(top, frozenset[tuple[int, int]]())]
    while waiting:
        folder, outer = waiting.pop()
        try:
            if (identity := folder_identity(folder)) in outer:
                continue
            with os.scandir(folder) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            raise DataError(
                f"cannot list the folder {folder}: {error.strerror}. Allow reading it."
            ) from error
        shown = [entry for entry in entries if not entry.name.startswith(".")]
        waiting += [(e.path, outer | {identity}) for e in reversed(shown) if e.is_dir()]
        yield folder, shown


def _unicode(path: str) -> str:
    """The path, which a manifest can hold."""
    try:
        path.encode()
    except UnicodeEncodeError:
        raise DataError(
            f"{path!r} has a name that is no UTF-8, which a manifest cannot hold; rename the file"
        ) from OSError(errno.EILSEQ, "no UTF-8")
    return path
