"""Encoders of the user's own: `package.module:factory` and `path/to/file.py:factory`."""

import difflib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from trmml.encoders.base import METHODS, Encoder, missing_methods
from trmml.errors import EncoderError


def load_factory(spec: str, *, image_size: int | None = None) -> Encoder:
    """The encoder that a function or class of the user makes.

    Args:
        spec: `package.module:factory`, looked for in the current folder as well;
            `module:factory` of an installed module; or `path/to/file.py:factory`, whose
            neighbours it can import.
        image_size: handed to the factory as `size`; by default it is called with nothing.

    Raises:
        EncoderError: no such module or attribute, the factory raised, or what it made lacks
            methods of the protocol. Shapes are checked by `base.identify`.
    """
    place, _, attribute = spec.rpartition(":")
    is_file = place.endswith(".py")
    folder = Path(place).resolve().parent if is_file else Path.cwd()
    with _importable(folder) if is_file or "." in place else nullcontext():
        module = _import_file(spec, Path(place)) if is_file else _import_module(spec, place)
        factory = _attribute(spec, module, attribute)
        encoder = _call(spec, factory, image_size)
    if missing := missing_methods(encoder):
        raise EncoderError(
            f"{spec}: {type(encoder).__name__} lacks {', '.join(missing)}: an encoder offers "
            f"{', '.join(METHODS)} and size"
        )
    return encoder  # type: ignore[no-any-return]


def is_installed(name: str) -> bool:
    """Whether an importable module has this name; `RN101.py` in the current folder is none."""
    return name.isidentifier() and _place(name, current_folder=False).endswith((".py", ".so"))


def describe_factory(spec: str) -> str:
    """What loading a factory would run, and from where; finds it without importing anything."""
    place, _, attribute = spec.rpartition(":")
    if place.endswith(".py"):
        return f"{attribute} of {Path(place).resolve()}"
    where = _place(place.partition(".")[0], current_folder="." in place)
    return f"{attribute} of the module {place} ({where or 'which is not found'})"


def _place(name: str, *, current_folder: bool) -> str:
    """File of a module, or of a package its folder where it is but a folder; "" without any."""
    here = Path.cwd()
    folders = [each for each in sys.path if each and Path(each) != here]
    importlib.invalidate_caches()  # a file written a moment ago may be unseen
    found = PathFinder.find_spec(name, [str(here), *folders] if current_folder else folders)
    if found is None:
        return ""
    return found.origin or next(iter(found.submodule_search_locations or ()), "")


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Put a folder first among those that imports look in, for the time being."""
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()  # a file written a moment ago may be unseen
    try:
        yield
    finally:
        if str(folder) in sys.path:
            sys.path.remove(str(folder))


def _import_file(spec: str, path: Path) -> ModuleType:
    if not path.is_file():
        raise EncoderError(f"{spec}: there is no file {path}; the current folder is {Path.cwd()}")
    module_spec = importlib.util.spec_from_file_location(path.stem, path)
    if module_spec is None or module_spec.loader is None:
        raise EncoderError(f"{spec}: Python cannot import {path}")
    module = importlib.util.module_from_spec(module_spec)
    # Dataclasses and pickle look a module up by name while its body runs.
    sys.modules.setdefault(path.stem, module)
    try:
        module_spec.loader.exec_module(module)
    except Exception as error:
        if sys.modules.get(path.stem) is module:
            del sys.modules[path.stem]
        raise _import_failed(spec, path, error) from error
    return module


def _import_module(spec: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise EncoderError(
                f"{spec}: there is no module {name!r}; install its package, run from its folder, "
                "or give path/to/file.py:factory"
            ) from error
        raise _import_failed(spec, name, error) from error
    except Exception as error:
        raise _import_failed(spec, name, error) from error


def _import_failed(spec: str, place: object, error: Exception) -> EncoderError:
    return EncoderError(f"{spec}: importing {place} raised {type(error).__name__}: {error}")


def _attribute(spec: str, module: ModuleType, name: str) -> Callable[..., Any]:
    factory = getattr(module, name, None)
    if factory is None:
        close = difflib.get_close_matches(name, dir(module), n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise EncoderError(f"{spec}: {module.__name__} has no {name!r}{hint}")
    if not callable(factory):
        raise EncoderError(
            f"{spec}: {name} must be a function or class that makes an encoder, "
            f"got {type(factory).__name__}"
        )
    made: Callable[..., Any] = factory
    return made


def _call(spec: str, factory: Callable[..., Any], image_size: int | None) -> Any:
    try:
        return factory() if image_size is None else factory(size=image_size)
    except EncoderError:
        raise
    except Exception as error:
        given = "" if image_size is None else f"size={image_size}"
        raise EncoderError(
            f"{spec}: the call {spec.rpartition(':')[2]}({given}) raised "
            f"{type(error).__name__}: {error}"
        ) from error
