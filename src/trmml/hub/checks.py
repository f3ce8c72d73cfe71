"""What of a run tells of people or machines, and what of a repository is none of a run."""

import getpass
import html
import platform
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from trmml.encoders import is_factory
from trmml.errors import CheckpointError
from trmml.storage.json_text import parse_json, parse_object

# What is pulled, and the most bytes each may have; a tagger holds nothing of its encoder.
PULLED = {
    "model.safetensors": 2**31,
    "model.json": 2**24,
    "settings.json": 2**20,
    "config.json": 2**22,
    "README.md": 2**20,
}
NEEDED = ("model.safetensors", "model.json", "config.json")
# Files that hold code, or may when they are loaded.
_CODE = re.compile(
    r"\.(py[cowid]?|ipynb|sh|so|dll|exe|pkl|pickle|pt|pth|bin|ckpt|joblib|npy)$", re.I
)
# A place: from the root, the home or a drive, of another machine, or as a URL of a file.
_PATH = re.compile(
    r"((?<![\w.~/\\<-])(?:/(?!/)|~/|[A-Za-z]:[\\/]|\\\\)[\w.-]+[\\/][^\s\"'<>`|\]]*"
    r"|file:/[^\s\"'<>`|\]]+)"
)
_MAIL = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)*\.[a-z]{2,}\b", re.I)
# Where JSON of a run has words of its maker; all else is in trmml's own, as "training" is.
_GIVEN = {"category_names", "root", "name", "encoder_spec", "template", "negative_template"}
# Images within a page; their letters mean nothing.
_IMAGE = re.compile(r"base64,[A-Za-z0-9+/=]+")
_HUB_NAME = re.compile(r"hf-hub:[\w-][\w.-]*/[\w-][\w.-]*")
# Users of services and of images of machines.
_NOBODY = ("root", "user", "admin", "ubuntu", "ec2-user", "runner", "jovyan", "vscode", "data")
_TAGGED = re.compile(r"[\w./-]+:[\w-]+")


def encoder_fault(spec: str | None) -> str | None:
    """Why others cannot load an encoder by this name, or may not; None where they can."""
    if spec is None:
        return "it names no encoder"
    if spec != "bundled" and is_factory(spec):
        return f"its encoder {spec!r} is code"
    if spec == "bundled" or _HUB_NAME.fullmatch(spec):
        return None
    if not _TAGGED.fullmatch(spec) or spec.startswith(("hf-hub:", "local-dir:", "/", ".")):
        return f"its encoder {spec!r} is a place on one machine"
    return None


def identifying(name: str, text: str) -> Iterator[str]:
    """What in a text names a place of this machine, its user or its name; a line each.

    Names are looked for where a person's words are, for a user may be called "data". The card says
    what model.json says, in words of trmml and those that were asked for.

    Args:
        name: of the file, for the lines.
        text: of the file.
    """
    text = given = _IMAGE.sub("", text)
    if name.endswith(".html"):
        text = given = html.unescape(text)
    elif name.endswith(".json"):
        tree = parse_json(text)
        text, given = "\n".join(_texts(tree)), "\n".join(_given(tree))
    elif name == "README.md":
        given = ""
    for path in sorted({match[1] for match in _PATH.finditer(text)}):
        yield f"{name} names a place on a machine: {path}"
    for mail in sorted(set(_MAIL.findall(text))):
        yield f"{name} names an e-mail address: {mail}"
    for what, word in (("this machine", platform.node()), ("its user", _user())):
        if len(word) > 3 and re.search(rf"\b{re.escape(word)}\b", given):
            yield f"{name} names {what}: {word}"


def _texts(tree: Any) -> Iterator[str]:
    """All texts of JSON values, names of keys too."""
    if isinstance(tree, str):
        yield tree
    elif isinstance(tree, Mapping):
        for name, value in tree.items():
            yield name
            yield from _texts(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _texts(value)


def _given(tree: Any) -> Iterator[str]:
    """Texts of JSON values that a person may have chosen."""
    if isinstance(tree, Mapping):
        for name, value in tree.items():
            yield from _texts(value) if name in _GIVEN else _given(value)


def _user() -> str:
    """The user's name, but for one that names nobody."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        return ""
    return "" if user in _NOBODY else user


def check_listing(name: str, sizes: Mapping[str, int | None]) -> None:
    """Refuse a repository by the names and sizes of its files, before any of them is fetched.

    Raises:
        CheckpointError: it is no run, or holds what a run never does.
    """
    for file, size in sizes.items():
        place = PurePosixPath(file)
        if place.is_absolute() or ".." in place.parts or "\\" in file or ":" in file:
            raise CheckpointError(_refused(name, f"the name {file!r} leads out of its folder"))
        if _CODE.search(file):
            raise CheckpointError(
                _refused(name, f"{file} is code or a pickle, which a run has not")
            )
        if file in PULLED and (size or 0) > (most := PULLED[file]):
            raise CheckpointError(
                _refused(name, f"{file} has {size} bytes; in a run it has at most {most}")
            )
    if missing := [file for file in NEEDED if file not in sizes]:
        raise CheckpointError(_refused(name, f"it lacks {', '.join(missing)}, so it is no run"))


def check_pulled(name: str, folder: Path) -> None:
    """Refuse files that are no run, or that name code or a place as their encoder.

    What the checksums say is for `load_card` to find.

    Raises:
        CheckpointError: naming the fault.
    """
    for file in folder.iterdir():
        if file.is_symlink() or file.stat().st_size > PULLED[file.name]:
            raise CheckpointError(_refused(name, f"{file.name} is larger than a run's, or a link"))
    config, card = (_object(name, folder / file) for file in ("config.json", "model.json"))
    if config.get("library") != "trmml":
        raise CheckpointError(_refused(name, "its config.json does not say that trmml wrote it"))
    spec = card.get("encoder_spec")
    if fault := encoder_fault(spec if isinstance(spec, str) else None):
        raise CheckpointError(_refused(name, fault))


def _object(name: str, path: Path) -> dict[str, Any]:
    try:
        return parse_object(path.read_bytes())
    except ValueError as error:
        raise CheckpointError(_refused(name, f"{path.name} is no JSON object ({error})")) from None


def _refused(name: str, why: str) -> str:
    return f"{name} is refused: {why}. Nothing was kept or run; ask who pushed it"
