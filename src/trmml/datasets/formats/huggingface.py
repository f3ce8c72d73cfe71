"""Read a folder of a Hugging Face data set, without the library `datasets`.

Any of these; the test set may also be called validation, valid or val:

    dataset_dict.json, train/, test/            written by `save_to_disk`: data-*.arrow, state.json,
                                                dataset_info.json
    data/train-00000-of-00001.parquet ...       a clone, or the hub's cache: datasets--NAME, its
                                                snapshots/REVISION, or `snapshot_download`
    train/metadata.csv (.jsonl, .parquet)       an "imagefolder": file_name and label columns beside
                                                the images

Labels are as in `parquet.py`: names, or numbers whose names the data set's features give. For lists
without `absent` it must be said what a category means that is not listed: option blank=absent or
blank=unknown. Images inside the files are unpacked once, named by their content; see `unpack.py`.
"""

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import Field

from trmml.datasets.base import Dataset
from trmml.datasets.files import below, find_file, read_json, read_plain
from trmml.datasets.formats.packed import Pack, PackedOptions, read_label_columns, read_packs
from trmml.datasets.formats.parquet import (
    check_image_column,
    class_names,
    find_parts,
    image_bytes,
    pack,
    parquet_features,
)
from trmml.datasets.image_files import locate
from trmml.datasets.options import Split
from trmml.datasets.tables.table import read_table
from trmml.errors import DataError

_SPLITS: Mapping[Split, Sequence[str]] = {
    "train": ("train",),
    "test": ("test", "validation", "valid", "val"),
}
_METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
_FILE_NAME = "file_name"


class HuggingFaceOptions(PackedOptions):
    """Choices of `huggingface`."""

    image: str = Field("image", description="column of the images, where files hold them")


def read_huggingface(root: Path, split: Split, options: HuggingFaceOptions) -> Dataset:
    """Return a split of a data set's folder; see the module.

    Raises:
        DataError: the folder has none of the forms, lacks the split, or a file is damaged.
    """
    root = _snapshot(root)
    arrow = _arrow_files(root)
    if arrow:
        _require(split, arrow, root)
        packs = {part: [_arrow_pack(path, options.image) for path in paths]
                 for part, paths in arrow.items()}  # fmt: skip
        numbered = class_names(_features(arrow[split][0].parent), options.labels)
        return read_packs(root, split, packs, options, numbered=numbered)
    parquet = find_parts(root, {"train": "", "test": ""}, ".parquet")
    parquet = {part: [path for path in paths if path.name not in _METADATA]
               for part, paths in parquet.items()}  # fmt: skip
    parquet = {part: paths for part, paths in parquet.items() if paths}
    if parquet:
        _require(split, parquet, root)
        packs = {part: [pack(path, options.image) for path in paths]
                 for part, paths in parquet.items()}  # fmt: skip
        numbered = class_names(parquet_features(parquet[split][0]), options.labels)
        return read_packs(root, split, packs, options, numbered=numbered)
    return _image_folder(root, split, options)


def _snapshot(root: Path) -> Path:
    """Return the revision to read in a folder of the hub's cache: the one that `main` names."""
    snapshots = root / "snapshots"
    if not snapshots.is_dir():
        return root
    revisions = sorted(path.name for path in snapshots.iterdir() if path.is_dir())
    named = root / "refs" / "main"
    main = read_plain(named).strip() if named.is_file() else ""
    if main in revisions:
        return snapshots / main
    if len(revisions) != 1:
        raise DataError(
            f"{snapshots} holds {len(revisions)} revisions and {named} names none of them. Name "
            "the folder of one revision as the root."
        )
    return snapshots / revisions[0]


def _require(split: Split, parts: Mapping[Split, Sequence[Path]], root: Path) -> None:
    if split not in parts:
        names = ", ".join(_SPLITS[split])
        raise DataError(f"{root} has no {split} split; none of {names} is there. Check the root.")


def _arrow_files(root: Path) -> dict[Split, list[Path]]:
    """Return the Arrow files of each split that is there, in their order."""
    found: dict[Split, list[Path]] = {}
    for split, words in _SPLITS.items():
        for word in words:
            state = root / word / "state.json"
            if state.is_file():
                found[split] = [root / word / name for name in _listed_files(state)]
            else:
                files = {*root.glob(f"*-{word}.arrow"), *root.glob(f"*-{word}-*-of-*.arrow")}
                found[split] = sorted(files)
            if found[split]:
                break
    return {split: files for split, files in found.items() if files}


def _listed_files(state: Path) -> list[str]:
    tree = read_json(state)
    listed = tree.get("_data_files") if isinstance(tree, dict) else tree
    entries = listed if isinstance(listed, list) else [listed]
    names: list[Any] = [e.get("filename") if isinstance(e, dict) else None for e in entries]
    if not isinstance(tree, dict) or not all(isinstance(name, str) for name in names):
        raise DataError(
            f'{state} should list files as in {{"_data_files": [{{"filename": "data.arrow"}}]}}, '
            f"but holds {tree!r:.80}. Save the set again."
        )
    return [below(name, str(state)) for name in names]


def _features(folder: Path) -> Mapping[str, Any]:
    path = folder / "dataset_info.json"
    tree = read_json(path) if path.is_file() else {}
    features = tree.get("features") if isinstance(tree, dict) else None
    return features if isinstance(features, Mapping) else {}


def _arrow_pack(path: Path, image: str) -> Pack:
    frame = _arrow(path)
    check_image_column(path, frame.schema, image)
    return Pack(path, frame.drop(image), partial(_arrow_images, path, image))


def _arrow(path: Path) -> pl.DataFrame:
    """Return an Arrow file, a stream as the library writes them or a file with a footer."""
    try:
        if path.read_bytes()[:6] == b"ARROW1":
            return pl.read_ipc(path)
        return pl.read_ipc_stream(path)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise DataError(f"{path} is no Arrow file, or damaged: {error}. Copy it again.") from error


def _arrow_images(path: Path, image: str) -> Iterator[bytes]:
    return image_bytes(path, _arrow(path)[image])


def _image_folder(root: Path, split: Split, options: HuggingFaceOptions) -> Dataset:
    """Return a split whose images lie beside a table metadata.csv, .jsonl or .parquet."""
    tables: dict[Split, tuple[str, Path]] = {}
    for part, words in _SPLITS.items():
        places = [(word, root / word / file) for word in words for file in _METADATA]
        place = next((place for place in places if place[1].is_file()), None)
        if place is not None:
            tables[part] = place
    if split not in tables:
        wanted = [f"{split}/{file}" for file in _METADATA]
        find_file(root, wanted, f"the {split} split as Arrow or Parquet files, or its metadata")
    frames = {part: _metadata(path) for part, (_, path) in tables.items()}
    folder, path = tables[split]
    listed = frames[split][_FILE_NAME]
    names = [below(name or "", f"{path} row {i}") for i, name in enumerate(listed, start=1)]
    columns = {part: frame.drop(_FILE_NAME) for part, frame in frames.items()}
    categories, matrix = read_label_columns(path, split, columns, root, options)
    rows = tuple(range(1, len(names) + 1))
    return Dataset(root, locate(root, [folder], names), categories, matrix, rows)


def _metadata(path: Path) -> pl.DataFrame:
    """Return the table beside the images; a CSV cell may hold a list as JSON or with ;."""
    if path.suffix == ".jsonl":
        lines = [line for line in read_plain(path).split("\n") if line.strip()]
        try:
            frame = pl.read_ndjson(io.BytesIO("\n".join(lines).encode()), infer_schema_length=None)
        except pl.exceptions.PolarsError as error:
            raise DataError(f"{path} is no JSON Lines: {error}. Write it again.") from error
    else:
        table = read_table(path)
        frame = table.frame.rename(dict(zip(table.frame.columns, table.names, strict=True)))
        frame = frame.with_columns(_lists(frame[name]) for name in frame.columns)
    if _FILE_NAME not in frame.columns:
        raise DataError(f"{path} has no column {_FILE_NAME!r}, but {', '.join(frame.columns)}.")
    if frame[_FILE_NAME].dtype not in (pl.String, pl.Null):
        raise DataError(
            f"{path}: the column {_FILE_NAME!r} should hold names of files, but holds "
            f"{frame[_FILE_NAME].dtype}. Write them as text."
        )
    return frame


def _lists(column: pl.Series) -> pl.Series:
    """Return a text column of JSON lists as lists; any other as it is."""
    if column.dtype != pl.String:
        return column
    filled = column.drop_nulls()
    if not len(filled) or not bool(filled.str.starts_with("[").all()):
        return column
    try:
        return pl.Series(
            column.name, [None if text is None else json.loads(text) for text in column]
        )
    except (ValueError, TypeError):  # Python's lists, as in "['cat']", or text that begins so
        return column
