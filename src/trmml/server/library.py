"""Images by the SHA-256 of their bytes: no request ever names a path."""

import io
import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

from PIL import Image

from trmml.errors import DataError
from trmml.images import read_image
from trmml.server.problems import Problem
from trmml.storage.cache import cache_folder
from trmml.storage.hashes import ContentHashes
from trmml.storage.sessions import cores

# Longest sides of what is sent, in pixels; small ones are kept in memory, so many of them.
WIDTHS, KEPT = (160, 320, 640, 1280, 2048), 2000
KEPT_WIDTH = 640
# Bytes of uploads that are remembered, for a search or a region map.
UPLOADS = 128 << 20


class Library:
    """Files below some folders, and what was uploaded.

    Args:
        roots: no file outside of them is read, whatever links say.
    """

    def __init__(self, roots: Sequence[Path]) -> None:
        self._roots = [os.path.realpath(root) for root in roots]
        self._hashes = ContentHashes(cache_folder() / "serve", make=sha256)
        self._paths, self._ids = dict[str, Path](), dict[Path, str]()
        self._uploads: OrderedDict[str, bytes] = OrderedDict()
        self._lock, self._decoding = threading.Lock(), threading.BoundedSemaphore(cores())
        self._small = lru_cache(KEPT)(self._encoded)

    def add(self, paths: Sequence[Path]) -> list[int]:
        """Take files in; the places of those that have an id of their own.

        Left out are copies of one before, files outside of the folders, and what cannot be read.
        """
        found: dict[str, int] = {}
        for place, path in enumerate(paths):
            if (name := self.id_of(path)) is not None:
                found.setdefault(name, place)
        self._hashes.save()
        return list(found.values())

    def id_of(self, path: Path) -> str | None:
        """The id of a file; None where it is outside of the folders, or cannot be read."""
        known = self._ids.get(path)
        if known is None and self._inside(path):
            try:
                known = self._hashes.look_up(path)
            except OSError:
                return None
            self._ids[path] = known
            self._paths.setdefault(known, path)
        return known

    def upload(self, content: bytes) -> str:
        """The id of bytes that somebody sent; they are forgotten after some others."""
        name = sha256(content).hexdigest()
        with self._lock:
            self._uploads[name] = content
            self._uploads.move_to_end(name)
            while len(self._uploads) > 1 and sum(map(len, self._uploads.values())) > UPLOADS:
                self._uploads.popitem(last=False)
        return name

    def source(self, name: str) -> Path | bytes:
        """The file of an id, or the bytes.

        Raises:
            Problem: there is none.
        """
        uploaded = self._uploads.get(name)
        if uploaded is not None:
            return uploaded
        path = self._paths.get(name)
        if path is None or not self._inside(path):  # a link may lead elsewhere since
            raise Problem(404, "there is no image of this id; load the page again")
        return path

    def jpeg(self, name: str, width: int) -> bytes:
        """An image as a JPEG made anew: nothing of the file but its pixels.

        Args:
            name: id.
            width: longest side wanted; the next larger of `WIDTHS` is made.

        Raises:
            Problem: there is none, or it cannot be read.
        """
        self.source(name)
        pixels = next((each for each in WIDTHS if each >= width), WIDTHS[-1])
        return (self._small if pixels <= KEPT_WIDTH else self._encoded)(name, pixels)

    def _encoded(self, name: str, pixels: int) -> bytes:
        try:
            with self._decoding:
                image = read_image(self.source(name), at_least=pixels)
                image.thumbnail((pixels, pixels), Image.Resampling.LANCZOS)
        except DataError as error:
            raise Problem(422, str(error)) from None
        file = io.BytesIO()
        image.save(file, "JPEG", quality=85)
        return file.getvalue()

    def _inside(self, path: Path) -> bool:
        real = os.path.realpath(path)
        return any(os.path.commonpath((real, root)) == root for root in self._roots)


def status_of(content: bytes) -> int:
    """The status of HTTP for an upload that cannot be read: 415 where it is no image at all."""
    try:
        with Image.open(io.BytesIO(content)):
            return 422
    except Image.DecompressionBombError:
        return 422
    except Exception:  # decoders raise almost anything
        return 415
