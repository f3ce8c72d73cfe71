"""Find the image files that files, folders and patterns stand for."""

import glob
import logging
import os
import re
from collections import Counter
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from trmml.errors import DataError
from trmml.images import is_special

logger = logging.getLogger(__name__)

SUFFIXES = tuple(
    ".avif .bmp .gif .heic .heif .hif .j2k .jfif .jp2 .jpe .jpeg .jpg .mpo .png .tif .tiff .webp"
    "".split()
)
# What images are called in formats that are not read.
_UNREAD = tuple(
    ".3fr .ai .arw .cr2 .cr3 .dds .dng .emf .eps .exr .hdr .ico .jxl .jxr .nef .orf .pbm .pcx .pgm"
    " .pnm .ppm .psd .raf .rw2 .svg .svgz .tga .xcf".split()
)


def find_images(paths: Sequence[str | Path], *, keep_missing: bool = False) -> list[Path]:
    """Return the image files that files, folders and patterns stand for.

    A file named outright is taken whatever its suffix. Folders are searched to the bottom as
    `files_below` does, and patterns (`photos/*`, `photos/**/*.jpg`) expanded, for files with one of
    `SUFFIXES`; names that begin with a dot are skipped. What one path stands for is sorted with
    numbers by value (`2.jpg` before `10.jpg`); a file that two paths stand for comes once, at the
    first. With `keep_missing` a path that stands for nothing is returned as it is, for the reader
    of the images to report.

    Raises:
        DataError: a path stands for nothing, or a folder may not be read.
    """
    if isinstance(paths, str | Path):
        paths = [paths]
    if not paths and not keep_missing:
        raise DataError("no image was named. Give files, folders or patterns such as 'photos/*'.")
    images_by_path: dict[str, Path] = {}
    for path in paths:
        try:
            images = _expand(str(path))
        except DataError:
            if not keep_missing:
                raise
            images = [Path(path)]
        for image in images:
            images_by_path.setdefault(os.path.abspath(image), image)
    return list(images_by_path.values())


def passed_over(paths: Sequence[str]) -> str:
    """Return how many files only look like images, by their kind, and what to do; "" for none.

    Example:
        >>> passed_over(["a.CR2", "b.txt", "c.cr2"])
        '2 files that look like images are passed over (2 .cr2; first a.CR2). Convert them to JPEG.'
    """
    kinds = {path: _odd_kind(path) for path in paths}
    counts = Counter(kind for kind in kinds.values() if kind)
    if not counts:
        return ""
    first = next(path for path, kind in kinds.items() if kind)
    counted = ", ".join(f"{count} {kind}" for kind, count in counts.most_common())
    what = (
        "file that looks like an image is"
        if counts.total() == 1
        else ("files that look like images are")
    )
    advice = " Convert them to JPEG." if any(kind.startswith(".") for kind in counts) else ""
    return f"{counts.total()} {what} passed over ({counted}; first {first}).{advice}"


def _odd_kind(path: str) -> str:
    """Return why a file that looks like an image is none that is read; "" for any other."""
    suffix = os.path.splitext(path)[1].lower()
    if suffix in SUFFIXES:
        return "pipe, socket or device" if is_special(path) else ""
    return suffix if suffix in _UNREAD else ""


def _expand(path: str) -> list[Path]:
    if os.path.isdir(path):
        images = _images_among(files_below(path), f"the folder {path} holds")
    elif os.path.exists(path):
        images = [Path(path)]
    elif glob.has_magic(path):
        matched = glob.glob(path, recursive=True)
        files = chain.from_iterable(files_below(m) if os.path.isdir(m) else [m] for m in matched)
        images = _images_among(list(files), f"the pattern {path} matches")
    else:
        raise DataError(f"{path} does not exist. Name an image, a folder or a pattern.")
    return sorted(set(images), key=_natural)


def files_below(folder: str | Path) -> list[str]:
    """Return the files in a folder and in all folders below it, in no order.

    Links to folders are followed, but for one that leads to a folder it lies in. Folders that begin
    with a dot are skipped.

    Raises:
        DataError: a folder may not be listed.
    """

    def refuse(error: OSError) -> None:
        raise DataError(
            f"cannot list the folder {error.filename}: {error.strerror}. Allow reading it."
        )

    found: list[str] = []
    around = {str(folder): frozenset([folder_identity(folder)])}  # a folder and those it lies in
    for parent, folders, files in os.walk(str(folder), onerror=refuse, followlinks=True):
        outer = around.pop(parent)
        shown = [name for name in folders if not name.startswith(".")]
        inner = {name: folder_identity(os.path.join(parent, name)) for name in shown}
        folders[:] = [name for name in shown if inner[name] not in outer]
        around |= {os.path.join(parent, name): outer | {inner[name]} for name in folders}
        found += [os.path.join(parent, name) for name in files]
    return found


def folder_identity(folder: str | Path) -> tuple[int, int]:
    """Return what tells a folder from others, under whatever name."""
    stat = os.stat(folder)
    return stat.st_dev, stat.st_ino


def _images_among(paths: Sequence[str], place: str) -> list[Path]:
    """Return the images among files. Those that only look like images are told of."""
    shown = [path for path in paths if not os.path.basename(path).startswith(".")]
    images = [Path(p) for p in shown if p.lower().endswith(SUFFIXES) and not is_special(p)]
    others = passed_over(shown)
    if not images:
        raise DataError(f"{place} no image ({' '.join(SUFFIXES)}). {others}".strip())
    if others:
        logger.warning("%s %d images; %s", place, len(images), others)
    return images


def _natural(path: Path) -> list[tuple[list[tuple[int, int, str]], str]]:
    """Return a key that sorts folder by folder, numbers by value and letters without case."""
    key = []
    for part in path.parts:
        pieces = [piece for piece in re.split("([0-9]+)", part.casefold()) if piece]
        order = [(0, int(p), "") if re.match("[0-9]", p) else (1, 0, p) for p in pieces]
        key.append((order, part))
    return key
