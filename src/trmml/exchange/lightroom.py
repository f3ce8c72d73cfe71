"""Keywords of images for Lightroom, which reads no sidecar of a JPEG: a table for exiftool."""

import csv
import io
import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from trmml.errors import DataError
from trmml.exchange.words import Word
from trmml.storage.atomic import refuse_old, write_text

SEPARATOR = "##"
COLUMNS = ("SourceFile", "XMP-dc:Subject", "XMP-lr:HierarchicalSubject")


def write_table(
    rows: Sequence[tuple[Path, Sequence[Word]]], root: Path, out: Path, under: tuple[str, ...]
) -> str:
    """Write the table, and return the command that a person may run in a copy of the root.

    Args:
        rows: image, words.
        root: folder of all images, in which their names in the table begin.
        out: new file.
        under: place in a tree of keywords.

    Raises:
        DataError: a word holds what parts words, or the file is there.
    """
    refuse_old(out)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for image, words in rows:
        names = [word.name for word in words]
        if any(SEPARATOR in name for name in names):
            raise DataError(
                f"a category holds {SEPARATOR!r}, which parts words in {out}; rename it"
            )
        trees = ["|".join((*under, name)) for name in names]
        place = Path(os.path.relpath(image, root)).as_posix()
        if names:
            writer.writerow((place, SEPARATOR.join(names), SEPARATOR.join(trees)))
    write_text(out, text.getvalue())
    return f"exiftool -sep {SEPARATOR!r} -csv+={shlex.quote(str(out.absolute()))} -r ."
