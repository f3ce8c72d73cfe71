"""Read Parquet files in which each row holds an image's bytes and its labels.

    train.parquet or train-*.parquet, test.parquet or test-*.parquet; also below train/, data/

The image is a column `image` (option image=NAME) of bytes, or of structs with `bytes` (and `path`)
as Hugging Face writes them. `label_columns.py` explains the labels beside it; numbers may take
their names from the file's metadata, as Hugging Face writes it.
Images are unpacked once into a folder, named by their content; see `unpack.py`.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import Field

from trmml.datasets.base import Dataset
from trmml.datasets.formats.label_columns import LIST_COLUMNS
from trmml.datasets.formats.packed import (
    Pack,
    PackedOptions,
    ShardOptions,
    find_shards,
    read_packs,
)
from trmml.datasets.options import Split
from trmml.errors import DataError
from trmml.storage.json_text import parse_json

_ROWS = 256  # images that are in memory at once
_DAMAGED = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError)


class ParquetOptions(ShardOptions):
    """Choices of `parquet`."""

    image: str = Field("image", description="column of the images")


def read_parquet_set(root: Path, split: Split, options: ParquetOptions) -> Dataset:
    """Return a split's images, unpacked, with their labels; see the module.

    Raises:
        DataError: there are no such files, one is damaged, or an option is required first.
    """
    files = find_shards(root, split, options, ".parquet")
    return read_parquet_files(root, split, files, options, options.image)


def read_parquet_files(
    root: Path,
    split: Split,
    files: Mapping[Split, Sequence[Path]],
    options: PackedOptions,
    image: str,
) -> Dataset:
    """Return a split of Parquet files, whose images are in the column `image`.

    Raises:
        DataError: a file is damaged or lacks a column, or an option is required first.
    """
    packs = {part: [_pack(path, image) for path in paths] for part, paths in files.items()}
    numbered = class_names(_features(files[split][0]), options.labels)
    return read_packs(root, split, packs, options, numbered=numbered)


def _pack(path: Path, image: str) -> Pack:
    try:
        # A name may hold what polars takes for a pattern, as `train [1].parquet`.
        schema = pl.scan_parquet(path, glob=False).collect_schema()
    except _DAMAGED as error:
        raise DataError(
            f"{path} is no Parquet file, or damaged: {error}. Copy it again."
        ) from error
    check_image_column(path, schema, image)
    others = [name for name in schema if name != image]
    if not others:
        raise DataError(f"{path} has no column but {image!r}. Labels are needed beside images.")
    try:
        labels = pl.read_parquet(path, columns=others, glob=False)
    except _DAMAGED as error:
        raise DataError(
            f"{path} is damaged in the columns {', '.join(others)[:200]}: {error}. Copy it again."
        ) from error
    return Pack(path, labels, partial(_images, path, image))


def check_image_column(path: Path, schema: Mapping[str, Any], image: str) -> None:
    """Refuse a file without a column of image bytes.

    Raises:
        DataError: the column is missing or holds something else.
    """
    dtype = schema.get(image)
    if dtype == pl.Binary:
        return
    if isinstance(dtype, pl.Struct) and "bytes" in [field.name for field in dtype.fields]:
        return
    problem = "does not exist" if dtype is None else f"holds {dtype}"
    raise DataError(
        f"{path}: the column {image!r} should hold the images' bytes, but {problem}; the columns "
        f"are {', '.join(schema)[:200]}. Name the column as option image=NAME."
    )


def _images(path: Path, image: str) -> Iterator[bytes]:
    scan = pl.scan_parquet(path, glob=False).select(image)
    for start in range(0, int(scan.select(pl.len()).collect().item()), _ROWS):
        try:
            column = scan.slice(start, _ROWS).collect().to_series()
        except _DAMAGED as error:
            raise DataError(
                f"{path} is damaged after row {start}: {error}. Copy it again."
            ) from error
        yield from image_bytes(path, column, start)


def image_bytes(path: Path, column: pl.Series, start: int = 0) -> Iterator[bytes]:
    """Yield the bytes of each row's image.

    Raises:
        DataError: a row has none.
    """
    for row, value in enumerate(column, start=start + 1):
        data = value.get("bytes") if isinstance(value, dict) else value
        if data is None:
            name = value.get("path") if isinstance(value, dict) else None
            raise DataError(
                f"{path} row {row} holds no image{f' but the path {name}' if name else ''}. Write "
                "the file with the images in it, or list their paths in a table."
            )
        yield bytes(data)


def _features(path: Path) -> Mapping[str, Any]:
    """Return the features that Hugging Face writes into a Parquet file; empty without them."""
    try:
        info = parse_json(pl.read_parquet_metadata(path).get("huggingface", "{}"))
        features = info.get("info", {}).get("features", {})
    except (ValueError, AttributeError, *_DAMAGED):
        return {}
    return features if isinstance(features, Mapping) else {}


def class_names(features: Mapping[str, Any], column: str) -> Sequence[str]:
    """Return the names of a column of numbers, by the features of a Hugging Face data set.

    Args:
        features: name to description, as in dataset_info.json.
        column: the labels' column, perhaps with a field after a dot; the first in use when
            empty (`read_packs` refuses two).

    Example:
        >>> feature = {"names": ["cat", "dog"], "_type": "ClassLabel"}
        >>> class_names({"labels": {"feature": feature, "_type": "Sequence"}}, "")
        ['cat', 'dog']
    """
    column = column or next((name for name in LIST_COLUMNS if name in features), "")
    node: Any = features
    for part in column.split("."):
        node = node.get(part, {}) if isinstance(node, Mapping) else {}
    return _first_names(node)


def _first_names(tree: Any) -> list[str]:
    """Return the names of the first ClassLabel in a tree, which may be deep."""
    nodes = [tree]
    while nodes:
        node = nodes.pop()
        if isinstance(node, Mapping):
            names = node.get("names")
            if node.get("_type") == "ClassLabel" and isinstance(names, list):
                return [str(name) for name in names]
            node = list(node.values())
        if isinstance(node, list):
            nodes += reversed(node)
    return []
