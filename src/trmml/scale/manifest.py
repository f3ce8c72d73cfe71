"""A manifest: the images of a job, one Parquet file with id, uri, size and etag."""

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import polars as pl

from trmml.errors import DataError
from trmml.scale.folders import Object, file_object
from trmml.scale.objects import Storage, refuse_password
from trmml.storage.atomic import refuse_other, write_bytes

SCHEMA = {"id": pl.String, "uri": pl.String, "size": pl.Int64, "etag": pl.String}


def write_manifest(
    sources: Sequence[str],
    out: Path | str,
    *,
    names: Sequence[str] = (),
    storage: Storage | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> int:
    """Write the images that sources stand for into a Parquet file; the number of its rows.

    Args:
        sources: folders, files, URLs as s3://bucket/prefix, lists (a .txt file with a path or URL a
            line; - is `names`).
        out: of the manifest; its folder is there.
        names: paths and URLs, as of a list.
        storage: how URLs are read.
        progress: called with ("list", done, done) now and then.

    Raises:
        DataError: a source is not there or stands for no image, two images have one id, or `out` is
            a folder or another file than a manifest.
        OSError: the disk is full.
    """
    if Path(out).is_dir():
        raise DataError(f"{out} is a folder; name a Parquet file in it")
    refuse_other(Path(out), _is_manifest, "manifest")
    rows: list[Object] = []
    for source in sources:
        before = len(rows)
        for found in _objects(source, names, storage or Storage()):
            rows.append(found)
            if progress is not None and len(rows) % 10_000 == 0:
                progress("list", len(rows), len(rows))
        if len(rows) == before:
            raise DataError(f"{source} holds no image; name a folder, a URL or a list of images")
    frame = pl.DataFrame({n: [getattr(row, n) for row in rows] for n in SCHEMA}, schema=SCHEMA)
    _check_ids(frame, "the sources")
    file = io.BytesIO()  # polars does not say that the disk is full
    frame.write_parquet(file)
    write_bytes(Path(out), file.getvalue())
    return len(frame)


def _is_manifest(path: Path) -> bool:
    try:
        # A name may hold what polars takes for a pattern, as `photos [2024].parquet`.
        return pl.scan_parquet(path, glob=False).collect_schema().keys() == SCHEMA.keys()
    except pl.exceptions.PolarsError:
        return False


def read_manifest(path: Path | str) -> pl.DataFrame:
    """The rows of a manifest, with the columns of `SCHEMA`; another program may have written it.

    Raises:
        DataError: it cannot be read, has no id or uri in each row, or an id twice.
    """
    try:
        frame = pl.read_parquet(path, glob=False)
        frame = frame.with_columns(pl.lit(None).alias(n) for n in SCHEMA if n not in frame.columns)
        if missing := {"id", "uri"} - {n for n in frame.columns if frame[n].null_count() == 0}:
            raise DataError(
                f"{path} has no {' and no '.join(sorted(missing))} in each row; a manifest has the"
                " columns id, uri, size and etag: trmml batch manifest"
            )
        frame = frame.select(pl.col(n).cast(kind) for n, kind in SCHEMA.items())
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(
            f"{path} is no manifest that can be read ({error}); make one: trmml batch manifest"
        ) from error
    _check_ids(frame, str(path))
    return frame


def _check_ids(frame: pl.DataFrame, where: str) -> None:
    """Refuse an id that two rows have: one of them would be lost in any table by id."""
    if frame["id"].n_unique() == len(frame):
        return
    twice = frame.filter(pl.col("id").is_duplicated())
    raise DataError(
        f"{where}: the id {twice['id'][0]!r} is given to {twice['uri'][0]} and to"
        f" {twice['uri'][1]}; name one folder above both, or make a manifest of each"
    )


def _objects(source: str, names: Sequence[str], storage: Storage) -> Iterator[Object]:
    """The images of one source."""
    if source == "-":
        yield from _of_list(names)
    elif source.lower().endswith(".txt") and "://" not in source:
        try:
            text = Path(source).read_text("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"the list {source} cannot be read: {error}") from error
        yield from _of_list(io.StringIO(text))
    else:
        yield from storage.find(source)


def _of_list(lines: Iterable[str]) -> Iterator[Object]:
    """A path or URL a line, which is its id, too; URLs are not looked at before they are read."""
    for line in lines:
        name = line.rstrip("\r\n")
        if name:
            refuse_password(name)
            yield Object(name, name, None, None) if "://" in name else file_object(name, name)
