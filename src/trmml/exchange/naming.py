"""Which file is the sidecar of an image, and which folder an image was found under."""

import glob
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal

from trmml.errors import DataError
from trmml.image_search import find_images

Naming = Literal["ext", "lightroom"]
RAW = frozenset(
    ".3fr .arw .cr2 .cr3 .crw .dcr .dng .erf .iiq .kdc .mef .mos .mrw .nef .nrw .orf .pef .raf .raw"
    " .rw2 .rwl .sr2 .srf .srw .x3f".split()
)


class RawFiles:
    """The cameras' raw files beside images; each folder is listed once."""

    def __init__(self) -> None:
        self._by_stem: dict[Path, dict[str, list[Path]]] = {}

    def beside(self, image: Path) -> list[Path]:
        """The raw files of the same name in the folder of an image; none of a raw file itself."""
        if is_raw(image):
            return []
        if image.parent not in self._by_stem:
            found = self._by_stem[image.parent] = defaultdict[str, list[Path]](list)
            for path in sorted(filter(is_raw, image.parent.glob("*.*"))):
                found[path.stem].append(path)
        return self._by_stem[image.parent].get(image.stem, [])

    def owners(self, image: Path) -> list[Path]:
        """Those beside an image whose sidecar `a.xmp` is: they have none as `a.NEF.xmp`."""
        raw = self.beside(image)
        return [path for path in raw if not os.path.lexists(path.with_name(f"{path.name}.xmp"))]


def sidecar_of(image: Path, naming: Naming = "ext", raw_files: RawFiles | None = None) -> Path:
    """The sidecar of an image: `a.jpg.xmp`, or `a.xmp` where that alone is there.

    Where a raw file of that name has no other, `a.xmp` is the raw file's. `a.xmp` is made for raw
    files only, and only by the naming "lightroom".

    Args:
        image: file.
        naming: of new sidecars.
        raw_files: to list no folder twice.
    """
    full, short = image.with_name(f"{image.name}.xmp"), image.with_suffix(".xmp")
    if os.path.lexists(full):
        return full
    if is_raw(image):
        return short if naming == "lightroom" or os.path.lexists(short) else full
    is_short = os.path.lexists(short) and not (raw_files or RawFiles()).owners(image)
    return short if is_short else full


def raw_sidecars(images: Iterable[Path]) -> list[Path]:
    """The sidecars `a.xmp` of raw files that have the name of one of these images."""
    raw_files, found = RawFiles(), dict[Path, None]()
    for image in images:
        short = image.with_suffix(".xmp")
        if short.is_file() and raw_files.owners(image):
            found[short] = None
    return list(found)


def sidecars_of(image: Path) -> list[Path]:
    """The sidecars of an image that are there, under either name."""
    names = (image.with_name(f"{image.name}.xmp"), image.with_suffix(".xmp"))
    return [path for path in dict.fromkeys(names) if path.is_file()]


def shared(sidecars: Iterable[tuple[Path, Path]]) -> dict[Path, list[Path]]:
    """The images of each sidecar that several have, as `a.xmp` beside `a.jpg` and `a.png`.

    Args:
        sidecars: image and sidecar.
    """
    images = defaultdict[Path, list[Path]](list)
    for image, sidecar in sidecars:
        images[sidecar].append(image)
    return {sidecar: each for sidecar, each in images.items() if len(each) > 1}


def place_of(path: str | Path, real: Callable[[str], str] = os.path.realpath) -> str:
    """The one name of a file: of its folders, links and ".." are followed.

    A file that is a link itself keeps its name, for its sidecar lies beside the link.

    Args:
        path: of a file.
        real: follows the links of a folder; may remember what it found.
    """
    folder, name = os.path.split(path)
    return os.path.join(real(folder), name)


def is_raw(image: Path) -> bool:
    """Whether a file is a camera's raw file, by its name."""
    return image.suffix.lower() in RAW


def found_images(named: Sequence[str]) -> dict[Path, Path]:
    """The folder that each image was found under, by image; see `find_images`.

    It is the folder that was named, the start of a pattern, or the folder of a file.

    Raises:
        DataError: a name stands for nothing.
    """
    found, seen = dict[Path, Path](), set[str]()
    for name in named:
        for image in find_images([name]):
            if (path := os.path.abspath(image)) not in seen:
                seen.add(path)
                found[image] = _root(name, image)
    return found


def common_folder(folders: Iterable[Path]) -> Path:
    """The one folder, absolute, that all of these are or lie in."""
    return Path(os.path.commonpath([os.path.abspath(folder) for folder in folders]))


def _root(name: str, image: Path) -> Path:
    if os.path.isdir(name):
        return Path(name)
    if os.path.exists(name) or not glob.has_magic(name):
        return image.parent
    parts = Path(name).parts
    fixed = next(place for place, part in enumerate(parts) if glob.has_magic(part))
    return Path(*parts[:fixed])


def resolved(sidecar: Path, root: Path) -> Path:
    """The file that a sidecar is, links followed.

    Raises:
        DataError: it is a link that leads out of the root or nowhere, or no plain file.
    """
    real = sidecar
    if sidecar.is_symlink():
        real = sidecar.resolve()
        if not real.is_relative_to(root.resolve()):
            raise DataError(f"is a link to {real}, outside {root}; nothing is written there")
        if not real.exists():
            raise DataError(f"is a link to {real}, which is not there")
    if os.path.lexists(real) and not real.is_file():
        raise DataError("is no plain file; move it away")
    return real
