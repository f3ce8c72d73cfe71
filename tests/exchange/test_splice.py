"""Bytes are spliced: what was there stays, whatever its form, and comes back by `unspliced`."""

import os
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.exchange.random_xmp import trees, words, xmp
from trmml.errors import DataError
from trmml.exchange.readers import IPTC, hidden, keywords_of
from trmml.exchange.splice import (
    DATE,
    EMPTY,
    HIERARCHY,
    OWN,
    SUBJECT,
    TAGS,
    added,
    checked,
    spliced,
    unspliced,
)
from trmml.exchange.words import FIELDS, Word, additions, provenance, why_unwritable
from trmml.exchange.xmp import RDF, parse

# `TRMML_FUZZ_XMP=10000` draws ten thousand sidecars.
CASES = int(os.environ.get("TRMML_FUZZ_XMP", "1000"))
DAY = "2026-11-29T08:00:00Z"
HEAD = f'<rdf:RDF xmlns:rdf="{RDF}" xmlns:dc="http://purl.org/dc/elements/1.1/">'


def put(data: bytes, words: Mapping[str, Sequence[str]]) -> bytes:
    packet = parse(data)
    return checked(packet, added(packet, words, DAY), words)


# By hand -----------------------------------------------------------------------------------


def test_a_word_in_a_list_adds_one_line_and_nothing_else() -> None:
    before = f"""<x:xmpmeta xmlns:x="adobe:ns:meta/">
 {HEAD}
  <rdf:Description rdf:about="">
   <!-- kept -->
   <dc:subject>
    <rdf:Seq>
     <rdf:li>cat</rdf:li>
    </rdf:Seq>
   </dc:subject>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>"""
    after = put(before.encode(), {SUBJECT: ["salt & <pepper>"]}).decode()
    item = "\n     <rdf:li>salt &amp; &lt;pepper&gt;</rdf:li>"
    assert after == before.replace("cat</rdf:li>", "cat</rdf:li>" + item)


@pytest.mark.parametrize("empty", ["<dc:subject/>", "<dc:subject> </dc:subject>",
                                   "<dc:subject><rdf:Bag/></dc:subject>",
                                   "<dc:subject><rdf:Bag ></rdf:Bag></dc:subject>"])  # fmt: skip
def test_an_empty_list_is_filled(empty: str) -> None:
    data = f"{HEAD}<rdf:Description>{empty}</rdf:Description></rdf:RDF>".encode()
    after = put(data, {SUBJECT: ["cat", "dog"]})
    assert parse(after).words(SUBJECT) == ["cat", "dog"] and after.count(b"<dc:subject") == 1


@pytest.mark.parametrize("rdf", [f"{HEAD}</rdf:RDF>", f'<rdf:RDF xmlns:rdf="{RDF}"/>',
                                 f'<RDF xmlns="{RDF}"/>', f'<dc:RDF xmlns:dc="{RDF}"></dc:RDF>',
                                 f"{HEAD}<rdf:Description/></rdf:RDF>"])  # fmt: skip
def test_a_missing_field_gets_a_description_of_its_own(rdf: str) -> None:
    packet = parse(put(rdf.encode(), {SUBJECT: ["cat"], TAGS: ["AI/cat"]}))
    assert packet.words(SUBJECT) == ["cat"] and packet.words(TAGS) == ["AI/cat"]


def test_a_new_sidecar_has_a_date_and_an_old_one_gets_the_new_date() -> None:
    new = put(EMPTY, {SUBJECT: ["cat"]})
    packet = parse(new)
    assert packet.words(DATE) == [DAY]
    edits = added(packet, {SUBJECT: ["dog"]}, "2030")
    assert parse(spliced(new, edits)).words(DATE) == ["2030"]
    assert unspliced(spliced(new, edits), edits) == new
    old = f"{HEAD}<rdf:Description xmlns:q='http://ns.adobe.com/xap/1.0/' q:MetadataDate = 'x'/>"
    assert b"q:MetadataDate = '2026-" in put(f"{old}</rdf:RDF>".encode(), {SUBJECT: ["cat"]})


def test_what_is_added_is_about_the_same_thing() -> None:
    data = f'{HEAD}<rdf:Description rdf:about="a&quot;&amp;b"/></rdf:RDF>'.encode()
    packet = parse(put(data, {SUBJECT: ["cat"]}))
    assert {each.attributes[f"{RDF} about"] for each in packet.descriptions} == {'a"&b'}


# Refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is damaged"),
        (b"no XML", "is damaged"),
        (b"<a/>", "has no rdf:RDF"),
        (f"<a>{HEAD}</rdf:RDF>{HEAD}</rdf:RDF></a>".encode(), "has 2 rdf:RDF"),
        (f"{HEAD}<rdf:Description>".encode(), "is damaged"),
        (f"{HEAD}</rdf:RDF>".encode("utf-16"), "UTF-16"),
        (f"{HEAD}</rdf:RDF>".encode("utf-32"), "UTF-16 or UTF-32"),
        (f"<!DOCTYPE a [<!ENTITY b 'c'>]>{HEAD}</rdf:RDF>".encode(), "DOCTYPE"),
        (f"<?xml version='1.0' encoding='ISO-8859-1'?>{HEAD}</rdf:RDF>".encode(), "ISO-8859-1"),
        (b"<a>" * 200 + b"</a>" * 200, "levels"),
        (f"{HEAD}\xe9</rdf:RDF>".encode("latin-1"), "is damaged"),
        (b" " * (2**24 + 1), "bytes, more than"),
    ],
)
def test_what_is_no_xmp_is_refused_in_words(data: bytes, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        parse(data)


@pytest.mark.parametrize(
    ("inside", "reason"),
    [
        ('<rdf:Description dc:subject="cat"/>', "dc:subject as an attribute"),
        ("<rdf:Description><dc:subject>cat</dc:subject></rdf:Description>", "no list"),
        ("<rdf:Description><dc:subject rdf:parseType='Resource'><dc:a/></dc:subject>"
         "</rdf:Description>", "no list"),
        ("<rdf:Description rdf:about='a'/><rdf:Description rdf:about='b'/>", "several rdf:about"),
    ],
)  # fmt: skip
def test_a_form_that_cannot_take_a_word_is_refused(inside: str, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        put(f"{HEAD}{inside}</rdf:RDF>".encode(), {SUBJECT: ["dog"]})


# Any file ----------------------------------------------------------------------------------

embedded = st.fixed_dictionaries(
    {},
    optional={
        SUBJECT: st.lists(words, min_size=1, max_size=3),
        IPTC: st.lists(words, min_size=1, max_size=3),
        HIERARCHY: st.lists(trees.map("|".join), min_size=1, max_size=2),
        TAGS: st.lists(trees.map("/".join), min_size=1, max_size=2),
    },
)


def check_any(
    data: bytes, said: list[str], inside: dict[str, list[str]], under: tuple[str, ...]
) -> None:
    packet = parse(data)
    new = [Word(name, 0.5, "abc") for name in said if not why_unwritable(name)]
    inside = {field: [word.strip() for word in found] for field, found in inside.items()}
    before = keywords_of(packet)
    found = additions(new, inside, before, dict.fromkeys(sum(FIELDS.values(), ())), under).all
    found[OWN] = provenance(new, [])
    edits = added(packet, found, DAY)
    after = checked(packet, edits, found)
    assert unspliced(after, edits) == data
    kept, dated = packet.values() - parse(after).values(), (f"{DATE}",)
    assert all(key[0].endswith(dated) or key[1] in dated for key in kept)
    now = keywords_of(parse(after))
    lost = hidden(inside, before, now)
    assert not lost, (lost, inside, before, now)
    # To write again adds nothing.
    again = additions(new, inside, now, dict.fromkeys(sum(FIELDS.values(), ())), under)
    assert not any(again.all.values())


arguments = (xmp(), st.lists(words, max_size=3), embedded, st.sampled_from([(), ("AI",)]))


@settings(max_examples=200)
@given(*arguments)
def test_nothing_is_lost_in_any_file(data, said, inside, under) -> None:  # type: ignore[no-untyped-def]
    check_any(data, said, inside, under)


@pytest.mark.slow
@settings(max_examples=CASES)
@given(*arguments)
def test_nothing_is_lost_in_many_files(data, said, inside, under) -> None:  # type: ignore[no-untyped-def]
    check_any(data, said, inside, under)
