"""A method's settings for both protocols, read from and written to a TOML file with their origin.

[partial.training]              # changes to the method's defaults, where negatives are known
learning_rate = 0.004

[single_positive.training]      # the same for one known positive per image
learning_rate = 0.001

[provenance.partial]            # where they come from; not read as settings
method = "trmml"                # `fit --config` starts from its defaults
dataset = "corel5k"
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from trmml.benchmark.catalog import Method
from trmml.errors import ConfigError
from trmml.settings.changes import merged, nested
from trmml.settings.choices import PROTOCOLS, Precision, Protocol
from trmml.settings.files import read_toml, refuse_other_parts, to_toml
from trmml.settings.old_names import METHODS
from trmml.settings.sections import changed, validate
from trmml.storage.atomic import write_text


@dataclass(frozen=True)
class MethodSettings:
    """What a method runs with."""

    values: Mapping[Protocol, Any]  # a settings object of the method for each protocol
    # JSON values per protocol that say where they come from
    provenance: Mapping[Protocol, Mapping[str, Any]] = field(default_factory=dict)


def default_settings(method: Method) -> MethodSettings:
    """The method's own defaults."""
    return MethodSettings(
        values={protocol: method.settings() for protocol in PROTOCOLS},
        provenance={protocol: {"from": "defaults"} for protocol in PROTOCOLS},
    )


def parse_method_settings(method: Method, tree: Mapping[str, Any], where: str) -> Any:
    """A settings object of a method from nested changes to its defaults.

    Raises:
        ConfigError: a name is unknown or a value out of range; `where` names the origin.
    """
    # A section that is given in part keeps the method's own defaults for the rest.
    whole = merged(method.settings().model_dump(), tree)
    return validate(method.settings, whole, where)


def read_settings(method: Method, folder: Path) -> MethodSettings:
    """What `folder/<key>.toml` says of a method; its defaults where there is no such file or part.

    Raises:
        ConfigError: the folder is missing, or the file is no TOML, has parts that are neither of a
            protocol nor their provenance, or holds a wrong setting.
    """
    if not folder.is_dir():
        raise ConfigError(f"expected a folder with <method>.toml files, got {folder}")
    start = default_settings(method)
    keys = (method.key, *(old for old, new in METHODS.items() if new == method.key))
    path = next((p for key in keys if (p := folder / f"{key}.toml").is_file()), None)
    if path is None:
        return start
    tree = read_toml(path)
    refuse_other_parts(tree, path)
    values, provenance = dict(start.values), dict(start.provenance)
    for protocol in PROTOCOLS:
        if protocol in tree:
            values[protocol] = parse_method_settings(method, tree[protocol], f"{path} {protocol}")
            said = tree.get("provenance", {}).get(protocol, {})
            # Every cell repeats it, and names its method: search space and versions stay here.
            short = {n: v for n, v in said.items() if not isinstance(v, Mapping) and n != "method"}
            provenance[protocol] = {"from": path.name, **short}
    return MethodSettings(values, provenance)


def write_settings(
    method: Method,
    folder: Path,
    protocol: Protocol,
    changes: Mapping[str, Any],
    provenance: Mapping[str, Any],
) -> Path:
    """Write one protocol's part of `folder/<key>.toml`; the other part stays.

    Args:
        method: whose settings they are.
        folder: made if need be.
        protocol: which part.
        changes: values by dotted setting name.
        provenance: JSON values that say where they come from; the method's key is added.
    """
    path = folder / f"{method.key}.toml"
    folder.mkdir(parents=True, exist_ok=True)
    tree = read_toml(path) if path.is_file() else {}
    said = {**tree.get("provenance", {}), protocol: {"method": method.key, **provenance}}
    parts: dict[str, Any] = {name: tree[name] for name in PROTOCOLS if name in tree}
    parts[protocol] = nested(changes)
    write_text(path, to_toml({**parts, "provenance": said}))
    return path


def with_changes(settings: MethodSettings, changes: Mapping[str, Any]) -> MethodSettings:
    """The same settings for both protocols, but for some values by dotted setting name."""
    found = {name: changed(each, changes) for name, each in settings.values.items()}
    return replace(settings, values=found)


def shared_changes(views: int | None, precision: Precision | None) -> dict[str, Any]:
    """What all methods of a grid are given alike, by dotted setting name.

    Args:
        views: of each image, to train on and to be scored by; None leaves the method's own.
        precision: of training; None leaves the method's own.
    """
    found: dict[str, Any] = {}
    if views is not None:
        found |= {"training.views": views, "training.scored_views": views}
    if precision is not None:
        found["training.precision"] = precision
    return found
