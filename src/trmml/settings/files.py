"""Settings as TOML text."""

from collections.abc import Mapping
from typing import Any

import tomlkit

from trmml.settings.sections import Settings


def settings_toml(settings: Settings) -> str:
    """Every setting with its meaning, as TOML for `fit --config`; what is off is a comment."""
    document = tomlkit.document()
    for section in type(settings).model_fields:
        part, table = getattr(settings, section), tomlkit.table()
        for name, field in type(part).model_fields.items():
            if field.description:
                table.add(tomlkit.comment(field.description))
            value = getattr(part, name)
            if value is None:
                table.add(tomlkit.comment(f'{name} = "..."'))
            else:
                table.add(name, value)
        document.add(section, table)
    return tomlkit.dumps(document)


def to_toml(tree: Mapping[str, Any]) -> str:
    """Nested dictionaries of plain values as TOML; None is left out, for TOML cannot say it.

    Example:
        >>> print(to_toml({"partial": {"training": {"epochs": 3}}}), end="")
        [partial.training]
        epochs = 3
    """
    return tomlkit.dumps(_without_none(tree))


def _without_none(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _without_none(value) if isinstance(value, Mapping) else value
        for name, value in tree.items()
        if value is not None
    }
