"""Make an index of a folder of images, or bring one up to date: only what changed is done again."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trmml.datasets.base import Dataset
from trmml.encoders.base import Encoder
from trmml.errors import CheckpointError, ConfigError
from trmml.features.base import Progress
from trmml.features.extract import Encoding, refuse_without_room
from trmml.search.approximate import drop_if_few, index_vectors
from trmml.search.changes import File, check_root, image_names, look_at, to_describe
from trmml.search.labels import (
    Before,
    gone,
    labels_by_image,
    lost,
    read_before,
    rows_by_name,
    set_aside,
)
from trmml.search.reference import SAMPLE, Reference, read_reference, write_reference
from trmml.search.rows import Known, rows_of
from trmml.search.table import (
    FORMAT,
    IMAGES,
    READABLE,
    REFERENCE,
    REMOVED,
    REPLACED,
    UNSETTLED,
    IndexCard,
    among,
    connect,
    has_table,
    make_images,
    numbers_of,
    open_images,
    update_card,
)
from trmml.storage.held import held_folder
from trmml.storage.provenance import run_identity, versions
from trmml.tagging.tagger import Tagger

# Images whose rows are written at once: Lance makes a file of each write.
ROWS = 10_000


@dataclass(frozen=True)
class Built:
    """What `build_index` did.

    Attributes:
        images: rows of the index now.
        new: images that it had not, or not under this name.
        changed: images whose file or labels changed.
        removed: rows of images that are gone.
        unreadable: images that are in the index with their error.
        recall: of the approximate search, see `approximate.recall`; None without one, as where
            there are fewer than `approximate.FEWEST` images.
        lost: images that had labels of categories of which the new labels say nothing.
    """

    images: int
    new: int
    changed: int
    removed: int
    unreadable: int
    recall: float | None = None
    lost: int = 0

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
        replace_other: make the index anew where it is that of another run or other categories, and
            let it be one of these images where it is that of another folder.
        approximate: also index the vectors and lists of names; see `approximate`.
        encoder: see `Tagger.load`.
        trust: see `Tagger.load`.
        device: see `Tagger.load`.
        encoding: how features are made and kept; by default in the user's store.
        known: images that need not be read, see `scale.described.described_by`.
        progress: called with (what, done, total).

    Raises:
        CheckpointError: no finished run there, another encoder, or an index of another run or of
            another folder, of which fewer than half of the images are here.
        ConfigError: both `known` and `also` are given.
        DataError: no image there, a folder whose name is no UTF-8, or LanceDB is not installed.
    """
    if known is not None and also:
        raise ConfigError(
            "what a job says of images knows nothing of further categories; leave --from or --also"
            " out"
        )
    root, out = Path(images), Path(out)
    check_root(root)
    connect(out)  # LanceDB is missed before anything long
    names = image_names(root, exclude) if only is None else sorted(set(only))
    tagger = Tagger.load(run, encoder=encoder, trust=trust, device=device, also=also)
    card = _card(tagger, Path(run), root)
    with held_folder(out):
        before = read_before(out)
        if not replace_other:
            _refuse_other_folder(out, card, before, names)
        table = _table(out, card, replace_other, before)
        old = rows_by_name(table)
        files = look_at(root, names, old, progress)
        contents = {file.name: file.sha256 for file in files}
        kept = before.labels(contents)
        told = kept if labels is None else labels_by_image(labels, card.category_names)
        todo = to_describe(files, old, told)
        away = sorted(set(old) - set(names))
        with _labels_kept(out, before, contents, card):
            written = _write(table, out, tagger, root, todo, card, encoding, known, progress)
            for start in range(0, len(away), ROWS):
                (out / UNSETTLED).touch()
                table.delete(among("image", away[start : start + ROWS]))
        if (out / UNSETTLED).exists() or not has_table(out, REFERENCE):
            _settle(table, out, card)
            (out / UNSETTLED).unlink(missing_ok=True)
        unreadable = int(table.count_rows("error IS NOT NULL"))
        new = sum(file.name not in old for file in todo)
        recall = index_vectors(table, read_reference(out, card).images) if approximate else None
        counts = int(table.count_rows()), new, written - new, len(away)
        return Built(*counts, unreadable, recall, lost(kept, told))


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


def _refuse_other_folder(out: Path, card: IndexCard, before: Before, names: Sequence[str]) -> None:
    """Refuse the images of another folder; the same ones may lie elsewhere now.

    Raises:
        CheckpointError: fewer than half of the index's images are in this folder.
    """
    if not has_table(out, IMAGES) or (there := open_images(out)[1].root) == card.root:
        return
    found = len(before.rows.keys() & set(names))
    if 2 * found < len(before.rows):
        raise CheckpointError(
            f"{out} is the index of {there}, and {card.root} has {found} of its"
            f" {len(before.rows)} images; name another folder with --out, or let it be the index of"
            f" {card.root} with --replace"
        )


@contextmanager
def _labels_kept(
    out: Path, before: Before, contents: Mapping[str, str], card: IndexCard
) -> Iterator[None]:
    """Labels that the block takes out of the table are in another one, whatever stops it.

    After the block those remain there whose images are gone; they may come back.
    """
    kept = before.to_keep(contents)
    if kept != before.removed:
        set_aside(out, REMOVED, kept, card)
    yield
    if (still := gone(kept, contents)) != kept:
        set_aside(out, REMOVED, still, card)
    set_aside(out, REPLACED, (), card)


def _table(out: Path, card: IndexCard, replace_other: bool, before: Before) -> Any:
    """The table to write to: the one that is there if it is of the same run, else a new one."""
    if not has_table(out, IMAGES):
        return make_images(out, card)
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
        set_aside(out, REPLACED, before.rows.values(), card)
        return make_images(out, card)
    if there != card:  # the folder was moved, or trmml is newer
        update_card(out, card)
    return table


def _write(
    table: Any,
    out: Path,
    tagger: Tagger,
    root: Path,
    todo: Sequence[File],
    card: IndexCard,
    encoding: Encoding | None,
    known: Known | None,
    progress: Progress | None,
) -> int:
    """Write the rows of images, some thousand at a time; how many there are.

    Those that still cannot be read, as their rows say, stay as they are.
    """
    if known is None:  # else few are encoded
        paths = [root / file.name for file in todo]
        refuse_without_room(paths, tagger.frozen, encoding, tagger.views, tagger.seed, progress)
    written = 0
    for start in range(0, len(todo), ROWS):
        part = todo[start : start + ROWS]
        rows = rows_of(tagger, root, part, card, encoding, known, progress)
        errors = zip(part, rows["error"].to_pylist(), strict=True)
        other = [row for row, (file, why) in enumerate(errors) if why is None or why != file.error]
        if not other:
            continue
        (out / UNSETTLED).touch()
        merge = table.merge_insert("image").when_matched_update_all()
        merge.when_not_matched_insert_all().execute(rows.take(other))
        written += len(other)
    return written


def _settle(table: Any, out: Path, card: IndexCard) -> None:
    """After rows changed: few large files, and what queries are set against."""
    drop_if_few(table)
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
        before = read_reference(out, card)
        texts, words = before.texts, before.words
    images = np.concatenate([*sample, texts[:0]])
    images = images[draw.permutation(len(images))[:SAMPLE]]
    mean = (total / max(count, 1)).astype(np.float32)
    write_reference(out, Reference(mean, images, texts, words), card)
