"""Notice what a table holds in the place of categories, and is none."""

import re
from collections.abc import Mapping, Sequence

import polars as pl

from trmml.errors import DataError

# The edges of a box.
_EDGES = tuple(
    frozenset(names.split())
    for names in (
        *("xmin ymin xmax ymax", "x_min y_min x_max y_max", "x1 y1 x2 y2"),
        *("x y w h", "x y width height", "left top right bottom"),
    )
)
# What an image is used for.
_USES = re.compile(r"is[_ ]?(valid|val|validation|train|training|test)|split|fold|subset")
# What people write where nothing is to be seen, or nobody has looked.
_NO_NAMES = {
    *("none", "nothing", "null", "nan", "n/a", "na", "nil", "no label", "no labels", "no_label"),
    *("unlabeled", "unlabelled", "unknown", "undefined", "?", "-", "--"),
}


def edges(columns: Sequence[str]) -> list[str]:
    """Return the columns that hold the edges of a box; none where one of the four is missing.

    Example:
        >>> edges(["image", "left", "label"]), edges(["X1", "y1", "x2", "y2", "label"])
        ([], ['X1', 'y1', 'x2', 'y2'])
    """
    lower = {name.casefold() for name in columns}
    found = next((each for each in _EDGES if each <= lower), frozenset())
    return [name for name in columns if name.casefold() in found]


def kind(column: pl.Series) -> str:
    """Return in words what a column holds.

    Example:
        >>> kind(pl.Series([1, 2])), kind(pl.Series([[1]]))
        ('numbers', 'lists or objects')
    """
    dtype = column.dtype
    if dtype.is_nested():
        return "lists or objects"
    return "numbers" if dtype.is_numeric() else "times" if dtype.is_temporal() else "no text"


def is_score(cell: object) -> bool:
    """Return whether a cell is a number between 0 and 1, as a model writes it."""
    return bool(re.fullmatch(r"0?[.,]\d+|\d(\.\d+)?e-\d+", str(cell).strip()))


def is_use(column: str) -> bool:
    """Return whether a column is called as what says for which set an image is used."""
    return bool(_USES.fullmatch(column.casefold()))


def refuse_no_names(counts: Mapping[str, int], where: str, choice: str) -> None:
    """Refuse numbers without names, and words for no category at all.

    Args:
        counts: how often each name occurs.
        where: the table and column, for the message.
        choice: how the categories are named.

    Raises:
        DataError: all names are numbers, or one beside others is `None`, `nothing` or alike.
    """
    if all(re.fullmatch(r"\d+(\.0+)?", name) for name in counts):
        raise DataError(
            f"{where} holds numbers alone, as {min(counts):.20}. Name the categories in the "
            f"order of their numbers, from 0, one per line: {choice}. Where the numbers are the "
            "names, list the numbers there."
        )
    strange = [name for name in sorted(counts) if name.casefold() in _NO_NAMES]
    if strange and len(strange) < len(counts):
        raise DataError(
            f"{where} lists {strange[0]!r} ({counts[strange[0]]} times), which may mean that "
            "nothing is to be seen, or is known. Leave such cells blank; or name the categories, "
            f"with it where it is one: {choice}."
        )
