"""Labels that an index keeps: they go with the content of a file, not with its name.

So they outlive a new name, an index that is made anew, and a folder that is away for a while.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from trmml.datasets.base import Dataset
from trmml.datasets.tables.names import same
from trmml.search.table import (
    IMAGES,
    REMOVED,
    REPLACED,
    IndexCard,
    connect,
    drop_table,
    has_table,
    image_schema,
    open_images,
)

# Of a row, what says whether it is still right, and what people know.
COLUMNS = ("image", "sha256", "size", "mtime_ns", "given", "absent", "error")

Row = Mapping[str, Any]
# Categories that are known to be present, and absent.
Labels = tuple[tuple[str, ...], tuple[str, ...]]


@dataclass(frozen=True)
class Before:
    """What an index says before it is brought up to date.

    Attributes:
        rows: by name; also those that a killed build was to replace.
        removed: rows with labels, of images that are gone or that a killed build was to move.
    """

    rows: Mapping[str, Row]
    removed: Sequence[Row]

    def labels(self, contents: Mapping[str, str]) -> dict[str, Labels]:
        """What is known of the images that lie in the folder now.

        A new or changed file takes the labels of its content, under whatever name that was. An
        edited one, whose content is new, keeps those of its name, unless the old content lies under
        another name now.

        Args:
            contents: SHA-256 of each file by its name; "" where it cannot be read.
        """
        rows = [*self.removed, *self.rows.values(), *self._left(contents)]
        by_content = {row["sha256"]: row for row in rows if _is_worth(row)}
        new = {sha for name, sha in contents.items() if sha and not self._has(name, sha)}
        found = {}
        for name, sha in contents.items():
            row = self.rows.get(name)
            if not self._has(name, sha):
                own = None if row is None or row["sha256"] in new else row
                row = by_content.get(sha, own)
            found[name] = labels_of(row)
        return found

    def to_keep(self, contents: Mapping[str, str]) -> list[Row]:
        """Rows with labels that are in no row, or in none of their name, once all is written."""
        rows = [*self.removed, *self._left(contents)]
        return list({row["sha256"]: row for row in rows if _is_worth(row)}.values())

    def _left(self, contents: Mapping[str, str]) -> list[Row]:
        """Rows whose content lies no longer under their name."""
        return [row for name, row in self.rows.items() if contents.get(name) != row["sha256"]]

    def _has(self, name: str, sha: str) -> bool:
        return name in self.rows and self.rows[name]["sha256"] == sha


def rows_by_name(table: Any) -> dict[str, Row]:
    """What a table has of each image."""
    return {row["image"]: row for row in _read(table)}


def read_before(folder: Path) -> Before:
    """What the index in a folder says; nothing where there is none."""
    replaced, rows = (
        rows_by_name(open_table) if (open_table := _table(folder, name)) is not None else {}
        for name in (REPLACED, IMAGES)
    )
    removed = _table(folder, REMOVED)
    return Before(replaced | rows, [] if removed is None else _read(removed))


def set_aside(folder: Path, name: str, rows: Iterable[Row], card: IndexCard) -> None:
    """Make a table hold these rows' labels; without a row it is dropped."""
    import pyarrow as pa

    schema = pa.schema([image_schema(card).field(column) for column in COLUMNS])
    table = pa.Table.from_pylist([dict(row) for row in rows], schema=schema)
    if len(table):
        connect(folder).create_table(name, table, mode="overwrite")
    elif has_table(folder, name):
        drop_table(folder, name)


def gone(rows: Iterable[Row], contents: Mapping[str, str]) -> list[Row]:
    """Those of rows whose images are neither there nor changed; what cannot be read is away."""
    there = set(contents.values())
    return [row for row in rows if not contents.get(row["image"]) and row["sha256"] not in there]


def labels_of(row: Row | None) -> Labels:
    """What a row says is present, and absent."""
    return ((), ()) if row is None else (tuple(row["given"]), tuple(row["absent"]))


def lost(before: Mapping[str, Labels], now: Mapping[str, Labels]) -> int:
    """How many images had labels of categories that nothing is known of now."""
    return sum(
        not {*given, *absent} <= {*chain(*now.get(name, ()))}
        for name, (given, absent) in before.items()
    )


def labels_by_image(labels: Dataset, categories: Sequence[str]) -> dict[str, Labels]:
    """What a data set knows of each image.

    Args:
        labels: with names below the folder of the index.
        categories: the run's; names that differ from one in case alone are of it.
    """
    own = {same(name): name for name in categories} | {name: name for name in categories}
    spelt = [own.get(name) or own.get(same(name), name) for name in labels.category_names]
    names = np.asarray(spelt, dtype=object)
    present = (labels.matrix.labels & labels.matrix.known).numpy()
    absent = (~labels.matrix.labels & labels.matrix.known).numpy()
    return {
        image: (tuple(names[present[row]]), tuple(names[absent[row]]))
        for row, image in enumerate(labels.images)
    }


def _is_worth(row: Row) -> bool:
    """Whether a row has labels and a content that they go with; two broken files have none."""
    return bool(row["sha256"]) and any(labels_of(row))


def _table(folder: Path, name: str) -> Any:
    """A table with labels of an index; None where it is not there."""
    if not has_table(folder, name):
        return None
    return open_images(folder)[0] if name == IMAGES else connect(folder).open_table(name)


def _read(table: Any) -> list[Row]:
    rows: list[Row] = table.search().select([*COLUMNS]).limit(None).to_arrow().to_pylist()
    return rows
