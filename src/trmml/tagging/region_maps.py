"""Show where a tag comes from: a region map laid over its image."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from trmml.errors import DataError
from trmml.storage.atomic import whole_file

# The overlay's longer side in pixels, and the share of the map where it is strongest.
OVERLAY_PIXELS = 480
OVERLAY_SHARE = 0.55
# Of the name of an image or tag within that of a map.
MOST_BYTES = 110


def region_map(
    attention: Float[Tensor, " P"], grid: tuple[int, int], size: tuple[int, int]
) -> Float[Tensor, "height width"]:
    """Attention over patches as a map of the size of the image in [0, 1]; the strongest patch is 1.

    Args:
        attention: one category's, over the patches row by row.
        grid: (rows, columns) of the patches.
        size: (width, height) of the image in pixels.

    Example:
        >>> import torch
        >>> region_map(torch.tensor([1.0, 0.0, 0.0, 0.0]), (2, 2), (4, 4)).shape
        torch.Size([4, 4])
    """
    width, height = size
    patches = attention.reshape(1, 1, *grid).float()
    full = F.interpolate(patches, (height, width), mode="bicubic", align_corners=False)[0, 0]
    full = full.clamp(min=0)
    return full / full.max().clamp(min=1e-12)


def overlay(image: Image.Image, weights: Float[Tensor, "height width"]) -> Image.Image:
    """The image in grey, with the region in colour on top.

    Args:
        image: RGB.
        weights: in [0, 1], of the image's size.
    """
    from matplotlib import colormaps  # slow to import, and only overlays need it

    share = weights.numpy()[..., None]
    heat = np.asarray(colormaps["inferno"](weights.numpy()))[..., :3] * 255
    pixels = np.asarray(image, dtype=np.float32)
    mixed = pixels * (1 - OVERLAY_SHARE * share) + heat * OVERLAY_SHARE * share
    return Image.fromarray(mixed.clip(0, 255).astype(np.uint8))


def shrink(image: Image.Image, longest: int = OVERLAY_PIXELS) -> Image.Image:
    """The image with its longer side at most `longest` pixels."""
    factor = longest / max(image.size)
    if factor >= 1:
        return image
    width, height = (max(1, round(side * factor)) for side in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)


class MapFolder:
    """A folder of region maps: one PNG per image and tag, `<image>.<tag>.png`.

    Args:
        folder: made when it is not there; none that holds an image that will be tagged.
        images: all that will be tagged; those of one name in several folders get a number.
        grid: (rows, columns) of the patches.
    """

    def __init__(self, folder: Path | str, images: Sequence[Path], grid: tuple[int, int]) -> None:
        self._folder, self._grid = Path(folder), grid
        own = self._folder.resolve()
        here = {each for each in {path.parent for path in images} if each.resolve() == own}
        if any(path.parent in here and not _is_map(path) for path in images):
            raise DataError(
                f"{folder} holds images to tag, and maps among them would be taken for more;"
                " name another folder for the maps"
            )
        self._stems = _distinct_stems(images)
        self._folder.mkdir(parents=True, exist_ok=True)

    def write(
        self,
        number: int,
        image: Image.Image,
        attention: Float[Tensor, "K P"],
        names: Sequence[str],
    ) -> tuple[Path, ...]:
        """Write the maps of an image and return their paths, a map for each name.

        Args:
            number: position of the image among all.
            image: RGB.
            attention: over patches, of each name.
            names: of the tags.
        """
        small, stem = shrink(image), self._stems[number]
        written: list[Path] = []
        for row, name in zip(attention, names, strict=True):
            plain = _short("".join(c if c.isalnum() or c in "-_" else "_" for c in name))
            while self._folder / f"{stem}.{plain}.png" in written:
                plain += "_"  # two names may differ only in what a file name cannot hold
            path = self._folder / f"{stem}.{plain}.png"
            if path.is_file() and not _is_map(path):
                raise DataError(
                    f"{path} is there already and does not say that it is a region map of trmml;"
                    " name another folder for the maps"
                )
            shown = overlay(small, region_map(row, self._grid, small.size))
            with whole_file(path) as part:
                shown.save(part, "PNG", pnginfo=_made_here())
            written.append(path)
        return tuple(written)


def without_maps(images: Sequence[Path], folder: Path | str) -> list[Path]:
    """Images but for the maps of an earlier call, whose folder may lie below that of the images."""
    own = Path(folder).resolve()
    within = {each for each in {path.parent for path in images} if each.resolve() == own}
    return [path for path in images if path.parent not in within or not _is_map(path)]


def _made_here() -> PngInfo:
    info = PngInfo()
    info.add_text("Software", "trmml")
    return info


def _is_map(path: Path) -> bool:
    """Whether a file says that it was written here; it says so at once."""
    try:
        with path.open("rb") as file:
            return b"tEXtSoftware\0trmml" in file.read(128)
    except OSError:
        return False


def _short(name: str) -> str:
    """A name of at most 110 bytes: with two of them, a file's stays below the usual 255."""
    content = os.fsencode(name)
    if len(content) <= MOST_BYTES:
        return name
    digest = hashlib.sha256(content).hexdigest()[:8]
    return f"{content[: MOST_BYTES - 9].decode('utf-8', 'ignore')}-{digest}"


def _distinct_stems(paths: Sequence[Path]) -> list[str]:
    """A file stem per image; images of one name in several folders get a number."""
    taken: set[str] = set()
    stems = []
    for path in paths:
        short, count = _short(path.stem), 1
        stem = short
        while stem in taken:
            count += 1
            stem = f"{short}-{count}"
        taken.add(stem)
        stems.append(stem)
    return stems
