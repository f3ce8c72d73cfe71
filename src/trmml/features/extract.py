"""Features of all images of a data set: from the store, computed where they lack, or live."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

from PIL import Image

from trmml.encoders.base import Encoder, EncoderIdentity, identify
from trmml.encoders.speed.precision import SAMPLES, EncodeImage, image_encoder, resolve_precision
from trmml.errors import DataError
from trmml.features.admin import default_root
from trmml.features.base import Features, FeatureSource, LiveFeatures, Progress, encode_batch
from trmml.features.loader import (
    LOOKED_AT,
    Picture,
    card_decoding_holds,
    prepared,
    sample_pixels,
    shortcut_holds,
    view_of,
    workers,
)
from trmml.features.store import FeatureStore, StoreKey, settled_shortcut
from trmml.images import BadImage, read_image
from trmml.settings.choices import OnBadImage, StoreForm
from trmml.storage.hashes import ContentHashes

# Pictures from which reading the files to know their content is worth a progress bar.
MANY = 1000


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
        store: root of the feature stores; `stores.default_root()` when None.
        form: "fp16", "int8" (half of it) or "fp32" (exact).
        live: use no store: only check at first that every file can be read, compute at each use.
        precision: of the encoder; one of `encoders.precision.PRECISIONS` or "auto".
    """

    store: Path | None = None
    form: StoreForm = "fp16"
    live: bool = False
    precision: str = "fp32"


def encode_images(
    paths: Sequence[Path],
    encoder: Encoder,
    *,
    identity: EncoderIdentity | None = None,
    encoding: Encoding | None = None,
    views: int = 1,
    seed: int = 0,
    device: str = "cpu",
    on_bad_image: OnBadImage = "error",
    progress: Progress | None = None,
) -> Encoded:
    """Features of all images, and the list of those that could not be read.

    What the store has is read from it; the rest is computed now and added, shard by shard, so that
    an interrupted run loses one shard at most.

    Args:
        paths: the pictures.
        encoder: frozen, already on `device`.
        identity: of the encoder, where it is known already.
        encoding: how and where; by default the user's store, in fp16.
        views: 1 = the plain picture; more = seeded crops and flips beside it.
        seed: of the crops and flips.
        device: where the encoder runs.
        on_bad_image: "error" stops at the first unreadable file; "skip" leaves it out.
        progress: told ("read", "check" or "encode", done, total).

    Raises:
        DataError: an unreadable file under "error", no readable file at all, or no room for the
            store.
    """
    if not paths:
        raise DataError("expected at least one image to encode, got none")
    encoding = encoding or Encoding()
    identity = identity or identify(encoder)
    precision = resolve_precision(
        encoding.precision,
        encoder,
        identity,
        device,
        pictures=len(paths),
        samples=lambda: sample_pixels(paths, encoder, SAMPLES),
    )
    encode = image_encoder(encoder, precision, device, identity)
    root = encoding.store or default_root()
    key = _key(encoder, identity, precision, encoding.form)
    key = _with_decoder(root, key, list(paths[:LOOKED_AT]), encoder, encode, device)
    run = _Run(paths, encoder, encode, precision, device, on_bad_image, progress, {})
    if encoding.live:
        items = run.check(views)
        reduced = _settled(root, key)  # pixels are those that the store's features are of
        if reduced is None:
            reduced = shortcut_holds([path for path, _ in items], encoder, encode, device)
        live = LiveFeatures(
            items,
            encoder,
            encode,
            views=views,
            seed=seed,
            device=device,
            reduced=bool(reduced),
            on_card=key.decoder == "card",
        )
        return run.conclude(live, "fp32")
    contents = run.contents(ContentHashes(root))
    store = FeatureStore(root, key)
    rows = {
        _row(contents[i], seed, view): view_of(paths[i], contents[i], seed, view)
        for view in range(views)
        for i in contents
    }
    lacking = store.lacking(list(rows))
    if lacking:
        with store.filling(lacking) as left:
            unread = run.fill(store, {row: rows[row] for row in left})
        reasons = {row.partition(".")[0]: reason for row, reason in unread.items()}
        run.bad.update({i: reasons[c] for i, c in contents.items() if c in reasons})
    kept = [i for i in contents if i not in run.bad]
    names = [[_row(contents[i], seed, view) for i in kept] for view in range(views)]
    return run.conclude(store.rows(names) if kept else None, encoding.form)


@dataclass(frozen=True)
class _Run:
    """One call of `encode_images`."""

    paths: Sequence[Path]
    encoder: Encoder
    encode: EncodeImage
    precision: str
    device: str
    on_bad_image: OnBadImage
    progress: Progress | None
    bad: dict[int, str]

    def contents(self, hashes: ContentHashes) -> dict[int, str]:
        """Hash of each file's content; a file that cannot be read is an error, or noted."""
        found: dict[int, str] = {}
        with ThreadPoolExecutor(workers()) as pool:
            for index, content in enumerate(pool.map(lambda p: _content(hashes, p), self.paths)):
                if isinstance(content, DataError):
                    self._note(index, content)
                else:
                    found[index] = content
                if len(self.paths) >= MANY:
                    self._tell("read", index + 1, len(self.paths))
        hashes.save()
        return found

    def check(self, views: int) -> list[tuple[Path, str]]:
        """Decode every file once, so that a broken one is found before training and not within.

        Gives path and content hash of the good ones; the hash only where views need it.
        """
        hashes, items = ContentHashes(None), []
        with ThreadPoolExecutor(workers()) as pool:
            for index, reason in enumerate(pool.map(_why_unreadable, self.paths)):
                if reason is None:
                    path = self.paths[index]
                    items.append((path, hashes.look_up(path) if views > 1 else ""))
                else:
                    self._note(index, DataError(reason))
                self._tell("check", index + 1, len(self.paths))
        return items

    def fill(self, store: FeatureStore, rows: dict[str, Picture]) -> dict[str, str]:
        """Encode what the store lacks; gives the rows whose picture cannot be read, and why."""
        names, unread, done = list(rows), dict[str, str](), 0
        reduced = _settled(store.folder.parent, store.key)
        if reduced is None and rows:
            new = [picture.path for picture in rows.values()]
            reduced = shortcut_holds(new, self.encoder, self.encode, self.device)
            if reduced is None and len(new) > LOOKED_AT:
                reduced = False  # large ones may come among those that were not looked at
        if reduced is not None and settled_shortcut(store.folder) is None:
            store.settle_shortcut(reduced)
        waiting: list[str] = []
        parts: list[Features] = []
        for batch in prepared(
            list(rows.values()),
            self.encoder,
            device=self.device,
            reduced=bool(reduced),
            on_card=store.key.decoder == "card",
            on_bad_image=self.on_bad_image,
        ):
            if batch.numbers:
                waiting += [names[n] for n in batch.numbers]
                parts.append(encode_batch(self.encode, batch.pixels, self.device).to("cpu"))
            unread |= {names[n]: reason for n, reason in batch.bad.items()}
            done += len(batch.numbers) + len(batch.bad)
            if len(waiting) >= store.shard_rows or (waiting and done == len(names)):
                store.add(waiting, Features.cat(parts))
                waiting, parts = [], []
            self._tell("encode", done, len(names))
        return unread

    def conclude(self, source: FeatureSource | None, form: StoreForm) -> Encoded:
        """What was found, or an error where no picture can be read."""
        bad = [BadImage(str(self.paths[i]), None, self.bad[i]) for i in sorted(self.bad)]
        if source is None or len(bad) == len(self.paths):
            raise DataError(
                f"none of the {len(self.paths)} images can be read; first: {bad[0].reason}"
            )
        kept = [i for i in range(len(self.paths)) if i not in self.bad]
        return Encoded(source, kept, bad, self.precision, form)

    def _note(self, index: int, error: DataError) -> None:
        if self.on_bad_image == "error":
            raise error
        self.bad[index] = str(error)

    def _tell(self, what: str, done: int, total: int) -> None:
        if self.progress is not None:
            self.progress(what, done, total)


def _content(hashes: ContentHashes, path: Path) -> str | DataError:
    try:
        return hashes.look_up(path)
    except OSError:
        return DataError(_why_unreadable(path) or f"{path} cannot be read; check the disk")


def _why_unreadable(path: Path) -> str | None:
    try:
        read_image(path)
    except DataError as error:
        return str(error)
    return None


def _row(content: str, seed: int, view: int) -> str:
    """Name of a view's row; the plain picture is the same whatever the seed."""
    return f"{content}.{f'{seed}-{view}' if view else 'plain'}"


def _settled(root: Path, key: StoreKey) -> bool | None:
    """Whether large JPEGs are decoded smaller, where that was found out in any form."""
    forms = [settled_shortcut(root / replace(key, form=form).name) for form in get_args(StoreForm)]
    return next((holds for holds in forms if holds is not None), None)


def _with_decoder(
    root: Path,
    key: StoreKey,
    paths: list[Path],
    encoder: Encoder,
    encode: EncodeImage,
    device: str,
) -> StoreKey:
    """The key with who decodes JPEGs: as in a store that is there, else as is found out now.

    It must not depend on which pictures are asked for, or they would be encoded again.
    """
    if not device.startswith("cuda"):
        return key
    card = replace(key, decoder="card")
    for there in (card, key):
        if (root / there.name).is_dir():
            return there
    return card if card_decoding_holds(paths, encoder, encode, device) else key


def _key(encoder: Encoder, identity: EncoderIdentity, precision: str, form: StoreForm) -> StoreKey:
    """What the features depend on where Pillow decodes.

    `preprocess` is known by what it makes of a test picture.
    """
    pixels = (encoder.preprocess(_test_picture()) * 1000).round().int()
    made = hashlib.sha256(pixels.numpy().tobytes()).hexdigest()[:16]
    words = getattr(encoder, "preprocessing", "")
    return StoreKey(
        encoder=identity.name,
        image_checksum=identity.image_checksum,
        size=identity.size,
        preprocessing=f"{words} [{made}]".strip(),
        precision=precision,
        decoder="pillow",
        form=form,
        patches=identity.patches,
        hidden_size=identity.hidden_size,
        feature_size=identity.feature_size,
    )


def _test_picture() -> Image.Image:
    """A picture with slopes and edges, no square, larger than most inputs and always the same."""
    width, height = 613, 479
    values = bytes(
        (x * y // 7 + 40 * c) % 256 for y in range(height) for x in range(width) for c in range(3)
    )
    return Image.frombytes("RGB", (width, height), values)
