import base64
import io
import os
import random
import struct
import sys
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from trmml.errors import DataError
from trmml.images import BadImage, augment, read_image, shown_size

Box = tuple[int, int]


def picture(size: Box = (12, 8)) -> Image.Image:
    """Return an image in which no two corners are alike."""
    x, y = np.meshgrid(np.linspace(0, 255, size[0]), np.linspace(0, 255, size[1]))
    return Image.fromarray(np.stack([x, y, 255 - x], axis=-1).astype(np.uint8))


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)  # type: ignore[arg-type]
    return file.getvalue()


def values(image: Image.Image) -> np.ndarray:
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


def mean_difference(left: Image.Image, right: Image.Image) -> float:
    assert left.size == right.size
    return float(np.abs(values(left) - values(right)).mean())


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "JPEG2000"])
def test_lossless_formats_return_the_pixels(kind: str) -> None:
    assert mean_difference(read_image(encode(picture(), kind)), picture()) == 0


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "AVIF"])
def test_lossy_formats_return_about_the_pixels(kind: str) -> None:
    large = picture((64, 48))
    assert mean_difference(read_image(encode(large, kind, quality=95)), large) < 4


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_deflate", "jpeg", "packbits"])
def test_tiff_compressions(compression: str) -> None:
    image = read_image(encode(picture((64, 48)), "TIFF", compression=compression))
    assert mean_difference(image, picture((64, 48))) < 4


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_not_clipped(kind: str) -> None:
    deep = Image.fromarray(np.array([[0, 257, 32896, 65535]], dtype=np.uint16))
    assert values(read_image(encode(deep, kind)))[0].tolist() == [
        [0] * 3,
        [1] * 3,
        [128] * 3,
        [255] * 3,
    ]


def test_a_dark_16_bit_image_stays_dark() -> None:
    deep = Image.fromarray(np.full((2, 2), 200, dtype=np.uint16))
    assert values(read_image(encode(deep, "PNG"))).max() == 1


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 128.0, 255.0], [0, 128, 255]),
        ([-1.0, 0.0, 1.0], [0, 128, 255]),
        ([0.0, 500.0, 1000.0], [0, 128, 255]),
        ([3000.0, 3000.0, 3000.0], [0, 0, 0]),
        ([0.0, float("nan"), float("inf")], [0, 0, 0]),
    ],
)
def test_float_tiff(cells: list[float], expected: list[int]) -> None:
    image = Image.fromarray(np.array([cells], dtype=np.float32))
    assert values(read_image(encode(image, "TIFF")))[0, :, 0].tolist() == expected


def test_32_bit_integer_tiff() -> None:
    for cells, expected in (([0, 100, 255], [0, 100, 255]), ([0, 32896, 65535], [0, 128, 255])):
        image = Image.fromarray(np.array([cells], dtype=np.int32))
        assert values(read_image(encode(image, "TIFF")))[0, :, 0].tolist() == expected


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP"])
def test_1_bit_and_grey(kind: str) -> None:
    for mode in ("1", "L"):
        image = picture().convert(mode)
        assert mean_difference(read_image(encode(image, kind)), image.convert("RGB")) == 0


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_transparency_is_laid_on_white(kind: str) -> None:
    image = Image.new("RGBA", (3, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (255, 0, 0, 255))
    image.putpixel((2, 0), (0, 0, 0, 128))
    options = {"lossless": True} if kind == "WEBP" else {}
    read = values(read_image(encode(image, kind, **options)))[0].tolist()
    assert read == [[255, 255, 255], [255, 0, 0], [127, 127, 127]]


def test_grey_with_alpha_and_with_a_transparent_value() -> None:
    image = Image.new("LA", (2, 1), (0, 0))
    image.putpixel((1, 0), (40, 255))
    assert values(read_image(encode(image, "PNG")))[0, :, 0].tolist() == [255, 40]
    keyed = Image.fromarray(np.array([[7, 40]], dtype=np.uint8))
    assert values(read_image(encode(keyed, "PNG", transparency=7)))[0, :, 0].tolist() == [255, 40]


def test_rgb_with_a_transparent_colour() -> None:
    image = Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], dtype=np.uint8))
    read = values(read_image(encode(image, "PNG", transparency=(1, 2, 3))))
    assert read[0].tolist() == [[255, 255, 255], [4, 5, 6]]


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
@pytest.mark.parametrize("transparency", [None, 0, b"\x00\xff\x80"])
def test_palettes(kind: str, transparency: int | bytes | None) -> None:
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 0, 200, 0, 0, 0, 0])
    image.putdata([0, 1, 2])
    if kind == "GIF" and isinstance(transparency, bytes):
        transparency = 0
    options = {} if transparency is None else {"transparency": transparency}
    read = values(read_image(encode(image, kind, **options)))[0].tolist()
    assert read[0] == ([10, 20, 30] if transparency is None else [255, 255, 255])
    assert read[1] == [0, 200, 0]
    assert read[2] == ([127, 127, 127] if isinstance(transparency, bytes) else [0, 0, 0])


def test_cmyk_jpeg_is_seen_as_adobe_writes_it() -> None:
    cmyk = Image.new("CMYK", (16, 16), (255, 0, 0, 0))  # cyan
    data = encode(cmyk, "JPEG", quality=95)
    assert b"Adobe" in data
    assert np.abs(values(read_image(data)) - [0, 255, 255]).max() < 6
    assert values(read_image(encode(cmyk, "TIFF")))[0, 0].tolist() == [0, 255, 255]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(10))
def test_exif_orientation(kind: str, orientation: int) -> None:
    upright = picture((32, 16))
    undo = {
        2: [Image.Transpose.FLIP_LEFT_RIGHT],
        3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.ROTATE_90, Image.Transpose.FLIP_TOP_BOTTOM],
        6: [Image.Transpose.ROTATE_90],
        7: [Image.Transpose.ROTATE_90, Image.Transpose.FLIP_LEFT_RIGHT],
        8: [Image.Transpose.ROTATE_270],
    }
    stored = upright
    for step in undo.get(orientation, []):
        stored = stored.transpose(step)
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert mean_difference(read_image(encode(stored, kind, exif=exif)), upright) < 8


def test_broken_exif_does_not_hide_the_pixels() -> None:
    for exif in (
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0garbage",
        b"Exif\0\0MM\0*\0\0\0\x08\0\x05",
    ):
        assert read_image(encode(picture(), "JPEG", exif=exif)).size == (12, 8)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_is_taken(kind: str) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert values(read_image(data))[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("size", [(1, 3000), (3000, 1), (1, 1)])
def test_thin_images(size: Box) -> None:
    image = read_image(encode(picture(size), "PNG"))
    assert image.size == size
    side = augment(image, 0).size
    assert side[0] == side[1] >= 1


@pytest.mark.parametrize("name", ["a b.jpg", "été.png", "写真.webp", "no-suffix", "wrong.txt"])
def test_paths_and_names(tmp_path: Path, name: str) -> None:
    kind = {".jpg": "JPEG", ".webp": "WEBP"}.get(Path(name).suffix, "PNG")
    path = tmp_path / name
    path.write_bytes(encode(picture(), kind))
    assert read_image(path).size == read_image(str(path)).size == (12, 8)


def test_pillows_settings_stay_and_no_warning_escapes() -> None:
    before = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, warnings.filters[:])
    wide = encode(Image.new("1", (10_000, 9_000)), "PNG")  # Pillow warns from 89 million on
    assert read_image(wide).size == (10_000, 9_000)
    assert (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, warnings.filters[:]) == before


def test_threads_leave_the_warning_filters_alone() -> None:
    before = warnings.filters[:]
    data = encode(picture((200, 200)), "PNG")
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(20):
                read_image(data)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert warnings.filters[:] == before


# Failures


def bomb(width: int, height: int) -> bytes:
    data = bytearray(encode(picture(), "PNG"))
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


BROKEN = {
    "empty": (b"", r"is empty \(0 bytes\)\. Copy it again"),
    "text": (b"hello world, this is no image", "is no image that can be read.*Convert it to PNG"),
    "html": (b"<!DOCTYPE html><html></html>", "is a web page"),
    "one byte": (b"\xff", "is no image that can be read"),
    "jpeg head": (encode(picture(), "JPEG")[:20], "no image that can be read|damaged"),
    "half a jpeg": (encode(picture((99, 99)), "JPEG")[:900], "damaged or cut off.*Copy it again"),
    "half a png": (encode(picture((99, 99)), "PNG")[:150], "damaged or cut off.*Copy it again"),
    "half a gif": (encode(picture((99, 99)), "GIF")[:1200], "damaged or cut off"),
    "half a webp": (encode(picture((99, 99)), "WEBP")[:200], "no image|damaged or cut off"),
    "half a bmp": (encode(picture((99, 99)), "BMP")[:900], "damaged or cut off"),
    "half a tiff": (encode(picture((99, 99)), "TIFF")[:900], "no image|damaged or cut off"),
    "eps": (encode(picture(), "EPS"), "is no image that can be read: .*not one of AVIF"),
    "zero width": (bomb(0, 5), "no image|damaged"),
    "above Pillow's": (bomb(60_000, 60_000), "too large: .*3600000000 pixels.*--on-bad-image skip"),
}


@pytest.mark.parametrize(("data", "message"), BROKEN.values(), ids=BROKEN.keys())
def test_broken_images(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "broken.jpg"
    path.write_bytes(data)
    with pytest.raises(DataError, match=message) as caught:
        read_image(path)
    assert str(path) in str(caught.value)
    with pytest.raises(DataError, match=r"the image in memory .*" + message):
        read_image(data)


def test_max_pixels_is_what_the_caller_says() -> None:
    data = encode(picture((20, 10)), "PNG")
    assert read_image(data, max_pixels=200).size == (20, 10)
    with pytest.raises(DataError, match=r"20 x 10 pixels, more than max_pixels = 199\. Make it"):
        read_image(data, max_pixels=199)


def test_paths_that_are_no_readable_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no image .*none\.jpg\. Check the name"):
        read_image(tmp_path / "none.jpg")
    with pytest.raises(DataError, match=r"is a folder, not an image\. .*find_images"):
        read_image(tmp_path)
    with pytest.raises(DataError, match="cannot be read"):
        read_image("a\0b.jpg")


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(DataError, match=r"secret\.jpg may not be read: permission denied\. Allow"):
        read_image(tmp_path / "secret.jpg")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "TIFF", "BMP", "WEBP", "AVIF", "JPEG2000"])
def test_random_damage_never_raises_anything_else(kind: str) -> None:
    generator = random.Random(0)
    intact = encode(picture((40, 30)), kind)
    for _ in range(150):
        data = bytearray(
            intact[: generator.choice([len(intact), generator.randrange(len(intact))])]
        )
        for _ in range(generator.randrange(4)):
            if data:
                data[generator.randrange(len(data))] = generator.randrange(256)
        try:
            assert read_image(bytes(data), max_pixels=10_000_000).mode == "RGB"
        except DataError as error:
            assert "the image in memory" in str(error)


def test_a_pipe_is_never_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jpg")
    with pytest.raises(DataError, match=r"a\.jpg is a pipe, socket or device, not an image"):
        read_image(tmp_path / "a.jpg")
    with pytest.raises(DataError, match="is a pipe, socket or device"):
        read_image("/dev/zero")


# HEIC, which needs a package of its own: 64 x 64 pixels, blue on the left, red on the right.
HEIC = zlib.decompress(
    base64.b64decode(
        "eNpjYGCQSSupLMhIzUxmAILczDRDEDs3MzGNgYExLDe1JJEBAhQzUnKKoGyGgszkEgY0oJSZkw82xMWBgREIgYCx"
        "CkIDgQ4QK2dm5qWBeSBRUSAnlQnKyyhLNgQx+QoyS3LhSq5lFhQVAOntmQXJ+UC6AqjMmZEZJDQBrEjuA8Ofvz9+"
        "MDDwMycAdUg4MPIw/v8PUsAMUsEMQnK7mBwSgZLaToyMaDILFBpZp73y1FyXxyTFwwESOgEiOBySgOrZXRgPFm1Q"
        "cgBaI5ycn1OUl5xTARTmZWBrAAqJZBYXpEL95gDFAgWZFZkgAWYODqBpDOKZBbmw4AOGCEsjEzMLkGmSm5IICj0N"
        "Dcb1wg1PjQ/M//8jRWP9PybZ+PdXTi3NX2tq/7/V2fVvRnvRxEj7KXs+AABDAlVm"
    )
)


def test_heic_whatever_the_file_is_called(tmp_path: Path) -> None:
    pytest.importorskip("pi_heif")
    (tmp_path / "a.jpg").write_bytes(HEIC)
    image = values(read_image(tmp_path / "a.jpg"))
    assert image.shape == (64, 64, 3)
    assert image[32, 8, 2] > 240 and image[32, 8, 0] < 15 and image[32, 56, 0] > 240
    with pytest.raises(DataError, match=r"no image that can be read|damaged or cut off"):
        read_image(HEIC[:200])
    with pytest.raises(DataError, match="64 x 64 pixels, more than max_pixels"):
        read_image(HEIC, max_pixels=99)


def test_heic_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pi_heif", None)
    with pytest.raises(DataError, match=r"is a HEIC image.*pip install '\.\[heif\]'"):
        read_image(HEIC)


# Views


def test_a_view_is_a_part_of_the_image() -> None:
    image = Image.new("RGB", (300, 200), "red")
    for seed in range(50):
        view = augment(image, seed)
        assert view.width == view.height
        assert 0.49 <= view.width**2 / (300 * 200) <= 1.01
        assert view.getcolors() == [(view.width**2, (255, 0, 0))]


def test_the_same_seed_gives_the_same_view() -> None:
    image = picture((90, 60))
    assert augment(image, 7).tobytes() == augment(image, 7).tobytes()
    assert len({augment(image, seed).tobytes() for seed in range(20)}) == 20


def test_half_of_the_views_are_flipped_and_none_upside_down() -> None:
    image = picture((90, 60))
    flipped = 0
    for seed in range(200):
        view = values(augment(image, seed))
        flipped += view[0, 0, 0] > view[0, -1, 0]
        assert view[0, 0, 1] < view[-1, 0, 1]
    assert 70 < flipped < 130


def test_large_images_give_views_of_limited_size() -> None:
    assert augment(Image.new("RGB", (3000, 2000)), 0).size == (896, 896)


def test_bad_image_holds_where_and_why() -> None:
    bad = BadImage(name="a.jpg", row=7, reason="is empty")
    assert (bad.name, bad.row, bad.reason) == ("a.jpg", 7, "is empty")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_the_size_is_that_of_the_image_however_it_is_turned(kind: str) -> None:
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        content = encode(picture((24, 8)), kind, exif=exif)
        shown = (8, 24) if orientation >= 5 else (24, 8)
        assert shown_size(io.BytesIO(content)) == read_image(content).size == shown


def test_the_size_of_a_heic_image(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pi_heif")
    assert shown_size(io.BytesIO(HEIC)) == (64, 64)
    monkeypatch.setitem(sys.modules, "pi_heif", None)
    with pytest.raises(DataError, match=r"is a HEIC image.*pip install '\.\[heif\]'"):
        shown_size(io.BytesIO(HEIC))


def test_the_size_of_what_is_no_image_is_refused_in_the_same_words(tmp_path: Path) -> None:
    for name, content in (("empty.jpg", b""), ("text.jpg", b"no image at all")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError) as read:
            read_image(tmp_path / name)
        with pytest.raises(DataError) as size:
            shown_size(tmp_path / name)
        assert str(read.value) == str(size.value)
