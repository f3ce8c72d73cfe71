"""Where what can be computed again is kept, and how much memory is free to hold it."""

import os
from collections.abc import Iterator
from pathlib import Path

from platformdirs import user_cache_path

_ROOT = Path("/")
# Of cgroups: their folder, then the names of the limit, of what is used, and of that part of it
# that the kernel gives back: pages of files. All three include the groups within.
_VERSION_1 = ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_VERSION_2 = ("", "memory.max", "memory.current", "inactive_file")


def cache_folder() -> Path:
    """`$TRMML_CACHE`, or the folder `trmml` where this system keeps caches; it need not exist.

    Example:
        >>> cache_folder().is_absolute()
        True
    """
    chosen = os.environ.get("TRMML_CACHE", "")
    folder = Path(chosen).expanduser() if chosen else user_cache_path("trmml", appauthor=False)
    return folder.absolute()


def free_memory() -> float:
    """Bytes that this process may take, of the machine's and of its cgroups'.

    A quarter of the machine's memory counts as free where the system does not tell.
    """
    try:
        free = 1024.0 * int(_second_words(_ROOT / "proc/meminfo")["MemAvailable:"])
    except (OSError, KeyError, ValueError):
        free = 0.25 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([free, *_left_in_groups()])


def _left_in_groups() -> Iterator[float]:
    """Bytes that the cgroup of this process may still take, and each that it lies in.

    A job of a cluster and a container end where theirs is full, however much the machine has.
    """
    try:
        lines = (_ROOT / "proc/self/cgroup").read_text("utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        place, limit, used, cached = _VERSION_1 if controllers else _VERSION_2
        group = Path(path.lstrip("/"))
        for each in (group, *group.parents):  # the last is what a container sees as the top
            folder = _ROOT / "sys/fs/cgroup" / place / each
            try:
                left = int((folder / limit).read_text()) - int((folder / used).read_text())
                left += int(_second_words(folder / "memory.stat")[cached])
            except (OSError, KeyError, ValueError):  # no limit, or a group that is not seen here
                continue
            yield float(max(0, left))


def _second_words(path: Path) -> dict[str, str]:
    """The second word of each line of a file, by the first."""
    lines = map(str.split, path.read_text("utf-8").splitlines())
    return {words[0]: words[1] for words in lines if len(words) > 1}
