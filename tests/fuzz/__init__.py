"""Every reader is given damaged files: it returns, or raises a child of `TrmmlError`.

target.py       what a target is, and a folder in which one file is damaged
damage.py       nearly valid files: JSON trees with wrong shapes, odd words, flipped bits
tables.py ...   the targets, a file per family of readers
test_targets.py a few examples of each target, always the same, for CI
__main__.py     `make fuzz`: many examples, guided by coverage, for as long as you wish
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # atheris watches what is imported after it
    from tests.fuzz.target import Target


def all_targets() -> "tuple[Target, ...]":
    """Every target, of all families."""
    from tests.fuzz import json_sets, masks, packed, runs, tables, text_sets

    families = (tables, json_sets, text_sets, packed, masks, runs)
    return tuple(target for family in families for target in family.TARGETS)
