"""The keywords inside an image file, read through Pillow and never written."""

import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image, ImageFile, UnidentifiedImageError

from trmml.errors import DataError
from trmml.exchange.naming import is_raw
from trmml.exchange.readers import IPTC, keywords_of
from trmml.exchange.xmp import parse
from trmml.image_repair import is_heif
from trmml.images import heif_formats

_KEYWORD, _CHARACTER_SET = (2, 25), (1, 90)
_UTF8 = b"\x1b%G"
_CONTROL = re.compile("[\x00-\x1f\x7f]")
_XMP_TAG, _IPTC_TAG = 700, 33723  # of TIFF
_IPTC_BLOCK = 0x0404  # of Photoshop's resources
_HEAD = 64  # bytes that tell what a file is


class Inside(NamedTuple):
    """What an image says of itself.

    Attributes:
        words: of each keyword field that can be read.
        unread: why there may be more, in words that follow the file's name; "" where all was read.
    """

    words: dict[str, list[str]]
    unread: str = ""


def embedded_keywords(image: Path) -> Inside:
    """The words of each keyword field in an image's XMP and IPTC, each read for itself.

    JPEG, PNG, WebP, TIFF and AVIF are read, HEIC with the extra `heif`, and raw files as far as
    Pillow takes them for TIFF. Of other raw files nothing is expected, as programs keep their
    keywords in sidecars.
    """
    try:
        with image.open("rb") as file:
            if is_heif(file.read(_HEAD)):
                heif_formats(str(image))
            file.seek(0)
            with Image.open(file) as opened:
                return _inside(opened)
    except Exception as error:  # decoders raise almost anything
        return Inside({}, "" if is_raw(image) else _why(image, error))


def _why(image: Path, error: Exception) -> str:
    if isinstance(error, DataError):
        return str(error).removeprefix(f"{image} ")
    if isinstance(error, UnidentifiedImageError):
        return "is damaged, or no image that can be read"
    reason = error.strerror if isinstance(error, OSError) else None
    return f"cannot be read: {reason or str(error) or type(error).__name__}"


def _inside(opened: ImageFile.ImageFile) -> Inside:
    words, unread = dict[str, list[str]](), list[str]()
    if opened.format == "PNG":
        opened.load()  # a chunk of XMP may follow the pixels
    try:
        if data := _as_utf8(_xmp(opened)):
            words = keywords_of(parse(data))
    except (DataError, UnicodeError) as error:
        unread.append(f"has XMP that {str(error).partition(';')[0]}")
    found = dict[tuple[int, int], list[bytes]]()
    try:
        for key, value in _data_sets(_iptc(opened)):
            found.setdefault(key, []).append(value)
    except DataError as error:
        unread.append(f"has IPTC that {error}")
    said = found.get(_CHARACTER_SET) == [_UTF8]
    texts = [_CONTROL.sub("", _text(each, said)).strip() for each in found.get(_KEYWORD, ())]
    if any(texts):
        words[IPTC] = [text for text in texts if text]
    return Inside(words, " and ".join(unread))


def _xmp(image: ImageFile.ImageFile) -> bytes:
    data: Any = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp") or b""
    if not data and hasattr(image, "tag_v2"):
        data = image.tag_v2.get(_XMP_TAG, b"")
    return data.encode() if isinstance(data, str) else bytes(data)


def _iptc(image: ImageFile.ImageFile) -> bytes:
    """The block of IPTC in a JPEG or TIFF; some programs write it as numbers of four bytes."""
    if not hasattr(image, "tag_v2"):
        block: Any = image.info.get("photoshop", {}).get(_IPTC_BLOCK, b"")
        return bytes(block)
    data: Any = image.tag_v2.get(_IPTC_TAG, b"")
    numbers = (data,) if isinstance(data, int) else data
    if isinstance(numbers, bytes):
        return numbers
    return struct.pack(f"{'<' if image.tag_v2.prefix == b'II' else '>'}{len(numbers)}L", *numbers)


def _data_sets(block: bytes) -> Iterator[tuple[tuple[int, int], bytes]]:
    """Record, number and value of each data set, up to zeros that fill the block.

    Source: IPTC-NAA Information Interchange Model 4.2, sections 1.5 and 1.6.

    Raises:
        DataError: the rest cannot be followed.
    """
    at, last = 0, len(block.rstrip(b"\0"))
    while at < last:
        if block[at] != 0x1C or at + 5 > len(block):
            raise DataError(f"is damaged: at byte {at} no data set begins")
        record, number, size = struct.unpack_from(">BBH", block, at + 1)
        start, at = at, at + 5
        if size & 0x8000:  # then it is the size of the size
            place, at = at, at + (size & 0x7FFF)
            size = int.from_bytes(block[place:at], "big")
        if at + size > len(block):
            raise DataError(f"is damaged: a data set is longer than the rest, at byte {start}")
        yield (record, number), block[at : at + size]
        at += size


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
