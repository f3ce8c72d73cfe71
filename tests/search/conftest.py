"""The index that the tests of this folder make of their own `photos`."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.toy import ToyEncoder
from trmml.search.build import Built, build_index


@pytest.fixture
def build(finished_run: Path, photos: Path, tmp_path: Path) -> Callable[..., Built]:
    def run(**changes: object) -> Built:
        given = {"encoder": ToyEncoder(), **changes}
        return build_index(finished_run, photos, tmp_path / "index", **given)  # type: ignore[arg-type]

    return run
