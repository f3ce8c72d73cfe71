"""exiftool and exiv2 read the same words from what we wrote; the image's own keywords are found."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tests.exchange.test_sidecars import MANNER, OLD, image, write
from tests.test_images import HEIC
from trmml.exchange.embedded import Inside, embedded_keywords
from trmml.exchange.naming import sidecar_of
from trmml.exchange.readers import ACDSEE, HIERARCHY, IPTC, SUBJECT, digikam, keywords_of
from trmml.exchange.sidecars import Manner
from trmml.exchange.xmp import parse

WORDS = ["cat", "R&D <x>", "salt/pepper", "e\u0301t\u00e9", "🐕", '"q"']
needs_exiftool = pytest.mark.skipif(
    not shutil.which("exiftool"), reason="exiftool is not installed"
)
needs_exiv2 = pytest.mark.skipif(not shutil.which("exiv2"), reason="exiv2 is not installed")


@pytest.fixture(params=["", OLD, OLD.replace("\n", "\r\n"), "\ufeff" + OLD, OLD.replace("\n", "")])
def sidecar(request: pytest.FixtureRequest, tmp_path) -> Path:
    """A sidecar that got words: a new one, or one in several forms."""
    path = image(tmp_path)
    if request.param:
        sidecar_of(path).write_bytes(request.param.encode())
    write(path, *WORDS, manner=Manner(MANNER.fields, ("AI",), True))
    return sidecar_of(path)


@needs_exiftool
def test_exiftool_reads_our_words(sidecar: Path) -> None:
    command = ["exiftool", "-j", "-struct", "-warning", "-Subject", "-HierarchicalSubject",
               "-TagsList", sidecar]  # fmt: skip
    said = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)[0]
    packet = parse(sidecar.read_bytes())
    assert said["Subject"] == packet.words(SUBJECT) and "Warning" not in said
    assert said["HierarchicalSubject"] == packet.words(HIERARCHY)


@needs_exiv2
def test_exiv2_reads_our_words(sidecar: Path) -> None:
    command = ["exiv2", "-q", "-PXkv", "-K", "Xmp.lr.hierarchicalSubject", sidecar]
    said = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    words = parse(sidecar.read_bytes()).words(HIERARCHY)
    assert said.split(None, 1)[1].strip() == ", ".join(words)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_keywords_in_an_image_are_found(tmp_path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    text = PngInfo()
    text.add_itxt("XML:com.adobe.xmp", OLD)
    how: dict[str, dict[str, object]] = {
        "png": {"pnginfo": text},
        "tif": {"tiffinfo": {700: OLD.encode()}},
    }
    more: dict[str, object] = how.get(suffix, {"xmp": OLD.encode()})
    Image.new("RGB", (8, 8)).save(path, **more)  # type: ignore[arg-type]
    assert embedded_keywords(path) == Inside({SUBJECT: ["Beach"]})


def test_keywords_behind_the_pixels_of_a_png_are_found(tmp_path) -> None:
    text = PngInfo()
    text.add_itxt("XML:com.adobe.xmp", OLD)
    path = tmp_path / "a.png"
    Image.new("RGB", (8, 8)).save(path, pnginfo=text)
    data = path.read_bytes()
    chunk, pixels, end = (data.index(name) - 4 for name in (b"iTXt", b"IDAT", b"IEND"))
    path.write_bytes(data[:chunk] + data[pixels:end] + data[chunk:pixels] + data[end:])
    assert embedded_keywords(path) == Inside({SUBJECT: ["Beach"]})
    path.write_bytes(path.read_bytes()[: pixels - chunk])  # the file ends early
    assert embedded_keywords(path).unread.startswith("cannot be read")


@needs_exiftool
def test_iptc_keywords_are_found(tmp_path) -> None:
    path = image(tmp_path)
    command = ["exiftool", "-q", "-overwrite_original", "-IPTC:Keywords=Strand",
               "-IPTC:Keywords=été", "-CodedCharacterSet=UTF8", path]  # fmt: skip
    subprocess.run(command, check=True)
    assert embedded_keywords(path) == Inside({IPTC: ["Strand", "été"]})


KEY = b"\x1c\x02\x19"
SEA = KEY + b"\0\3Sea"


def with_iptc(path: Path, block: bytes) -> Path:
    """An image with XMP that says Beach, and a block of IPTC."""
    if path.suffix == ".tif":
        Image.new("RGB", (8, 8)).save(path, tiffinfo={700: OLD.encode(), 33723: block})
        return path
    Image.new("RGB", (8, 8)).save(path, xmp=OLD.encode())
    data = path.read_bytes()
    part = b"Photoshop 3.0\0" + b"8BIM\x04\x04\0\0" + len(block).to_bytes(4, "big") + block
    path.write_bytes(data[:2] + b"\xff\xed" + (len(part) + 2).to_bytes(2, "big") + part + data[2:])
    return path


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
@pytest.mark.parametrize("block", [SEA, SEA + b"\0" * 7, KEY + b"\x80\x04\0\0\0\3Sea"])
def test_iptc_is_read_with_long_sizes_and_filling(tmp_path, block: bytes, suffix: str) -> None:
    found = embedded_keywords(with_iptc(tmp_path / f"a.{suffix}", block))
    assert found == Inside({SUBJECT: ["Beach"], IPTC: ["Sea"]})


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
@pytest.mark.parametrize(
    "junk", [b"junk", KEY + b"\x90\0Dune", KEY + b"\x01\0Dune", KEY, KEY + b"\xff\xff"]
)
def test_damaged_iptc_hides_neither_what_precedes_it_nor_the_xmp(
    tmp_path, junk: bytes, suffix: str
) -> None:
    found = embedded_keywords(with_iptc(tmp_path / f"a.{suffix}", SEA + junk))
    assert found.words == {SUBJECT: ["Beach"], IPTC: ["Sea"]}
    assert found.unread.startswith("has IPTC that is damaged: ")


def test_none_is_told_from_unreadable(tmp_path) -> None:
    none, xmp, both = tmp_path / "a.jpg", tmp_path / "b.jpg", tmp_path / "c.jpg"
    Image.new("RGB", (8, 8)).save(none)
    assert embedded_keywords(none) == Inside({}, "")
    Image.new("RGB", (8, 8)).save(xmp, xmp=OLD.replace("Beach", "R&D").encode())
    assert embedded_keywords(xmp).unread.startswith("has XMP that is damaged: not well-formed")
    with_iptc(both, SEA)
    both.write_bytes(both.read_bytes().replace(b"Beach", b"R&D<>"))
    assert embedded_keywords(both).words == {IPTC: ["Sea"]} and embedded_keywords(both).unread
    for name in ("d.jpg", "e.CR2"):
        (tmp_path / name).write_bytes(b"no image")
    assert "no image that can be read" in embedded_keywords(tmp_path / "d.jpg").unread
    assert embedded_keywords(tmp_path / "e.CR2") == Inside({}, "")
    assert "No such file" in embedded_keywords(tmp_path / "none.jpg").unread


def test_heic_is_opened_or_told_to_be_unreadable(tmp_path, monkeypatch) -> None:
    pytest.importorskip("pi_heif")
    path = tmp_path / "a.jpg"
    path.write_bytes(HEIC)
    assert embedded_keywords(path) == Inside({}, "")
    monkeypatch.setitem(sys.modules, "pi_heif", None)
    assert embedded_keywords(path).unread.startswith(
        "is a HEIC image, which needs one more package"
    )


def test_acdsees_categories_are_seen() -> None:
    categories = (
        '&lt;Categories&gt;&lt;Category Assigned="0"&gt;Animals&lt;Category Assigned="1"&gt;Dog'
        "&lt;/Category&gt;&lt;/Category&gt;&lt;/Categories&gt;"
    )
    text = OLD.replace("<dc:subject>", f"<a:categories xmlns:a='{ACDSEE.split()[0]}'>{categories}"
                       "</a:categories><dc:subject>")  # fmt: skip
    assert digikam({}, keywords_of(parse(text.encode()))) == [("Animals", "Dog")]
