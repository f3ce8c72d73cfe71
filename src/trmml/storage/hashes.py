"""Hashes of the contents of files, remembered, so that an unchanged file is read once, ever."""

import errno
import functools
import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from stat import S_ISREG
from typing import Any

from trmml.storage.atomic import sweep, write_text

logger = logging.getLogger(__name__)

# A file changed this recently may change again within the same tick of the clock.
FRESH_SECONDS = 2.0
_CONTENT_HASH = functools.partial(hashlib.blake2b, digest_size=16)


def hash_file(path: Path, make: Callable[[], Any] = hashlib.sha256) -> str:
    """Hash of a file's bytes, in hex.

    Args:
        path: of the file.
        make: gives a new, empty hash.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, make).hexdigest()


def content_hash(path: Path) -> str:
    """The hash that `ContentHashes` has of a file by default, in hex; see `hash_file`."""
    return hash_file(path, _CONTENT_HASH)


def file_state(path: Path) -> tuple[int, int, int]:
    """Size, time of change and inode of a file: another is there, or other bytes, if they differ.

    Raises:
        OSError: it is not there.
    """
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns, stat.st_ino


class ContentHashes:
    """Hashes of files' contents; an unchanged file is read once, ever.

    Args:
        root: folder where they are remembered; None remembers nothing.
        make: gives a new, empty hash: by default BLAKE2b of 16 bytes.
    """

    def __init__(self, root: Path | None, make: Callable[[], Any] = _CONTENT_HASH) -> None:
        self._make = make
        self._path = None if root is None else root / "files.json"
        self._known: dict[str, Any] = {}
        self._new: dict[str, list[Any]] = {}
        if root is not None:
            sweep(root)
        if self._path is not None and self._path.is_file():
            stat = self._path.stat()
            self._known = dict(_remembered(self._path, stat.st_ino, stat.st_mtime_ns))

    def look_up(self, path: Path) -> str:
        """Hash of a file's bytes, in hex; from memory where the file is unchanged.

        Raises:
            OSError: it cannot be read.
        """
        name, stat = str(path.absolute()), path.stat()
        if not S_ISREG(stat.st_mode):  # a pipe would be waited for
            raise OSError(errno.EINVAL, "no plain file", str(path))
        now = [stat.st_size, stat.st_mtime_ns]
        known = self._known.get(name)
        if isinstance(known, list) and len(known) == 3 and known[:2] == now:
            return str(known[2])
        digest = hash_file(path, self._make)
        if time.time_ns() - stat.st_mtime_ns > FRESH_SECONDS * 1e9:
            self._new[name] = [*now, digest]
        return digest

    @property
    def unsaved(self) -> dict[str, Any]:
        """What was read since the last save, for `save` in another process."""
        return dict(self._new)

    def save(self, also: Iterable[Mapping[str, Any]] = ()) -> None:
        """Remember what was read; of two processes that save at once, one has to read again.

        Args:
            also: what other processes have read, see `unsaved`.
        """
        for other in also:
            self._new |= other
        if self._path is None or not self._new:
            return
        self._known |= self._new
        self._new = {}
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # With escapes, as a name may be no Unicode.
            write_text(self._path, json.dumps(self._known))
        except OSError as error:  # the store raises where it matters
            logger.info("%s is not written: %s", self._path, error)


@functools.lru_cache(maxsize=1)
def _remembered(path: Path, inode: int, mtime_ns: int) -> dict[str, Any]:
    """What a file of hashes holds; it is replaced and never changed, so it is parsed once."""
    try:
        tree = json.loads(path.read_bytes())  # not parse_json, for a name may be no Unicode
        if isinstance(tree, dict):
            return tree
    except (ValueError, RecursionError):
        pass
    logger.warning("%s is damaged; files are read again", path)
    return {}
