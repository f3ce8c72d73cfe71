"""Names of categories: cleaned, compared, counted, and the nearest to one that is not there."""

import difflib
import unicodedata
from collections.abc import Collection, Mapping, Sequence

from trmml.errors import DataError

_INVISIBLE = dict.fromkeys(map(ord, "\u200b\u2060\ufeff\u00ad"))  # spaces of no width, soft hyphen
_MOST_NAMES = 25_000


def clean_name(name: str) -> str:
    """Return a name with composed accents (NFC), no space around it and no invisible character.

    Joiners (U+200C, U+200D), which shape letters in some scripts and emoji, stay.
    """
    return unicodedata.normalize("NFC", name.translate(_INVISIBLE).strip())


def same(name: str) -> str:
    """Return what two spellings of a word share: composed accents, no case, no space around."""
    return clean_name(clean_name(name).casefold())


def folded(name: str) -> str:
    """Return what is left of a name without case, spaces, hyphens and invisible characters.

    Example:
        >>> folded("Sea_Buoy") == folded("sea buoy") == folded("seabuoy")
        True
    """
    plain = unicodedata.normalize("NFKC", name).casefold()
    kept = "".join(c for c in plain if c not in "_-" and not c.isspace() and c.isprintable())
    return kept or name


def unique_names(names: Sequence[str], where: str, *, blanks: bool = False) -> tuple[str, ...]:
    """Return the names cleaned, or say which one is blank or occurs twice.

    Raises:
        DataError: two names are the same once cleaned, or one is blank and `blanks` is False.
    """
    cleaned = tuple(clean_name(name) for name in names)
    positions: dict[str, int] = {}
    for position, name in enumerate(cleaned, start=1):
        if not name and not blanks:
            raise DataError(f"{where}: name {position} is blank. Write a name or remove it.")
        if name and name in positions:
            raise DataError(
                f"{where} names {name!r} twice, as {positions[name]} and {position}. Space around "
                "a name and the way its accents are stored make no difference; rename or remove "
                "one."
            )
        positions[name] = position
    return cleaned


def refuse_look_alikes(counts: Mapping[str, int], names: Collection[str], where: str) -> None:
    """Refuse names that differ from one of `names` in case, spaces or hyphens alone.

    Args:
        counts: how often each name occurs; which of them are refused.
        names: what they may be meant for.
        where: for the message.

    Raises:
        DataError: two such names are probably one.
    """
    meant = {folded(name): name for name in names}
    for name, count in counts.items():
        other = meant.get(folded(name), name)
        if other != name:
            raise DataError(
                f"{where} names {name!r} ({count} times) and {other!r}, which differ in case, "
                "spaces or hyphens alone. Write one where they are one; where they are two, name "
                "both: --categories FILE; of a data set by name, option categories=FILE or its "
                "categories.txt."
            )


def refuse_too_many(count: int, has: str, what: str) -> None:
    """Refuse more categories than anybody trains on, as where captions or numbers are listed.

    Raises:
        DataError: there are more than 25,000; ImageNet-21k has 21,841.
    """
    if count > _MOST_NAMES:
        raise DataError(
            f"{has} {count:,} {what}; at most {_MOST_NAMES:,} can be categories. Leave out what is "
            "none, or name the categories: --categories FILE, in Python categories=[...]."
        )


def suggest(name: str, candidates: Sequence[str]) -> str:
    """Return `; did you mean 'x'?` for the nearest candidate, or a full stop."""
    folded = {candidate.casefold(): candidate for candidate in candidates}
    close = difflib.get_close_matches(name.casefold(), list(folded), n=1)
    return f"; did you mean {folded[close[0]]!r}?" if close else "."
