"""What a query's scores are set against: the collection's mean, and queries that are unrelated.

Cosines of texts and of images lie at different heights, so a score is a cosine less its mean over
the collection. A cut-off comes from a null distribution: the scores of 200 unrelated queries over a
sample of the same images. It says what chance reaches, not what is right.
"""

import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float

from trmml.errors import CheckpointError
from trmml.search.query import Query
from trmml.search.table import (
    REFERENCE,
    IndexCard,
    connect,
    has_table,
    numbers_of,
    open_images,
)
from trmml.storage.held import held_folder

# Images that stand for the collection, and unrelated queries over them.
SAMPLE, UNRELATED = 2000, 200
# The share of the unrelated queries' scores that lies below the cut-off.
BELOW = 0.999
# Of the table's schema: by which encoder and template the texts are.
TEXTS = b"texts"
# Everyday things, so that few of them are in any one collection.
NOUNS = tuple(
    "accordion acorn airport alligator ambulance anchor ant antenna apple apron aquarium armchair"
    " arrow ashtray asparagus avalanche avocado axe bagpipes bakery balcony balloon bamboo banana"
    " banjo barcode barn basket bat bathtub bee beehive bell bicycle billiards binoculars blender"
    " blueberry bonfire bookshelf boomerang bowling bracelet bread brick bridge broccoli broom"
    " bucket bulldozer butterfly cactus cake calculator camel candle cannon canoe caravan carousel"
    " carpet carrot castle cathedral cello chainsaw chalkboard chandelier cheese chess chimney"
    " circus clarinet clock clover coffee comb compass concrete corkscrew cornfield cradle crane"
    " crayon cricket crocodile crown crutch cupboard curtain dandelion dartboard dentist desert"
    " diamond diary dice dolphin doormat dragonfly drill drum duck dumpling eagle earring easel"
    " eggplant elevator engine envelope escalator espresso factory fan faucet fence fern ferry"
    " fireworks flag flamingo flashlight flute fork fountain fox frog funnel garlic giraffe glacier"
    " globe glove goat goose graffiti grapes grasshopper greenhouse guitar hammer hammock"
    " harmonica harp hedgehog helicopter helmet honey horse hourglass igloo iron jellyfish kangaroo"
    " kettle keyboard kite ladder lantern lemon leopard lighthouse lizard lobster magnet map"
    " microscope mirror moss mushroom noodles octopus onion orchid owl padlock paintbrush parachute"
    " peacock penguin piano pineapple pretzel pumpkin quilt raccoon radish rhinoceros rickshaw"
    " ruler saddle sandal saxophone scarecrow scissors seahorse shovel skateboard skeleton snail"
    " spatula sphinx squid stapler".split()
)[:UNRELATED]


@dataclass(frozen=True, eq=False)
class Reference:
    """Of one index.

    Attributes:
        mean: of all image features.
        images: features of a sample.
        texts: features of unrelated texts; none before one was asked for.
        words: those texts, in the order of `texts`.
    """

    mean: Float[np.ndarray, " D"]
    images: Float[np.ndarray, "S D"]
    texts: Float[np.ndarray, "T D"]
    words: Sequence[str] = field(default=())

    def cut(self, query: Query) -> float | None:
        """The score that all but a thousandth of the unrelated queries' scores lie below.

        Each of them has a text in place of each of the query's texts, and an image in place of
        each image, with the same weights. None where there are too few images to say it.
        """
        if len(self.images) < 2:
            return None
        null = np.zeros((UNRELATED, len(self.images)), np.float32)
        centred = self.images - self.mean
        for place, term in enumerate(query.terms):
            pool = self._unlike(term.value) if term.kind == "text" else self.images
            rows = np.random.default_rng(place).permutation(len(pool))
            chosen = pool[np.resize(rows, UNRELATED)]
            scores = chosen @ centred.T
            if term.kind == "image":  # an image resembles itself
                scores[np.arange(UNRELATED), np.resize(rows, UNRELATED)] = np.nan
            null += term.weight * scores
        if not np.isfinite(null).any():
            return None
        return float(np.nanquantile(null, BELOW))

    def _unlike(self, text: str) -> Float[np.ndarray, "K D"]:
        """Features of the texts that are no word of a query."""
        named = text.casefold().split()
        return self.texts[[word not in named for word in self.words]]


def read_reference(folder: Path, card: IndexCard) -> Reference:
    """What an index has to set queries against.

    Args:
        folder: of the index.
        card: of the index; texts that another text tower or template encoded are left out.
    """
    rows = connect(folder).open_table(REFERENCE).search().limit(None).to_arrow()
    kinds = np.asarray(rows["kind"].to_pylist())
    features = numbers_of(rows["feature"], card.feature_size)
    words = [word for word in rows["word"].to_pylist() if word is not None]
    mean, images, texts = (features[kinds == kind] for kind in ("mean", "image", "text"))
    if (rows.schema.metadata or {}).get(TEXTS) != _made_by(card):
        texts, words = texts[:0], []
    return Reference(mean[0], images, texts, words)


def write_reference(folder: Path, found: Reference, card: IndexCard) -> None:
    """Replace what an index has.

    Args:
        folder: of the index, which nobody else may hold.
        found: what it will have.
        card: of the index, whose encoder and template the texts are of.
    """
    import pyarrow as pa

    parts = {"mean": found.mean[None], "image": found.images, "text": found.texts}
    features = np.concatenate(list(parts.values())).astype(np.float32)
    kinds = [kind for kind, rows in parts.items() for _ in range(len(rows))]
    words = [None] * (len(kinds) - len(found.texts)) + list(found.words)
    size = features.shape[1]
    column = pa.FixedSizeListArray.from_arrays(pa.array(features.ravel()), size)
    rows = {"kind": pa.array(kinds), "word": pa.array(words, pa.string()), "feature": column}
    mode = "overwrite" if has_table(folder, REFERENCE) else "create"
    table = pa.table(rows, metadata={TEXTS: _made_by(card)})
    connect(folder).create_table(REFERENCE, table, mode=mode)


def keep_texts(folder: Path, found: Reference, card: IndexCard) -> None:
    """Add the unrelated texts to what an index has now, where it may be written and none builds it.

    Args:
        folder: of the index, which may have been built anew since `found` was read.
        found: whose texts are kept.
        card: that `found` was made with; an index of other texts stays as it is.
    """
    if not os.access(folder, os.W_OK):  # an index that may only be read is as good
        return
    with suppress(CheckpointError), held_folder(folder):
        if _made_by(open_images(folder)[1]) == _made_by(card):
            now = read_reference(folder, card)
            write_reference(folder, replace(now, texts=found.texts, words=found.words), card)


def _made_by(card: IndexCard) -> bytes:
    """What the features of texts depend on."""
    return json.dumps([card.encoder["checksum"], card.template]).encode()


def with_texts(
    found: Reference, encode: Callable[[list[str]], Float[np.ndarray, "T D"]]
) -> Reference:
    """The reference with features of the unrelated texts, which need the text tower once."""
    words = list(NOUNS)
    return Reference(found.mean, found.images, encode(words), words)
