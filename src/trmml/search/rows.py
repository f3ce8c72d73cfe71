"""Rows of images: feature and probabilities, sides and time of each file, or why it has none."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from trmml.errors import DataError
from trmml.features.base import Progress
from trmml.features.contents import why_unreadable
from trmml.features.extract import Encoding, encode_images
from trmml.features.views import joined
from trmml.images import shown_size
from trmml.search.changes import File
from trmml.search.table import IndexCard, image_schema, vectors
from trmml.tagging.tagger import Tagger

if TYPE_CHECKING:
    import pyarrow as pa

BATCH = 64
_TAKEN = 0x9003  # DateTimeOriginal, in the Exif part of the EXIF data
_EXIF = 0x8769

# Feature and probabilities of an image; those that are known already, by SHA-256 of the images.
Described = tuple[np.ndarray, np.ndarray]
Known = Callable[[Sequence[str]], Mapping[str, Described]]


def rows_of(
    tagger: Tagger,
    root: Path,
    files: Sequence[File],
    card: IndexCard,
    encoding: Encoding | None,
    known: Known | None,
    progress: Progress | None,
) -> "pa.Table":
    """Rows of the table of images for files, in their order; see `build.build_index`."""
    import pyarrow as pa

    feature = np.zeros((len(files), card.feature_size), np.float16)
    probability = np.zeros((len(files), len(card.category_names)), np.float16)
    errors: list[str | None] = [None] * len(files)
    ready = {} if known is None else known([file.sha256 for file in files])
    for row, file in enumerate(files):
        if file.sha256 in ready:
            feature[row], probability[row] = ready[file.sha256]
    paths = {n: root / file.name for n, file in enumerate(files) if file.sha256 not in ready}
    for row, reason in _describe(tagger, paths, feature, probability, encoding, progress):
        errors[row] = reason
    finite = np.isfinite(feature).all(axis=1) & np.isfinite(probability).all(axis=1)
    for row in np.flatnonzero(~finite).tolist():  # Lance refuses all rows of a write for one
        errors[row] = f"{root / files[row].name}: its feature is not finite. Check the encoder."
        feature[row], probability[row] = 0, 0
    reached = probability >= np.asarray(card.thresholds, np.float16)
    names = np.asarray(card.category_names, dtype=object)
    sides = [_sides_and_time(root / file.name) for file in files]
    schema = image_schema(card)
    columns = {
        **{n: [getattr(f, n) for f in files] for n in ("sha256", "size", "mtime_ns")},
        "image": [file.name for file in files],
        **{n: [side[k] for side in sides] for k, n in enumerate(("width", "height", "taken"))},
        "image_feature": vectors(feature, schema, "image_feature"),
        "probability": vectors(probability, schema, "probability"),
        "given": [list(file.given) for file in files],
        "absent": [list(file.absent) for file in files],
        "present": [
            [] if error else list(names[row]) for row, error in zip(reached, errors, strict=True)
        ],
        "error": errors,
    }
    return pa.table({field.name: columns[field.name] for field in schema}, schema=schema)


def _describe(
    tagger: Tagger,
    paths: Mapping[int, Path],
    feature: np.ndarray,
    probability: np.ndarray,
    encoding: Encoding | None,
    progress: Progress | None,
) -> Iterator[tuple[int, str]]:
    """Fill in features and probabilities of rows; yields those that cannot be read, and why."""
    if not paths:
        return
    rows = list(paths)
    try:
        encoded = encode_images(
            list(paths.values()),
            tagger.frozen,
            encoding=encoding,
            views=tagger.views,
            seed=tagger.seed,
            on_bad_image="skip",
            progress=progress,
        )
    except DataError:  # also where none can be read
        reasons = [reason for path in paths.values() if (reason := why_unreadable(path))]
        if len(reasons) < len(paths):
            raise
        yield from zip(rows, reasons, strict=True)
        return
    source = joined(encoded.source, tagger.views)
    for part in torch.split(torch.arange(len(encoded.kept)), BATCH):
        batch = source.batch(part)
        places = [rows[encoded.kept[i]] for i in part.tolist()]
        feature[places] = batch.image_feature.numpy()
        probability[places] = tagger.score(batch).probabilities.numpy()
        if progress is not None:
            progress("tag", int(part[-1]) + 1, len(encoded.kept))
    place_of = {str(path): row for row, path in paths.items()}
    yield from ((place_of[bad.name], bad.reason) for bad in encoded.bad)


def _sides_and_time(path: Path) -> tuple[int | None, int | None, str | None]:
    """Width and height as the image is seen, and when it was taken by its EXIF; None if unsaid."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata; the pixels are read elsewhere
            sides = shown_size(path)  # makes Pillow open HEIC, too
            with Image.open(path) as image:
                taken = image.getexif().get_ifd(_EXIF).get(_TAKEN) or None
    except Exception:  # on damaged files, decoders raise almost anything
        return None, None, None
    return *sides, None if taken is None else str(taken).strip("\x00 ")
