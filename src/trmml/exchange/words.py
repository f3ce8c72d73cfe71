"""Which words go into which field of a sidecar, so that no program loses sight of one."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from trmml.datasets.tables.names import clean_name, same
from trmml.errors import DataError
from trmml.exchange.readers import (
    IPTC,
    MEDIAPRO,
    Keywords,
    Program,
    TreePath,
    darktable,
    digikam,
    immich,
    merged,
    photoprism,
)
from trmml.exchange.splice import HIERARCHY, MICROSOFT, SUBJECT, TAGS

# The fields that a program needs; the others are written for other programs.
FIELDS: Mapping[Program, tuple[str, ...]] = {
    "digikam": (SUBJECT, TAGS),
    "darktable": (SUBJECT, HIERARCHY),
    "immich": (TAGS,),
    "photoprism": (SUBJECT,),
    "lightroom": (SUBJECT, HIERARCHY),
}
# What XML 1.0 cannot hold, and line breaks and tabs, which programs change.
_FORBIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff]")


class Word(NamedTuple):
    """A category that an image shows.

    Attributes:
        name: of the category.
        probability: None where a person or a table says it.
        source: first 12 digits of the SHA-256 of the run's model.json, the table or the journal.
    """

    name: str
    probability: float | None = None
    source: str = ""


class Additions(NamedTuple):
    """What a sidecar gets.

    Attributes:
        ours: by field, what we say.
        copied: by field that is new, what other fields or the image say and it would hide.
    """

    ours: dict[str, list[str]]
    copied: dict[str, list[str]]

    @property
    def all(self) -> dict[str, list[str]]:
        """Both, in the order in which they are written."""
        return {name: [*self.copied.get(name, ()), *texts] for name, texts in self.ours.items()}


def fields_of(programs: Iterable[Program]) -> tuple[str, ...]:
    """The fields that programs need, those of dc:subject first."""
    wanted = [field for program in programs for field in FIELDS[program]]
    return tuple(dict.fromkeys(sorted(wanted, key=(SUBJECT, HIERARCHY, TAGS).index)))


def why_unwritable(name: str) -> str:
    """Why a name cannot be a keyword, in words; "" where it can."""
    if not clean_name(name):
        return "is blank"
    if _FORBIDDEN.search(clean_name(name)):
        return "holds a control character or half a character, which no sidecar can hold"
    return "holds |, which parts the levels of a tree of keywords" if "|" in name else ""


def additions(
    words: Sequence[Word],
    inside: Keywords,
    beside: Keywords,
    fields: Iterable[str],
    under: TreePath = (),
) -> Additions:
    """What is to be added to a sidecar; nothing that is there already.

    A word that is there in another spelling or place of a tree is added to further fields as it is
    there. A field that the sidecar lacks gets all that a program would no longer see beside it.

    Args:
        words: that the image shows.
        inside: keywords in the image.
        beside: keywords of the sidecar.
        fields: those that are wanted.
        under: the place in a tree for new words.
    """
    found = merged(inside, beside)
    places = _places(found)
    paths = [places.get(same(word.name), (*under, clean_name(word.name))) for word in words]
    wanted = [*fields, *([MICROSOFT] if MICROSOFT in beside else [])]
    if SUBJECT in wanted and SUBJECT not in beside and HIERARCHY in inside:
        wanted.append(HIERARCHY)  # darktable then looks for the tree in the sidecar
    ours, copied = dict[str, list[str]](), dict[str, list[str]]()
    for field in dict.fromkeys(wanted):
        new = {same(path[-1]): _text(field, path) for path in paths}
        follows = field == HIERARCHY and SUBJECT in copied and field in inside
        if not follows and all(leaf in _leaves(field, found.get(field, ())) for leaf in new):
            continue
        if field not in beside:
            copied[field] = _visible(field, inside, beside)
        there = _leaves(field, (*beside.get(field, ()), *copied.get(field, ())))
        ours[field] = [text for leaf, text in new.items() if leaf not in there]
    return Additions(ours, copied)


def unsaid(words: Sequence[Word], inside: Keywords, beside: Keywords) -> list[Word]:
    """Those words that neither the image nor its sidecar holds, in whatever field."""
    there = {*_places(inside), *_places(beside)}
    return [word for word in words if same(word.name) not in there]


def provenance(words: Sequence[Word], there: Sequence[str]) -> list[str]:
    """The entries `name|probability|run` that say where words come from, but for those there."""
    known = {same(entry.rsplit("|", 2)[0]) for entry in there}
    return [
        f"{clean_name(word.name)}|{_number(word.probability)}|{word.source}"
        for word in words
        if same(word.name) not in known
    ]


def _number(probability: float | None) -> str:
    return "" if probability is None else f"{probability:.4f}"


def _places(found: Keywords) -> dict[str, TreePath]:
    """The path of each word that is there, by what its spellings share; trees come first."""
    places: dict[str, TreePath] = {}
    for field in (HIERARCHY, TAGS, MICROSOFT, MEDIAPRO, SUBJECT, IPTC):
        for text in found.get(field, ()):
            path = path_of(field, text)
            if path:
                places.setdefault(same(path[-1]), path)
    return places


def path_of(field: str, text: str) -> TreePath:
    """The path of an entry; `|` within a level of TagsList stands for `/`, as immich writes it."""
    if field in (HIERARCHY, MEDIAPRO):
        parts = text.split("|")
    elif field in (TAGS, MICROSOFT):
        parts = [part.replace("|", "/") for part in text.split("/")]
    else:
        parts = [text]
    return tuple(part.strip() for part in parts if part.strip())


def _leaves(field: str, texts: Iterable[str]) -> set[str]:
    return {same(leaf_of(field, text)) for text in texts}


def leaf_of(field: str, text: str) -> str:
    """The last level of an entry."""
    return (path_of(field, text) or (text,))[-1]


def _text(field: str, path: TreePath) -> str:
    """A path as a field writes it."""
    if field == SUBJECT:
        return path[-1]
    if field == HIERARCHY:
        return "|".join(path)
    return "/".join(part.replace("/", "|") for part in path)


def _visible(field: str, inside: Keywords, beside: Keywords) -> list[str]:
    """What a field must hold as soon as it is there, since programs then look at no other."""
    found = merged(inside, beside)
    if field == SUBJECT:
        seen = [*photoprism(inside, beside), *darktable(inside, beside)]
        texts = [path[-1] for path in seen if len(path) == 1]
        texts += [path[-1] for path in seen if path[-1] not in texts]
        texts += [path[-1] for path in _places(found).values()]
    else:
        joint = "|" if field == HIERARCHY else "/"
        seen = [*digikam(inside, beside), *immich(inside, beside)]
        seen += darktable(inside, beside) if field == HIERARCHY else []
        texts = [joint.join(path) for path in seen]
        texts += [_text(field, path) for path in _places(found).values()]
    there, kept = set[str](), list[str]()
    for place, text in enumerate(texts):
        known = text in kept or (place >= len(seen) and same(leaf_of(field, text)) in there)
        if text and not known:
            kept.append(text)
            there.add(same(leaf_of(field, text)))
    return kept


def refuse_hidden(lost: Mapping[Program, Sequence[TreePath]]) -> None:
    """Refuse to hide a word.

    Raises:
        DataError: a program would no longer show one that it shows now.
    """
    for program, paths in lost.items():
        raise DataError(
            f"would hide {'/'.join(paths[0])!r} from {program}, which shows it now; --bare writes"
            " all the same where the word is in the image"
        )
