"""Write the caption of an image."""

from collections.abc import Sequence

import numpy as np

from trmml.synthetic.categories import CATEGORY_NAMES

_OPENINGS = ("a picture of", "a photo of", "a drawing of", "", "")


def name_with_article(name: str, colour: str = "") -> str:
    """Return a category name with its article, as in a caption.

    Example:
        >>> name_with_article("apple"), name_with_article("apple", "green")
        ('an apple', 'a green apple')
        >>> name_with_article("scissors"), name_with_article("sun")
        ('scissors', 'the sun')
    """
    if name in ("sun", "rain", "lightning"):
        return f"the {name}" if name == "sun" else name
    words = f"{colour} {name}".strip()
    if name == "scissors":
        return words
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def write_caption(
    rng: np.random.Generator,
    objects: Sequence[tuple[int, str]],
    phrase: str,
    *,
    colour_share: float = 0.3,
) -> str:
    """Return a sentence that names each visible category, some with a colour.

    Args:
        rng: chooses the words and the order.
        objects: category index and colour name of every object; repeated categories are named once.
        phrase: the setting, such as "in a park", or "".
        colour_share: how often a colour is named, in [0, 1].
    """
    once = {index: colour for index, colour in objects}
    items = [list(once.items())[k] for k in rng.permutation(len(once)).tolist()]
    names = [
        name_with_article(CATEGORY_NAMES[index], colour if rng.random() < colour_share else "")
        for index, colour in items
    ]
    listed = " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]])) or "nothing"
    opening = _OPENINGS[int(rng.integers(len(_OPENINGS)))]
    return " ".join(filter(None, [opening, listed, phrase]))
