"""Settings from presets, TOML files and `--set section.name=value`, and back to TOML."""

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import tomlkit

from trmml.errors import ConfigError
from trmml.settings.changes import merged, nested
from trmml.settings.choices import PROTOCOLS, Protocol
from trmml.settings.old_names import current_method
from trmml.settings.sections import Settings, parse_settings, suggest

PRESETS = resources.files("trmml.settings") / "presets"
# Methods of the benchmark that are trmml itself, and the presets they start from; None: defaults.
STARTS: Mapping[str, str | None] = {"trmml": None, "trmml-full": None, "trmml-paper": "paper"}


def preset_names() -> list[str]:
    """Names of the presets in the package."""
    return sorted(Path(f.name).stem for f in PRESETS.iterdir() if f.name.endswith(".toml"))


def load_settings(
    source: str | Path | None = None,
    overrides: Sequence[str] = (),
    *,
    protocol: Protocol = "partial",
) -> Settings:
    """Settings from a preset or a TOML file, then `section.name=value` overrides.

    Args:
        source: a preset's name, a TOML file's path, or None for the defaults. The file may be the
            `trmml.toml` that `trmml benchmark --tune` writes, or its `trmml-paper.toml`, whose
            changes are those to the preset `paper`.
        protocol: which part of such a file is taken.
        overrides: for example `["training.epochs=3", "prompts.train_context=true"]`.

    Raises:
        ConfigError: for an unknown preset, section or name, a value out of range, or the settings
            that a search found for another method.

    Example:
        >>> load_settings(None, ["losses.contrastive=0"]).losses.contrastive
        0.0
    """
    tree = {} if source is None else _read_source(source)
    if any(part in tree for part in PROTOCOLS):  # what a search found, with its provenance
        refuse_other_parts(tree, Path(str(source)))
        tree = _found_by_search(tree, protocol, Path(str(source)))
    tree = merged(tree, nested(dict(map(_parsed, overrides))))
    return parse_settings(tree, str(source or "--set"))


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


def _read_source(source: str | Path) -> dict[str, Any]:
    """The tree in a preset or a file."""
    if str(source) in preset_names():
        return tomllib.loads((PRESETS / f"{source}.toml").read_text("utf-8"))
    if not Path(source).is_file():
        close = difflib.get_close_matches(str(source), preset_names(), 1)
        near = f"; did you mean {close[0]}?" if close else "."
        raise ConfigError(
            f"there is no file {source}, nor a preset of that name{near} The presets are"
            f" {', '.join(preset_names())}."
        )
    return read_toml(Path(source))


def _found_by_search(tree: Mapping[str, Any], protocol: Protocol, path: Path) -> dict[str, Any]:
    """What a search found for a protocol, over what its method starts from.

    Older files with a provenance name no method: they are called by its key. What has no
    provenance was written by hand, and is trmml's under any name.
    """
    if protocol not in tree:
        there = ", ".join(part for part in PROTOCOLS if part in tree)
        raise ConfigError(f"{path} has settings for {there}, none for {protocol}")
    called = current_method(path.stem)
    told = tree.get("provenance", {}).get(protocol)
    if told is None and called not in STARTS:
        called = "trmml"
    method = current_method((told or {}).get("method", called))
    if method not in STARTS:
        raise ConfigError(
            f"expected settings of {', '.join(STARTS)}, which this trains, got those of {method} in"
            f" {path}; take another file, run trmml benchmark --methods {method}, or where they are"
            f' trmml\'s write method = "trmml" below [provenance.{protocol}]'
        )
    start = STARTS[method]
    return merged({} if start is None else _read_source(start), tree[protocol])


def refuse_other_parts(tree: Mapping[str, Any], path: Path) -> None:
    """Refuse a file of settings by protocol that holds anything else.

    Raises:
        ConfigError: it does.
    """
    parts = (*PROTOCOLS, "provenance")
    if others := [name for name in tree if name not in parts]:
        raise ConfigError(
            f"{path}: expected [{'], ['.join(parts)}], got [{others[0]}]; write a setting below"
            f" its protocol, for example [{PROTOCOLS[0]}.training]"
        )


def read_toml(path: Path) -> dict[str, Any]:
    """The tree in a file.

    Raises:
        ConfigError: it cannot be read or is no TOML.
    """
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} is no valid TOML: {error}") from None


def _parsed(override: str) -> tuple[str, Any]:
    """The `section.name` and the value of an override; it is read as TOML, else as text."""
    name, equals, text = override.partition("=")
    section, dot, key = name.strip().partition(".")
    if not equals or not dot or not key:
        raise ConfigError(f"expected --set section.name=value, got {override!r}{suggest(name)}")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    return f"{section}.{key}", value
