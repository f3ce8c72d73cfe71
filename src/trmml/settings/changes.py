"""Changes laid over settings: nested dictionaries of sections, the later over the earlier."""

from collections.abc import Mapping
from typing import Any


def nested(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Values by `section.name` as a dictionary per section.

    Example:
        >>> nested({"training.epochs": 3, "probe.dropout": 0.1, "training.seed": 1})
        {'training': {'epochs': 3, 'seed': 1}, 'probe': {'dropout': 0.1}}
    """
    tree: dict[str, Any] = {}
    for name, value in changes.items():
        section, _, key = name.partition(".")
        tree.setdefault(section, {})[key] = value
    return tree


def merged(tree: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings with changes over them; epochs that these name are made `as_named`.

    Example:
        >>> merged({"training": {"epochs": 9, "least_steps": 50}}, {"training": {"epochs": 3}})
        {'training': {'epochs': 3, 'least_steps': 0}}
    """
    both = dict(tree)
    for section, values in changes.items():
        old = both.get(section, {})
        if isinstance(old, Mapping) and isinstance(values, Mapping):
            values = {**old, **(as_named(values) if section == "training" else values)}
        both[section] = values
    return both


def as_named(training: Mapping[str, Any]) -> dict[str, Any]:
    """What somebody sets of the training: who names epochs and no least steps wants these epochs.

    Example:
        >>> as_named({"epochs": 3}), as_named({"epochs": 3, "least_steps": 50}), as_named({})
        ({'least_steps': 0, 'epochs': 3}, {'least_steps': 50, 'epochs': 3}, {})
    """
    return {"least_steps": 0, **training} if "epochs" in training else dict(training)
