"""Features of all images of a data set: from the store, computed where they lack, or live."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

from trmml.encoders.base import Encoder
from trmml.encoders.frozen import FrozenEncoder, frozen_encoder
from trmml.encoders.speed.precision import in_precision
from trmml.errors import DataError
from trmml.features import ranks
from trmml.features.admin import default_root
from trmml.features.base import Features, FeatureSource, LiveFeatures, Progress, encode_batch
from trmml.features.contents import Content, read_contents, why_unreadable
from trmml.features.decoding import (
    SEARCHED,
    Decoding,
    ImageView,
    reduced_holds,
    view_of,
    workers,
)
from trmml.features.keys import key_of
from trmml.features.loader import best_precision, load_batches
from trmml.features.store import FeatureStore, StoreKey, settled_shortcut
from trmml.images import BadImage
from trmml.settings.choices import OnBadImage, StoreForm
from trmml.storage.hashes import ContentHashes


@dataclass(frozen=True)
class Encoded:
    """Features of the images that could be read.

    Attributes:
        source: the features, in the order of `kept`.
        kept: positions of the readable images in what was asked for.
        bad: the others, with the reason.
        precision: of the encoder; never "auto".
        form: in which the features are kept; fp32 where they are computed at each use.
    """

    source: FeatureSource
    kept: list[int]
    bad: list[BadImage]
    precision: str
    form: StoreForm


@dataclass(frozen=True)
class Encoding:
    """How features are made and where they are kept; the same for training and evaluation.

    Attributes:
        store: root of the feature stores; `admin.default_root()` when None.
        form: "fp16", "int8" (half of it) or "fp32" (exact).
        live: use no store: only check at first that every file can be read, compute at each use.
        precision: of the encoder; one of `encoders.speed.precision.PRECISIONS` or "auto".
    """

    store: Path | None = None
    form: StoreForm = "fp16"
    live: bool = False
    precision: str = "fp32"


def encode_images(
    paths: Sequence[Path],
    encoder: Encoder | FrozenEncoder,
    *,
    encoding: Encoding | None = None,
    views: int = 1,
    seed: int = 0,
    on_bad_image: OnBadImage = "error",
    progress: Progress | None = None,
) -> Encoded:
    """Features of all images, and the list of those that could not be read.

    What the store has is read from it; the rest is computed now and added, shard by shard, so that
    an interrupted run loses one shard at most.

    Args:
        paths: of the images.
        encoder: on any device; one that is not frozen yet runs on the CPU.
        encoding: how and where; by default the user's store, in fp16.
        views: 1 = the plain image; more = seeded crops and flips beside it.
        seed: of the crops and flips.
        on_bad_image: "error" stops at the first unreadable file; "skip" leaves it out.
        progress: called with ("read", "check" or "encode", done, total).

    Raises:
        DataError: an unreadable file under "error", no readable file at all, or no room for the
            store.
    """
    if not paths:
        raise DataError("expected at least one image to encode, got none")
    encoding = encoding or Encoding()
    frozen, root, key = _place(paths, encoder, encoding)
    run = _Run(paths, frozen, views, seed, on_bad_image, progress, {})
    if encoding.live:
        return run.conclude(run.live(root, key), "fp32")
    return run.conclude(run.stored(root, key), encoding.form)


def refuse_without_room(
    paths: Sequence[Path],
    encoder: Encoder | FrozenEncoder,
    encoding: Encoding | None = None,
    views: int = 1,
    seed: int = 0,
    progress: Progress | None = None,
) -> None:
    """Refuse images that the disk has no room for, before `encode_images` is given some at a time.

    Files are read only where all of them would not fit, to know what the store has of them.

    Args:
        paths: all that will be asked for; nothing is done where there is none.
        encoder: see `encode_images`, as of the others.
        encoding: how and where.
        views: of each image.
        seed: of the views.
        progress: called with ("read", done, total), where files are read.

    Raises:
        DataError: the store has no room for the features that it lacks.
    """
    encoding = encoding or Encoding()
    if encoding.live or not paths:
        return
    frozen, root, key = _place(paths, encoder, encoding)
    store = FeatureStore(root, key)
    if store.has_room(views * len(paths)):
        return
    run = _Run(paths, frozen, views, seed, "skip", progress, {})
    rows = run.rows(run.contents(ContentHashes(root)))
    lacking = store.lacking(list(rows))
    if lacking and not store.has_room(len(lacking)) and not run.all_unreadable(rows, lacking):
        raise store.no_room(len(lacking))


def _place(
    paths: Sequence[Path], encoder: Encoder | FrozenEncoder, encoding: Encoding
) -> tuple[FrozenEncoder, Path, StoreKey]:
    """The encoder in its precision, the root of the stores, and the key of the one that is used."""
    frozen, root = frozen_encoder(encoder), encoding.store or default_root()
    # What is measured may come out another way in each process; the first one's counts for all.
    precision = encoding.precision
    if not ranks.number():
        precision = best_precision(precision, paths, frozen)
    frozen = in_precision(frozen, ranks.of_first(precision))
    return frozen, root, key_of(root, frozen, encoding.form, paths, keep=not encoding.live)


@dataclass(frozen=True)
class _Run:
    """One call of `encode_images`."""

    paths: Sequence[Path]
    frozen: FrozenEncoder
    views: int
    seed: int
    on_bad_image: OnBadImage
    progress: Progress | None
    bad: dict[int, str]

    def live(self, root: Path, key: StoreKey) -> LiveFeatures:
        """Features computed at each use; pixels are those that the store's features are of."""
        items = self.check()
        reduced = _known_shortcut(root, key)
        if reduced is None:
            reduced = reduced_holds([path for path, _ in items], self.frozen)
        decoding = Decoding(bool(reduced), key.decoder == "card")
        return LiveFeatures(items, self.frozen, views=self.views, seed=self.seed, decoding=decoding)

    def stored(self, root: Path, key: StoreKey) -> FeatureSource | None:
        """Features in the store, after what it lacks was added; None where no image is readable."""
        contents = self.contents(ContentHashes(root))
        store, rows = FeatureStore(root, key), self.rows(contents)
        lacking = ranks.of_first(store.lacking(list(rows)))
        if lacking:
            unread = self.fill_lacking(store, rows, lacking)
            reasons = {row.partition(".")[0]: reason for row, reason in unread.items()}
            # Takes notice of what other processes added, too.
            missed = [r for r in store.lacking(list(rows)) if r.partition(".")[0] not in reasons]
            if missed:
                raise DataError(
                    f"features of {len(missed)} images are not in the store {store.folder} after"
                    " they were encoded; is it one folder for all processes, with none removing"
                    " files from it? Name one that all reach with --store, and run again"
                )
            digests = {i: digest for i, (digest, _) in contents.items()}
            self.bad.update({i: reasons[d] for i, d in digests.items() if d in reasons})
        kept = [content.digest for i, content in contents.items() if i not in self.bad]
        names = [[_row(content, self.seed, view) for content in kept] for view in range(self.views)]
        return store.features(names) if kept else None

    def rows(self, contents: Mapping[int, Content]) -> dict[str, ImageView]:
        """What each row of the store is made from."""
        return {
            _row(content.digest, self.seed, view): view_of(
                self.paths[i], content.digest, self.seed, view, content.state
            )
            for view in range(self.views)
            for i, content in contents.items()
        }

    def contents(self, hashes: ContentHashes) -> dict[int, Content]:
        """Each file's content; a file that cannot be read is an error, or noted."""
        stop = self.on_bad_image == "error"
        found = read_contents(self.paths, hashes, stop=stop, progress=self.progress)
        for index, content in found.items():
            if isinstance(content, DataError):
                self._note(index, content)
        return {index: content for index, content in found.items() if isinstance(content, Content)}

    def check(self) -> list[tuple[Path, str]]:
        """Decode every file once, so that a broken one is found before training and not within.

        Gives path and content hash of the good ones; the hash only where views need it.
        """
        hashes, items = ContentHashes(None), []
        with ThreadPoolExecutor(workers()) as pool:
            for index, reason in enumerate(pool.map(why_unreadable, self.paths)):
                if reason is None:
                    path = self.paths[index]
                    items.append((path, hashes.look_up(path) if self.views > 1 else ""))
                else:
                    self._note(index, DataError(reason))
                self._tell("check", index + 1, len(self.paths))
        return items

    def fill_lacking(
        self, store: FeatureStore, rows: dict[str, ImageView], lacking: list[str]
    ) -> dict[str, str]:
        """Add what a store lacks; gives the rows whose image cannot be read, and why."""
        with ExitStack() as stack:
            left, unread = lacking, dict[str, str]()
            if not ranks.number():
                try:
                    left = stack.enter_context(store.filling(lacking))
                except DataError:
                    left, unread = [], self.all_unreadable(rows, lacking)
                    if not unread:
                        raise
            left, unread = ranks.of_first((left, unread))
            return unread | (self.fill_together(store, rows, left) if left else {})

    def all_unreadable(self, rows: dict[str, ImageView], lacking: Sequence[str]) -> dict[str, str]:
        """Why none of the lacking images can be read; nothing where one can.

        A store without them has all that it can have, so that it need not be written.
        """
        unread = dict[str, str]()
        for row in lacking:
            reason = why_unreadable(rows[row].path)
            if reason is None:
                return {}
            if self.on_bad_image == "error":
                raise DataError(reason)
            unread[row] = reason
        return unread

    def fill_together(
        self, store: FeatureStore, rows: dict[str, ImageView], left: Sequence[str]
    ) -> dict[str, str]:
        """`fill` of all processes, each its share; an error of one is an error of all."""
        unread, error = dict[str, str](), None
        try:
            unread = self.fill(
                store, {row: rows[row] for row in left[ranks.number() :: ranks.count()]}
            )
        except DataError as raised:
            error = raised
        every = ranks.of_all((unread, error))
        if errors := [error for _, error in every if error is not None]:
            raise errors[0]
        return {row: reason for found, _ in every for row, reason in found.items()}

    def fill(self, store: FeatureStore, rows: dict[str, ImageView]) -> dict[str, str]:
        """Encode what the store lacks; gives the rows whose image cannot be read, and why."""
        names, unread, done = list(rows), dict[str, str](), 0
        views = list(rows.values())
        decoding = Decoding(self._reduced(store, views), store.key.decoder == "card")
        waiting: list[str] = []
        parts: list[Features] = []
        for batch in load_batches(views, self.frozen, decoding, on_bad_image=self.on_bad_image):
            if batch.numbers:
                waiting += [names[n] for n in batch.numbers]
                paths = [views[n].path for n in batch.numbers]
                parts.append(encode_batch(self.frozen, batch.pixels, paths).to("cpu"))
            unread |= {names[n]: reason for n, reason in batch.bad.items()}
            done += len(batch.numbers) + len(batch.bad)
            if len(waiting) >= store.shard_rows or (waiting and done == len(names)):
                store.add(waiting, Features.cat(parts))
                waiting, parts = [], []
            self._tell("encode", done, len(names))
        return unread

    def _reduced(self, store: FeatureStore, views: Sequence[ImageView]) -> bool:
        """Whether large JPEGs are decoded smaller, as before in this store, else by a check."""
        reduced = ranks.of_first(_known_shortcut(store.folder.parent, store.key))
        if ranks.number():
            return bool(ranks.of_first(None))  # as the first finds
        if reduced is None and views:
            reduced = reduced_holds([view.path for view in views], self.frozen)
            if reduced is None and len(views) > SEARCHED:
                reduced = False  # large ones may come among those that were not searched
        if reduced is not None and settled_shortcut(store.folder) is None:
            store.settle_shortcut(reduced)
        return bool(ranks.of_first(reduced))

    def conclude(self, source: FeatureSource | None, form: StoreForm) -> Encoded:
        """The features, or an error where no image can be read."""
        bad = [BadImage(str(self.paths[i]), None, self.bad[i]) for i in sorted(self.bad)]
        if source is None or len(bad) == len(self.paths):
            raise DataError(
                f"none of the {len(self.paths)} images can be read; first: {bad[0].reason}"
            )
        kept = [i for i in range(len(self.paths)) if i not in self.bad]
        return Encoded(source, kept, bad, self.frozen.precision, form)

    def _note(self, index: int, error: DataError) -> None:
        if self.on_bad_image == "error":
            raise error
        self.bad[index] = str(error)

    def _tell(self, what: str, done: int, total: int) -> None:
        if self.progress is not None:
            self.progress(what, done, total)


def _row(content: str, seed: int, view: int) -> str:
    """Name of a view's row; the plain image is the same whatever the seed."""
    return f"{content}.{f'{seed}-{view}' if view else 'plain'}"


def _known_shortcut(root: Path, key: StoreKey) -> bool | None:
    """Whether large JPEGs are decoded smaller, where that was checked in any form."""
    forms = [settled_shortcut(root / replace(key, form=form).name) for form in get_args(StoreForm)]
    return next((holds for holds in forms if holds is not None), None)
