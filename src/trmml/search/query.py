"""What is searched for: terms that add up, and tags that filter."""

import difflib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from trmml.datasets.tables.names import clean_name
from trmml.errors import DataError
from trmml.search.table import READABLE, IndexCard, quoted

_WEIGHTED = re.compile(r"([0-9]+(?:\.[0-9]+)?):(?=\S)")
_CUT = re.compile(r"(.+):((?:0?\.[0-9]+)|0|1|1\.0+|0\.[0-9]*)")

Edges = tuple[float, float, float, float]


@dataclass(frozen=True)
class Term:
    """One thing that images are to resemble, or not.

    Attributes:
        kind: whether `value` is a text, or an image: a file or a name in the index.
        value: of that kind.
        weight: below 0 where images are to be unlike it.
        box: left, top, right, bottom of a part of the image, as shares of its sides.
        typed: the image with its weight, which may be its whole name, as `16:9/a.jpg`.
    """

    kind: Literal["text", "image"]
    value: str
    weight: float = 1.0
    box: Edges | None = None
    typed: str = field(default="", compare=False)

    def whole(self) -> "Term":
        """The same, all of what was typed its name."""
        return replace(self, value=self.typed, weight=math.copysign(1.0, self.weight))


@dataclass(frozen=True)
class TagFilter:
    """Images that have a category, or have it not.

    Attributes:
        name: of the category.
        wanted: False for images without it.
        cut: least probability where nothing is known; the category's threshold when None.
        typed: the name with its cut, which may be a name itself, as `scale 1:1`.
    """

    name: str
    wanted: bool = True
    cut: float | None = None
    typed: str = field(default="", compare=False)

    def among(self, names: Sequence[str]) -> "TagFilter":
        """The same, its whole text the name where there is such a category."""
        whole = self.cut is not None and self.typed in names
        return TagFilter(self.typed, self.wanted) if whole else self


@dataclass(frozen=True)
class Query:
    """Terms whose weighted cosines are summed, and filters that all must hold."""

    terms: tuple[Term, ...] = ()
    tags: tuple[TagFilter, ...] = ()


def parse_query(
    texts: Sequence[str] = (),
    *,
    like: Sequence[str] = (),
    unlike: Sequence[str] = (),
    tags: Sequence[str] = (),
    without: Sequence[str] = (),
    box: str | None = None,
) -> Query:
    """The query that words of the command line say.

    Args:
        texts: each may begin with a weight, as `2:red car`; before a digit, as in `16:9 banner`, it
            is none.
        like: images to resemble, with weights as well; `Index.search` takes all of one as its name
            where there is such an image.
        unlike: images not to resemble.
        tags: category names, each with a least probability if wanted, as `boat:0.8`.
        without: categories that images must not have.
        box: `left,top,right,bottom` of the one image in `like`, as shares of its sides.

    Raises:
        DataError: nothing is asked for, or a part is not of its form.

    Example:
        >>> parse_query(["2:red car"], tags=["boat:0.8"]).terms[0].weight
        2.0
    """
    if box is not None and len(like) != 1:
        raise DataError(f"a box is a part of one image: give one --like with it, not {len(like)}")
    edges = None if box is None else _edges(box)
    terms = [_term("text", text, 1.0) for text in texts]
    terms += [_term("image", image, 1.0, edges) for image in like]
    terms += [_term("image", image, -1.0) for image in unlike]
    filters = [_tag(text, True) for text in tags] + [_tag(text, False) for text in without]
    if not terms and not filters:
        raise DataError(
            "nothing is searched for: give a text, --like an image, or a --tag; as in"
            " `trmml search INDEX 'a red car' --tag street`"
        )
    return Query(tuple(terms), tuple(filters))


def _term(
    kind: Literal["text", "image"], given: str, sign: float, box: Edges | None = None
) -> Term:
    found = _WEIGHTED.match(given)
    if found and kind == "text" and given[found.end()].isdigit():  # a ratio, or a time of day
        found = None
    value = given[found.end() :] if found else given
    if not value.strip():
        raise DataError(f"an empty {kind} finds nothing; say what the images are to resemble")
    weight = float(found[1]) if found else 1.0
    value = value.strip() if kind == "text" else value
    return Term(kind, value, sign * weight, box, given)


def _tag(given: str, wanted: bool) -> TagFilter:
    found = _CUT.fullmatch(given)
    name, cut = (found[1], float(found[2])) if found else (given, None)
    if not name.strip():
        raise DataError(f"--tag and --not take the name of a category, got {given!r}")
    return TagFilter(clean_name(name), wanted, cut, clean_name(given))


def _edges(box: str) -> Edges:
    """The four numbers of a box, cut to the image."""
    try:
        left, top, right, bottom = (float(part) for part in box.split(","))
    except ValueError:
        raise DataError(
            f"--box takes left,top,right,bottom as shares of the image's sides, as"
            f" 0.1,0.2,0.5,0.6; got {box!r}"
        ) from None
    cut = tuple(min(max(edge, 0.0), 1.0) for edge in (left, top, right, bottom))
    if not (cut[0] < cut[2] and cut[1] < cut[3]):  # also where one is nan
        raise DataError(
            f"the box {box} has no area inside the image; give left < right and top < bottom as"
            " shares between 0 and 1"
        )
    return cut[0], cut[1], cut[2], cut[3]


def where(query: Query, card: IndexCard, labelled: Sequence[str] = ()) -> str:
    """The filters as SQL; a known label counts before the tagger's probability.

    Args:
        query: its tags.
        card: of the index.
        labelled: further names that labels of the images have.

    Raises:
        DataError: a category is neither the run's nor among the labels.
    """
    parts = [READABLE]
    for tag in query.tags:
        has = _has(tag, card, labelled)
        parts.append(has if tag.wanted else f"NOT ({has})")
    return " AND ".join(parts)


def _has(tag: TagFilter, card: IndexCard, labelled: Sequence[str]) -> str:
    given, absent, present = (
        f"array_has({column}, {quoted(tag.name)})" for column in ("given", "absent", "present")
    )
    if tag.name not in card.category_names:
        if tag.name in labelled:
            return given
        close = difflib.get_close_matches(tag.name, [*card.category_names, *labelled], n=3)
        hint = f" (did you mean {' or '.join(close)}?)" if close else ""
        raise DataError(
            f"the index has no category {tag.name!r}{hint}; give it as text of the query, or index"
            f" again with --also {tag.name!r}"
        )
    if tag.cut is not None:
        place = card.category_names.index(tag.name) + 1
        present = f"array_element(probability, {place}) >= {tag.cut}"
    return f"({given} OR (({present}) AND NOT {absent}))"
