"""Words put into an XMP file by splicing bytes: all that was there stays, byte for byte."""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape, quoteattr

from trmml.errors import DataError
from trmml.exchange.xmp import (
    ABOUT,
    RDF,
    Element,
    Packet,
    list_of,
    parse,
    tag_name,
    value_place,
)

SUBJECT = "http://purl.org/dc/elements/1.1/ subject"
HIERARCHY = "http://ns.adobe.com/lightroom/1.0/ hierarchicalSubject"
TAGS = "http://www.digikam.org/ns/1.0/ TagsList"
MICROSOFT = "http://ns.microsoft.com/photo/1.0/ LastKeywordXMP"
DATE = "http://ns.adobe.com/xap/1.0/ MetadataDate"
# Of trmml itself. A UUID needs no domain, and XMP's namespaces end with a slash or a hash.
OWN = "urn:uuid:6f7c2a52-1d4e-4d0a-9b0e-5c1f0a7e21b4# tags"
PREFIXES = {SUBJECT: "dc", HIERARCHY: "lr", TAGS: "digiKam", MICROSOFT: "MicrosoftPhoto",
            DATE: "xmp", OWN: "trmml"}  # fmt: skip
# In sidecars that did not exist before.
MADE = b'x:xmptk="trmml"'
EMPTY = (
    b'<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/" ' + MADE + b">\n"
    b' <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">\n'
    b' </rdf:RDF>\n</x:xmpmeta>\n<?xpacket end="w"?>\n'
)


class Edit(NamedTuple):
    """Bytes put in the place of others.

    Attributes:
        at: offset in the old bytes.
        old: what stood there; nearly always nothing.
        new: what stands there now.
    """

    at: int
    old: bytes
    new: bytes


def label(field: str) -> str:
    """A field as people know it, `dc:subject`."""
    return f"{PREFIXES.get(field, '?')}:{field.rpartition(' ')[2]}"


def spliced(data: bytes, edits: Sequence[Edit]) -> bytes:
    """The bytes after the edits, which are in order."""
    pieces, done = [], 0
    for at, old, new in edits:
        pieces += [data[done:at], new]
        done = at + len(old)
    return b"".join([*pieces, data[done:]])


def unspliced(data: bytes, edits: Sequence[Edit]) -> bytes:
    """The bytes before the edits."""
    back, grown = list[Edit](), 0
    for at, old, new in edits:
        back.append(Edit(at + grown, new, old))
        grown += len(new) - len(old)
    return spliced(data, back)


def added(packet: Packet, words: Mapping[str, Sequence[str]], date: str) -> list[Edit]:
    """The edits that add words to lists, and set the date of the metadata where there is one.

    Args:
        packet: the file; `EMPTY` parsed, for a new one.
        words: by field, those that are not there yet.
        date: ISO 8601.

    Raises:
        DataError: a field is no list, or the file is about several things.
    """
    about = {
        each.attributes.get(ABOUT) or each.attributes.get("about", "")
        for each in packet.descriptions
    }
    if len(about) > 1:
        raise DataError(f"has several rdf:about values ({', '.join(sorted(about))[:200]})")
    edits, new = list[Edit](), dict[str, Sequence[str]]()
    for field, texts in words.items():
        if any(field in each.attributes for each in packet.descriptions):
            raise DataError(f"has {label(field)} as an attribute, where a list is expected")
        properties = packet.properties(field)
        if not properties:
            new[field] = texts
        elif texts:
            edits.append(_into(packet, properties[0], field, texts))
    if new:
        edits.append(_description(packet, new, min(about, default=""), date))
    return sorted([*edits, *_dated(packet, date)])


def _into(packet: Packet, element: Element, field: str, texts: Sequence[str]) -> Edit:
    """Words behind the last one of a property's list."""
    data, values = packet.data, list_of(element)
    if values is None:
        if element.children or element.attributes or element.text.strip():
            raise DataError(f"has {label(field)} that is no list, where a list is expected")
        break_ = _break(data, element)
        made = _list(field, texts, break_ + b" ", _declared(packet))
        return _filled(data, element, made + break_)
    prefix = tag_name(data, values).rpartition(b":")
    items = [_item(text, prefix[0] + prefix[1]) for text in texts]
    if not values.children:
        break_ = _break(data, values)
        inside = b"".join(break_ + b" " + item for item in items)
        return _filled(data, values, inside if values.close > values.inside else inside + break_)
    last = values.children[-1]
    before = values.children[-2].end if len(values.children) > 1 else values.inside
    space = re.search(rb"\s*\Z", data[before : last.start])
    assert space is not None
    return Edit(last.end, b"", b"".join(space[0] + item for item in items))


def _filled(data: bytes, element: Element, inside: bytes) -> Edit:
    """Something at the beginning of an element; `<a/>` becomes `<a>...</a>`."""
    if element.close != element.inside or data[element.inside - 2 : element.inside] != b"/>":
        return Edit(element.inside, b"", inside)
    closed = b">" + inside + b"</" + tag_name(data, element) + b">"
    return Edit(element.inside - 2, b"/>", closed)


def _item(text: str, prefix: bytes = b"rdf:") -> bytes:
    return b"<%bli>%b</%bli>" % (prefix, escape(text).encode(), prefix)


def _break(data: bytes, element: Element) -> bytes:
    """A line break with the indentation of an element."""
    line = data[data.rfind(b"\n", 0, element.start) + 1 : element.start]
    return (b"\r\n" if b"\r\n" in data else b"\n") + (line if not line.strip() else b"")


def _declared(packet: Packet) -> str:
    """What makes the prefix `rdf` mean RDF, where the file calls it otherwise."""
    known = tag_name(packet.data, packet.rdf) == b"rdf:RDF"
    return "" if known else f' xmlns:rdf="{RDF}"'


def _list(field: str, texts: Sequence[str], break_: bytes, declared: str = "") -> bytes:
    """A new list, each item on a line."""
    kind = b"rdf:Seq" if field == TAGS else b"rdf:Bag"
    items = b"".join(break_ + b" " + _item(text) for text in texts)
    start = break_ + b"<" + kind + declared.encode() + b">"
    return start + items + break_ + b"</" + kind + b">"


def _description(packet: Packet, words: Mapping[str, Sequence[str]], about: str, date: str) -> Edit:
    """A new rdf:Description with properties that the file lacks; a new file gets a date, too."""
    rdf, data = packet.rdf, packet.data
    last = rdf.children[-1] if rdf.children else None
    break_ = _break(data, last) if last else _break(data, rdf) + b" "
    uris = dict.fromkeys([*words, *([] if last else [DATE])])
    spaces = [f'   xmlns:{PREFIXES[each]}="{each.partition(" ")[0]}"' for each in uris]
    head = f"<rdf:Description{_declared(packet)} rdf:about={quoteattr(about)}"
    parts = [break_ + break_.join(line.encode() for line in (head, *spaces)) + b">"]
    for field, texts in words.items():
        name = label(field).encode()
        values = _list(field, texts, break_ + b"  ")
        parts.append(break_ + b" <" + name + b">" + values + break_ + b" </" + name + b">")
    if last is None:
        parts.append(break_ + f" <xmp:MetadataDate>{date}</xmp:MetadataDate>".encode())
    made = b"".join([*parts, break_, b"</rdf:Description>"])
    return Edit(last.end, b"", made) if last else _filled(data, rdf, made)


def _dated(packet: Packet, date: str) -> list[Edit]:
    """The date of the metadata in the place of an older one."""
    data = packet.data
    places = [value_place(data, each, DATE)
              for each in packet.descriptions if DATE in each.attributes]  # fmt: skip
    places += [(each.inside, each.close) for each in packet.properties(DATE)
               if not each.children and each.close > each.inside]  # fmt: skip
    return [Edit(start, data[start:end], date.encode()) for start, end in places]


def checked(old: Packet, edits: Sequence[Edit], words: Mapping[str, Sequence[str]]) -> bytes:
    """The bytes after the edits, once all that was there is found in them, and all that is new.

    Raises:
        DataError: something would be lost; a fault of ours, or a form that nobody thought of.
    """
    new = spliced(old.data, edits)
    try:
        packet = parse(new)
    except DataError as error:
        raise DataError(f"would be damaged by what is added: it {error}") from error
    missing = _less(old, packet)
    if unspliced(new, edits) != old.data:
        raise DataError("could not be put back as it was; it is left alone")
    lost = [field for field, texts in words.items() if set(texts) - {*packet.words(field)}]
    if missing or lost:
        raise DataError(f"would lose {list(missing)[:1] or label(lost[0])}; it is left as it is")
    return new


def _less(old: Packet, new: Packet) -> "dict[tuple[str, str, str], int]":
    """What a file held and another lacks, but for the date of the metadata."""
    less = old.values() - new.values()
    return {key: n for key, n in less.items() if not key[0].endswith(DATE) and key[1] != DATE}
