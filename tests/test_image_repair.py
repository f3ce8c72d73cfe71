import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from trmml.errors import DataError
from trmml.images import read_image


def picture(kind: str, **options: object) -> bytes:
    """Grain, so that every byte of the file counts."""
    grain = np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(grain).save(file, kind, **options)  # type: ignore[arg-type]
    return file.getvalue()


def chunk(kind: bytes, data: bytes, *, intact: bool = True) -> bytes:
    check = zlib.crc32(kind + data) ^ (not intact)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)


def with_chunk(png: bytes, added: bytes) -> bytes:
    return png[:33] + added + png[33:]  # after IHDR


METADATA = {
    "a large text": chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2_000_000))),
    "much text": b"".join(chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(999_999)))
                          for _ in range(70)),
    "a damaged text": chunk(b"tEXt", b"a\0b", intact=False),
    "a damaged profile": chunk(b"iCCP", b"a\0\0no zlib"),
    "a short size": chunk(b"pHYs", b"1"),
}  # fmt: skip


@pytest.mark.parametrize("added", METADATA.values(), ids=METADATA.keys())
def test_metadata_of_a_png_is_no_hindrance(added: bytes) -> None:
    png = picture("PNG")
    assert read_image(with_chunk(png, added)).tobytes() == read_image(png).tobytes()


def test_a_png_keeps_its_orientation_beside_damaged_metadata() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = picture("PNG", exif=exif)
    damaged = with_chunk(turned, METADATA["a damaged text"])
    assert read_image(damaged).size == (30, 40)
    assert read_image(damaged).tobytes() == read_image(turned).tobytes()


def test_pixels_of_a_png_that_are_not_there_are_not_made_up() -> None:
    png = picture("PNG", pnginfo=PngInfo())
    for cut in (png[:-40], with_chunk(png, METADATA["a damaged text"])[:-40]):
        with pytest.raises(DataError, match="damaged or cut off"):
            read_image(cut)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"quality": 10}])
def test_a_jpeg_without_its_end_mark(options: dict[str, object]) -> None:
    jpeg = picture("JPEG", **options)
    whole = read_image(jpeg).tobytes()
    for end in (b"", b"\xff", bytes(99)):
        assert read_image(jpeg[:-2] + end).tobytes() == whole
    for cut in (4, 10, 100):
        with pytest.raises(DataError, match="damaged or cut off"):
            read_image(jpeg[:-cut])
    for end in (b"", b"\0\0\0\x18ftypmp42" + bytes(99)):  # padding, a film behind the image
        assert read_image(jpeg + end + bytes(9)).tobytes() == whole


def test_a_jpeg_of_which_a_half_is_zeros() -> None:
    jpeg = picture("JPEG")
    for kept in (len(jpeg) // 2, len(jpeg) - 200):
        with pytest.raises(DataError, match="damaged or cut off"):
            read_image(jpeg[:kept] + bytes(len(jpeg) - kept))


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"optimize": True}])
def test_pixels_of_a_jpeg_are_never_made_up(options: dict[str, object]) -> None:
    file = io.BytesIO()
    Image.new("RGB", (64, 48), (90, 10, 200)).save(file, "JPEG", **options)
    jpeg, whole = file.getvalue(), read_image(file.getvalue()).tobytes()
    for cut in range(2, 400):  # also between the scans of a progressive image
        try:
            assert read_image(jpeg[:-cut]).tobytes() == whole, cut
        except DataError:
            continue


NO_IMAGES = {
    b"version https://git-lfs.github.com/spec/v1\noid": "stands for a file in Git LFS",
    b"\xef\xbb\xbf <!DOCTYPE html><html>": "is a web page",
    b"<?xml version='1.0'?><svg xmlns=": "is an SVG drawing",
    b"%PDF-1.7": "is a PDF file",
}


@pytest.mark.parametrize(("data", "message"), NO_IMAGES.items())
def test_what_it_is_instead(data: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_image(data)
