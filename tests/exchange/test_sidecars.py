"""Sidecars on disk: what is written, what is refused, what comes back."""

import errno
import hashlib
import os
import signal
import stat
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from trmml.errors import DataError
from trmml.exchange import sidecars
from trmml.exchange.embedded import embedded_keywords
from trmml.exchange.keyword_table import Found, read_keywords
from trmml.exchange.naming import RawFiles, found_images, raw_sidecars, sidecar_of
from trmml.exchange.plan import Plan
from trmml.exchange.readers import HIERARCHY, SUBJECT, TAGS, Program, darktable, hidden, keywords_of
from trmml.exchange.sidecars import Job, Manner, Report, write_sidecars
from trmml.exchange.splice import DATE, MICROSOFT, OWN
from trmml.exchange.undo import undo
from trmml.exchange.words import Word, fields_of
from trmml.exchange.xmp import Packet, parse

MANNER = Manner((SUBJECT, HIERARCHY, TAGS))
OLD = """<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/"
   xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:Rating="3">
   <dc:subject><rdf:Bag><rdf:li>Beach</rdf:li></rdf:Bag></dc:subject>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
"""


def image(folder: Path, name: str = "a.jpg", *keywords: str) -> Path:
    """An image, with keywords in its own XMP."""
    folder.mkdir(parents=True, exist_ok=True)
    items = "".join(f"<rdf:li>{word}</rdf:li>" for word in keywords)
    xmp = OLD.replace("<rdf:li>Beach</rdf:li>", items) if keywords else ""
    Image.new("RGB", (8, 8)).save(folder / name, **({"xmp": xmp.encode()} if xmp else {}))
    return folder / name


def write(path: Path, *words: str, manner: Manner = MANNER, **more: Path) -> Report:
    """Write words beside an image; the ledger lies beside it, too."""
    job = Job(path, sidecar_of(path), path.parent, tuple(map(Word, words)), **more)
    return write_sidecars([job], path.parent / "ledger.jsonl", manner)


def packet(path: Path) -> Packet:
    return parse(path.read_bytes())


def tree(folder: Path) -> dict[str, tuple[str, int, int]]:
    """Hash, size and time of change of every file."""
    return {
        str(path.relative_to(folder)): (
            hashlib.sha256(path.read_bytes()).hexdigest(),
            path.stat().st_size,
            path.stat().st_mtime_ns,
        )
        for path in sorted(folder.rglob("*")) if path.is_file()
    }  # fmt: skip


# Writing -----------------------------------------------------------------------------------


def test_a_new_sidecar_has_three_fields_and_the_image_stays_as_it_is(tmp_path) -> None:
    path = image(tmp_path)
    before = tree(tmp_path)
    report = write(path, "cat", "salt/pepper", manner=Manner(MANNER.fields, ("AI",), True))
    assert report.written == report.created == [tmp_path / "a.jpg.xmp"]
    found = packet(tmp_path / "a.jpg.xmp")
    assert found.words(SUBJECT) == ["cat", "salt/pepper"]
    assert found.words(HIERARCHY) == ["AI|cat", "AI|salt/pepper"]
    assert found.words(TAGS) == ["AI/cat", "AI/salt|pepper"]  # immich swaps the signs back
    assert found.words(OWN) == ["cat||", "salt/pepper||"] and found.words(DATE)
    assert before.items() <= tree(tmp_path).items()


def test_the_spelling_and_the_place_that_are_there_stay(tmp_path) -> None:
    path = image(tmp_path)
    (tmp_path / "a.jpg.xmp").write_text(
        OLD.replace("<dc:subject>", "<lr:hierarchicalSubject xmlns:lr="
                    "'http://ns.adobe.com/lightroom/1.0/'><rdf:Bag><rdf:li>Places|Beach</rdf:li>"
                    "<rdf:li>Cafe\u0301</rdf:li></rdf:Bag></lr:hierarchicalSubject><dc:subject>")
    )  # fmt: skip
    write(path, "beach", "café", "dog")
    found = packet(tmp_path / "a.jpg.xmp")
    assert found.words(HIERARCHY) == ["Places|Beach", "Cafe\u0301", "dog"]
    assert found.words(SUBJECT) == ["Beach", "Cafe\u0301", "dog"]
    assert found.words(TAGS) == ["Places/Beach", "Cafe\u0301", "dog"]
    report = write(path, "BEACH", "Café", "dog")
    assert not report.written and report.unchanged == 1


def test_a_new_sidecar_takes_over_what_it_would_hide(tmp_path) -> None:
    path = image(tmp_path, "a.jpg", "Sea", "Sand")
    write(path, "dog")
    assert packet(tmp_path / "a.jpg.xmp").words(TAGS) == ["Sea", "Sand", "dog"]
    bare = image(tmp_path, "b.jpg", "Sea")
    report = write(bare, "dog", manner=Manner(MANNER.fields, bare=True))
    assert packet(tmp_path / "b.jpg.xmp").words(TAGS) == ["dog"] and report.hiding == [bare]


def test_keywords_that_cannot_be_read_are_not_hidden(tmp_path) -> None:
    path = image(tmp_path, "a.jpg", "R&D")
    report = write(path, "dog")
    assert not sidecar_of(path).exists() and [each for each, _ in report.refused] == [
        sidecar_of(path)
    ]
    assert "may hold: it has XMP that is damaged" in report.refused[0][1]
    sidecar_of(path).write_text(OLD)  # a lone dc:subject would get fields that hide the image's
    assert "may hold" in write(path, "dog").refused[0][1] and sidecar_of(path).read_text() == OLD
    bare = write(path, "dog", manner=Manner(MANNER.fields, bare=True))
    assert bare.written == [sidecar_of(path)] and bare.hiding == [path]
    assert write(path, "dog", "cat").written  # all fields are there, and nothing more is hidden
    assert read_keywords([path], embedded=True).refused[0][0] == path


@pytest.mark.parametrize("beside", ["", "TagsList"])
@pytest.mark.parametrize("program", ["darktable", "photoprism"])
def test_darktable_loses_no_word_of_an_image_whose_sidecar_gets_its_first_keywords(
    tmp_path, beside: str, program: Program
) -> None:
    path, tree = image(tmp_path, "a.jpg", "Sea"), "http://ns.adobe.com/lightroom/1.0/"
    inside = OLD.replace("Beach", "Sea").replace(
        "<dc:subject>", f"<lr:hierarchicalSubject xmlns:lr='{tree}'><rdf:Bag><rdf:li>Places|Sea"
        "</rdf:li></rdf:Bag></lr:hierarchicalSubject><dc:subject>",
    )  # fmt: skip
    Image.new("RGB", (8, 8)).save(path, xmp=inside.encode())
    if beside:  # as immich writes it; darktable does not read that, and still shows the image's
        tags = "digiKam:TagsList xmlns:digiKam='http://www.digikam.org/ns/1.0/'"
        text = OLD.replace("dc:subject>", "digiKam:TagsList>").replace(
            "<digiKam:TagsList", f"<{tags}"
        )
        sidecar_of(path).write_text(text.replace("rdf:Bag", "rdf:Seq"))
    words = embedded_keywords(path).words
    assert darktable(words, {}) == [("Sea",), ("Places", "Sea")]
    assert hidden(words, {}, {SUBJECT: ["dog"]})["darktable"] == darktable(words, {})
    assert write(path, "dog", manner=Manner(fields_of([program]))).written
    after = darktable(words, keywords_of(packet(sidecar_of(path))))
    assert {("Sea",), ("Places", "Sea"), ("dog",)} <= set(after)


def test_names_that_files_and_fields_make_hard(tmp_path) -> None:
    name = "n" * 246 + ".jpg"
    words = ["a/b", "R&D <x>", '"q"', "🐕", "n" * 250, "e\u0301"]
    write(image(tmp_path, name), *words)
    found = packet(tmp_path / f"{name}.xmp").words(SUBJECT)
    assert found == [*words[:-1], "é"]
    report = write(image(tmp_path, "n" * 250 + ".jpg"), "dog")
    assert report.refused[0][1] == os.strerror(errno.ENAMETOOLONG)
    odd = os.fsdecode(b"\xff.jpg")
    try:
        path = image(tmp_path, odd)
    except OSError:  # some systems take no such name
        return
    assert write(path, "dog").written
    assert undo(tmp_path / "ledger.jsonl").removed and not path.with_name(f"{odd}.xmp").exists()


def test_mode_is_kept_and_a_link_is_followed_inside_the_folder_alone(tmp_path) -> None:
    path = image(tmp_path / "photos")
    real = tmp_path / "photos" / "xmp" / "real.xmp"
    real.parent.mkdir()
    real.write_text(OLD)
    real.chmod(0o640)
    path.with_name("a.jpg.xmp").symlink_to(real)
    assert write(path, "dog").written and path.with_name("a.jpg.xmp").is_symlink()
    assert stat.S_IMODE(real.stat().st_mode) == 0o640 and "dog" in real.read_text()
    outside = tmp_path / "outside.xmp"
    outside.write_text(OLD)
    other = image(tmp_path / "photos", "b.jpg")
    other.with_name("b.jpg.xmp").symlink_to(outside)
    assert "outside" in write(other, "dog").refused[0][1] and outside.read_text() == OLD


@pytest.mark.parametrize("text", ["", "<a/>", OLD.replace("<dc:subject>", "<dc:subject>x")])
def test_a_form_that_is_refused_stays_and_the_others_go_on(tmp_path, text: str) -> None:
    bad, good = image(tmp_path, "a.jpg"), image(tmp_path, "b.jpg")
    sidecar_of(bad).write_text(text)
    jobs = [Job(each, sidecar_of(each), tmp_path, (Word("dog"),)) for each in (bad, good)]
    report = write_sidecars(jobs, tmp_path / "ledger.jsonl", MANNER)
    assert [path for path, _ in report.refused] == [sidecar_of(bad)]
    assert report.written == [sidecar_of(good)] and sidecar_of(bad).read_text() == text


def test_a_read_only_place_is_listed(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system", "x")

    path = image(tmp_path)
    monkeypatch.setattr(sidecars, "whole_file", refuse)
    report = write(path, "dog")
    assert report.read_only == [sidecar_of(path)] and not sidecar_of(path).exists()
    monkeypatch.undo()
    assert not undo(tmp_path / "ledger.jsonl").removed  # it was never written


def test_a_sidecar_that_could_not_be_written_is_none_to_wonder_about(
    tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EACCES, "Permission denied", "x")

    path = image(tmp_path)
    sidecar_of(path).write_text(OLD)
    with monkeypatch.context() as patch:
        patch.setattr(sidecars, "whole_file", refuse)
        assert write(path, "dog").read_only == [sidecar_of(path)]
    edited = OLD.replace("Beach", "Harbour")
    sidecar_of(path).write_text(edited)  # by another program, later
    done = undo(tmp_path / "ledger.jsonl")
    assert not done.doubtful and not done.written and not done.moved
    assert sidecar_of(path).read_text() == edited


def test_a_sidecar_in_another_folder_begins_with_the_one_beside_the_image(tmp_path) -> None:
    path = image(tmp_path / "photos")
    sidecar_of(path).write_text(OLD)
    before = tree(tmp_path / "photos")
    target = tmp_path / "out" / "a.jpg.xmp"
    target.parent.mkdir()
    job = Job(path, target, target.parent, (Word("dog"),), base=sidecar_of(path))
    write_sidecars([job], tmp_path / "ledger.jsonl", MANNER)
    assert packet(target).words(SUBJECT) == ["Beach", "dog"]
    assert tree(tmp_path / "photos") == before
    assert undo(tmp_path / "ledger.jsonl").removed == [target] and not target.exists()


# Names -------------------------------------------------------------------------------------


def test_which_file_is_the_sidecar(tmp_path) -> None:
    path = tmp_path / "IMG.1.JPG"
    full, short = tmp_path / "IMG.1.JPG.xmp", tmp_path / "IMG.1.xmp"
    assert sidecar_of(path) == sidecar_of(path, "lightroom") == full
    short.touch()
    assert sidecar_of(path) == short
    full.touch()
    assert sidecar_of(path) == full
    raw = tmp_path / "b.CR2"
    assert sidecar_of(raw) == tmp_path / "b.CR2.xmp"
    assert sidecar_of(raw, "lightroom") == tmp_path / "b.xmp"
    raw.touch()
    beside = RawFiles().beside
    assert beside(tmp_path / "b.jpg") == [raw] and beside(path) == beside(raw) == []
    assert beside(tmp_path / "none" / "b.jpg") == []


def test_the_sidecar_of_a_raw_file_is_not_that_of_the_image_beside(tmp_path) -> None:
    path, raw, sidecar = image(tmp_path, "a.jpg", "Sea"), tmp_path / "a.NEF", tmp_path / "a.xmp"
    sidecar.write_text(OLD)
    assert sidecar_of(path) == sidecar and raw_sidecars([path]) == []
    raw.touch()
    for naming in ("ext", "lightroom"):
        assert sidecar_of(path, naming) == tmp_path / "a.jpg.xmp"  # type: ignore[arg-type]
        assert sidecar_of(raw, naming) == sidecar  # type: ignore[arg-type]
    write(path, "dog")
    assert sidecar.read_text() == OLD
    assert packet(tmp_path / "a.jpg.xmp").words(SUBJECT) == ["Sea", "dog"]
    found = read_keywords([path], ledger=tmp_path / "ledger.jsonl")
    assert found.words == {path: ["Sea", "Beach"]} and found.ours == 1 and not found.shared
    assert raw_sidecars([path, tmp_path / "a.png", raw]) == [sidecar]
    assert undo(tmp_path / "ledger.jsonl").removed == [tmp_path / "a.jpg.xmp"]
    assert sidecar.read_text() == OLD
    (tmp_path / "a.NEF.xmp").write_text(OLD)  # the raw file has another one
    assert sidecar_of(path) == sidecar and raw_sidecars([path]) == []


def test_each_folder_is_listed_once_for_raw_files(tmp_path, monkeypatch) -> None:
    paths = [image(tmp_path, f"{number}.jpg") for number in range(5)]
    for path in paths:
        path.with_suffix(".nef").touch()
    listed, glob = list[str](), Path.glob

    def counted(folder: Path, pattern: str) -> object:
        listed.append(pattern)
        return glob(folder, pattern)

    monkeypatch.setattr(Path, "glob", counted)
    plan = Plan(dict.fromkeys(paths, tmp_path), "ext", None, True, ("digikam",), None)
    jobs = list(plan.jobs((path, (Word("dog"),)) for path in paths))
    assert len(jobs) == 10 and len(listed) == 1


def test_images_are_found_with_their_root(tmp_path) -> None:
    path = image(tmp_path / "a" / "b")
    assert found_images([str(tmp_path)]) == {path: tmp_path}
    assert found_images([str(tmp_path / "a" / "*" / "*.jpg")]) == {path: tmp_path / "a"}
    assert found_images([str(path), str(tmp_path)]) == {path: path.parent}


# Ours and theirs ---------------------------------------------------------------------------

ROME = OLD.replace("<dc:subject>", "<lr:hierarchicalSubject xmlns:lr='http://ns.adobe.com/lightroom"
                   "/1.0/'><rdf:Bag><rdf:li>Places|Rome</rdf:li></rdf:Bag>"
                   "</lr:hierarchicalSubject><dc:subject>").replace("Beach", "dog")  # fmt: skip


@pytest.mark.parametrize("there", [b"image,dog\na.jpg,1\n", b"\xff\xd8\xff\xe0 a photo", b"{}\n"])
def test_a_ledger_is_added_to_no_other_file(tmp_path: Path, there: bytes) -> None:
    path = image(tmp_path)
    (tmp_path / "ledger.jsonl").write_bytes(there)
    with pytest.raises(DataError, match="is there already and no ledger of sidecars"):
        write(path, "dog")
    assert (tmp_path / "ledger.jsonl").read_bytes() == there
    assert not path.with_name(f"{path.name}.xmp").exists()
    (tmp_path / "ledger.jsonl").write_bytes(b'{"id": "12')  # of a process that was killed
    assert write(path, "dog").written and write(path, "cat").written


@pytest.mark.parametrize("known", ["ledger", "provenance"])
def test_a_word_that_a_person_wrote_into_one_field_is_theirs(tmp_path, known: str) -> None:
    path = image(tmp_path)
    sidecar_of(path).write_text(ROME)
    write(path, "dog", "cat", manner=Manner(MANNER.fields, provenance=known == "provenance"))
    assert packet(sidecar_of(path)).words(HIERARCHY) == ["Places|Rome", "dog", "cat"]
    ledger = tmp_path / "ledger.jsonl" if known == "ledger" else None
    found = read_keywords([path], ledger=ledger)
    assert {*found.words[path]} == {"Rome", "dog"} and found.ours == 1


def test_our_words_stay_ours_in_fields_that_are_filled_later(tmp_path) -> None:
    path, ledger = image(tmp_path), tmp_path / "ledger.jsonl"
    for programs in (["photoprism"], ["digikam"], ["darktable"]):  # each adds fields
        assert write(path, "dog", manner=Manner(fields_of(programs))).written
    text = sidecar_of(path).read_text()
    microsoft = "MicrosoftPhoto:LastKeywordXMP"
    space = "xmlns:MicrosoftPhoto='http://ns.microsoft.com/photo/1.0/'"
    more = f"<{microsoft} {space}><rdf:Bag><rdf:li>dog</rdf:li></rdf:Bag></{microsoft}>"
    sidecar_of(path).write_text(text.replace("<dc:subject>", f"{more}<dc:subject>"))  # as digiKam
    assert {MICROSOFT, SUBJECT, HIERARCHY, TAGS} == {*keywords_of(packet(sidecar_of(path)))}
    assert read_keywords([path], ledger=ledger) == Found({path: []}, 1, [], {}, [])


def test_a_word_elsewhere_than_under_our_root_is_theirs(tmp_path) -> None:
    path = image(tmp_path)
    write(path, "dog", manner=Manner(MANNER.fields, ("AI",)))
    assert read_keywords([path], under="AI") == Found({path: []}, 1, [], {}, [])
    text = sidecar_of(path).read_text()
    sidecar_of(path).write_text(text.replace("AI|dog", "AI|dog</rdf:li><rdf:li>Pets|dog"))
    assert read_keywords([path], under="AI") == Found({path: ["dog"]}, 0, [], {}, [])


def test_sidecars_of_ours_that_no_ledger_knows_are_told_of(tmp_path) -> None:
    path = image(tmp_path)
    write(path, "dog")
    other = image(tmp_path / "other")
    write(other, "cat")
    found = read_keywords([path, other], ledger=tmp_path / "other" / "ledger.jsonl")
    assert found == Found({path: ["dog"], other: []}, 1, [], {}, [sidecar_of(path)])
    sure = image(tmp_path / "sure")
    write(sure, "tree", manner=Manner(MANNER.fields, provenance=True))
    assert read_keywords([sure]).unlisted == []  # it says itself what is ours


# Undo --------------------------------------------------------------------------------------


@pytest.mark.parametrize("old", [None, OLD, OLD.replace("\n", "\r\n"), "\ufeff" + OLD])
def test_undo_gives_the_old_bytes_back(tmp_path, old: str | None) -> None:
    path = image(tmp_path)
    sidecar = sidecar_of(path)
    if old is not None:
        sidecar.write_bytes(old.encode())
    write(path, "dog")
    write(path, "dog", "cat", manner=Manner(MANNER.fields, provenance=True))
    report = undo(tmp_path / "ledger.jsonl")
    assert (sidecar.read_bytes().decode() if sidecar.exists() else None) == old
    assert not (report.refused or report.moved or report.doubtful)
    again = undo(tmp_path / "ledger.jsonl")
    assert not (again.written or again.removed)


def test_undo_after_an_edit_takes_our_words_alone_and_tells_what_moved(tmp_path) -> None:
    path = image(tmp_path)
    sidecar = sidecar_of(path)
    sidecar.write_text(OLD)
    write(path, "dog", "cat")
    item = "<rdf:li>Beach</rdf:li>"
    edited = sidecar.read_text().replace(item, f"{item}<rdf:li>Own</rdf:li>", 1)
    edited = edited.replace("<rdf:li>cat</rdf:li>", "<rdf:li>Cat</rdf:li>", 1)
    sidecar.write_text(edited)
    report = undo(tmp_path / "ledger.jsonl")
    found = keywords_of(packet(sidecar))
    assert found[SUBJECT] == ["Beach", "Own", "Cat"] and set(found) == {SUBJECT}
    assert report.moved == [(sidecar, "dc:subject 'cat'")]
    sidecar.write_text(sidecar.read_text().replace("Own", "dog"))  # a person's own word now
    undo(tmp_path / "ledger.jsonl")
    assert "dog" in sidecar.read_text()


def test_undo_of_a_new_sidecar_that_was_edited_keeps_what_is_others(tmp_path) -> None:
    path, other = image(tmp_path, "a.jpg", "Sea"), image(tmp_path, "b.jpg")
    for each in (path, other):
        write(each, "dog")
    rated = sidecar_of(path).read_text().replace('rdf:about=""', 'rdf:about="" xmp:Rating="5"')
    sidecar_of(path).write_text(rated)
    sidecar_of(other).write_text(sidecar_of(other).read_text() + "\n")
    report = undo(tmp_path / "ledger.jsonl")
    assert report.removed == [sidecar_of(other)] and keywords_of(packet(sidecar_of(path))) == {}
    assert 'xmp:Rating="5"' in sidecar_of(path).read_text()


def test_one_name_for_an_image_whatever_links_and_dots_lead_to_it(tmp_path, monkeypatch) -> None:
    path = image(tmp_path / "photos")
    (tmp_path / "link").symlink_to("photos")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    ways = [path, Path("../photos/a.jpg"), Path("../link/a.jpg"), Path("../work/../link/a.jpg")]
    ledger = tmp_path / "photos" / "ledger.jsonl"
    for wrote in ways:
        for asked in ways:
            assert write(wrote, "dog").written
            assert read_keywords([asked], ledger=ledger) == Found({asked: []}, 1, [], {}, [])
            assert undo(ledger, [asked]).removed == [sidecar_of(path)]


def test_an_older_ledger_holds_paths_with_dots_and_links(tmp_path) -> None:
    path = image(tmp_path / "photos")
    (tmp_path / "link").symlink_to("photos")
    write(path, "dog")
    ledger = path.parent / "ledger.jsonl"
    old = str(tmp_path / "photos" / ".." / "link")
    ledger.write_text(ledger.read_text().replace(str(path.parent), old))
    assert read_keywords([path], ledger=ledger).words == {path: []}
    assert undo(ledger, [path]).removed == [sidecar_of(path)]


def test_undo_of_a_folder_takes_raw_files_and_images_that_are_gone(tmp_path) -> None:
    folder, ledger = tmp_path / "photos", tmp_path / "ledger.jsonl"
    paths = [image(folder, "a.jpg"), image(folder / "below", "b.jpg"), folder / "a.cr2",
             image(tmp_path / "photos2", "a.jpg")]  # fmt: skip
    paths[2].write_bytes(b"raw")

    def all_written() -> None:
        jobs = [Job(each, sidecar_of(each), each.parent, (Word("dog"),)) for each in paths]
        write_sidecars(jobs, ledger, MANNER)

    all_written()
    assert {*undo(ledger, [paths[0]]).removed} == {sidecar_of(paths[0]), sidecar_of(paths[2])}
    all_written()
    paths[1].unlink()
    assert {*undo(ledger, [folder]).removed} == {sidecar_of(each) for each in paths[:3]}
    again = undo(ledger, [folder])
    assert again.nothing == [str(folder)] and not again.removed
    paths[3].unlink()
    assert undo(ledger, [paths[3]]).removed == [sidecar_of(paths[3])]
    with pytest.raises(DataError, match="does not exist, and the ledger holds nothing"):
        undo(ledger, [paths[3]])


def test_undo_keeps_the_entries_of_what_is_away(tmp_path) -> None:
    ledger, kept = tmp_path / "ledger.jsonl", tmp_path / "photos"
    paths = [image(kept, "a.jpg"), image(kept, "b.jpg")]
    jobs = [Job(each, sidecar_of(each), kept, (Word("dog"),)) for each in paths]
    write_sidecars(jobs, ledger, MANNER)
    kept.rename(tmp_path / "away")
    refused = undo(ledger).refused
    assert [path for path, _ in refused] == [sidecar_of(each) for each in reversed(paths)]
    assert all("folder is not there" in why for _, why in refused)
    (tmp_path / "away").rename(kept)
    for each in (paths[0], sidecar_of(paths[0])):
        each.rename(tmp_path / each.name)
    report = undo(ledger)
    assert report.removed == [sidecar_of(paths[1])]
    assert report.moved == [(sidecar_of(paths[0]), "the image is gone, and the sidecar with it")]
    for each in (paths[0], sidecar_of(paths[0])):
        (tmp_path / each.name).rename(each)
    assert undo(ledger).removed == [sidecar_of(paths[0])]
    assert undo(ledger).nothing == [] and not undo(ledger).moved


def test_undo_of_some_images_and_bad_ledgers(tmp_path) -> None:
    first, second = image(tmp_path, "a.jpg"), image(tmp_path, "b.jpg")
    for each in (first, second):
        write(each, "dog")
    assert undo(tmp_path / "ledger.jsonl", [first]).removed == [sidecar_of(first)]
    assert sidecar_of(second).exists()
    with pytest.raises(DataError, match="cannot read"):
        undo(tmp_path / "none.jsonl")
    (tmp_path / "other.jsonl").write_text('{"a": 1}\n')
    with pytest.raises(DataError, match="line 1 is of no ledger"):
        undo(tmp_path / "other.jsonl")


# Others at work ----------------------------------------------------------------------------


def changing(path: Path, times: int) -> Callable[..., object]:
    """`change_of`, behind which another program writes the sidecar so many times."""
    real, left = sidecars.change_of, [times]

    def change_of(*args: object) -> object:
        change = real(*args)  # type: ignore[arg-type]
        if left[0]:
            left[0] -= 1
            path.write_text(OLD.replace("Beach", f"Beach {left[0]}"))
        return change

    return change_of


def test_a_sidecar_that_changes_is_read_again_three_times(tmp_path, monkeypatch) -> None:
    path = image(tmp_path)
    monkeypatch.setattr(sidecars, "change_of", changing(sidecar_of(path), 2))
    assert write(path, "dog").written
    assert packet(sidecar_of(path)).words(SUBJECT) == ["Beach 0", "dog"]
    other = image(tmp_path, "b.jpg")
    monkeypatch.setattr(sidecars, "change_of", changing(sidecar_of(other), 9))
    report = write(other, "dog")
    assert "changed 3 times" in report.refused[0][1]
    assert packet(sidecar_of(other)).words(SUBJECT) == ["Beach 6"]
    undo(tmp_path / "ledger.jsonl", [other])
    assert packet(sidecar_of(other)).words(SUBJECT) == ["Beach 6"]


def test_two_images_of_one_sidecar_are_undone_without_doubt(tmp_path) -> None:
    paths, sidecar = [image(tmp_path, "a.jpg"), image(tmp_path, "a.png")], tmp_path / "a.xmp"
    sidecar.write_text(OLD)
    jobs = [Job(each, sidecar_of(each), tmp_path, (Word(each.suffix),)) for each in paths]
    write_sidecars(jobs, tmp_path / "ledger.jsonl", MANNER)
    assert packet(sidecar).words(SUBJECT) == ["Beach", ".jpg", ".png"]
    assert read_keywords(paths).shared == {sidecar: paths}
    sidecar.write_text(sidecar.read_text() + "\n")  # as any program may
    report = undo(tmp_path / "ledger.jsonl")
    assert not (report.doubtful or report.refused or report.moved)
    assert keywords_of(packet(sidecar)) == {SUBJECT: ["Beach"]}


FEW = """
    import sys
    from pathlib import Path
    from trmml.exchange.sidecars import Job, Manner, write_sidecars
    from trmml.exchange.splice import HIERARCHY, SUBJECT, TAGS
    from trmml.exchange.words import Word, fields_of

    folder, writer = Path(sys.argv[1]), sys.argv[2]
    for count in range(12):
        job = Job(folder / "a.jpg", folder / "a.jpg.xmp", folder, (Word(f"w{writer}-{count}"),))
        manner = Manner((SUBJECT, HIERARCHY, TAGS))
        while write_sidecars([job], folder / "ledger.jsonl", manner).refused:
            pass
"""


def test_two_writers_at_once_lose_nothing(tmp_path) -> None:
    image(tmp_path)
    command = [sys.executable, "-c", textwrap.dedent(FEW), str(tmp_path)]
    writers = [subprocess.Popen([*command, str(number)]) for number in range(2)]
    assert [writer.wait(timeout=100) for writer in writers] == [0, 0]
    wanted = {f"w{n}-{count}" for n in range(2) for count in range(12)}
    assert {*packet(tmp_path / "a.jpg.xmp").words(SUBJECT)} == wanted
    report = undo(tmp_path / "ledger.jsonl")
    assert not sidecar_of(tmp_path / "a.jpg").exists() and not report.moved


# As tests/crash/points.py does, but without torch, which takes long to import.
KILLED = """
    import os, signal, sys
    from pathlib import Path
    from PIL import Image
    from trmml.exchange.sidecars import Job, Manner, write_sidecars
    from trmml.exchange.splice import HIERARCHY, SUBJECT, TAGS
    from trmml.exchange.words import Word, fields_of

    left = [0]

    def dying(call):
        def wrapper(*args, **kwargs):
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **kwargs)
        return wrapper

    for name in ("open", "write", "replace", "fsync", "chmod", "close"):
        setattr(os, name, dying(getattr(os, name)))
    for number, folder in enumerate(sorted(Path(sys.argv[1]).iterdir()), 1):
        child = os.fork()
        if not child:
            left[0] = number
            paths = [folder / "a.jpg", folder / "b.jpg"]
            jobs = [Job(p, p.with_name(p.name + ".xmp"), folder, (Word("dog"),)) for p in paths]
            write_sidecars(jobs, folder / "ledger.jsonl", Manner((SUBJECT, HIERARCHY, TAGS)))
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_killed_writer_leaves_each_sidecar_old_or_new_and_undo_settles_it(tmp_path) -> None:
    for number in range(40):
        for name in ("a.jpg", "b.jpg"):
            image(tmp_path / f"{number:02}", name)
        (tmp_path / f"{number:02}" / "a.jpg.xmp").write_text(OLD)
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path)]
    done = subprocess.run(
        command, check=True, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True
    )
    ends = [int(line) for line in done.stdout.split()]
    assert {*ends} == {0, -signal.SIGKILL} and ends[-1] == 0  # the last points were never reached
    for number in range(40):
        folder = tmp_path / f"{number:02}"
        old, new = folder / "a.jpg.xmp", folder / "b.jpg.xmp"
        assert packet(old).words(SUBJECT) in (["Beach"], ["Beach", "dog"])
        assert not new.exists() or packet(new).words(SUBJECT) == ["dog"]
        if (folder / "ledger.jsonl").exists():
            report = undo(folder / "ledger.jsonl")
            assert not (report.refused or report.doubtful or report.moved)
        assert old.read_text() == OLD and not new.exists()
