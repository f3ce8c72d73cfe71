"""What a file is that no decoder reads, and a refused one without what its pixels do not need."""

import re
import zlib
from collections.abc import Iterator

_PNG, _JPEG, _JPEG_END = b"\x89PNG\r\n\x1a\n", b"\xff\xd8", b"\xff\xd9"
# PNG specification, third edition, sections 5.6 and 11.3: these decide what is seen.
_SEEN = (b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS")
_MARK = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # neither data nor a restart
_NO_IMAGES = (
    (b"version https://git-lfs", "stands for a file in Git LFS. Run git lfs pull."),
    (b"<svg", "is an SVG drawing. Export it as PNG."),
    (b"<!doctype html", "is a web page, not an image. Download the image itself."),
    (b"<html", "is a web page, not an image. Download the image itself."),
    (b"%pdf", "is a PDF file. Export its images as PNG."),
)
_ENDS = (b"\0", b"\x55", b"\xaa", b"\xfe")  # unlike codes, whatever the Huffman tables
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


def is_heif(head: bytes) -> bool:
    """Whether a file with these first 64 bytes is HEIC or HEIF, and not AVIF in the same box."""
    brands = head[8 : int.from_bytes(head[:4], "big")]
    return head[4:8] == b"ftyp" and brands[:4] in _HEIF_BRANDS and b"avif" not in brands


def what_instead(head: bytes) -> str | None:
    """Return what a file is that is no image, and what to do; None where nobody knows."""
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if start.startswith(b"<?xml") and b"<svg" in start:
        start = b"<svg"
    return next((words for begin, words in _NO_IMAGES if start.startswith(begin)), None)


def repaired(content: bytes) -> tuple[bytes, ...]:
    """Return versions of a refused file that can be decoded if its pixels are whole.

    They must all give the same pixels; otherwise some were made up. A PNG comes without metadata,
    which may be damaged or too large. A JPEG without an end mark comes with several ends:
    where nothing is missing, the decoder reads none. No version: nothing is known to help.
    """
    if content.startswith(_PNG):
        return (_PNG + b"".join(_seen_chunks(content)),)
    kept = content.rstrip(b"\0")  # what a download that broke off left unwritten
    if content.startswith(_JPEG) and not kept.endswith(_JPEG_END) and _all_scans(kept):
        kept += b"\0" if kept.endswith(b"\xff") else b""  # 255 is always followed by 0
        return tuple(kept + end * 64 + _JPEG_END for end in _ENDS)
    return ()


def _seen_chunks(content: bytes) -> Iterator[bytes]:
    """Yield the chunks that decide what is seen, and the orientation where it is undamaged."""
    place = len(_PNG)
    while place < len(content):
        end = place + 12 + int.from_bytes(content[place : place + 4], "big")
        chunk, kind = content[place:end], content[place + 4 : place + 8]
        whole = zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big")
        if kind in _SEEN or (kind == b"eXIf" and whole):
            yield chunk
        place = end


def _all_scans(jpeg: bytes) -> bool:
    """Whether each coefficient of each component has its last bit in some scan of a JPEG.

    Source: ITU-T T.81, B.2.2 and B.2.3: of a frame and a scan header; Se and Al as there.
    """
    expected, had, place = set[tuple[int, int]](), set[tuple[int, int]](), 2
    while place + 4 <= len(jpeg):
        mark, size = jpeg[place + 1], int.from_bytes(jpeg[place + 2 : place + 4], "big")
        body = jpeg[place + 4 : place + 2 + size]
        if len(body) < size - 2:
            return False  # cut within a header
        if mark in (0xC0, 0xC1, 0xC2):
            expected = {(component, k) for component in body[6::3] for k in range(64)}
        place += 2 + size
        if mark == 0xDA:
            first, last, bits = body[-3:]
            if bits & 15 == 0:
                had |= {(c, k) for c in body[1:-3:2] for k in range(first, last + 1)}
            place = next((m.start() for m in _MARK.finditer(jpeg, place)), len(jpeg))
    return place == len(jpeg) and expected <= had
