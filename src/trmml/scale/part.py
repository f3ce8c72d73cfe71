"""One part of a job: its images read, scored and written into one file, or none at all."""

import hashlib
import io
import itertools
import json
import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float

from trmml.errors import DataError
from trmml.images import shown_size
from trmml.scale.job import Job, part_path
from trmml.scale.lance_table import write_fragments
from trmml.scale.objects import Storage, UnreachableError
from trmml.storage.atomic import FULL, write_bytes, write_json
from trmml.storage.sessions import cores
from trmml.tagging.scorer import Scored, Scorer
from trmml.tagging.tags import Choice

logger = logging.getLogger(__name__)

# Objects of a URL that are read at the same time.
IN_FLIGHT = 32


@dataclass(frozen=True)
class _Image:
    """An image that was read, or why it could not be.

    Attributes:
        sha256: of the content; None where there is none.
        sides: width and height in pixels.
        prepared: what the scorer takes; None where the content is no image.
        content: until it is prepared.
        error: why it could not be read.
    """

    sha256: str | None = None
    sides: tuple[int, int] | None = None
    prepared: Any = None
    content: bytes | None = None
    error: str | None = None


def why_failed(
    job: Job,
    out: Path,
    rows: pl.DataFrame,
    scorer: Scorer,
    storage: Storage,
    counted: Callable[[int], None] | None = None,
) -> str | None:
    """Do a part; None where it is written, else why not.

    Raises:
        OSError: the disk is full; the other parts would fail as well.
    """
    told: list[int] = []

    def tell(images: int) -> None:
        told.append(images)
        if counted is not None:
            counted(images)

    try:
        tag_part(job, out, rows, scorer, storage, tell)
    except Exception as error:  # of one part; the others go on
        tell(-sum(told))  # its images are not done
        if isinstance(error, OSError) and error.errno in FULL:
            raise
        logger.info("a part failed", exc_info=True)
        return f"{type(error).__name__}: {error}"
    return None


def tag_part(
    job: Job,
    out: Path,
    rows: pl.DataFrame,
    scorer: Scorer,
    storage: Storage,
    progress: Callable[[int], None] | None = None,
) -> Path:
    """The file with a row for each image of a part; one that cannot be read has its error.

    Args:
        job: what is computed.
        out: folder of the job.
        rows: of the manifest.
        scorer: of the job's run.
        storage: how objects are read.
        progress: called with the number of images after each batch.

    Raises:
        UnreachableError: the storage did not answer; nothing is written.
    """
    started, frames = time.monotonic(), []
    for chunk, images in _read(rows, job.batch, scorer, storage):
        frames.append(_frame(job, chunk, images, scorer))
        if progress is not None:
            progress(len(chunk))
    frame = pl.concat(frames)
    if frame["id"].to_list() != rows["id"].to_list():
        raise AssertionError("a part has not the rows that the manifest gave it")
    path = part_path(out, rows, job)
    about = {"images": len(frame), "errors": int(frame["error"].is_not_null().sum())}
    about["milliseconds"] = round(1000 * (time.monotonic() - started))
    if job.files == "lance":
        write_json(path, {**about, "fragments": write_fragments(out, frame)}, indent=None)
        return path
    metadata = {"trmml": json.dumps({**job.to_dict(), **about})}
    file = io.BytesIO()  # polars does not say that the disk is full
    frame.write_parquet(file, metadata=metadata)
    write_bytes(path, file.getvalue())
    return path


def _read(
    rows: pl.DataFrame, batch: int, scorer: Scorer, storage: Storage
) -> Iterator[tuple[pl.DataFrame, list[_Image]]]:
    """The images in batches, read ahead and prepared where that pays.

    Contents wait for a core at most `IN_FLIGHT` at a time, and as many are read ahead; where they
    are prepared as they come, a batch is.
    """
    chunks = list(rows.iter_slices(batch))
    size = batch if scorer.ahead else IN_FLIGHT
    pieces = [list(chunk.iter_slices(size)) for chunk in chunks]
    coming = itertools.chain.from_iterable(pieces)
    remote = rows["uri"].str.contains("://").any()
    load = ThreadPoolExecutor(IN_FLIGHT if remote else max(2, cores()), thread_name_prefix="read")
    decode = ThreadPoolExecutor(max(2, cores()), thread_name_prefix="decode")

    def start(piece: pl.DataFrame | None) -> list[Any]:
        if piece is None:
            return []
        pairs = zip(piece["uri"], piece["size"], strict=True)
        return [load.submit(_loaded, storage, scorer, uri, size) for uri, size in pairs]

    try:
        waiting = start(next(coming))
        for chunk, own in zip(chunks, pieces, strict=True):
            images: list[_Image] = []
            for piece in own:
                read = [future.result() for future in waiting]
                waiting = start(next(coming, None))
                images += decode.map(
                    lambda one, uri: _prepared(one, scorer, uri), read, piece["uri"]
                )
            yield chunk, images
    finally:
        load.shutdown(cancel_futures=True)
        decode.shutdown(cancel_futures=True)


def _loaded(storage: Storage, scorer: Scorer, uri: str, size: int | None) -> _Image:
    """The content of an image, prepared where the scorer leaves cores free for that."""
    try:
        content = storage.read(uri, size)
    except UnreachableError:
        raise
    except DataError as error:
        return _Image(error=str(error))
    one = _Image(hashlib.sha256(content).hexdigest(), _sides(content), content=content)
    return _prepared(one, scorer, uri) if scorer.ahead else one


def _sides(content: bytes) -> tuple[int, int] | None:
    """Width and height in pixels as the image is meant to be shown; None where its head is odd."""
    with suppress(DataError):
        return shown_size(io.BytesIO(content))
    return None


def _prepared(one: _Image, scorer: Scorer, uri: str) -> _Image:
    """The image as the scorer takes it, its content let go."""
    if one.content is None:
        return one
    try:
        return _Image(one.sha256, one.sides, scorer.prepare(one.content, uri))
    except DataError as error:
        return _Image(one.sha256, one.sides, error=str(error))


def _frame(job: Job, chunk: pl.DataFrame, images: list[_Image], scorer: Scorer) -> pl.DataFrame:
    """The rows of a batch; what cannot be said of an image is null."""
    good = [image.prepared for image in images if image.error is None]
    scored = scorer.score(good) if good else None
    places = iter(range(len(good)))
    place = [None if image.error else next(places) for image in images]
    columns = {
        "id": chunk["id"],
        "uri": chunk["uri"],
        "sha256": [image.sha256 for image in images],
        "width": [image.sides and image.sides[0] for image in images],
        "height": [image.sides and image.sides[1] for image in images],
        **{name: _column(name, scored, scorer, job, place) for name in job.columns},
        "error": [image.error for image in images],
    }
    return pl.DataFrame(columns, schema=job.schema)


def _column(
    name: str, scored: Scored | None, scorer: Scorer, job: Job, place: list[int | None]
) -> pl.Series:
    """A column of a batch; `place` says which of the scored images stands in each row."""
    if scored is None:
        return pl.Series([None] * len(place), dtype=job.schema[name])
    values = _values(name, scored, scorer)
    return pl.Series(values, dtype=job.schema[name]).gather(pl.Series(place, dtype=pl.UInt32))


def _values(name: str, scored: Scored, scorer: Scorer) -> Any:
    """What a column holds of each scored image."""
    if name == "probability":
        return scored.probabilities.astype(np.float16)
    if name == "image_feature":
        assert scored.features is not None
        return scored.features.astype(np.float16)
    names = scorer.category_names
    chosen = Choice().tags(scored.probabilities, scorer.thresholds, names)
    present = [[tag.category for tag in tags] for tags in chosen]
    if name == "present":
        return present
    return [
        _bytes_of(maps[[names.index(category) for category in some]])
        for maps, some in zip(scored.maps, present, strict=True)
    ]


def _bytes_of(maps: Float[np.ndarray, "K P"]) -> list[list[int]]:
    """Maps from 0 to 255, the strongest patch of each."""
    tops = maps.max(axis=1, keepdims=True).clip(min=1e-12)
    values: list[list[int]] = np.rint(255 * maps / tops).astype(np.uint8).tolist()
    return values
