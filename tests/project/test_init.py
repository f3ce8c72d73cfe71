import subprocess
import sys
import types

import pytest

import trmml


def python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_or_the_command_line_imports_nothing_heavy() -> None:
    heavy = "('torch', 'polars', 'numpy', 'matplotlib', 'open_clip', 'rich', 'pydantic')"
    code = f"import sys, trmml, trmml.cli\nprint([m for m in {heavy} if m in sys.modules])"
    assert python(code) == "[]\n"


WAYS = (
    "import trmml.{0}",
    "from trmml.{0} import {0}",
    "from trmml import {0}",
    "import trmml.{0} as other",
    "import importlib; importlib.import_module('trmml.{0}')",
)


def test_the_verbs_are_functions_in_whatever_order_their_modules_are_imported() -> None:
    # One process stands for many: the module is forgotten, and imported in another way.
    code = "import sys, trmml, types\n"
    for verb in ("tag", "evaluate"):
        for way in WAYS:
            code += f"sys.modules.pop('trmml.{verb}', None); trmml.__dict__.pop('{verb}', None)\n"
            code += way.format(verb) + "\n"
            code += f"assert isinstance(trmml.{verb}, types.FunctionType), {(verb, way)!r}\n"
            code += f"assert isinstance(sys.modules['trmml.{verb}'], types.ModuleType)\n"
    python(code)


@pytest.mark.parametrize("way", WAYS)
def test_fit_is_the_function_as_well(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "trmml.fit", raising=False)
    monkeypatch.delitem(trmml.__dict__, "fit", raising=False)
    exec(way.format("fit"), {})
    assert callable(trmml.fit) and not isinstance(trmml.fit, types.ModuleType)
    # What was imported here must not stay, or others would hold another copy of its names.
    monkeypatch.setitem(sys.modules, "trmml.fit", sys.modules["trmml.fit"])


def test_every_public_name_exists_and_is_listed() -> None:
    assert set(trmml.__all__) <= set(dir(trmml))
    for name in trmml.__all__:
        assert getattr(trmml, name) is not None
    assert trmml.scenes is sys.modules["trmml.datasets.scenes"].write_scenes
    assert trmml.Tagger is sys.modules["trmml.tag"].Tagger
    assert trmml.__version__.count(".") == 2


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'trmml' has no attribute 'train'"):
        _ = trmml.train  # type: ignore[attr-defined]
