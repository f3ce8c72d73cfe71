"""All feature stores of a folder: list, find and remove them; needs no torch."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open

from trmml.errors import DataError
from trmml.storage.cache import cache_folder
from trmml.storage.json_text import of_kind, parse_object

logger = logging.getLogger(__name__)

# What opening a damaged shard may raise. An OSError means that the system does not let us read it.
DAMAGED = (SafetensorError, KeyError, TypeError, ValueError)


def default_root() -> Path:
    """Where features are kept unless another folder is named."""
    return cache_folder() / "features"


@dataclass(frozen=True)
class StoreInfo:
    """A store as `trmml store ls` lists it."""

    key: str
    encoder: str
    size: int
    form: str
    precision: str
    images: int
    rows: int
    shards: int
    bytes: int
    last_used: float


def all_stores(root: Path) -> list[Path]:
    """Folders of all stores below a root, also of those whose card is damaged."""
    return [card.parent for card in sorted(root.glob("*/store.json"))]


def store_bytes(folder: Path) -> int:
    """What the features of a store take on disk."""
    return sum(shard.stat().st_size for shard in folder.glob("*.safetensors"))


def list_stores(root: Path) -> list[StoreInfo]:
    """Every store below a root, the one used last first."""
    stores = []
    for folder in all_stores(root):
        card = folder / "store.json"
        try:
            tree = parse_object(card.read_bytes())
            shards = list(folder.glob("*.safetensors"))
            names = [row for shard in shards for row in _row_names(shard)]
            found = {
                "key": folder.name,
                "images": len({name.partition(".")[0] for name in names}),
                "rows": len(names),
                "shards": len(shards),
                "bytes": store_bytes(folder),
                "last_used": card.stat().st_mtime,
            }
            stores.append(of_kind(StoreInfo, tree | found))
        except (OSError, ValueError) as error:
            logger.warning("%s cannot be read (%s)", card, error)
    return sorted(stores, key=lambda info: -info.last_used)


def _row_names(shard: Path) -> list[str]:
    try:
        with safe_open(shard, framework="np") as file:
            names: list[str] = of_kind(list[str], json.loads(file.metadata()["rows"]))
            return names
    except (OSError, *DAMAGED):
        return []  # `verify` names it


def find_store(root: Path, key: str) -> Path:
    """Folder of the store with a key, or with the only one that begins so.

    Raises:
        DataError: there is none, or several begin so.
    """
    stores = all_stores(root)
    matches = [folder for folder in stores if folder.name.startswith(key)]
    if len(matches) != 1 or not key:
        known = ", ".join(folder.name for folder in stores) or "none"
        raise DataError(f"expected the key of one store below {root}, got {key!r}; known: {known}")
    return matches[0]


def remove_store(folder: Path) -> None:
    """Delete a store.

    Raises:
        DataError: a process is filling it, or its folder may not be written.
    """
    try:
        with FileLock(folder / ".lock").acquire(timeout=0):
            for path in folder.iterdir():
                if path.name not in (".lock", "store.json"):
                    path.unlink()
        for name in (".lock", "store.json"):  # the card last: without it nobody finds the store
            (folder / name).unlink(missing_ok=True)
        folder.rmdir()
    except Timeout:
        raise DataError(
            f"the store {folder.name} is being filled by another process; wait for it or stop it"
        ) from None
    except OSError as error:
        raise DataError(f"the store {folder} cannot be removed: {error.strerror}") from error
