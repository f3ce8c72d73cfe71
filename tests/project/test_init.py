import subprocess
import sys

import pytest

import trmml


def python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_or_the_command_line_imports_nothing_heavy() -> None:
    heavy = "('torch', 'polars', 'numpy', 'matplotlib', 'open_clip', 'rich', 'pydantic')"
    code = f"import sys, trmml, trmml.cli.main\nprint([m for m in {heavy} if m in sys.modules])"
    assert python(code) == "[]\n"


def test_every_public_name_exists_and_is_listed() -> None:
    assert set(trmml.__all__) <= set(dir(trmml))
    for name in trmml.__all__:
        assert getattr(trmml, name) is not None
    assert trmml.scenes is sys.modules["trmml.synthetic"].write_scenes
    assert trmml.Tagger is sys.modules["trmml.tagging.tagger"].Tagger
    assert trmml.__version__.count(".") == 2


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'trmml' has no attribute 'train'"):
        _ = trmml.train  # type: ignore[attr-defined]
