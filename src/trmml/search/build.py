"""Make an index of a folder of images, or bring one up to date: only what changed is done again."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from trmml.datasets.base import Dataset
from trmml.encoders.base import Encoder
from trmml.errors import CheckpointError, ConfigError, DataError
from trmml.features.base import Progress
from trmml.features.contents import why_unreadable
from trmml.features.extract import Encoding, encode_images, refuse_without_room
from trmml.features.views import joined
from trmml.images import turned_size
from trmml.search.approximate import index_vectors
from trmml.search.changes import (
    File,
    image_names,
    keep_aside,
    labelled_rows,
    old_rows,
    to_describe,
)
from trmml.search.reference import SAMPLE, Reference, read_reference, write_reference
from trmml.search.table import (
    FORMAT,
    IMAGES,
    READABLE,
    REFERENCE,
    REPLACED,
    UNSETTLED,
    IndexCard,
    among,
    connect,
    has_table,
    image_schema,
    numbers_of,
    open_images,
    vectors,
)
from trmml.storage.held import held_folder
from trmml.storage.provenance import run_identity, versions
from trmml.tagging.tagger import Tagger

# Images whose rows are written at once: Lance makes a file of each write.
ROWS = 10_000
BATCH = 64
_TAKEN = 0x9003  # DateTimeOriginal, in the Exif part of the EXIF data
_EXIF = 0x8769


# Feature and probabilities of an image; those that are known already, by SHA-256 of the images.
Described = tuple[np.ndarray, np.ndarray]
Known = Callable[[Sequence[str]], Mapping[str, Described]]


@dataclass(frozen=True)
class Built:
    """What `build_index` did.

    Attributes:
        images: rows of the index now.
        new: images that it had not, or not under this name.
        changed: images whose file or labels changed.
        removed: rows of images that are gone.
        unreadable: images that are in the index with their error.
        recall: of the approximate search, see `approximate.recall`; None without one.
    """

    images: int
    new: int
    changed: int
    removed: int
    unreadable: int
    recall: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def build_index(
    run: Path | str,
    images: Path | str,
    out: Path | str,
    *,
    labels: Dataset | None = None,
    also: Sequence[str] = (),
    exclude: Sequence[str] = (),
    only: Sequence[str] | None = None,
    replace_other: bool = False,
    approximate: bool = False,
    encoder: Encoder | str | None = None,
    trust: bool = False,
    device: str = "cpu",
    encoding: Encoding | None = None,
    known: Known | None = None,
    progress: Progress | None = None,
) -> Built:
    """Make the index of a folder, or update the one in `out`; features come from the store.

    A file whose size and time are unchanged is not read again. Rows are written some thousand at a
    time, so that a killed build goes on where it was. The images are only read.

    Args:
        run: folder of a finished run, whose encoder and tagger describe the images.
        images: the folder, searched to the bottom.
        out: folder of the index.
        labels: what is known of the images, with names below `images`; None keeps what the index
            has.
        also: names of further categories, see `Tagger.load`.
        exclude: patterns of names below the folder to leave out, as `raw/*`.
        only: names below the folder to index; None for all that are found.
        replace_other: make the index anew where it is that of another run or other categories.
        approximate: also index the vectors and lists of names; see `approximate`.
        encoder: see `Tagger.load`.
        trust: see `Tagger.load`.
        device: see `Tagger.load`.
        encoding: how features are made and kept; by default in the user's store.
        known: images that need not be read, see `scale.described.described_by`.
        progress: called with (what, done, total).

    Raises:
        CheckpointError: no finished run there, another encoder, or an index of another run.
        ConfigError: both `known` and `also` are given.
        DataError: no image there, or LanceDB is not installed.
    """
    if known is not None and also:
        raise ConfigError(
            "what a job says of images knows nothing of further categories; leave --from or --also"
            " out"
        )
    root, out = Path(images), Path(out)
    connect(out)  # LanceDB is missed before anything long
    names = image_names(root, exclude) if only is None else sorted(set(only))
    tagger = Tagger.load(run, encoder=encoder, trust=trust, device=device, also=also)
    card = _card(tagger, Path(run), root)
    with held_folder(out):
        kept = labelled_rows(out)
        table = _table(out, card, replace_other, kept)
        old = old_rows(table)
        todo = to_describe(root, names, old, labels, progress, kept, card.category_names)
        gone = sorted(set(old) - set(names))
        if todo or gone:
            (out / UNSETTLED).touch()
        for start in range(0, len(gone), ROWS):
            table.delete(among("image", gone[start : start + ROWS]))
        _write(table, tagger, root, todo, card, encoding, known, progress)
        if has_table(out, REPLACED):
            connect(out).drop_table(REPLACED)
        if (out / UNSETTLED).exists() or not has_table(out, REFERENCE):
            _settle(table, out, card)
            (out / UNSETTLED).unlink(missing_ok=True)
        unreadable = int(table.count_rows("error IS NOT NULL"))
        new = sum(file.name not in old for file in todo)
        recall = (
            index_vectors(table, read_reference(out, card.feature_size).images)
            if approximate
            else None
        )
        counts = int(table.count_rows()), new, len(todo) - new, len(gone)
        return Built(*counts, unreadable, recall)


def _card(tagger: Tagger, run: Path, root: Path) -> IndexCard:
    identity = tagger.card.encoder
    kept = ("name", "checksum", "image_checksum", "size", "feature_size")
    return IndexCard(
        format=FORMAT,
        root=str(root.absolute()),
        encoder={name: getattr(identity, name) for name in kept},
        encoder_spec=tagger.card.encoder_spec,
        template=tagger.card.settings.prompts.template,
        run=run_identity(run),
        category_names=list(tagger.category_names),
        thresholds=[float(value) for value in tagger.thresholds()],
        trmml=versions()["trmml"],
    )


def _table(
    out: Path, card: IndexCard, replace_other: bool, kept: Mapping[str, Mapping[str, Any]]
) -> Any:
    """The table to write to: the one that is there if it is of the same run, else a new one."""
    database = connect(out)
    if not has_table(out, IMAGES):
        return database.create_table(IMAGES, schema=image_schema(card))
    table, there = open_images(out)
    if there.encoder["image_checksum"] != card.encoder["image_checksum"]:
        raise CheckpointError(
            f"{out} was made with encoder {there.encoder['name']}"
            f" ({there.encoder['image_checksum'][:12]}), the run has {card.encoder['name']}"
            f" ({card.encoder['image_checksum'][:12]}); name another folder"
        )
    if (there.run, there.category_names) != (card.run, card.category_names):
        if not replace_other:
            raise CheckpointError(
                f"{out} was made by run {there.run[:12]} with {len(there.category_names)}"
                f" categories, not by {card.run[:12]} with {len(card.category_names)}; make it anew"
                " with --replace (features come from the store), or name another folder"
            )
        keep_aside(out, kept, card)
        return database.create_table(IMAGES, schema=image_schema(card), mode="overwrite")
    if there != card:  # the folder was moved, or trmml is newer
        table.replace_schema_metadata(image_schema(card).metadata)
    return table


def _write(
    table: Any,
    tagger: Tagger,
    root: Path,
    todo: Sequence[File],
    card: IndexCard,
    encoding: Encoding | None,
    known: Known | None,
    progress: Progress | None,
) -> None:
    """Write the rows of images, some thousand at a time."""
    paths = [root / file.name for file in todo if known is None]  # else few are encoded
    refuse_without_room(paths, tagger.frozen, encoding, tagger.views, tagger.seed)
    for start in range(0, len(todo), ROWS):
        part = todo[start : start + ROWS]
        rows = _rows(tagger, root, part, card, encoding, known, progress)
        merge = table.merge_insert("image").when_matched_update_all()
        merge.when_not_matched_insert_all().execute(rows)


def _rows(
    tagger: Tagger,
    root: Path,
    files: Sequence[File],
    card: IndexCard,
    encoding: Encoding | None,
    known: Known | None,
    progress: Progress | None,
) -> Any:
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
            with Image.open(path) as image:
                exif = image.getexif()
                sides = turned_size(image)
                taken = exif.get_ifd(_EXIF).get(_TAKEN) or None
    except Exception:  # on damaged files, decoders raise almost anything
        return None, None, None
    return *sides, None if taken is None else str(taken).strip("\x00 ")


def _settle(table: Any, out: Path, card: IndexCard) -> None:
    """After rows changed: few large files, and what queries are set against."""
    table.optimize()
    total, count = np.zeros(card.feature_size), 0
    sample, draw = list[np.ndarray](), np.random.default_rng(0)
    share = 2 * SAMPLE / max(table.count_rows(), 1)
    rows = table.search().where(READABLE).select(["image_feature"]).limit(None)
    for batch in rows.to_batches():
        features = numbers_of(batch["image_feature"], card.feature_size)
        total, count = total + features.sum(axis=0, dtype=np.float64), count + len(features)
        sample.append(features[draw.random(len(features)) < share])
    texts = np.zeros((0, card.feature_size), np.float32)
    words: Sequence[str] = ()
    if has_table(out, REFERENCE):
        before = read_reference(out, card.feature_size)
        texts, words = before.texts, before.words
    images = np.concatenate([*sample, texts[:0]])
    images = images[draw.permutation(len(images))[:SAMPLE]]
    mean = (total / max(count, 1)).astype(np.float32)
    write_reference(out, Reference(mean, images, texts, words))
