"""Where trmml keeps what it can compute again: features of images, and what was measured here."""

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
