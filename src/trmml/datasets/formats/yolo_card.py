"""Read data.yaml of a YOLO set, or its plain list of names."""

from pathlib import Path
from typing import Any

import yaml

from trmml.datasets.files import read_plain
from trmml.datasets.formats.folder import read_categories
from trmml.datasets.tables.names import unique_names
from trmml.errors import DataError

_LOADER: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)  # ten times as fast, where it is built
_MOST_TEXT = 1 << 20
_DEEPEST = 20


def read_card(path: Path) -> dict[str, Any]:
    """Return the content of data.yaml; a plain list of names becomes its `names`.

    Values stay text: YAML would make `no` False, `null` None and `007` 7.

    Raises:
        DataError: it is no YAML, too long or deep, or holds references, which could fill memory.
    """
    if path.suffix not in (".yaml", ".yml"):
        return {"names": list(read_categories(path))}
    text = read_plain(path)
    if len(text) > _MOST_TEXT:
        raise DataError(f"{path} is too long for names and folders: over {_MOST_TEXT:,} letters.")
    try:
        _check(path, text)
        tree = yaml.load(text, _LOADER)
    except (yaml.YAMLError, ValueError) as error:
        raise DataError(f"{path} is no YAML: {' '.join(str(error).split())}. Correct it.") from None
    return tree if isinstance(tree, dict) else {}


def _check(path: Path, text: str) -> None:
    """Refuse references and depth before anything is built of them."""
    depth = 0
    for event in yaml.parse(text, _LOADER):
        if isinstance(event, yaml.AliasEvent):
            raise DataError(f"{path} holds YAML references (*name); write their values instead.")
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEEPEST:
            raise DataError(
                f"{path}: lists lie in each other more than {_DEEPEST} deep. Correct it."
            )


def category_names(path: Path, card: dict[str, Any]) -> tuple[str, ...]:
    """Return the category names of a card.

    Raises:
        DataError: it names none, skips a number, or its `nc` is another count.
    """
    names: Any = card.get("names")
    if isinstance(names, dict) and set(names) == set(map(str, range(len(names)))):
        names = [names[str(index)] for index in range(len(names))]
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        raise DataError(f"{path} needs 'names': a list, or a mapping that counts from 0.")
    count = card.get("nc", str(len(names)))
    if count != str(len(names)):
        raise DataError(
            f"{path} has {len(names)} names, but nc is {count!r:.20}. Correct the list, or nc."
        )
    return unique_names(names, str(path))


def key_point_numbers(path: Path, card: dict[str, Any]) -> int:
    """Return how many numbers of key points follow each box: 0 without `kpt_shape`.

    Raises:
        DataError: `kpt_shape` is not the number of points and of values for each, 2 or 3.
    """
    shape = card.get("kpt_shape")
    if shape is None:
        return 0
    if isinstance(shape, list) and len(shape) == 2 and shape[1] in ("2", "3"):
        if str(shape[0]).isdecimal():
            return int(shape[0]) * int(shape[1])
    raise DataError(f"{path}: expected kpt_shape as in [17, 3], got {shape!r:.40}. Correct it.")
