"""Which content each image file has, read by all processes that train one run, each its share."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from trmml.errors import DataError
from trmml.features import ranks
from trmml.features.base import Progress
from trmml.features.decoding import workers
from trmml.images import read_image
from trmml.storage.hashes import ContentHashes, file_state

# Images from which reading the files to know their content is worth a progress bar.
MANY = 1000


class Content(NamedTuple):
    """What a file held when it was read.

    Attributes:
        digest: hash of its bytes, in hex.
        state: of the file just before, see `file_state`.
    """

    digest: str
    state: tuple[int, int, int]


def read_contents(
    paths: Sequence[Path], hashes: ContentHashes, *, stop: bool, progress: Progress | None
) -> dict[int, Content | DataError]:
    """Each file's content, or why it cannot be read, by its place in `paths`, in order.

    Args:
        paths: of the images.
        hashes: those that are known; the first process saves what all have read.
        stop: at the first file that cannot be read; the others of this share are left out.
        progress: called with ("read", done, total) of this share, where there are many.
    """
    every = ranks.of_all((_share(paths, hashes, stop, progress), hashes.unsaved))
    if not ranks.number():
        hashes.save(also=[unsaved for _, unsaved in every])
    found = {index: content for share, _ in every for index, content in share.items()}
    return dict(sorted(found.items()))


def _share(
    paths: Sequence[Path], hashes: ContentHashes, stop: bool, progress: Progress | None
) -> dict[int, Content | DataError]:
    """The same of this process's share of the files."""
    found = dict[int, Content | DataError]()
    mine = range(ranks.number(), len(paths), ranks.count())
    with ThreadPoolExecutor(workers()) as pool:
        read = pool.map(lambda index: _content(hashes, paths[index]), mine)
        for done, (index, content) in enumerate(zip(mine, read, strict=True), 1):
            found[index] = content
            if stop and isinstance(content, DataError):
                pool.shutdown(wait=False, cancel_futures=True)
                break
            if progress is not None and len(paths) >= MANY:
                progress("read", done, len(mine))
    return found


def _content(hashes: ContentHashes, path: Path) -> Content | DataError:
    try:
        state = file_state(path)
        return Content(hashes.look_up(path), state)
    except OSError:
        return DataError(why_unreadable(path) or f"{path} cannot be read; check the disk")


def why_unreadable(path: Path) -> str | None:
    """Why an image cannot be read; None for one that can."""
    try:
        read_image(path)
    except DataError as error:
        return str(error)
    return None
