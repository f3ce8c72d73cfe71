"""trmml: recognise many labels in an image when the training labels are incomplete.

Example:
    >>> import trmml
    >>> data = trmml.read_folder("photos", "photos/labels.csv")  # doctest: +SKIP
    >>> encoder = trmml.load_encoder("bundled")  # doctest: +SKIP
    >>> for record in trmml.fit(data, encoder, "runs/photos"):  # doctest: +SKIP
    ...     print(record)
    >>> trmml.tag("runs/photos", ["holiday/*.jpg"])  # doctest: +SKIP
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trmml.config import Settings, load_settings
    from trmml.datasets import Dataset
    from trmml.datasets.folder import read_categories, read_folder
    from trmml.datasets.named import read_named
    from trmml.datasets.scenes import write_scenes as scenes
    from trmml.demo import demo
    from trmml.encoders import load_encoder
    from trmml.evaluate import evaluate
    from trmml.export import export
    from trmml.fit import fit
    from trmml.labels import LabelMatrix
    from trmml.report import write_report
    from trmml.tag import Tagger, tag

    __version__: str

__all__ = [
    "Dataset",
    "LabelMatrix",
    "Settings",
    "Tagger",
    "__version__",
    "demo",
    "evaluate",
    "export",
    "fit",
    "load_encoder",
    "load_settings",
    "read_categories",
    "read_folder",
    "read_named",
    "scenes",
    "tag",
    "write_report",
]

# Where each public name comes from. Torch takes seconds to import, so nothing is until asked for.
_SOURCES = {
    "Dataset": "trmml.datasets:Dataset",
    "LabelMatrix": "trmml.labels:LabelMatrix",
    "Settings": "trmml.config:Settings",
    "Tagger": "trmml.tag:Tagger",
    "demo": "trmml.demo:demo",
    "evaluate": "trmml.evaluate:evaluate",
    "export": "trmml.export:export",
    "fit": "trmml.fit:fit",
    "load_encoder": "trmml.encoders:load_encoder",
    "load_settings": "trmml.config:load_settings",
    "read_categories": "trmml.datasets.folder:read_categories",
    "read_folder": "trmml.datasets.folder:read_folder",
    "read_named": "trmml.datasets.named:read_named",
    "scenes": "trmml.datasets.scenes:write_scenes",
    "tag": "trmml.tag:tag",
    "write_report": "trmml.report:write_report",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    if name == "__version__":
        from importlib.metadata import version  # slower than all the rest of this file

        return version("trmml")
    if name not in _SOURCES:
        raise AttributeError(f"module 'trmml' has no attribute {name!r}")
    module, _, attribute = _SOURCES[name].partition(":")
    value = getattr(import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """This package, in which `trmml.fit` is the function whatever has been imported before.

    After `trmml/fit.py` has been imported, by whomever, the import system sets the attribute `fit`
    of the package to that module. The function of the same name takes its place here;
    `from trmml.fit import ...` still finds the module.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if isinstance(value, ModuleType) and _SOURCES.get(name) == f"{value.__name__}:{name}":
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
