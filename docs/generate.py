"""Write docs/settings.md and docs/cli.md from the code, so that they cannot drift from it.

python docs/generate.py            write both pages
python docs/generate.py --check    write nothing; exit with 1 when a page is stale
"""

import itertools
import json
import re
import subprocess
import sys
import textwrap
import types
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from trmml.settings.files import preset_names
from trmml.settings.sections import Settings

DOCS = Path(__file__).parent
NOTE = "<!-- Written by docs/generate.py from {source}; do not edit. -->\n"

SETTINGS_HEAD = """# Settings

These are all settings of `trmml fit`. A run starts from the defaults below. A preset
(`--preset NAME`) or a TOML file (`--config FILE`) changes them, then each
`--set section.name=value`. A name that is not in these tables is an error. Each run writes the
values that it used to `settings.json` in its folder. [method.md](method.md) says what each setting
does to the method, and where its default comes from.

```toml
[training]
epochs = 20

[prompts]
train_context = true
```

`trmml settings --toml > settings.toml` writes such a file with every setting in it. In Python, use
`Settings(training={"epochs": 20})`, or
`load_settings("settings.toml", ["prompts.train_context=true"])`.
"""

CLI_HEAD = """# Command line

Results go to stdout, everything else to stderr. The exit code is 0 when all is done, 1 after an
error, 2 after wrong usage, and 130 after Ctrl-C. An error is one line; `--debug` adds the
traceback. `trmml VERB --help` says what this page says. Most verbs are Python functions of the same
name, such as `trmml.fit`.
"""

TYPE_WORDS = {str: "text", int: "whole number", float: "number", Path: "path"}


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


# Command line -------------------------------------------------------------------------------


def cli_page() -> str:
    """All verbs with their options, as typer describes them."""
    command = [sys.executable, "-m", "typer", "trmml.cli.main", "utils", "docs", "--name", "trmml"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    _, _, body = text.partition("\n\n")  # typer's title and ours say the same
    body = re.sub(r"^#+ `(.+)`$", r"## \1", body, flags=re.MULTILINE)
    body = re.sub(r"\x08\nExamples:\n((?:  .+\n)+)", _console, body)
    body = re.sub(r"^\* `--help`: .+\n", "", body, flags=re.MULTILINE)
    body = re.sub(r"^\* .+$", _wrapped, body, flags=re.MULTILINE)
    body = re.sub(r"\n{3,}", "\n\n", body)
    return f"{NOTE.format(source='src/trmml/cli')}\n{CLI_HEAD}\n{body.strip()}\n"


def _console(found: re.Match[str]) -> str:
    """The examples of a verb as a block of code."""
    lines = [line.strip() for line in found[1].rstrip().splitlines()]
    goes_on = [False, *(line.endswith("\\") for line in lines)]
    shown = (
        f"    {line}" if more else f"$ {line}" for more, line in zip(goes_on, lines, strict=False)
    )
    return "\n".join(["```console", *shown, "```", ""])


def _wrapped(found: re.Match[str]) -> str:
    """An entry of a list in lines of at most 100 characters."""
    return textwrap.fill(
        found[0], width=100, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )


# Settings -----------------------------------------------------------------------------------


def settings_page() -> str:
    """All settings, a table per section."""
    parts = [NOTE.format(source="src/trmml/settings/sections.py"), SETTINGS_HEAD]
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
    kind = "true or false" if field.annotation is bool else _kind(field.annotation)
    return ", ".join([kind, *_limits(field.metadata)])


def _limits(metadata: Iterable[Any]) -> list[str]:
    """Limits of a number in words."""
    signs = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    return [
        f"{word} {getattr(limit, sign)}"
        for limit in metadata
        for sign, word in signs.items()
        if hasattr(limit, sign)
    ]


def _kind(annotation: Any) -> str:
    """A type in words; None among several types is left out, for it means "not given"."""
    if get_origin(annotation) is Annotated:
        kind, *metadata = get_args(annotation)
        return ", ".join([_kind(kind), *_limits(metadata)])
    if get_origin(annotation) is Literal:
        return " or ".join(f"`{value}`" for value in get_args(annotation))
    if get_origin(annotation) in (Union, types.UnionType):
        return " or ".join(_kind(t) for t in get_args(annotation) if t is not type(None))
    if get_origin(annotation) is list:
        return _kind(get_args(annotation)[0])
    return TYPE_WORDS[annotation]


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
