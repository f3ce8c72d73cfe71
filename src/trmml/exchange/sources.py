"""Where the words of each image come from: a run, tables of labels, journals of answers."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trmml.errors import ConfigError, DataError
from trmml.exchange.words import Word, same
from trmml.storage.hashes import hash_file

if TYPE_CHECKING:
    from trmml.datasets.base import Dataset
    from trmml.settings.choices import Blank

DIGITS = 12
_SQLITE = b"SQLite format 3\0"
# By absolute path of an image and what the spellings of a name share: the word, and whether it is
# present.
Worded = Iterator[tuple[Path, tuple[Word, ...]]]
Said = dict[str, dict[str, tuple[Word, bool]]]


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
    """What tables and journals say of images; a later source counts before an earlier one.

    Args:
        sources: files of labels in any form that `read_folder` reads, and journals of answers.
        images: with the folder that each was found under; names in tables are below it.
        blank: what a blank means.
        minus_one: what -1 means.
        how: categories and separator; see `read_folder`.

    Raises:
        DataError: a file cannot be read, or names none of the images.
    """
    said: Said = {}
    for source in sources:
        if is_journal(source):
            found = _answered(source, images)
        else:
            found = _listed(source, images, blank or "unknown", minus_one, **how)
        if not found:
            raise DataError(
                f"{source} says nothing of the {len(images)} images. Name the folder that its"
                " names begin in."
            )
        for path, words in found.items():
            said.setdefault(path, {}).update(words)
    return said


def _listed(
    source: Path, images: Mapping[Path, Path], blank: "Blank", minus_one: "Blank | None", **how: Any
) -> Said:
    """The labels of a table."""
    from trmml.datasets.formats.folder import read_labels
    from trmml.datasets.image_files import ImageFiles

    digits, said = hash_file(source)[:DIGITS], Said()
    wanted = {os.path.abspath(image) for image in images}
    for root in dict.fromkeys(images.values()):
        data, _ = read_labels(root, source, blank, minus_one, **how)
        files, known, labels = ImageFiles(root), data.matrix.known, data.matrix.labels
        for row, name in enumerate(data.images):
            found = files.find(name)
            path = os.path.abspath(root / found) if found is not None else ""
            if path in wanted:
                said[path] = {
                    same(data.category_names[c]): (
                        Word(data.category_names[c], None, digits),
                        bool(labels[row, c]),
                    )
                    for c in known[row].nonzero()[:, 0].tolist()
                }
    return said


def _answered(source: Path, images: Mapping[Path, Path]) -> Said:
    """The answers of a journal, by the contents of the images."""
    from trmml.curation.answers import existing
    from trmml.curation.standing import sha256_of, standing

    digits, by_content = hash_file(source)[:DIGITS], dict[str, dict[str, tuple[Word, bool]]]()
    with existing(source) as journal:
        settled = standing(journal.rows()).last
    for (sha256, name), (_, state) in settled.items():
        if state != "unknown":
            word = Word(name, None, digits)
            by_content.setdefault(sha256, {})[same(name)] = word, state == "present"
    paths = map(os.path.abspath, images if by_content else ())
    return {path: by_content[key] for path in paths if (key := sha256_of(Path(path))) in by_content}


def joined(tagged: Worded, said: Said) -> Worded:
    """The words of each image: what is said to be present, and tags of which nothing is said."""
    for image, tags in tagged:
        known = said.get(os.path.abspath(image), {})
        present = [word for word, yes in known.values() if yes]
        yield image, (*present, *(tag for tag in tags if same(tag.name) not in known))


def tags_of(
    run: Path, images: Sequence[Path], accept: str, bad: list[tuple[Path, str]], **how: Any
) -> Worded:
    """The tags of each image by a run.

    Args:
        run: folder of a finished run.
        images: files.
        accept: "threshold", or "sure=P" for one probability.
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
        else:
            words = (Word(tag.category, tag.probability, digits) for tag in image.tags)
            yield image.path, tuple(words)


def completed_by(
    run: Path, data: "Dataset", accept: str, images: Sequence[Path], **how: Any
) -> Worded:
    """What a run decides of a table's blanks is present, for each image.

    Args:
        run: folder of a finished run.
        data: the table.
        accept: which probabilities count; see `curation.complete.complete`.
        images: those wanted; nothing is decided of one that the table lacks.
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
    for image in images:
        yield image, found.get(os.path.abspath(image), ())
