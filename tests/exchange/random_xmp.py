"""Random XMP files as programs and people leave them, for property tests."""

from xml.sax.saxutils import escape, quoteattr

from hypothesis import strategies as st

RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
SPACES = {
    "dc": "http://purl.org/dc/elements/1.1/",
    "lr": "http://ns.adobe.com/lightroom/1.0/",
    "digiKam": "http://www.digikam.org/ns/1.0/",
    "MicrosoftPhoto": "http://ns.microsoft.com/photo/1.0/",
    "mediapro": "http://ns.iview-multimedia.com/mediapro/1.0/",
    "xmp": "http://ns.adobe.com/xap/1.0/",
    "darktable": "http://darktable.sf.net/",
    "foreign": "urn:example:foreign#",
}
LISTS = ("dc:subject", "lr:hierarchicalSubject", "digiKam:TagsList",
         "MicrosoftPhoto:LastKeywordXMP", "mediapro:CatalogSets")  # fmt: skip

# Letters that XML, the fields' separators and case rules treat in a special way.
letters = st.sampled_from("abABßIİéé/|&<>\"' ,;]中🐕.")
words = st.text(letters, min_size=1, max_size=8).filter(lambda word: word.strip(" "))
trees = st.lists(st.text(st.sampled_from("abAé &/"), min_size=1, max_size=4), min_size=1,
                 max_size=3)  # fmt: skip
texts = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Cn")), max_size=12)


@st.composite
def values(draw: st.DrawFn, field: str) -> list[str]:
    """Words of a keyword field."""
    if field == "dc:subject":
        return draw(st.lists(words, max_size=4))
    joint = "/" if field in LISTS[2:4] else "|"
    return [joint.join(path) for path in draw(st.lists(trees, max_size=3))]


@st.composite
def xmp(draw: st.DrawFn) -> bytes:
    """A file of XMP that is sound."""
    line = draw(st.sampled_from(["\n", "\r\n", ""]))
    rdf = draw(st.sampled_from(["rdf", "R", "dc2", "é"]))
    about = draw(st.sampled_from(['{}:about=""', '{}:about="u&amp;1"', ""])).format(rdf)
    fields = draw(st.lists(st.sampled_from(LISTS), unique=True))
    parts = [draw(_list(field, rdf, line)) for field in fields]
    parts += draw(st.lists(_other(rdf, line), max_size=4))
    parts = draw(st.permutations(parts))
    cut = draw(st.integers(0, len(parts)))
    nodes = [draw(_description(group, rdf, about, line)) for group in (parts[:cut], parts[cut:])]
    note = draw(st.sampled_from(["", "<!-- </rdf:RDF> <rdf:li> -->", "<?pi > ?>"]))
    inside = line + note + line + "".join(nodes[draw(st.integers(0, 1)) :])
    graph = f'<{rdf}:RDF xmlns:{rdf}="{RDF}">{inside}</{rdf}:RDF>'
    if draw(st.booleans()):
        graph = f'<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk=">">{line}{graph}{line}</x:xmpmeta>'
    if draw(st.booleans()):
        graph = f'<?xpacket begin="" id="W5"?>{line}{graph}{line}{" " * 30}<?xpacket end="w"?>'
    elif draw(st.booleans()):
        graph = f'<?xml version="1.0" encoding="UTF-8"?>{line}{graph}'
    return draw(st.sampled_from([b"", b"\xef\xbb\xbf"])) + (graph + line).encode()


@st.composite
def _description(draw: st.DrawFn, parts: list[str], rdf: str, about: str, line: str) -> str:
    spaces = "".join(f"{line or ' '} xmlns:{name}={uri!r}" for name, uri in SPACES.items())
    more = draw(st.sampled_from(["", " xmp:Rating='3'", ' foreign:a = "&gt;/>"',
                                 ' xmp:MetadataDate="2001-01-01"']))  # fmt: skip
    body = "".join(f"{line}  {part}" for part in parts)
    if not body and draw(st.booleans()):
        return f"{line} <{rdf}:Description {about}{spaces}{more}/>"
    return f"{line} <{rdf}:Description {about}{spaces}{more}>{body}{line} </{rdf}:Description>"


@st.composite
def _list(draw: st.DrawFn, field: str, rdf: str, line: str) -> str:
    """A keyword field in one of its forms, empty ones included."""
    form = draw(st.integers(0, 9))
    if form == 0:
        return f"<{field}/>"
    if form == 1:
        return f"<{field}>{line} </{field}>"
    kind = draw(st.sampled_from([f"{rdf}:Bag", f"{rdf}:Seq", f"{rdf}:Alt"]))
    found = draw(values(field))
    if not found:
        empty = draw(st.sampled_from([f"<{kind}/>", f"<{kind} />", f"<{kind}>{line}</{kind}>"]))
        return f"<{field}>{empty}</{field}>"
    space = f"{line}    "
    note = draw(st.sampled_from(["", "<!-- kept -->"]))
    items = "".join(f"{space}{note}<{rdf}:li>{escape(word)}</{rdf}:li>" for word in found)
    return f"<{field}>{line}<{kind}>{items}{note}{line}</{kind}></{field}>"


@st.composite
def _other(draw: st.DrawFn, rdf: str, line: str) -> str:
    """A property that is none of ours."""
    text = draw(texts)
    return draw(
        st.sampled_from(
            [
                f"<foreign:b>{escape(text)}</foreign:b>",
                f"<foreign:c {rdf}:parseType='Resource'>{line}<foreign:d>{escape(text)}</foreign:d>"
                "</foreign:c>",
                f"<darktable:history><{rdf}:Seq><{rdf}:li darktable:params={quoteattr(text)}/>"
                f"</{rdf}:Seq></darktable:history>",
                f"<dc:title><{rdf}:Alt><{rdf}:li xml:lang='x-default'>{escape(text)}</{rdf}:li>"
                f"</{rdf}:Alt></dc:title>",
                "<xmp:MetadataDate>2001-01-01T00:00:00Z</xmp:MetadataDate>",
                f"<foreign:e><{rdf}:Description foreign:f='1'/></foreign:e>",
                "<!-- a note -->",
                "<foreign:g><![CDATA[<rdf:li>]]></foreign:g>",
            ]
        )
    )
