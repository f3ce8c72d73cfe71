"""Unpack images out of Parquet, Arrow and tar files, once, into a folder named by their content."""

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path

from trmml.errors import DataError
from trmml.storage.atomic import whole_file, write_json
from trmml.storage.cache import cache_folder
from trmml.storage.json_text import parse_object

_SUFFIXES = (
    (b"\xff\xd8\xff", ".jpg"),
    (b"\x89PNG", ".png"),
    (b"GIF8", ".gif"),
    (b"BM", ".bmp"),
    (b"II*\0", ".tif"),
    (b"MM\0*", ".tif"),
)


def unpack_folder(chosen: str) -> Path:
    """Return where images are unpacked: the folder that was chosen, or one in the user's cache."""
    return Path(chosen).expanduser().absolute() if chosen else cache_folder() / "unpacked"


def unpack(source: Path, images: Callable[[], Iterable[bytes]], folder: Path) -> list[str]:
    """Return the names below `folder` of the images that a file holds, in its order.

    A name is the SHA-256 of the image's bytes, so equal images are one file, two sources may share
    a folder, and processes that unpack at once write the same. Each file appears whole or not at
    all. What a source held is remembered with its size and time of change; where all of it is
    still there, nothing is read.

    Args:
        source: the Parquet, Arrow or tar file.
        images: reads them out of it; called only when that has to be done.
        folder: made when it is not there.

    Raises:
        DataError: an image is empty, or the folder cannot be written.
    """
    record = folder / "sources" / f"{_identity(source)}.json"
    known = _remembered(record)
    if known is not None and all((folder / name).is_file() for name in known):
        return known
    names = []
    try:
        for place, data in enumerate(images(), start=1):
            if not data:
                raise DataError(f"{source}: image {place} is empty (0 bytes). Write the file anew.")
            names.append(_keep(data, folder))
        record.parent.mkdir(parents=True, exist_ok=True)
        write_json(record, {"source": str(source), "images": names})
    except OSError as error:
        raise DataError(
            f"cannot unpack the images of {source} to {folder}: {error.strerror}. Name another "
            "folder as option unpack=DIR."
        ) from error
    return names


def _identity(source: Path) -> str:
    """Return what changes when the file does."""
    stat = source.stat()
    text = f"{source.absolute()}\n{stat.st_size}\n{stat.st_mtime_ns}"
    return hashlib.sha256(text.encode()).hexdigest()


def _remembered(record: Path) -> list[str] | None:
    """Return what a record lists; None where it is not there or damaged."""
    try:
        names = parse_object(record.read_bytes())["images"]
    except (OSError, ValueError, KeyError):
        return None
    listed = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return names if listed else None


def _keep(data: bytes, folder: Path) -> str:
    """Write an image that is not there yet; its name below the folder."""
    digest = hashlib.sha256(data).hexdigest()
    name = f"{digest[:2]}/{digest}{_suffix(data)}"
    path = folder / name
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as part:
            part.write_bytes(data)
    return name


def _suffix(data: bytes) -> str:
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return ".webp"
    return next((suffix for start, suffix in _SUFFIXES if data.startswith(start)), ".bin")
