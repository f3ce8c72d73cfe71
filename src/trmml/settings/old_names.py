"""Names of settings that were changed, for what was written before.

A name in a file of the user's own is an error that says the new one. What trmml wrote itself is
read as if it had the new names, and fingerprints are still made of the old ones, so that a grid or
a run that was begun before the change goes on.
"""

from collections.abc import Callable, Mapping
from typing import Any

from trmml.settings.changes import nested

# Sections, and settings whose own name changed too: those of format 5 by those of format 6.
RENAMED = {
    "image_branch": "image_head",
    "hidden_regions": "csra_head",
    "opinions": "stacking",
    "opinions.frozen": "stacking.zero_shot",
    "opinions.weigh": "stacking.fit_weights",
}
# Settings that came later, with the value that says what was done before there was a choice.
ADDED: dict[str, Any] = {
    "losses.reduction": "pairs",
    "training.least_steps": 0,
    "training.patience": 0,
    "training.refit": False,
    "dual.positions": False,
    "neighbour_head.use": False,
    "neighbour_head.directions": 256,
    "neighbour_head.images": 20_000,
}
# Settings that there are no more, with the value that says what is done now.
GONE: dict[str, Any] = {"image_head.learn_again": False}
# Keys of methods.
METHODS = {"trmml-as-published": "trmml-paper"}
_FIRST = {new: old for old, new in RENAMED.items()}


def current_name(name: str) -> str:
    """The present name of a setting or section, `section.name` or `section`.

    Example:
        >>> [current_name(name) for name in ("opinions.weigh", "image_branch.epochs", "probe")]
        ['stacking.fit_weights', 'image_head.epochs', 'probe']
    """
    return _renamed(name, RENAMED)


def first_name(name: str) -> str:
    """The name that a setting or section had first; the inverse of `current_name`."""
    return _renamed(name, _FIRST)


def current_method(key: str) -> str:
    """The present key of a method of the benchmark.

    Example:
        >>> current_method("trmml-as-published"), current_method("sarb")
        ('trmml-paper', 'sarb')
    """
    return METHODS.get(key, key)


def current_names(tree: Mapping[str, Any]) -> dict[str, Any]:
    """A tree of settings that trmml wrote, under their present names, without those that are gone.

    Example:
        >>> current_names({"opinions": {"weigh": False}, "training": {"epochs": 3}})
        {'stacking': {'fit_weights': False}, 'training': {'epochs': 3}}
    """
    return {
        section: {k: v for k, v in values.items() if f"{section}.{k}" not in GONE}
        if isinstance(values, Mapping)
        else values
        for section, values in _tree(tree, current_name).items()
    }


def with_added(tree: Mapping[str, Any]) -> dict[str, Any]:
    """A tree that trmml wrote, with what settings that came later stand for in it.

    Example:
        >>> with_added({"losses": {"pseudo": 0.0}})
        {'losses': {'reduction': 'pairs', 'pseudo': 0.0}}
    """
    return _with(tree, ADDED)


def first_names(tree: Mapping[str, Any]) -> dict[str, Any]:
    """A tree of settings as first written: old names, nothing that came later and is off.

    Settings that are gone are there, as they were by default.

    Example:
        >>> first_names({"losses": {"reduction": "pairs", "pseudo": 0.0}})
        {'losses': {'pseudo': 0.0}}
        >>> first_names({"losses": {"pseudo": 0.0}, "neighbour_head": {"use": False}})
        {'losses': {'pseudo': 0.0}}
    """
    kept: dict[str, Any] = {}
    for section, values in tree.items():
        if isinstance(values, Mapping):
            first = {k: v for k, v in values.items() if ADDED.get(f"{section}.{k}", ...) != v}
            if values and not first:
                continue  # a section that came later, and is off
            values = first
        kept[section] = values
    return _tree(_with(kept, GONE), first_name)


def _with(tree: Mapping[str, Any], table: Mapping[str, Any]) -> dict[str, Any]:
    """A tree with the values of a table where one of its sections lacks them."""
    more = nested(table)
    return {s: {**more[s], **values} if s in more else values for s, values in tree.items()}


def _renamed(name: str, table: Mapping[str, str]) -> str:
    section, dot, key = name.partition(".")
    return table.get(name) or table.get(section, section) + dot + key


def _tree(tree: Mapping[str, Any], rename: Callable[[str], str]) -> dict[str, Any]:
    renamed: dict[str, Any] = {}
    for section, values in tree.items():
        if isinstance(values, Mapping):
            keys = {key: rename(f"{section}.{key}").partition(".")[2] for key in values}
            values = {keys[key]: value for key, value in values.items()}
        renamed[rename(section)] = values
    return renamed
