"""Years of keywords as a table of labels: what people tagged is present, the rest is unknown."""

import csv
import io
import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from trmml.datasets.tables.names import clean_name, same
from trmml.errors import DataError
from trmml.exchange.embedded import embedded_keywords
from trmml.exchange.ledger import Ledger, Record
from trmml.exchange.naming import shared, sidecars_of
from trmml.exchange.readers import ACDSEE, MEDIAPRO, Keywords, keywords_of
from trmml.exchange.sidecars import bytes_of
from trmml.exchange.splice import MADE, MICROSOFT, OWN
from trmml.exchange.words import leaf_of, path_of
from trmml.exchange.xmp import parse
from trmml.storage.atomic import refuse_old, write_text

if TYPE_CHECKING:
    from trmml.datasets.base import Dataset


# By sidecar, each field with a word, by what the word's spellings share.
Written = dict[str, set[tuple[str, str]]]
# digiKam fills these from the fields that trmml writes; our words there are no person's.
_COPIES = (MICROSOFT, MEDIAPRO, ACDSEE)


class Found(NamedTuple):
    """The keywords of images.

    Attributes:
        words: of each image, in one spelling.
        ours: how many words were left out because trmml wrote them.
        refused: sidecars and images that cannot be read to the end, with the reason.
        shared: images of each sidecar that several have, whose words count for each of them.
        unlisted: sidecars that trmml made, where no ledger, no root and not the file itself says
            which words are trmml's: they count as people's.
    """

    words: dict[Path, list[str]]
    ours: int
    refused: list[tuple[Path, str]]
    shared: dict[Path, list[Path]]
    unlisted: list[Path]


def read_keywords(
    images: Sequence[Path],
    *,
    embedded: bool = False,
    ledger: Path | None = None,
    under: str | None = None,
    ours: bool = False,
) -> Found:
    """The keywords of images, from their sidecars.

    Spellings that differ in case or in the form of accents are one word, in the commonest one. Of
    a tree of keywords the last level counts. A word is trmml's where it wrote it into each field
    that holds it.

    Args:
        images: files.
        embedded: read the images themselves, too.
        ledger: of what trmml wrote; None where there is none.
        under: the root that trmml's words were put under.
        ours: keep what trmml wrote. A run that learns from it would learn from itself.

    Raises:
        DataError: the ledger is none.
    """
    record = Ledger(ledger).read() if ledger is not None else Record([], set(), set())
    written = _written(record)
    spelled: dict[str, Counter[str]] = defaultdict(Counter)
    found, refused, count = dict[Path, dict[str, str]](), list[tuple[Path, str]](), 0
    unlisted: list[Path] = []
    for image in images:
        words, own = _words_of(image, embedded, written, under, refused, unlisted)
        left_out = set() if ours else own
        count += len(left_out)
        found[image] = {key: text for key, text in words.items() if key not in left_out}
        for key, text in found[image].items():
            spelled[key][text] += 1
    best = {key: min(texts, key=lambda t: (-texts[t], t)) for key, texts in spelled.items()}
    return Found(
        {image: [best[key] for key in words] for image, words in found.items()},
        count, refused, shared((image, each) for image in images for each in sidecars_of(image)),
        list(dict.fromkeys(unlisted)),
    )  # fmt: skip


def _written(record: Record) -> Written:
    """What was written into each sidecar, by path; an empty set where all was taken back."""
    written: Written = defaultdict(set, {sidecar: set() for sidecar in record.sidecars})
    for entry in record.entries:
        there = written[entry.sidecar]
        there |= {(n, same(leaf_of(n, w))) for n, ws in entry.ours.items() if n != OWN for w in ws}
        ours = {word for _, word in there}
        copied = {(n, same(leaf_of(n, w))) for n, ws in entry.copied.items() for w in ws}
        there |= {(name, word) for name, word in copied if word in ours}
    return written


def _words_of(
    image: Path,
    embedded: bool,
    written: Written,
    under: str | None,
    refused: list[tuple[Path, str]],
    unlisted: list[Path],
) -> tuple[dict[str, str], set[str]]:
    """The words of an image by what their spellings share, and which of them trmml alone wrote."""
    words, theirs = dict[str, str](), set[str]()

    def take(fields: Keywords, place: str = "", said: Iterable[str] = ()) -> None:
        for word, text, ours in _judged(fields, written.get(place, set()), set(said), under):
            words.setdefault(word, text)
            theirs.update(() if ours else [word])

    if embedded:
        inside = embedded_keywords(image)
        take(inside.words)
        refused += [(image, inside.unread)] if inside.unread else []
    for sidecar in sidecars_of(image):
        try:
            packet = parse(bytes_of(sidecar) or b"")
        except DataError as error:
            refused.append((sidecar, str(error)))
            continue
        said = [same(entry.rsplit("|", 2)[0]) for entry in packet.words(OWN)]
        place = os.path.realpath(sidecar)
        if MADE in packet.data and under is None and not said and place not in written:
            unlisted.append(sidecar)
        take(keywords_of(packet), place, said)
    return words, set(words) - theirs


def _judged(
    fields: Keywords, written: set[tuple[str, str]], said: set[str], under: str | None
) -> Iterator[tuple[str, str, bool]]:
    """Each word of a file, its spelling, and whether its field got it from trmml.

    Args:
        fields: the words of the file.
        written: what the ledger says was written, by field.
        said: what the file itself says trmml wrote, whatever the field; the ledger knows better.
        under: the root that trmml's words were put under.
    """
    entries = [(name, path_of(name, text)) for name, texts in fields.items() for text in texts]
    paths = [(name, path) for name, path in entries
             if path and clean_name(path[-1]) and path != (under,)]  # fmt: skip
    root = None if under is None else same(under)
    rooted = {same(path[-1]) for _, path in paths if same(path[0]) == root}
    ours = {word for _, word in written}
    for name, path in paths:
        word = same(path[-1])
        listed = (name, word) in written or (name in _COPIES and word in ours)
        below = same(path[0]) == root or (len(path) == 1 and word in rooted)
        yield word, clean_name(path[-1]), listed or below or (word in said and word not in ours)


def write_keywords(
    found: Found, out: Path, root: Path, style: Literal["long", "wide"] = "long"
) -> int:
    """Write a table of labels, and return the number of its categories.

    Args:
        found: from `read_keywords`.
        out: new file. "long": image, present, absent, the last of which is blank. "wide": a column
            a word, with 1 or blank.
        root: folder that the images' names begin in.
        style: one of the two.

    Raises:
        DataError: the file is there, nobody tagged anything, or a name cannot be written, as
            `image` and `tags` where a word is a column.
    """
    refuse_old(out)
    names = sorted({word for words in found.words.values() for word in words})
    if not names:
        raise DataError(
            f"none of the {len(found.words)} images has a keyword in a sidecar that a person wrote;"
            " --embedded reads the images themselves, --ours include what trmml wrote"
        )
    rows = [
        (Path(os.path.relpath(path, root)).as_posix(), words) for path, words in found.words.items()
    ]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if style == "wide":
        _refuse_columns(names)
        writer.writerow(("image", *names))
        writer.writerows(
            (name, *("1" if n in words else "" for n in names)) for name, words in rows
        )
    else:
        # As JSON where a sign in a name could be taken for what parts names.
        listed = any(not name.replace(" ", "").isalnum() for name in names)
        join = (lambda w: json.dumps(w, ensure_ascii=False)) if listed else ";".join
        writer.writerow(("image", "present", "absent"))
        writer.writerows((name, join(words) if words else "", "") for name, words in rows)
    try:
        write_text(out, text.getvalue())
    except UnicodeEncodeError as error:
        line = text.getvalue()[: error.end].rpartition("\n")[2]
        raise DataError(
            f"the name of an image is not UTF-8, so no table holds it: {line!r}...; rename it"
        ) from error
    return len(names)


def _refuse_columns(names: Sequence[str]) -> None:
    """Refuse keywords that a reader of tables would take for a column of something else.

    Raises:
        DataError: there are some.
    """
    from trmml.datasets.tables.cells import PRESENT_COLUMNS
    from trmml.datasets.tables.not_categories import is_use

    taken = [name for name in names
             if name.casefold() in ("image", *PRESENT_COLUMNS) or is_use(name)]  # fmt: skip
    if taken:
        raise DataError(
            f"the keywords {', '.join(map(repr, taken))} cannot be columns: a table has columns of"
            " these names for images, for lists of labels or for what an image is used for. Take"
            " --format long."
        )


def with_keywords(found: Found, root: Path, data: "Dataset | None" = None) -> "Dataset":
    """Labels of images, with their keywords as present where nothing is known.

    Args:
        found: from `read_keywords`.
        root: folder that the images' names begin in.
        data: labels of some of them.
    """
    import torch  # takes seconds to import

    from trmml.datasets.base import Dataset
    from trmml.labels.matrix import LabelMatrix

    words = {
        Path(os.path.relpath(path, root)).as_posix(): each for path, each in found.words.items()
    }
    told, names = (data.images, data.category_names) if data is not None else ((), ())
    images = {name: row for row, name in enumerate(dict.fromkeys([*told, *words]))}
    columns = {same(name): column for column, name in enumerate(names)}
    more = sorted({word for each in words.values() for word in each if same(word) not in columns})
    columns |= {same(word): len(names) + place for place, word in enumerate(more)}
    labels, known = torch.zeros(2, len(images), len(columns), dtype=torch.bool)
    if data is not None:
        labels[: len(told), : len(names)] = data.matrix.labels & data.matrix.known
        known[: len(told), : len(names)] = data.matrix.known
    pairs = [(images[name], columns[same(w)]) for name, each in words.items() for w in each]
    rows, places = torch.tensor(pairs, dtype=torch.long).reshape(-1, 2).unbind(1)
    labels[rows, places] |= ~known[rows, places]
    known[rows, places] = True
    matrix = LabelMatrix(labels, known)
    return Dataset(root, tuple(images), (*names, *more), matrix, tuple(range(len(images))))
