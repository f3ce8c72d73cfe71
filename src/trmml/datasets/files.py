"""Find and read the text, list and JSON files that data sets are published in."""

import json
import re
import xml.etree.ElementTree as Xml
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np

from trmml.datasets.options import Split
from trmml.datasets.tables.table import as_utf8
from trmml.errors import DataError, MissingSplitError
from trmml.storage.json_text import parse_json

_SHOWN = 8  # names of a wrong folder that a message lists


def find_file(root: Path, places: Sequence[str], what: str, split: Split | None = None) -> Path:
    """Return the first of `places` below `root` that is a file.

    Args:
        root: the data set's folder.
        places: below `root`, in the order of preference.
        what: for the message, as in "the image list".
        split: what the file stands for, if for a whole split.

    Raises:
        DataError: `root` is no folder, or none of the files is there; it says what is.
        MissingSplitError: the same, where `split` is named.
    """
    for place in places:
        if (root / place).is_file():
            return root / place
    message = (
        f"{what} was expected at {' or '.join(places)} below {root}, {_what_is_there(root)} "
        "Name the folder that holds it, or copy the file there; docs/data.md shows each layout."
    )
    if split is None:
        raise DataError(message)
    raise MissingSplitError(f"{message} {without_split(split)}")


def without_split(split: Split) -> str:
    """Return what to do with a data set that has no such split."""
    other = "train" if split == "test" else "test"
    fit = ", and `trmml fit` needs no test set" if split == "test" else ""
    return (
        f"If there is only a {other} set: `trmml data` and `trmml evaluate` read it by --split "
        f"{other}{fit}."
    )


def find_folder(root: Path, places: Sequence[str], what: str) -> str:
    """Return the first of `places` below `root` that is a folder; "" stands for `root` itself.

    Raises:
        DataError: `root` is no folder, or none of them is there; it says what is.
    """
    for place in places:
        if (root / place).is_dir():
            return place
    raise DataError(
        f"{what} were expected in {' or '.join(places)} below {root}, {_what_is_there(root)} "
        "Name the folder that holds it, or unpack the images there; docs/data.md shows each layout."
    )


def _what_is_there(root: Path) -> str:
    if not root.exists():
        return "which does not exist."
    if not root.is_dir():
        return "which is a file, not a folder."
    names = sorted(entry.name for entry in root.iterdir())
    if not names:
        return "which is empty."
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"which holds {', '.join(names[:_SHOWN])}{more}."


def read_plain(path: Path) -> str:
    """Return the text of a UTF-8 file, "" if it is empty, without byte order mark and returns.

    Raises:
        DataError: the file cannot be read or is in another encoding.
    """
    try:
        return as_utf8(path, path.read_bytes()).decode()
    except OSError as error:
        raise DataError(
            f"cannot read {path}: {error.strerror}. Copy the file there, or allow reading it."
        ) from error


def read_lines(path: Path) -> list[tuple[int, str]]:
    """Return the lines of a UTF-8 file that are not blank, each with its number from 1.

    Byte order mark, carriage returns and space at either end are dropped.

    Raises:
        DataError: the file is missing, in another encoding or has no line.
    """
    lines = (line.strip() for line in read_plain(path).split("\n"))
    filled = [(number, line) for number, line in enumerate(lines, start=1) if line]
    if not filled:
        raise DataError(f"{path} is empty. Perhaps the download was cut off; fetch it again.")
    return filled


def read_json(path: Path) -> Any:
    """Return what a JSON file in UTF-8 holds, with or without byte order mark.

    Raises:
        DataError: the file is missing, empty, in another encoding or no JSON.
    """
    text = read_plain(path)
    if not text.strip():
        raise DataError(f"{path} is empty. Perhaps the download was cut off; fetch it again.")
    try:
        return parse_json(text)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path} line {error.lineno} is no JSON: {error.msg}. Perhaps the download was cut "
            "off; fetch the file again."
        ) from error
    except ValueError as error:
        raise DataError(f"{path} cannot be read as JSON: {error}. Correct the file.") from error


def read_xml(path: Path) -> Xml.Element:
    """Return the root of an XML file, in the encoding it declares, without document type.

    Raises:
        DataError: the file is missing or no such XML.
    """
    try:
        return parsed_xml(path.read_bytes())
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}. Copy the file there.") from error
    except ValueError as error:
        raise DataError(f"{path} is no XML: {error}. Copy the file again.") from error


def parsed_xml(content: bytes | str) -> Xml.Element:
    """Return the root of XML without document type.

    Raises:
        ValueError: it is no such XML.
    """
    try:
        return Xml.fromstring(content, Xml.XMLParser(target=_NoDocumentType()))
    except (Xml.ParseError, LookupError) as error:
        raise ValueError(str(error)) from error


class _NoDocumentType(Xml.TreeBuilder):
    def doctype(self, *_: object) -> None:
        """Refuse it: entities that refer to each other fill memory."""
        raise ValueError("it declares a document type; annotations need none, so remove it")


def below(path: str, where: str, root: Path | None = None) -> str:
    r"""Return an image's name with `/` between folders, checked to stay in its folder.

    Args:
        path: as a list or JSON gives it, with `/` or `\`.
        where: for the message, as in `list.txt line 7`.
        root: the folder; with it, absolute names and file:// URLs that lie below it are allowed.

    Raises:
        DataError: it is blank, absolute or leads upwards.

    Example:
        >>> below(".\\actor\\1.jpg", "list.txt line 1")
        'actor/1.jpg'
        >>> below("file:///data/a%20b.jpg", "list.txt line 1", Path("/data"))
        'a b.jpg'
    """
    name = path.strip().replace("\\", "/")
    if root is not None and name.casefold().startswith("file://"):
        name = unquote(name[len("file://") :])
    tops = () if root is None or name[:1] != "/" else (root.absolute(), root.resolve())
    top = next((f"{top.as_posix()}/" for top in tops if name.startswith(f"{top.as_posix()}/")), "")
    name = name.removeprefix(top)
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", name):
        raise DataError(
            f"{where}: {path!r:.200} is an address, not a file below the images folder. Download "
            "the image, and write the name of its file."
        )
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if not parts or name[0] == "/" or name[1:3] == ":/" or ".." in parts:
        raise DataError(
            f"{where}: {path!r} leads out of the images folder. Write the name below the folder, "
            "without drive, leading slash or '..'."
        )
    return "/".join(parts)


def below_folder(folder: str, option: str, root: Path) -> str:
    """Return the folder that an option names, below the root; "" for the root itself.

    Raises:
        DataError: it is absolute and not below the root, or leads upwards.
    """
    plain = unquote(folder.removeprefix("file://")).replace("\\", "/")
    if root.joinpath(plain).resolve() == root.resolve():
        return ""
    return below(folder, f"option {option}", root)


def read_array(path: Path) -> np.ndarray:
    """Return the array in a NumPy file, without unpickling anything.

    Raises:
        DataError: it is damaged, holds several arrays, or would need pickle, which could run code.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if isinstance(array, np.ndarray) and array.dtype.kind == "U" and array.size:
            letters = np.ascontiguousarray(array).view(f"{array.dtype.byteorder}u4")
            chr(int(letters.max()))  # raises where one is no letter of Unicode
    except Exception as error:  # a damaged head raises whatever it runs into
        reason = str(error).partition("\n")[0].rstrip(".")
        raise DataError(
            f"{path} is no plain numpy array, or damaged: {reason}. Fetch it again; a file that"
            " needs pickle is not read, for it could run code."
        ) from error
    if not isinstance(array, np.ndarray):
        raise DataError(f"{path} is no plain numpy array: it holds several.")
    return np.asarray(array)
