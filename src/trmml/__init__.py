"""trmml: recognise many labels in an image when the training labels are incomplete.

Example:
    >>> import trmml
    >>> data = trmml.read_folder("photos", "photos/labels.csv")  # doctest: +SKIP
    >>> encoder = trmml.load_encoder("bundled")  # doctest: +SKIP
    >>> for record in trmml.fit(data, encoder, "runs/photos"):  # doctest: +SKIP
    ...     print(record)
    >>> trmml.tag("runs/photos", ["holiday/*.jpg"])  # doctest: +SKIP
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

# ONNX Runtime would keep a device's id and may send usage data. It reads this when it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:
    from trmml.benchmark.demo import demo
    from trmml.curation.complete import complete
    from trmml.datasets import Dataset
    from trmml.datasets.catalog import read_named
    from trmml.datasets.formats.folder import read_categories, read_folder
    from trmml.deploy.onnx_file import export
    from trmml.deploy.tag import tag
    from trmml.encoders import load_encoder
    from trmml.labels.matrix import LabelMatrix
    from trmml.reporting.fit import fit
    from trmml.reporting.report import write_report
    from trmml.settings.files import load_settings
    from trmml.settings.sections import Settings
    from trmml.synthetic import write_scenes as scenes
    from trmml.tagging.evaluate import evaluate
    from trmml.tagging.tagger import Tagger

    __version__: str

__all__ = [
    "Dataset",
    "LabelMatrix",
    "Settings",
    "Tagger",
    "__version__",
    "complete",
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
    "LabelMatrix": "trmml.labels.matrix:LabelMatrix",
    "Settings": "trmml.settings.sections:Settings",
    "Tagger": "trmml.tagging.tagger:Tagger",
    "complete": "trmml.curation.complete:complete",
    "demo": "trmml.benchmark.demo:demo",
    "evaluate": "trmml.tagging.evaluate:evaluate",
    "export": "trmml.deploy.onnx_file:export",
    "fit": "trmml.reporting.fit:fit",
    "load_encoder": "trmml.encoders:load_encoder",
    "load_settings": "trmml.settings.files:load_settings",
    "read_categories": "trmml.datasets.formats.folder:read_categories",
    "read_folder": "trmml.datasets.formats.folder:read_folder",
    "read_named": "trmml.datasets.catalog:read_named",
    "scenes": "trmml.synthetic:write_scenes",
    "tag": "trmml.deploy.tag:tag",
    "write_report": "trmml.reporting.report:write_report",
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
