"""Images by the SHA-256 of their bytes: no request ever names a path."""

import io
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from hashlib import sha256
from pathlib import Path

from PIL import Image

from trmml.errors import DataError
from trmml.features.base import Progress
from trmml.images import read_image
from trmml.server.problems import Problem
from trmml.storage.cache import cache_folder
from trmml.storage.hashes import ContentHashes

# Longest sides of what is sent, in pixels; those up to the third are kept in memory.
WIDTHS, KEPT_WIDTH = (160, 320, 640, 1280, 2048), 640
# Bytes that are kept of these: browsers keep them, too, so few are asked for twice.
THUMBS = 16 << 20
# Bytes of uploads that are remembered, for a search or a region map.
UPLOADS = 128 << 20
# After which what was read of a large folder is remembered, should the server be killed.
SAVE_SECONDS = 10.0


class Recent:
    """Contents by name, of which the oldest are forgotten.

    Args:
        most: bytes that are held; the newest content is held however long it is.
    """

    def __init__(self, most: int) -> None:
        self._most, self._size = most, 0
        self._contents: OrderedDict[Hashable, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, name: Hashable) -> bytes | None:
        """A content, which becomes the newest; None where there is none."""
        with self._lock:
            if name in self._contents:
                self._contents.move_to_end(name)
            return self._contents.get(name)

    def put(self, name: Hashable, content: bytes) -> None:
        """Hold a content; a name stands for one content for ever."""
        with self._lock:
            if name not in self._contents:
                self._size += len(content)
            self._contents[name] = content
            self._contents.move_to_end(name)
            while len(self._contents) > 1 and self._size > self._most:
                self._size -= len(self._contents.popitem(last=False)[1])


class Library:
    """Files below some folders, and what was uploaded.

    Args:
        roots: no file outside of them is read, whatever links say.
    """

    def __init__(self, roots: Sequence[Path]) -> None:
        self._roots = [os.path.realpath(root) for root in roots]
        self._hashes = ContentHashes(cache_folder() / "serve", make=sha256)
        self._paths, self._ids = dict[str, Path](), dict[Path, str]()
        self._uploads, self._thumbs = Recent(UPLOADS), Recent(THUMBS)

    def add(self, paths: Sequence[Path], progress: Progress | None = None) -> list[int]:
        """Take files in; the places of those that have an id of their own.

        Left out are copies of one before, files outside of the folders, and what cannot be read.

        Args:
            paths: of the files, each of which is read the first time.
            progress: called with ("hash", done, total); what it raises ends this.
        """
        found: dict[str, int] = {}
        saved = time.monotonic()
        try:
            for place, path in enumerate(paths):
                if (name := self.id_of(path)) is not None:
                    found.setdefault(name, place)
                if time.monotonic() - saved > SAVE_SECONDS:
                    self._hashes.save()
                    saved = time.monotonic()
                if progress is not None:
                    progress("hash", place + 1, len(paths))
        finally:
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
        self._uploads.put(name, content)
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
        source = self.source(name)
        pixels = next((each for each in WIDTHS if each >= width), WIDTHS[-1])
        if (kept := self._thumbs.get((name, pixels))) is not None:
            return kept
        try:
            image = read_image(source, at_least=pixels)
        except DataError as error:
            raise Problem(422, str(error)) from None
        image.thumbnail((pixels, pixels), Image.Resampling.LANCZOS)
        file = io.BytesIO()
        image.save(file, "JPEG", quality=85)
        if pixels <= KEPT_WIDTH:
            self._thumbs.put((name, pixels), file.getvalue())
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
