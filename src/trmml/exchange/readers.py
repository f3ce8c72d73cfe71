"""The keyword fields of an image and its sidecar, and what each program makes of them.

Source: the programs' own code, named at each function.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from html import unescape
from typing import Literal

from trmml.errors import DataError
from trmml.exchange.splice import HIERARCHY, MICROSOFT, SUBJECT, TAGS
from trmml.exchange.xmp import Element, Packet, parse

Program = Literal["digikam", "darktable", "immich", "photoprism", "lightroom"]
TreePath = tuple[str, ...]  # of a word in a tree, from the root on
Keywords = Mapping[str, Sequence[str]]  # the words of each field that has some

MEDIAPRO = "http://ns.iview-multimedia.com/mediapro/1.0/ CatalogSets"
ACDSEE = "http://ns.acdsee.com/iptc/1.0/ categories"
IPTC = "IPTC keywords"  # in an image alone; record 2, data set 25
# What parts the levels of a tree in each field; None where words are flat.
SEPARATORS = {TAGS: "/", MICROSOFT: "/", HIERARCHY: "|", MEDIAPRO: "|", ACDSEE: "/", SUBJECT: "/"}


def keywords_of(packet: Packet) -> dict[str, list[str]]:
    """The words of each keyword field that has any."""
    found = {field: packet.words(field) for field in SEPARATORS}
    found[ACDSEE] = [path for text in found[ACDSEE] for path in _assigned(text)]
    return {field: words for field, words in found.items() if words}


def _assigned(text: str) -> list[str]:
    """The assigned categories in ACDSee's own XML, which stands in a property as text."""
    wrapped = f'<r:RDF xmlns:r="http://www.w3.org/1999/02/22-rdf-syntax-ns#">{text}</r:RDF>'
    try:
        root = parse((wrapped if text.lstrip().startswith("<") else unescape(wrapped)).encode())
    except (DataError, UnicodeEncodeError):
        return []
    found = list[str]()

    def walk(element: Element, above: TreePath) -> None:
        for each in element.children:
            path = (*above, each.text.strip()) if each.name == "Category" else above
            if each.attributes.get("Assigned") == "1":
                found.append("/".join(path))
            walk(each, path)

    walk(root.rdf, ())
    return found


def merged(inside: Keywords, beside: Keywords) -> dict[str, Sequence[str]]:
    """The fields of an image under those of its sidecar, which take their place."""
    return {**inside, **{field: words for field, words in beside.items() if words}}


def digikam(inside: Keywords, beside: Keywords) -> list[TreePath]:
    """Of the first field that has words; core/libs/metadataengine/dmetadata/dmetadata_tags.cpp."""
    found = merged(inside, beside)
    for field in (TAGS, MICROSOFT, HIERARCHY, MEDIAPRO, ACDSEE, SUBJECT, IPTC):
        if field in found:
            separator = SEPARATORS.get(field, "/")
            return _paths(word.replace(separator, "/") for word in found[field])
    return []


def immich(inside: Keywords, beside: Keywords) -> list[TreePath]:
    """Of TagsList, else of hierarchicalSubject, else of IPTC; services/metadata.service.ts."""
    found = merged(inside, beside)
    if TAGS in found:
        return _paths(found[TAGS])
    if HIERARCHY in found:
        swap = str.maketrans("/|", "|/")
        return _paths(word.translate(swap) for word in found[HIERARCHY])
    return _paths(found.get(IPTC, ()))


def darktable(inside: Keywords, beside: Keywords) -> list[TreePath]:
    """Of dc:subject and hierarchicalSubject together; a sidecar with either hides the image's.

    Source: src/common/exif.cc. That it hides them is the careful reading of it.
    """
    own = SUBJECT in beside or HIERARCHY in beside
    found = beside if own else inside
    fields = (SUBJECT, HIERARCHY) if own else (SUBJECT, HIERARCHY, IPTC)
    return _paths((word for field in fields for word in found.get(field, ())), "|")


def photoprism(inside: Keywords, beside: Keywords) -> list[TreePath]:
    """Of dc:subject; that of a sidecar hides the image's, and its IPTC."""
    if SUBJECT in beside:
        return [(word,) for word in beside[SUBJECT]]
    return [(word,) for field in (SUBJECT, IPTC) for word in inside.get(field, ())]


def _paths(words: Iterable[str], separator: str = "/") -> list[TreePath]:
    """Words as paths, none of whose levels is blank."""
    levels = ([part.strip() for part in word.split(separator)] for word in words)
    paths = [tuple(part for part in parts if part) for parts in levels]
    return [path for path in paths if path]


READERS: "Mapping[Program, Callable[[Keywords, Keywords], list[TreePath]]]" = {
    "digikam": digikam,
    "immich": immich,
    "darktable": darktable,
    "photoprism": photoprism,
}


def hidden(inside: Keywords, before: Keywords, after: Keywords) -> dict[Program, list[TreePath]]:
    """What each program showed and would no longer show.

    Args:
        inside: keywords in the image.
        before: keywords of the sidecar as it is.
        after: keywords of the sidecar as it would be.
    """
    lost: dict[Program, list[TreePath]] = {}
    for name, read in READERS.items():
        now = set(read(inside, after))
        missing = [path for path in read(inside, before) if path not in now]
        if missing:
            lost[name] = missing
    return lost
