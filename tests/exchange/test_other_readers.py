"""exiftool and exiv2 read the same words from what we wrote; the image's own keywords are found."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tests.exchange.test_sidecars import MANNER, OLD, image, write
from trmml.exchange.embedded import embedded_keywords
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
    assert embedded_keywords(path) == {SUBJECT: ["Beach"]}


@needs_exiftool
def test_iptc_keywords_are_found(tmp_path) -> None:
    path = image(tmp_path)
    command = ["exiftool", "-q", "-overwrite_original", "-IPTC:Keywords=Strand",
               "-IPTC:Keywords=été", "-CodedCharacterSet=UTF8", path]  # fmt: skip
    subprocess.run(command, check=True)
    assert embedded_keywords(path) == {IPTC: ["Strand", "été"]}


def test_a_broken_image_or_broken_xmp_has_no_keywords(tmp_path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"no image")
    Image.new("RGB", (8, 8)).save(tmp_path / "b.jpg", xmp=b"<x")
    assert embedded_keywords(tmp_path / "a.jpg") == embedded_keywords(tmp_path / "b.jpg") == {}


def test_acdsees_categories_are_seen() -> None:
    categories = (
        '&lt;Categories&gt;&lt;Category Assigned="0"&gt;Animals&lt;Category Assigned="1"&gt;Dog'
        "&lt;/Category&gt;&lt;/Category&gt;&lt;/Categories&gt;"
    )
    text = OLD.replace("<dc:subject>", f"<a:categories xmlns:a='{ACDSEE.split()[0]}'>{categories}"
                       "</a:categories><dc:subject>")  # fmt: skip
    assert digikam({}, keywords_of(parse(text.encode()))) == [("Animals", "Dog")]
