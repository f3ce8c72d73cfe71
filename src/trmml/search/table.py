"""The index on disk: one LanceDB table of images, and one of what queries are set against.

    INDEX/images.lance      a row per image: where it lies, its feature, probabilities and labels
    INDEX/reference.lance   mean feature, a sample of images, and features of unrelated texts
    INDEX/replaced.lance    labels of an index that is made anew, until all rows are there
    INDEX/removed.lance     labels of images that are gone, by content, for when they come back
    INDEX/card.json         the card, once it differs from that in the schema: the folder was moved
    INDEX/unsettled         there while rows change that the reference does not know

The schema of `images` carries the card: encoder, run, categories, thresholds. Lance writes each
change as a new version, so a reader sees the old rows or the new ones, and a kill leaves the old. A
table that is made anew begins empty, and has the more rows the longer it is filled.
"""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from trmml.errors import CheckpointError, DataError, how_to_install
from trmml.storage.atomic import write_json
from trmml.storage.json_text import of_kind, parse_json

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT = 1
IMAGES, REFERENCE = "images", "reference"
REPLACED, REMOVED = "replaced", "removed"
UNSETTLED = "unsettled"
CARD, CARD_FILE = b"trmml", "card.json"
# SQL of rows whose image could be read.
READABLE = "error IS NULL"


@dataclass(frozen=True)
class IndexCard:
    """What all rows of an index share.

    Attributes:
        format: of the index.
        root: absolute folder of the images when the index was last updated.
        encoder: name, whole checksum and image checksum of the encoder, its input and feature size.
        encoder_spec: how it is loaded; None where it was given as an object.
        template: prompt that a text query is set into; {} is the query.
        run: SHA-256 of the run's model.json.
        category_names: in the order of `probability`.
        thresholds: of those categories.
        trmml: version that wrote it.
    """

    format: int
    root: str
    encoder: dict[str, Any]
    encoder_spec: str | None
    template: str
    run: str
    category_names: list[str]
    thresholds: list[float]
    trmml: str

    @property
    def feature_size(self) -> int:
        """D."""
        return int(self.encoder["feature_size"])


def connect(folder: Path | str) -> Any:
    """The LanceDB database in a folder; it is made when the first table is.

    Raises:
        DataError: LanceDB is not installed.
    """
    # Its log tells of each new table as of a fault; read once, when it is imported.
    os.environ.setdefault("LANCEDB_LOG", "error")
    try:
        import lancedb
    except ImportError:
        raise DataError(
            f"the index needs one more package; install it {how_to_install('search')}"
        ) from None
    return lancedb.connect(str(folder))


def has_table(folder: Path | str, name: str) -> bool:
    """Whether an index has a table of this name; a kill while one is made leaves less than one."""
    return any((Path(folder) / f"{name}.lance" / "_versions").glob("*.manifest"))


def drop_table(folder: Path, name: str) -> None:
    """Drop a table whole: a kill would leave one that has lost some of its files."""
    dropped = folder / f".{name}.dropped"
    shutil.rmtree(dropped, ignore_errors=True)
    (folder / f"{name}.lance").rename(dropped)
    shutil.rmtree(dropped)


def open_images(folder: Path | str) -> tuple[Any, IndexCard]:
    """The table of images with its card.

    Raises:
        CheckpointError: the folder holds no index, or one of another format.
        DataError: LanceDB is not installed.
    """
    if not has_table(folder, IMAGES):
        raise CheckpointError(
            f"{folder} holds no index; make one with `trmml index DIR --run RUN --out {folder}`"
        )
    table = connect(folder).open_table(IMAGES)
    return table, read_card(table, folder)


def read_card(table: Any, folder: Path | str) -> IndexCard:
    """The card in a table's schema, or the one that was written beside it since.

    Raises:
        CheckpointError: there is none, or it is of another format.
    """
    later = Path(folder) / CARD_FILE
    try:
        card = _card_of((table.schema.metadata or {})[CARD], folder)
        return _card_of(later.read_bytes(), folder) if later.is_file() else card
    except (KeyError, ValueError, OSError) as error:
        raise CheckpointError(f"{folder} is no index of trmml, or damaged ({error})") from None


def _card_of(text: bytes, folder: Path | str) -> IndexCard:
    tree = parse_json(text)
    if isinstance(tree, Mapping) and tree.get("format") != FORMAT:
        raise CheckpointError(
            f"{folder} is an index of format {tree.get('format')}, this trmml reads {FORMAT};"
            " make a new one, or install the trmml that made it"
        )
    card: IndexCard = of_kind(IndexCard, tree)
    return card


def make_images(folder: Path, card: IndexCard) -> Any:
    """An empty table of images, in place of one that is there."""
    (folder / CARD_FILE).unlink(missing_ok=True)
    return connect(folder).create_table(IMAGES, schema=image_schema(card), mode="overwrite")


def update_card(folder: Path, card: IndexCard) -> None:
    """Give an index another card of the same run: LanceDB has no way to change a schema's."""
    write_json(folder / CARD_FILE, asdict(card))


def image_schema(card: IndexCard) -> "pa.Schema":
    """The columns of the table of images."""
    import pyarrow as pa

    names = pa.list_(pa.string())
    return pa.schema(
        [
            pa.field("image", pa.string(), nullable=False),
            pa.field("sha256", pa.string()),
            pa.field("size", pa.int64()),
            pa.field("mtime_ns", pa.int64()),
            pa.field("width", pa.int32()),
            pa.field("height", pa.int32()),
            pa.field("taken", pa.string()),
            pa.field("image_feature", pa.list_(pa.float16(), card.feature_size)),
            pa.field("probability", pa.list_(pa.float16(), len(card.category_names))),
            *(pa.field(name, names) for name in ("given", "absent", "present")),
            pa.field("error", pa.string()),
        ],
        metadata={CARD: json.dumps(asdict(card)).encode()},
    )


def vectors(values: Float[np.ndarray, "N K"], schema: "pa.Schema", name: str) -> "pa.Array":
    """Rows of numbers as a column of fixed-size lists."""
    import pyarrow as pa

    kind = schema.field(name).type
    numbers = pa.array(np.ascontiguousarray(values, dtype=np.float16).ravel())
    return pa.FixedSizeListArray.from_arrays(numbers, type=kind)


def numbers_of(column: "pa.Array | pa.ChunkedArray", width: int) -> Float[np.ndarray, "N K"]:
    """A column of fixed-size lists as fp32."""
    flat = column.combine_chunks() if hasattr(column, "combine_chunks") else column
    values = np.asarray(flat.flatten(), dtype=np.float32)
    return values.reshape(-1, width)


def quoted(text: str) -> str:
    """A text as Lance's SQL has it.

    Example:
        >>> quoted("it's")
        "'it''s'"
    """
    return "'" + text.replace("'", "''") + "'"


def among(column: str, values: Sequence[str]) -> str:
    """SQL that a column holds one of some values; none makes it false."""
    return f"{column} IN ({', '.join(map(quoted, values))})" if values else "false"
