"""Where the words of each image come from: a run, tables of labels, journals of answers."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trmml.datasets.tables.names import same
from trmml.errors import ConfigError, DataError
from trmml.exchange.naming import common_folder
from trmml.exchange.words import Word
from trmml.storage.cache import cache_folder
from trmml.storage.hashes import ContentHashes, hash_file

if TYPE_CHECKING:
    from trmml.curation.answers import Answer
    from trmml.datasets.base import Dataset
    from trmml.labels.matrix import LabelMatrix
    from trmml.settings.choices import Blank

DIGITS = 12
_SQLITE = b"SQLite format 3\0"
Worded = Iterator[tuple[Path, tuple[Word, ...]]]
# By what the spellings of a name share: the word, and whether it is present.
Told = dict[str, tuple[Word, bool]]
# Of each source, by absolute path of an image; a later source counts before an earlier one.
Said = list[Mapping[str, Told]]


class Listed(Mapping[str, Told]):
    """What a table says, by absolute path; words are made as an image is asked for.

    A full table knows each pair, and an object for each would take a hundred times the memory.

    Args:
        rows: in the matrix, by absolute path.
        words: a category each.
        matrix: the labels.
    """

    def __init__(
        self, rows: Mapping[str, int], words: Sequence[Word], matrix: "LabelMatrix"
    ) -> None:
        self._rows, self._matrix = rows, matrix
        self._words = [(same(word.name), word) for word in words]

    def __getitem__(self, path: str) -> Told:
        row = self._rows[path]
        labels = self._matrix.labels[row].tolist()
        known = self._matrix.known[row].nonzero()[:, 0].tolist()
        return {self._words[c][0]: (self._words[c][1], labels[c]) for c in known}

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


def is_run(path: str | Path) -> bool:
    """Whether a path is the folder of a finished run."""
    return (Path(path) / "model.json").is_file()


def is_journal(path: Path) -> bool:
    """Whether a file is a journal of answers."""
    try:
        with path.open("rb") as file:
            return file.read(len(_SQLITE)) == _SQLITE
    except OSError as error:
        raise DataError(
            f"cannot read {path}: {error.strerror}. Name a table or answers."
        ) from error


def said_of(
    sources: Sequence[Path],
    images: Mapping[Path, Path],
    blank: "Blank | None" = None,
    minus_one: "Blank | None" = None,
    **how: Any,
) -> Said:
    """What tables and journals say of images, in their order.

    Args:
        sources: files of labels in any form that `read_folder` reads, and journals of answers.
        images: with the folder that each was found under. Names in tables are below the one folder
            that all of these lie in.
        blank: what a blank means.
        minus_one: what -1 means.
        how: categories and separator; see `read_folder`.

    Raises:
        DataError: a file cannot be read, names none of the images, or one of them twice.
    """
    said: Said = []
    root = common_folder(images.values())
    for source in sources:
        found = (
            _answered(source, root, images) if is_journal(source)
            else _listed(source, root, images, blank or "unknown", minus_one, **how)
        )  # fmt: skip
        if not found:
            raise DataError(
                f"{source} says nothing of the {len(images)} images. Its names are looked for below"
                f" {root}. Name the folder that they begin in."
            )
        said.append(found)
    return said


def _listed(
    source: Path, root: Path, images: Iterable[Path], blank: "Blank", minus_one: "Blank | None",
    **how: Any,
) -> Listed:  # fmt: skip
    """The labels of a table, whose names are below the root.

    Raises:
        DataError: two rows are about one of the images, as `2019/a.jpg` and `a.jpg` below `2019`.
    """
    from trmml.datasets.formats.folder import read_labels
    from trmml.datasets.image_files import ImageFiles

    wanted = {os.path.abspath(image) for image in images}
    data, where = read_labels(root, source, blank, minus_one, **how)
    files, rows = ImageFiles(root), dict[str, int]()
    for row, name in enumerate(data.images):
        found = files.find(name)
        path = os.path.abspath(root / found) if found is not None else ""
        if path in wanted and (other := rows.setdefault(path, row)) != row:
            raise DataError(
                f"{where} {data.rows[row]}: {name!r} is the image {path}, and so is"
                f" {data.images[other]!r} ({where} {data.rows[other]}). Names are looked"
                f" for below {root}; name the folder that they begin in, or keep one row per image."
            )
    digits = hash_file(source)[:DIGITS]
    return Listed(rows, [Word(n, None, digits) for n in data.category_names], data.matrix)


def _answered(source: Path, root: Path, images: Iterable[Path]) -> Mapping[str, Told]:
    """The answers of a journal, whose names are below the root: by contents, else by names."""
    from trmml.curation.answers import existing
    from trmml.curation.standing import standing
    from trmml.exchange.source import unlabelled

    digits, found = hash_file(source)[:DIGITS], dict[str, Told]()
    with existing(source) as journal:
        rows = journal.rows()
    data = unlabelled(root, images, ())
    paths = data.paths
    settled = standing(rows, places=_places(data, rows)).last
    for (place, name), (_, state) in settled.items():  # the newest first
        if isinstance(place, int) and state != "unknown":
            told = found.setdefault(os.path.abspath(paths[place]), {})
            told.setdefault(same(name), (Word(name, None, digits), state == "present"))
    return found


def _places(data: "Dataset", rows: "Sequence[Answer]") -> dict[str, list[int]]:
    """The images of each identity in a journal, and their copies: what one shows they show, too.

    Few files are read: those that the journal names, and others of their size; all of them only
    where one was renamed. What was read is remembered.
    """
    from trmml.curation.standing import places_by_content

    places = places_by_content(data, rows)
    hashes = ContentHashes(cache_folder() / "answers", hashlib.sha256)
    known = {row.sha256: places[row.sha256] for row in rows if row.sha256 in places}
    done = {place for each in known.values() for place in each}
    paths = data.paths
    sizes = [path.stat().st_size if path.is_file() else -1 for path in paths]
    wanted = {sizes[place] for place in done}
    for place, size in enumerate(sizes):
        if size in wanted and place not in done:
            with suppress(OSError):  # whoever reads the image says why
                known.get(hashes.look_up(paths[place]), []).append(place)
    hashes.save()
    return places


def joined(tagged: Worded, said: Said) -> Worded:
    """The words of each image: what is said to be present, and tags of which nothing is said."""
    for image, tags in tagged:
        path, known = os.path.abspath(image), Told()
        for source in said:
            known |= source.get(path, {})
        present = [word for word, yes in known.values() if yes]
        yield image, (*present, *(tag for tag in tags if same(tag.name) not in known))


def tags_of(
    run: Path, images: Sequence[Path], accept: str, said: Said, bad: list[tuple[Path, str]],
    **how: Any,
) -> Worded:  # fmt: skip
    """The tags of each image by a run.

    Args:
        run: folder of a finished run.
        images: files.
        accept: "threshold", or "sure=P" for one probability.
        said: by tables and answers; an image of which they speak comes also where the run cannot
            read it, without tags.
        bad: gets images that cannot be read, with the reason.
        how: see `deploy.tag.tag_each`.

    Raises:
        ConfigError: the rule needs a table.
    """
    from trmml.deploy.tag import tag_each

    threshold = None
    if accept != "threshold":
        from trmml.curation.acceptance import Rule  # torch takes seconds to import

        rule = Rule.parse(accept)
        if rule.name != "sure":
            raise ConfigError(
                f"the rule {accept!r} needs a table of labels that the run completes: --from"
                " TABLE; without one say threshold or sure=P"
            )
        threshold = rule.number
    digits = hash_file(run / "model.json")[:DIGITS] if is_run(run) else ""
    for image in tag_each(run, list(images), threshold=threshold, **how):
        if image.error is not None:
            bad.append((image.path, image.error))
        if image.error is None or any(os.path.abspath(image.path) in each for each in said):
            words = (Word(tag.category, tag.probability, digits) for tag in image.tags)
            yield image.path, tuple(words)


def completed_by(
    run: Path, data: "Dataset", accept: str, images: Sequence[Path], bad: list[tuple[Path, str]],
    **how: Any,
) -> Worded:  # fmt: skip
    """What a run decides of a table's blanks is present, for each image.

    Args:
        run: folder of a finished run.
        data: the table.
        accept: which probabilities count; see `curation.complete.complete`.
        images: those wanted; nothing is decided of one that the table lacks.
        bad: gets those of them that the run cannot read, with the reason.
        how: see `curation.complete.complete`.
    """
    from trmml.curation.complete import MODEL, complete

    done, digits = complete(run, data, accept=accept, **how), hash_file(run / "model.json")[:DIGITS]
    names, decided = done.collection.category_names, (done.source >= MODEL) & done.matrix.labels
    found = {
        os.path.abspath(path): tuple(
            Word(names[c], done.probability[row, c].item(), digits)
            for c in decided[row].nonzero()[:, 0].tolist()
        )
        for row, path in enumerate(done.collection.data.paths)
    }
    reasons = {os.path.abspath(each.name): each.reason for each in done.collection.bad}
    for image in images:
        path = os.path.abspath(image)
        bad += [(image, reasons[path])] if path in reasons else []
        yield image, found.get(path, ())
