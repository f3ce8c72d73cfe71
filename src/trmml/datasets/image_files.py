"""Find images by the names that a table or list gives them, whatever way accents are stored."""

import bisect
import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import unquote

from trmml.datasets.tables.names import suggest
from trmml.errors import DataError
from trmml.image_search import SUFFIXES

UPLOAD_PREFIX = re.compile(r"^[0-9a-f]{8}-")  # that Label Studio puts before an uploaded name

_NAMES_TO_COMPARE = 1000  # on either side; difflib compares some thousand names in a second


class _Listing(NamedTuple):
    """What lies in a folder: names as asked for -> paths below the root as they are on disk."""

    files: dict[str, str]
    folders: dict[str, str]


def written_otherwise(root: Path, name: str) -> str:
    """A question, where a file is there whose name differs in case or suffix alone; else nothing.

    Args:
        root: folder of the images, perhaps not there.
        name: of an image that is not.
    """
    if not root.is_dir():
        return ""
    files = ImageFiles(root)
    files.find(name)  # so that its folder is listed
    alike = files.same_stem(name)
    return f"; of {name!r} did you mean {alike[0]!r}?" if alike else ""


class ImageFiles:
    """The files below a folder. Only folders that are asked for are listed, and each once.

    Args:
        root: the folder.

    Raises:
        DataError: it is no folder, or may not be read.
    """

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            what = "is a file, not a folder" if root.exists() else "does not exist"
            raise DataError(f"the images folder {root} {what}. Name the folder of the images.")
        self.root = root
        self._listings: dict[str, _Listing] = {}
        self._aliases: dict[str, dict[str, str]] = {}

    def find(self, name: str) -> str | None:
        """Return the path below the root as it is on disk; None where no file is meant, or two.

        Accents may be stored apart. Where no file has the name as it is, it may be written as in
        a URL, begin with the root's own name, lack its suffix, or lack what an upload put before.
        """
        tries = (name, unquote(name), name.removeprefix(f"{self.root.absolute().name}/"))
        found = (self._find(each, loosely) for loosely in (False, True) for each in tries)
        return next(filter(None, found), None)

    def _find(self, name: str, loosely: bool) -> str | None:
        parent, _, leaf = name.rpartition("/")
        files, composed = self._listing(parent).files, unicodedata.normalize("NFC", leaf)
        if not loosely:
            return files.get(leaf) or files.get(composed)
        if parent not in self._aliases:
            self._aliases[parent] = _aliases(files)
        return self._aliases[parent].get(composed)

    def listed(self) -> list[str]:
        """Return the files of all folders listed so far, and those directly in the root."""
        self._listing("")
        return sorted({path for listing in self._listings.values() for path in listing[0].values()})

    def suggest(self, name: str) -> str:
        """Return `; did you mean 'x'?` for the most similar file, or a full stop."""
        listed = self.listed()
        near = bisect.bisect(listed, name)
        around = listed[max(0, near - _NAMES_TO_COMPARE) : near + _NAMES_TO_COMPARE]
        return suggest(name, self.same_stem(name) or around)

    def same_stem(self, name: str) -> list[str]:
        """Return the listed files of the same name but for case, suffix and folder."""
        stem = PurePosixPath(name).stem.casefold()
        return [other for other in self.listed() if PurePosixPath(other).stem.casefold() == stem]

    def _listing(self, folder: str) -> _Listing:
        if folder not in self._listings:
            self._listings[folder] = self._list(folder)
        return self._listings[folder]

    def _list(self, folder: str) -> _Listing:
        prefix = ""
        if folder:
            parent, _, leaf = folder.rpartition("/")
            folders = self._listing(parent).folders
            below = folders.get(leaf) or folders.get(unicodedata.normalize("NFC", leaf))
            if below is None:
                return _Listing({}, {})
            prefix = below + "/"
        listing = _Listing({}, {})
        try:
            with os.scandir(self.root / prefix) as entries:
                for entry in entries:
                    paths = listing.folders if entry.is_dir() else listing.files
                    if entry.is_dir() or entry.is_file():
                        paths[entry.name] = prefix + entry.name
                        composed = unicodedata.normalize("NFC", entry.name)
                        paths.setdefault(composed, prefix + entry.name)
        except OSError as error:
            raise DataError(
                f"cannot list the images in {self.root / prefix}: {error.strerror}. "
                "Allow reading the folder."
            ) from error
        return listing


def _aliases(files: Mapping[str, str]) -> dict[str, str]:
    """Return other names of files, each of one file: without suffix, without upload prefix."""
    paths: dict[str, set[str]] = {}
    for name, path in files.items():
        plain = UPLOAD_PREFIX.sub("", unicodedata.normalize("NFC", name))
        for alias in {plain, stem_of(name), stem_of(plain)} - {name}:
            paths.setdefault(alias, set()).add(path)
    return {alias: min(found) for alias, found in paths.items() if len(found) == 1}


def stem_of(name: str) -> str:
    """Return a name without the suffix of an image or an XML file; `a.b` has none."""
    head, dot, suffix = name.rpartition(".")
    return head if f"{dot}{suffix}".lower() in (*SUFFIXES, ".xml") else name


def locate(root: Path, folders: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    """Return each name as it lies below `root`: in the first of `folders` that has it.

    A name that none has comes back below the first folder, so that a message can say where it was
    expected; a folder that is not there is passed over.

    Args:
        root: the data set's folder.
        folders: below `root`, "" for `root` itself, in the order of search.
        names: with `/` between folders.

    Raises:
        DataError: `root` is no folder.
    """
    files = ImageFiles(root)
    prefixes = [f"{folder}/" if folder else "" for folder in folders]
    located = []
    for name in names:
        places = (files.find(prefix + name) for prefix in prefixes)
        located.append(next((place for place in places if place is not None), prefixes[0] + name))
    return tuple(located)
