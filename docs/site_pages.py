"""The pages of the site: those of the repository at their own paths, and an API reference.

MkDocs calls the functions below (`hooks` in mkdocs.yml). Pages keep the paths that they have in the
repository, so the links that work there work in the site.
"""

from pathlib import Path
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

import trmml

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "trmml"

# What lies outside docs/ and is a page, or is linked from one.
OUTSIDE = (
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "CITATION.cff",
    "benchmarks/README.md",
    "examples/exchange.py",
    "examples/tag_without_torch.py",
    "recipes/bundled_encoder.py",
    "src/trmml/encoders/bundled_weights/MODEL_CARD.md",
)


class Examples(griffe.Extension):
    """Read our `Example:` as the section that Griffe calls `Examples:`."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rename the heading in the docstring of a module, class or function."""
        if obj.docstring is not None:
            obj.docstring.value = obj.docstring.value.replace("\nExample:\n", "\nExamples:\n")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """The settings, with the API's pages at the end of the navigation."""
    assert config.nav is not None
    config.nav.append({"API": list(api_pages())})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The site's files: those of docs/ and those outside, at their paths in the repository."""
    pages = []
    for file in files:
        inside = file.src_dir == config.docs_dir
        pages.append(_file(f"docs/{file.src_uri}", config) if inside else file)
    pages += [_file(path, config) for path in OUTSIDE]
    pages += [File.generated(config, at, content=text) for at, text in api_pages().items()]
    return Files(pages)


def _file(path: str, config: MkDocsConfig) -> File:
    """A file of the repository as a file of the site."""
    return File(path, str(ROOT), config.site_dir, config.use_directory_urls)


def api_pages() -> dict[str, str]:
    """The API reference by path: a page of the public names, then a page for each package."""
    public = [name for name in trmml.__all__ if not name.startswith("_")]
    pages = {"api/trmml.md": _page("trmml", [f"trmml.{name}" for name in public])}
    for package in sorted(path.parent for path in PACKAGE.glob("*/__init__.py")):
        pages[f"api/{package.name}.md"] = _page(f"trmml.{package.name}", _modules(package))
    return pages


def _modules(package: Path) -> list[str]:
    """The modules of a package and of the packages in it, by their dotted names."""
    files = sorted(package.rglob("*.py"))
    parts = [file.relative_to(PACKAGE.parent).with_suffix("").parts for file in files]
    return [".".join(part) for part in parts if not part[-1].startswith("_")]


def _page(title: str, names: list[str]) -> str:
    return "\n".join([f"# {title}\n", *(f"::: {name}\n" for name in names)])
