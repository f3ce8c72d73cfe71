"""Decode image files to plain RGB, and draw random views of them."""

import contextlib
import io
import math
import os
import random
import stat
import threading
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from trmml.errors import DataError, how_to_install
from trmml.image_repair import is_heif, repaired, what_instead

MAX_PIXELS = 178_956_970  # where Pillow itself refuses: 256 MiB of RGB, twice

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "JPEG2000")
_HEAD = 64  # bytes that tell what a file is
_ORIENTATION_TAG = 0x0112  # Exif 2.3, table 4; its values 2 to 8:
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_LARGEST_VIEW = 896  # twice the field's 448 pixels, so that an encoder's own resize loses nothing

_File = io.BufferedReader | io.BytesIO


@dataclass(frozen=True)
class BadImage:
    """An image that was left out.

    Args:
        name: as the table or the caller wrote it.
        row: its line in the table; None without a table.
        reason: why, in words.
    """

    name: str
    row: int | None
    reason: str


def read_image(
    source: Path | str | bytes,
    *,
    max_pixels: int = MAX_PIXELS,
    at_least: int | None = None,
    name: str = "the image in memory",
) -> Image.Image:
    """Return an image file as 8-bit RGB, as it is meant to be seen.

    JPEG, PNG, WebP, GIF, TIFF, BMP, AVIF and JPEG 2000 are read, and HEIC with the extra `heif`.
    Damaged metadata and a missing end mark are no hindrance where the pixels are whole. The first
    frame is taken, turned as its EXIF data say, and laid on white where it is transparent. 16-bit
    grey is divided by 257. Float grey is scaled by 255 if it lies in [0, 1], 32-bit grey divided
    by 257 if in [0, 65535], either kept if in [0, 255], and otherwise stretched from its least to
    its greatest value. Colour profiles are ignored.

    Args:
        source: a path, or the content of a file.
        max_pixels: width times height above which nothing is decoded, so that a small file cannot
            fill the memory. Pillow has a limit of its own, `PIL.Image.MAX_IMAGE_PIXELS`.
        at_least: a JPEG is decoded at a half, a quarter or an eighth of its size where both sides
            then still have this many pixels: the format allows that, in a fraction of the time.
        name: of a content, in messages.

    Raises:
        DataError: the file is missing, may not be read, is empty, no image, damaged or too large.

    Example:
        >>> import io
        >>> from PIL import Image
        >>> file = io.BytesIO()
        >>> Image.new("LA", (4, 2), (0, 0)).save(file, "PNG")
        >>> image = read_image(file.getvalue())
        >>> image.mode, image.size, image.getpixel((0, 0))
        ('RGB', (4, 2), (255, 255, 255))
    """
    if isinstance(source, bytes):
        return _decode(io.BytesIO(source), name, max_pixels, at_least)
    try:
        if is_special(source):
            raise DataError(f"{source} is a pipe, socket or device, not an image. Name a file.")
        with open(source, "rb") as file:
            return _decode(file, str(source), max_pixels, at_least)
    except (OSError, ValueError) as error:
        raise DataError(_why_unreadable(str(source), error)) from error


def turned_size(image: Image.Image) -> tuple[int, int]:
    """Width and height as an opened image is meant to be shown.

    Of a TIFF, Pillow's size is the one that is shown; of others, the one that is stored.
    """
    stored = image.format != "TIFF" and _orientation(image) >= 5
    return (image.height, image.width) if stored else image.size


def shown_size(path: Path | str | io.BytesIO) -> tuple[int, int]:
    """Width and height in pixels as an image is meant to be shown, from the file's head.

    Raises:
        DataError: it is not there, no image, or a HEIC image without the extra `heif`.
    """
    try:
        if is_heif(_head_of(path)):
            heif_formats(str(path))
        with Image.open(path) as image:
            return turned_size(image)
    except DataError:
        raise
    except UnidentifiedImageError as error:
        raise DataError(_why_undecodable(str(path), _head_of(path), error)) from error
    except Exception as error:  # on damaged files, decoders raise almost anything
        raise DataError(_why_unreadable(str(path), error)) from error


def _head_of(source: Path | str | io.BytesIO) -> bytes:
    if isinstance(source, io.BytesIO):
        return source.getvalue()[:_HEAD]
    with open(source, "rb") as file:
        return file.read(_HEAD)


def is_special(path: Path | str) -> bool:
    """Whether a path is a pipe, socket or device: opening one may wait for ever."""
    try:
        mode = os.stat(path).st_mode
    except OSError:  # whoever reads it says why
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def augment(image: Image.Image, seed: int) -> Image.Image:
    """Return a random view: a part of the image as a square, flipped left to right half the time.

    The part has half of the image's area or more and an aspect ratio from 3:4 to 4:3; an image too
    thin for that is used whole. The square has about the area of the part, and a side of at most
    896 pixels. The same seed gives the same view.

    Source: the random resized crop of Szegedy et al., Going deeper with convolutions, 2015,
        section 6, with a least area of 0.5 because a smaller part loses objects that are labelled.
    """
    generator = random.Random(seed)
    left, top, width, height = _draw_box(image.width, image.height, generator)
    side = max(1, min(round(math.sqrt(width * height)), _LARGEST_VIEW))
    box = (left, top, left + width, top + height)
    view = image.resize((side, side), Image.Resampling.BICUBIC, box=box)
    if generator.random() < 0.5:
        view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return view


def _decode(file: _File, name: str, max_pixels: int, at_least: int | None) -> Image.Image:
    head = file.read(_HEAD)
    if not head:
        raise DataError(_why_undecodable(name, head, EOFError()))
    formats = heif_formats(name) if is_heif(head) else _FORMATS
    try:
        with _quiet.hold():
            versions = _versions(file) if _zero_filled(file, head) else ()
            try:
                if not versions:
                    return _pixels(file, name, formats, max_pixels, at_least)
            except (DataError, Image.DecompressionBombError):
                raise
            except Exception:  # on damaged files, decoders raise almost anything
                if not (versions := _versions(file)):
                    raise
            return _agreed(
                [_pixels(io.BytesIO(v), name, formats, max_pixels, at_least) for v in versions]
            )
    except DataError:
        raise
    except Image.DecompressionBombError as error:
        raise DataError(
            f"{name} is too large: {error} Make it smaller, or leave it out "
            "(--on-bad-image skip); in Python max_pixels and PIL.Image.MAX_IMAGE_PIXELS limit it."
        ) from error
    except Exception as error:
        raise DataError(_why_undecodable(name, head, error)) from error


def _pixels(
    file: _File, name: str, formats: tuple[str, ...], max_pixels: int, at_least: int | None
) -> Image.Image:
    file.seek(0)
    image = Image.open(file, formats=formats)
    if image.width * image.height > max_pixels:
        raise DataError(
            f"{name} is {image.width} x {image.height} pixels, more than max_pixels = "
            f"{max_pixels}. Make it smaller, or leave it out (--on-bad-image skip)."
        )
    if at_least is not None:
        image.draft(None, (at_least, at_least))  # JPEG only; others stay as they are
    image.load()
    return _turn(_to_rgb(image), _orientation(image))


def _versions(file: _File) -> tuple[bytes, ...]:
    file.seek(0)
    return repaired(file.read())


def _zero_filled(file: _File, head: bytes) -> bool:
    """Whether a JPEG ends in zeros, as a download that broke off; Pillow takes them for pixels."""
    file.seek(max(0, file.seek(0, os.SEEK_END) - 2))
    return head.startswith(b"\xff\xd8") and file.read() == b"\0\0"


def _agreed(images: Sequence[Image.Image]) -> Image.Image:
    """Return the first of some images; an error where another has other pixels."""
    if any(image.tobytes() != images[0].tobytes() for image in images[1:]):
        raise OSError("the end is missing")
    return images[0]


def heif_formats(name: str) -> tuple[str, ...]:
    """Return Pillow's name of HEIC, once the package that reads it is there.

    Raises:
        DataError: it is not there; the message begins with the name.
    """
    try:
        import pi_heif
    except ImportError as error:
        raise DataError(
            f"{name} is a HEIC image, which needs one more package. Install it "
            f"{how_to_install('heif')}. Or convert it to JPEG."
        ) from error
    pi_heif.register_heif_opener()
    return ("HEIF",)


def _why_undecodable(name: str, head: bytes, error: Exception) -> str:
    if not head:
        return f"{name} is empty (0 bytes). Copy it again, or remove it."
    if words := what_instead(head):
        return f"{name} {words}"
    if isinstance(error, UnidentifiedImageError):
        return (
            f"{name} is no image that can be read: damaged, or not one of AVIF, BMP, GIF, HEIC, "
            "JPEG, JPEG 2000, PNG, TIFF and WebP. Convert it to PNG, or remove it."
        )
    return (
        f"{name} is damaged or cut off: {error or type(error).__name__}. Copy it again, or "
        "remove it."
    )


def _why_unreadable(name: str, error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return f"there is no image {name}. Check the name and the folder."
    if isinstance(error, IsADirectoryError):
        return f"{name} is a folder, not an image. Name the images in it, or use find_images."
    if isinstance(error, PermissionError):
        return f"{name} may not be read: permission denied. Allow reading the file."
    return f"{name} cannot be read: {error}. Check the name and the disk."


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        return Image.fromarray(_to_8_bit(np.asarray(image), image.mode)).convert("RGB")
    if image.mode == "La":  # Pillow knows no direct way to RGBA
        image = image.convert("LA")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _to_8_bit(values: np.ndarray, mode: str) -> np.ndarray:
    """Return grey values of 16 or 32 bit, or floats, as uint8; a float that is no number is 0."""
    values = np.nan_to_num(values.astype(np.float32), posinf=0.0, neginf=0.0)
    low, high = float(values.min()), float(values.max())
    if mode.startswith("I;16") or (mode == "I" and low >= 0 and 255 < high <= 65535):
        values = values / 257  # 65535 = 255 * 257
    elif mode == "F" and low >= 0 and high <= 1:
        values = values * 255
    elif low < 0 or high > 255:
        values = (values - low) * (255 / (high - low)) if high > low else values * 0
    return np.rint(values).astype(np.uint8)


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # damaged EXIF data; the pixels are fine
        return 1


def _turn(image: Image.Image, orientation: int) -> Image.Image:
    turn = _TURNS.get(orientation)
    return image if turn is None else image.transpose(turn)


class _Quiet:
    """Keep Pillow's warnings about odd but readable files to ourselves.

    `warnings.catch_warnings` by itself is not safe when several threads decode: one that leaves
    would restore what another has changed. So the first to come enters and the last to leave exits.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._caught = contextlib.ExitStack()

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        with self._lock:
            if self._inside == 0:
                self._caught.enter_context(warnings.catch_warnings())
                warnings.filterwarnings("ignore", module=r"PIL\.")
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if self._inside == 0:
                    self._caught.close()


_quiet = _Quiet()


def _draw_box(width: int, height: int, generator: random.Random) -> tuple[int, int, int, int]:
    """Return left, top, width and height of a random part; the whole after ten misses."""
    for _ in range(10):
        area = width * height * generator.uniform(0.5, 1.0)
        aspect = math.exp(generator.uniform(math.log(3 / 4), math.log(4 / 3)))
        part_width, part_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < part_width <= width and 0 < part_height <= height:
            left = generator.randint(0, width - part_width)
            return left, generator.randint(0, height - part_height), part_width, part_height
    return 0, 0, width, height
