"""XMP as a tree that knows the bytes of each element, read by expat; nothing is ever serialised."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from xml.parsers import expat

from trmml.errors import DataError

RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
ABOUT = f"{RDF} about"
LISTS = tuple(f"{RDF} {kind}" for kind in ("Bag", "Seq", "Alt"))
LARGEST = 16 * 2**20
# XMP needs ten levels; a bloated file of an image editor has a hundred thousand elements.
_DEEPEST, _MOST = 100, 500_000
_TAG = re.compile(rb"<([^\s/>]+)(?:\s+[^\s=]+\s*=\s*(?:\"[^\"]*\"|'[^']*'))*\s*/?>")
_ATTRIBUTE = re.compile(rb"\s([^\s=]+)\s*=\s*(?:\"([^\"]*)\"|'([^']*)')")


@dataclass(slots=True)
class Element:
    """An element and where its bytes are.

    Attributes:
        name: namespace and local name with a space between.
        start: offset of its start tag.
        inside: offset behind the start tag.
        close: offset of the end tag; equal to `end` where the element is one tag, as in `<a/>`.
        end: offset behind it.
        attributes: by name, in their order, without declarations of namespaces.
        children: elements in it.
        text: what stands directly in it.
    """

    name: str
    start: int
    inside: int
    close: int
    end: int
    attributes: dict[str, str]
    children: "list[Element]"
    text: str = ""


@dataclass(frozen=True, eq=False)
class Packet:
    """A whole XMP file; `parse` makes it.

    Attributes:
        data: its bytes.
        root: the outermost element.
        rdf: the element rdf:RDF.
    """

    data: bytes
    root: Element
    rdf: Element

    @cached_property
    def descriptions(self) -> list[Element]:
        """The elements that hold properties."""
        return [each for each in self.rdf.children if each.name == f"{RDF} Description"]

    def properties(self, name: str) -> list[Element]:
        """Elements of a property; a sound file has one at most."""
        return [p for each in self.descriptions for p in each.children if p.name == name]

    def words(self, name: str) -> list[str]:
        """The values of a property: of its list, its plain text or its attribute; none is blank."""
        found = [each.attributes.get(name, "") for each in self.descriptions]
        for each in self.properties(name):
            values = list_of(each)
            found += [each.text] if values is None else [item.text for item in values.children]
        return [word.strip() for word in found if word.strip()]

    def values(self) -> "Counter[tuple[str, str, str]]":
        """Every attribute and text by the names of the elements around it."""
        found: Counter[tuple[str, str, str]] = Counter()
        for path, element in _walk(self.root):
            found[path, "", element.text.strip()] += 1
            found.update((path, name, value) for name, value in element.attributes.items())
        return found


def list_of(element: Element) -> Element | None:
    """The list that a property holds and nothing else; None where there is none."""
    only = element.children[0] if len(element.children) == 1 else None
    return only if only and only.name in LISTS and not element.text.strip() else None


def _walk(root: Element) -> Iterator[tuple[str, Element]]:
    waiting = [(root.name, root)]
    while waiting:
        path, element = waiting.pop()
        yield path, element
        waiting += [(f"{path}/{each.name}", each) for each in element.children]


def tag_name(data: bytes, element: Element) -> bytes:
    """The name of an element as it is written, prefix included."""
    found = _TAG.match(data, element.start)
    assert found is not None
    return found[1]


def value_place(data: bytes, element: Element, name: str) -> tuple[int, int]:
    """Where the text of an attribute begins and ends."""
    written = [
        found for found in _ATTRIBUTE.finditer(data, element.start, element.inside)
        if found[1] != b"xmlns" and not found[1].startswith(b"xmlns:")
    ]  # fmt: skip
    found = written[list(element.attributes).index(name)]
    return found.span(2) if found[2] is not None else found.span(3)


def parse(data: bytes) -> Packet:
    """An XMP file in UTF-8.

    Raises:
        DataError: it is too large, in another encoding, no XML, holds a DOCTYPE, or no RDF. The
            message is what follows the file's name.
    """
    if len(data) > LARGEST:
        raise DataError(f"has {len(data)} bytes, more than the {LARGEST} of any sidecar")
    if data[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in data[:4]:
        raise DataError("is UTF-16 or UTF-32; save it in UTF-8")
    reader = _Reader(data)
    reader.read()
    inside = [each for child in reader.root.children for each in (child, *child.children)]
    graphs = [each for each in (reader.root, *inside) if each.name == f"{RDF} RDF"]
    if len(graphs) != 1:
        raise DataError(f"has {len(graphs) or 'no'} rdf:RDF where one is expected; it is no XMP")
    return Packet(data, reader.root, graphs[0])


class _Reader:
    """Builds the tree from what expat reports."""

    root: Element

    def __init__(self, data: bytes) -> None:
        self._data, self._open, self._count = data, list[Element](), 0
        self._parser: Any = expat.ParserCreate("utf-8", " ")
        self._parser.buffer_text = True
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._text
        self._parser.StartDoctypeDeclHandler = self._doctype
        self._parser.XmlDeclHandler = self._declaration

    def read(self) -> None:
        try:
            self._parser.Parse(self._data, True)
        except expat.ExpatError as error:
            raise DataError(f"is damaged: {error}; what is not XML stays as it is") from error

    def _doctype(self, *_: object) -> None:
        raise DataError("has a DOCTYPE, which no XMP has; remove it")

    def _declaration(self, _: str, encoding: str | None, __: int) -> None:
        if encoding and encoding.lower() not in ("utf-8", "utf8", "us-ascii", "ascii"):
            raise DataError(f"is declared as {encoding}; save it in UTF-8")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        start, self._count = self._parser.CurrentByteIndex, self._count + 1
        if len(self._open) == _DEEPEST or self._count > _MOST:
            raise DataError(f"has more than {_DEEPEST} levels or {_MOST} elements; it is no XMP")
        tag = _TAG.match(self._data, start)
        if tag is None:
            raise DataError(f"has a tag at byte {start} that cannot be followed")
        element = Element(name, start, tag.end(), tag.end(), tag.end(), attributes, [])
        if self._open:
            self._open[-1].children.append(element)
        else:
            self.root = element
        self._open.append(element)

    def _end(self, _: str) -> None:
        element = self._open.pop()
        if self._data[element.inside - 2 : element.inside] != b"/>":
            element.close = self._parser.CurrentByteIndex
            element.end = self._data.index(b">", element.close) + 1

    def _text(self, text: str) -> None:
        self._open[-1].text += text
