"""Read a folder of a Hugging Face data set, without the library `datasets`.

Any of these; the test set may also be called validation, valid or val:

    dataset_dict.json, train/, test/            written by `save_to_disk`: data-*.arrow, state.json,
                                                dataset_info.json
    data/train-00000-of-00001.parquet ...       a clone, or the hub's cache: datasets--NAME, its
                                                snapshots/REVISION, or `snapshot_download`
    train/metadata.csv (.jsonl, .parquet)       an "imagefolder": file_name and label columns beside
                                                the images; or one table above all folders

`label_columns.py` explains the labels; numbers take their names from the data set's features. A
list that is null is unknown, as is a blank cell between JSON lists. Images inside the files are
unpacked once, named by their content; see `unpack.py`.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import Field

from trmml.datasets.base import Dataset
from trmml.datasets.files import below, find_file, read_json, read_plain, without_split
from trmml.datasets.formats.arrow import read_arrow
from trmml.datasets.formats.label_columns import read_label_columns
from trmml.datasets.formats.other_forms import objects_frame, read_json_lines
from trmml.datasets.formats.packed import Pack, PackedOptions, find_usual_shards, read_packs
from trmml.datasets.formats.parquet import (
    check_image_column,
    class_names,
    image_bytes,
    read_parquet_files,
)
from trmml.datasets.image_files import locate
from trmml.datasets.options import SPLIT_NAMES, Split
from trmml.datasets.tables.name_lists import parse_lists
from trmml.datasets.tables.not_categories import kind
from trmml.datasets.tables.table import read_table
from trmml.errors import DataError, MissingSplitError

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
    shards = find_usual_shards(root, ".parquet").items()
    parquet = {part: kept for part, paths in shards
               if (kept := [path for path in paths if path.name not in _METADATA])}  # fmt: skip
    if (arrow or parquet) and split not in (arrow or parquet):
        names = ", ".join(SPLIT_NAMES[split])
        raise MissingSplitError(
            f"{root} has no {split} split; none of {names} is there. Check the root. "
            f"{without_split(split)}"
        )
    if arrow:
        packs = {part: [_arrow_pack(path, options.image) for path in paths]
                 for part, paths in arrow.items()}  # fmt: skip
        numbered = class_names(_features(arrow[split][0].parent), options.labels)
        return read_packs(root, split, packs, options, numbered=numbered)
    if parquet:
        return read_parquet_files(root, split, parquet, options, options.image)
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


def _arrow_files(root: Path) -> dict[Split, list[Path]]:
    """Return the Arrow files of each split that is there, in their order."""
    arrow: dict[Split, list[Path]] = {}
    for split, names in SPLIT_NAMES.items():
        files = next(filter(None, (_arrow_files_of(root, name) for name in names)), None)
        if files:
            arrow[split] = files
    return arrow


def _arrow_files_of(root: Path, name: str) -> list[Path]:
    state = root / name / "state.json"
    if state.is_file():
        return [root / name / file for file in _listed_files(state)]
    return sorted({*root.glob(f"*-{name}.arrow"), *root.glob(f"*-{name}-*-of-*.arrow")})


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
    frame = read_arrow(path)
    check_image_column(path, frame.schema, image)
    return Pack(path, frame.drop(image), partial(_arrow_images, path, image))


def _arrow_images(path: Path, image: str) -> Iterator[bytes]:
    return image_bytes(path, read_arrow(path)[image])


def _image_folder(root: Path, split: Split, options: HuggingFaceOptions) -> Dataset:
    """Return a split whose images lie beside a table metadata.csv, .jsonl or .parquet."""
    tables: dict[Split, tuple[str, Path]] = {}
    for part, folders in SPLIT_NAMES.items():
        places = [(name, root / name / file) for name in folders for file in _METADATA]
        place = next((place for place in places if place[1].is_file()), None)
        if place is not None:
            tables[part] = place
    frames: dict[Split, pl.DataFrame] = {}
    above = next((root / file for file in _METADATA if (root / file).is_file()), None)
    if not tables and above is not None:
        frames = _by_folder(_metadata(above))
        tables = {part: ("", above) for part in frames}
    if split not in tables:
        wanted = [f"{split}/{file}" for file in _METADATA]
        find_file(
            root, wanted, f"the {split} split as Arrow or Parquet files, or its metadata", split
        )
    frames = frames or {part: _metadata(path) for part, (_, path) in tables.items()}
    folder, path = tables[split]
    listed = frames[split][_FILE_NAME]
    names = [below(name or "", f"{path} row {i}") for i, name in enumerate(listed, start=1)]
    columns = {part: [frame.drop(_FILE_NAME)] for part, frame in frames.items()}
    categories, matrix = read_label_columns(path, split, columns, root, options)
    rows = tuple(range(1, len(names) + 1))
    return Dataset(root, locate(root, [folder], names), categories, matrix, rows)


def _by_folder(frame: pl.DataFrame) -> dict[Split, pl.DataFrame]:
    """Return the splits of one table, by the folders of its images; else all are to train on."""
    folders = frame[_FILE_NAME].cast(pl.String).str.split("/").list.first()
    parts = {part: frame.filter(folders.is_in(names)) for part, names in SPLIT_NAMES.items()}
    if sum(part.height for part in parts.values()) < frame.height:
        return {"train": frame}
    return {name: part for name, part in parts.items() if part.height}


def _metadata(path: Path) -> pl.DataFrame:
    """Return the table beside the images; a CSV cell may hold a list as JSON or with ;."""
    if path.suffix == ".jsonl":
        frame = objects_frame(path, read_json_lines(path))
    else:
        table = read_table(path)
        columns = {name: parse_lists(table.column(name)) for name in table.names}
        if path.suffix == ".csv":  # which has no null: a blank cell is a text
            columns = {name: column.fill_null("") if column.dtype == pl.String else column
                       for name, column in columns.items()}  # fmt: skip
        frame = pl.DataFrame(columns)
    if _FILE_NAME not in frame.columns:
        raise DataError(f"{path} has no column {_FILE_NAME!r}, but {', '.join(frame.columns)}.")
    if frame[_FILE_NAME].dtype not in (pl.String, pl.Null):
        raise DataError(
            f"{path}: the column {_FILE_NAME!r} should hold names of files, but holds "
            f"{kind(frame[_FILE_NAME])}. Write them as text."
        )
    return frame
