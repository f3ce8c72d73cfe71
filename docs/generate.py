"""Write docs/settings.md and docs/cli.md from the code, so that they cannot drift from it.

python docs/generate.py            write both pages
python docs/generate.py --check    write nothing; exit with 1 when a page is stale
"""

import itertools
import json
import sys
import types
from collections.abc import Iterable, Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import typer.main
from pydantic.fields import FieldInfo

from trmml.cli.app import trmml
from trmml.cli.main import app
from trmml.settings.sections import Settings, preset_names

DOCS = Path(__file__).parent
NOTE = "<!-- Written by docs/generate.py from {source}; do not edit. -->\n"

SETTINGS_HEAD = """# Settings

Every setting of `trmml fit`. A run takes the defaults below, then a preset (`--preset NAME`) or a
TOML file (`--config FILE`), then each `--set section.name=value`. A name that is not in these
tables is an error. All values that a run used are written to `settings.json` in its folder.
What each setting does to the method, and where its default comes from: [method.md](method.md).

```toml
[training]
epochs = 20

[prompts]
train_context = true
```

`trmml settings --toml > settings.toml` writes such a file with everything in it.
In Python: `Settings(training={"epochs": 20})`, or `load_settings("settings.toml",
["prompts.train_context=true"])`.
"""

CLI_HEAD = """# Command line

Results go to stdout, everything else to stderr. Exit code 0: done; 1: an error, said in one line
(`--debug` shows the traceback); 2: wrong usage; 130: interrupted. `trmml VERB --help` says what
this page says. The verbs are Python functions of the same names, such as `trmml.fit`.
"""

OPTION_HEAD = ("option", "value", "default", "meaning")

TYPE_WORDS = {str: "text", int: "whole number", float: "number", Path: "path", bool: ""}


def main(arguments: list[str]) -> int:
    """Write or check the pages; the exit code."""
    stale = []
    for name, text in pages().items():
        path = DOCS / name
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        if "--check" in arguments:
            stale.append(name)
        else:
            path.write_text(text, encoding="utf-8")
    if stale:
        print(f"stale: {', '.join(stale)}; run python docs/generate.py", file=sys.stderr)
    return 1 if stale else 0


def pages() -> dict[str, str]:
    """The generated pages by file name."""
    return {"settings.md": settings_page(), "cli.md": cli_page()}


# Settings -----------------------------------------------------------------------------------


def settings_page() -> str:
    """All settings, a table per section."""
    parts = [NOTE.format(source="src/trmml/config.py"), SETTINGS_HEAD]
    if presets := preset_names():
        folder = resources.files("trmml.settings") / "presets"
        listed = [(f"`{n}`", _first_comment((folder / f"{n}.toml").read_text())) for n in presets]
        parts.append(f"## Presets\n\n{_table(('preset', 'what it is'), listed)}")
    for section, field in Settings.model_fields.items():
        model: Any = field.annotation
        rows = [
            (f"`{name}`", _code(each.default), _allowed(each), each.description or "")
            for name, each in model.model_fields.items()
        ]
        title = model.__doc__.strip().splitlines()[0]
        table = _table(("setting", "default", "values", "meaning"), rows)
        parts.append(f"## {section}\n\n{title}\n\n{table}")
    return "\n".join(parts)


def _first_comment(text: str) -> str:
    """The comment that a TOML file begins with, in one line."""
    lines = itertools.takewhile(lambda line: line.startswith("#"), text.splitlines())
    return " ".join(line.removeprefix("#").strip() for line in lines)


def _allowed(field: FieldInfo) -> str:
    """The values that a setting takes."""
    signs = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    limits = [
        f"{word} {getattr(limit, sign)}"
        for limit in field.metadata
        for sign, word in signs.items()
        if hasattr(limit, sign)
    ]
    kind = "true or false" if field.annotation is bool else _kind(field.annotation)
    return ", ".join([kind, *limits])


def _kind(annotation: Any) -> str:
    """A type in words; None among several types is left out, for it means "not given"."""
    if get_origin(annotation) is Literal:
        return " or ".join(f"`{value}`" for value in get_args(annotation))
    if get_origin(annotation) in (Union, types.UnionType):
        return " or ".join(_kind(t) for t in get_args(annotation) if t is not type(None))
    if get_origin(annotation) is list:
        return _kind(get_args(annotation)[0])
    return TYPE_WORDS[annotation]


# Command line -------------------------------------------------------------------------------


def cli_page() -> str:
    """All verbs, a table of options each."""
    group: Any = typer.main.get_command(app)
    shared = _rows(group.params, get_type_hints(trmml, include_extras=True))
    parts = [NOTE.format(source="src/trmml/cli.py"), CLI_HEAD, "Options of every verb:\n"]
    parts.append(_table(OPTION_HEAD, shared))
    return "\n".join([*parts, *_verbs(app, group, "")])


def _verbs(of: typer.Typer, group: Any, before: str) -> Iterator[str]:
    """A part per verb of a group, and of the groups within it."""
    functions = {
        info.name or info.callback.__name__: info.callback
        for info in of.registered_commands
        if info.callback is not None
    }
    groups = {info.name: info.typer_instance for info in of.registered_groups}
    for name, command in group.commands.items():
        if name in groups:
            yield from _verbs(groups[name], command, f"{name} ")
            continue
        rows = _rows(command.params, get_type_hints(functions[name], include_extras=True))
        usage = " ".join([*(typed for row in rows if (typed := _as_typed(row))), "[OPTIONS]"])
        examples = (command.epilog or "").replace("\b\nExamples:\n", "").rstrip()
        shown = "\n".join(line.removeprefix("  ") for line in examples.splitlines())
        yield f"## trmml {before}{name}\n\n{command.help}\n"
        yield f"```\ntrmml {before}{name} {usage}\n```\n"
        yield _table(OPTION_HEAD, rows)
        yield f"```console\n{shown}\n```\n"


def _rows(params: Iterable[Any], hints: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    return [_option_row(param, hints[param.name]) for param in params]


def _as_typed(row: tuple[str, str, str, str]) -> str:
    """A required argument or option in a usage line; nothing for the others."""
    name, value, default, _ = row
    if default != "required":
        return ""
    plain = name.strip("`")
    return f"{plain} {value.upper()}" if plain.startswith("-") else plain


def _option_row(param: Any, annotation: Any) -> tuple[str, str, str, str]:
    is_option = param.opts[0][0] == "-"
    name = ", ".join(param.opts) if is_option else (param.metavar or param.name).upper()
    if param.required:
        default = "required"
    elif param.default is None or param.default is False or param.default == []:
        default = ""
    else:
        default = _code(param.default)
    return f"`{name}`", _value(param, annotation), default, param.help or ""


def _value(param: Any, annotation: Any) -> str:
    """What an argument or option takes, with its range."""
    base, info = get_args(annotation)  # Annotated[type, typer's description]
    if info.metavar and param.opts[0][0] == "-":
        return str(info.metavar.lower())
    limits = [
        f"{word} {limit}"
        for word, limit in (("at least", info.min), ("at most", info.max))
        if limit is not None
    ]
    return ", ".join([_kind(base), *limits])


# Markdown -----------------------------------------------------------------------------------


def _code(value: Any) -> str:
    """A value as TOML writes it; a dash for none."""
    if value is None:
        return "off"
    shown = str(value) if isinstance(value, Path | str) else json.dumps(value)
    return f"`{shown}`"


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    cells = ([cell.replace("|", "\\|").replace("\n", " ") for cell in line] for line in lines)
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
