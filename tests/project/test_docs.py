"""The documents say what the code does: generated pages, links, names, examples."""

import ast
import contextlib
import doctest
import importlib.util
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import typer.main
from PIL import Image

import trmml
from tests.conftest import TOY_SPEC
from tests.toy import write_images, write_table
from trmml.cli.main import app
from trmml.settings.sections import Settings, setting_names

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]
NOTES = [ROOT / "benchmarks" / "README.md", *sorted((ROOT / "benchmarks").glob("results/**/*.md"))]
MODULES = sorted((ROOT / "src" / "trmml").rglob("*.py"))
EXAMPLE_FILES = ("path/to/file.py", "my_encoder.py")  # in specs of encoders
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def prose(path: Path) -> str:
    """A page without its code blocks."""
    return re.sub(r"^ *```.*?^ *```$", "", read(path), flags=re.MULTILINE | re.DOTALL)


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


# Generated pages ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_pages_are_fresh(generate: ModuleType) -> None:
    assert generate.main(["--check"]) == 0, "run python docs/generate.py"


def test_a_stale_page_is_noticed_and_written(
    generate: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generate, "DOCS", tmp_path)
    assert generate.main(["--check"]) == 1 and not list(tmp_path.iterdir())
    assert generate.main([]) == 0 and generate.main(["--check"]) == 0


def test_every_command_and_option_is_documented_and_explained() -> None:
    page = read(DOCS / "cli.md")
    group = typer.main.get_command(app)
    commands = dict(group.commands)  # type: ignore[attr-defined]
    for group_name in ("store", "data"):
        nested = commands.pop(group_name).commands
        commands |= {f"{group_name} {name}": command for name, command in nested.items()}
    for name, command in commands.items():
        _, found, section = page.partition(f"\n## trmml {name}\n")
        assert found and command.help, name
        section = section.partition("\n## ")[0]
        for param in command.params:
            assert param.help, f"trmml {name}: {param.name} has no help"
            word = param.opts[0] if param.opts[0][0] == "-" else param.metavar or param.name
            entry = rf"^\* `(\S+, )?{re.escape(word)}[ `.,]"
            assert re.search(entry, section, flags=re.MULTILINE), f"trmml {name}: {word}"


@pytest.mark.parametrize("section", Settings.model_fields)
def test_every_setting_is_explained(section: str) -> None:
    model = Settings.model_fields[section].annotation
    assert model is not None and model.__doc__
    missing = [name for name, field in model.model_fields.items() if not field.description]
    assert not missing, f"sections.py, {section}: no description of {', '.join(missing)}"


# Prose --------------------------------------------------------------------------------------

PROSE = [*PAGES, ROOT / "CHANGELOG.md", *NOTES]


@pytest.mark.parametrize("page", PROSE, ids=named)
def test_lines_outside_tables_and_code_have_at_most_100_characters(page: Path) -> None:
    lines = [line for line in prose(page).splitlines() if not line.lstrip().startswith("|")]
    long = [line for line in lines if len(line) > 100]
    assert not long, f"{named(page)}: wrap {long[0]!r}"


@pytest.mark.parametrize("page", PROSE, ids=named)
def test_pages_call_an_image_an_image(page: Path) -> None:
    wrong = [line for line in prose(page).splitlines() if re.search("pictures?", line, re.I)]
    assert not wrong, f"{named(page)}: {wrong[0]!r}"


@pytest.mark.parametrize("module", MODULES, ids=named)
def test_docstrings_call_an_image_an_image(module: Path) -> None:
    for node in ast.walk(ast.parse(read(module))):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            text = ast.get_docstring(node) or ""
            text = text.replace("a picture of", "")  # what the drawn scenes' captions say
            assert not re.search("pictures?", text, re.I), f"{named(module)}: {text[:80]!r}"


# What pages refer to ------------------------------------------------------------------------


def anchor(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    plain = re.sub(r"[^\w\- ]", "", heading.strip().lower())
    return plain.replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_relative_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"", prose(page)):
        link = target[0] or target[1]
        if re.match(r"[a-z]+:", link):
            continue
        place, _, fragment = link.partition("#")
        path = page if not place else (page.parent / place).resolve()
        assert path.exists(), f"{page.name}: {link}"
        if fragment and path.suffix == ".md":
            headings = re.findall(r"^#+ (.+)$", prose(path), flags=re.MULTILINE)
            assert fragment in map(anchor, headings), f"{page.name}: {link}"


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_tests_and_functions_that_a_page_names_exist(page: Path) -> None:
    text = prose(page)
    for file, test in re.findall(r"`([\w/]*test_\w+)\.py::(\w+)`", text):
        assert f"def {test}(" in read(ROOT / "tests" / f"{file}.py"), f"{file}.py::{test}"
    for file, member in re.findall(r"`([\w/]+\.py):([\w.]+)`", text):
        if file in EXAMPLE_FILES:
            continue
        assert member in set(members(ROOT / "src" / "trmml" / file)), f"{file}:{member}"


def members(path: Path) -> Iterator[str]:
    """Functions, classes, methods (as Class.method) and constants of a module."""
    for node in ast.parse(read(path)).body:
        if isinstance(node, ast.Assign):
            for target in node.targets:
                yield from (leaf.id for leaf in ast.walk(target) if isinstance(leaf, ast.Name))
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        if isinstance(node, ast.ClassDef):
            inner = (part.name for part in node.body if isinstance(part, ast.FunctionDef))
            yield from (f"{node.name}.{name}" for name in inner)


def test_the_method_page_names_every_setting_with_its_default() -> None:
    text = prose(DOCS / "method.md")
    said = dict(re.findall(r"`(\w+\.\w+) = ([^`]+)`", text))
    defaults = {
        f"{section}.{name}": value
        for section, values in Settings().model_dump().items()
        for name, value in values.items()
    }
    assert set(said) <= set(setting_names()), set(said) - set(setting_names())
    assert set(said) == set(defaults), set(defaults) - set(said)
    for name, value in said.items():
        default = defaults[name]
        shown = "off" if default is None else str(default)
        assert value.lower() == shown.lower(), f"{name}: {value} is not {default}"


def test_contributing_names_every_package_in_import_order_and_files_that_exist() -> None:
    text = prose(ROOT / "CONTRIBUTING.md")
    for name in re.findall(r"`([a-z][a-z_/]*(?:\.py|/))(?::\w+)?`", text):
        assert any((base / name).exists() for base in (ROOT, ROOT / "src" / "trmml")), name
    rows = re.findall(r"^\| `(\w+)(?:/|\.py)` \|", text.partition("| elsewhere |")[0], re.MULTILINE)
    contract = tomllib.loads(read(ROOT / "pyproject.toml"))["tool"]["importlinter"]["contracts"][0]
    rank = {
        name.strip(): -place
        for place, layer in enumerate(contract["layers"])
        for name in layer.split("|")
    }
    assert sorted(rows) == sorted(set(rank) - {"__main__"})
    assert rows == sorted(rows, key=lambda name: rank[name])


def test_every_module_has_a_docstring() -> None:
    for path in MODULES:
        tree = ast.parse(read(path))
        assert ast.get_docstring(tree) or not tree.body, named(path)


def test_the_citation_names_the_paper() -> None:
    text = read(ROOT / "CITATION.cff")
    assert "2407.18520" in text
    yaml = pytest.importorskip("yaml", reason="PyYAML reads CITATION.cff")
    tree = yaml.safe_load(text)
    assert tree["cff-version"] == "1.2.0" and tree["license"] == "Apache-2.0"
    assert tree["title"] == "trmml" and tree["version"] == version_in_pyproject()
    paper = tree["preferred-citation"]
    assert len(paper["authors"]) == 6 and paper["year"] == 2024
    assert paper["title"].startswith("Text-Region Matching for Multi-Label Image Recognition")


def version_in_pyproject() -> str:
    found = re.search(r'^version = "(.+)"$', read(ROOT / "pyproject.toml"), flags=re.MULTILINE)
    assert found is not None
    return found[1]


# Examples -----------------------------------------------------------------------------------

# Hidden comments prepare what a block needs: `<!-- file: NAME -->` writes the next block to a file,
# `<!-- images: NAMES -->` draws images, `<!-- toy photos -->` a folder of toy images with a table,
# `<!-- no test -->` leaves the next block alone.
PART = re.compile(
    r"^<!-- (?P<order>file|images|no test|toy photos)(?:: (?P<names>.+?))? -->$"
    r"|^```(?P<kind>\w+)\n(?P<code>.*?)^```$",
    flags=re.MULTILINE | re.DOTALL,
)


@pytest.mark.filterwarnings("ignore::UserWarning:lightning_fabric")
@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=named)
def test_examples_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "__main__"}
    order, argument = "", ""
    for part in PART.finditer(read(page)):
        if part["order"]:
            order, argument = part["order"], part["names"] or ""
            prepare(order, argument)
            continue
        if order == "file":
            Path(argument).parent.mkdir(parents=True, exist_ok=True)
            Path(argument).write_text(part["code"], encoding="utf-8")
        elif order == "no test":
            pass
        elif part["kind"] == "python":
            line = read(page)[: part.start()].count("\n") + 1
            code = "\n" * line + part["code"]
            with contextlib.redirect_stdout(None):
                exec(compile(code, str(page), "exec"), names)
        elif part["kind"] == "pycon":
            check_console(part["code"], names, page)
        order = ""


@pytest.mark.filterwarnings("ignore::UserWarning:lightning_fabric")
def test_the_readmes_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy = trmml.load_encoder(TOY_SPEC)
    monkeypatch.setattr(trmml, "load_encoder", lambda spec: toy)  # a small one, for speed
    # It stands for open_clip's models, which need nobody's trust.
    monkeypatch.setattr("trmml.encoders.needed.is_factory", lambda spec: False)
    # And 12 epochs stand for the 1,000 that so few images get.
    as_named = "trmml.training.schedule.enough_epochs"
    monkeypatch.setattr(as_named, lambda training, matrix, all_images: training)
    monkeypatch.chdir(tmp_path)
    write_table(Path("photos/labels_partial.csv"), write_images(Path("photos"), 48))
    prepare("images", "new/images/000001.jpg")
    blocks = re.findall(
        r"^```python\n(.*?)^```$", read(ROOT / "README.md"), re.MULTILINE | re.DOTALL
    )
    assert blocks
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})
    assert Path("runs/photos/model.json").is_file()


def prepare(order: str, argument: str) -> None:
    if order == "images":
        for name in argument.split():
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (64, 48), "orange").save(name)
    elif order == "toy photos":
        write_table(Path("labels.csv"), write_images(Path("photos"), 48))


def check_console(code: str, names: dict[str, object], page: Path) -> None:
    """Run a block with prompts and compare what it prints."""
    example = doctest.DocTestParser().get_doctest(code, names, page.name, str(page), 0)
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=OPTIONS)
    runner.run(example, out=said.append, clear_globs=False)
    names.update(example.globs)
    assert runner.summarize(verbose=False).failed == 0, "".join(said)
