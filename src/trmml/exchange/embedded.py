"""The keywords inside an image file, read through Pillow and never written."""

import logging
import re
from pathlib import Path
from typing import Any

from PIL import Image, ImageFile, IptcImagePlugin

from trmml.errors import DataError
from trmml.exchange.readers import IPTC, keywords_of
from trmml.exchange.xmp import parse

logger = logging.getLogger(__name__)

_KEYWORD, _CHARACTER_SET = (2, 25), (1, 90)
_UTF8 = b"\x1b%G"
_CONTROL = re.compile("[\x00-\x1f\x7f]")
_XMP_TAG = 700  # of TIFF


def embedded_keywords(image: Path) -> dict[str, list[str]]:
    """The words of each keyword field in an image's XMP and IPTC; none where nothing can be read.

    JPEG, PNG, WebP, TIFF and AVIF are read, and raw files as far as Pillow takes them for TIFF.
    """
    try:
        with Image.open(image) as opened:
            data, iptc = _xmp(opened), _iptc(opened)
    except Exception as error:  # decoders raise almost anything, and raw files are none of theirs
        logger.info("%s: no keywords are read: %s", image, error)
        return {}
    found: dict[str, list[str]] = {}
    if data:
        try:
            found = keywords_of(parse(_as_utf8(data)))
        except (DataError, UnicodeError) as error:
            logger.warning("%s: its XMP %s; its keywords are not seen", image, error)
    return {**found, IPTC: iptc} if iptc else found


def _xmp(image: Image.Image) -> bytes:
    """The XMP in a file; "" where there is none."""
    data: Any = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp") or b""
    if not data and hasattr(image, "tag_v2"):
        data = image.tag_v2.get(_XMP_TAG, b"")
    return data.encode() if isinstance(data, str) else bytes(data)


def _iptc(image: ImageFile.ImageFile) -> list[str]:
    """The keywords of IPTC's record 2; in UTF-8 where it says so or is, else in Latin-1."""
    info = IptcImagePlugin.getiptcinfo(image) or {}
    values: Any = info.get(_KEYWORD, [])
    values = [values] if isinstance(values, bytes) else values
    said = info.get(_CHARACTER_SET) == _UTF8
    words = [_CONTROL.sub("", _text(value, said)).strip() for value in values]
    return [word for word in words if word]


def _text(value: bytes, utf8: bool) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("utf-8" if utf8 else "latin-1", "replace")


def _as_utf8(data: bytes) -> bytes:
    """XMP without padding, in the encoding that is parsed."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        data = data.decode("utf-16").encode()
    return data.strip(b"\0 \r\n\t")
