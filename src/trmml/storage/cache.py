"""Where what can be computed again is kept, and how much memory is free to hold it."""

import os
from pathlib import Path

from platformdirs import user_cache_path


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
    """Bytes that are free; a quarter of all where the system does not tell."""
    try:
        with open("/proc/meminfo", encoding="utf-8") as file:
            lines = dict(line.split(":", 1) for line in file)
        return 1024.0 * int(lines["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):
        return 0.25 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
