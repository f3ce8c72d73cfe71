"""Fixtures that several test files share: a tiny encoder, tiny images, a finished run."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import hypothesis
import pytest
import torch

from tests.toy import ToyEncoder, write_images, write_table
from trmml.datasets import catalog as named
from trmml.datasets.catalog import Counts

TOY_SPEC = f"{Path(__file__).with_name('toy.py')}:ToyEncoder"

# The same examples on every machine, however slow it is.
hypothesis.settings.register_profile("trmml", deadline=None, derandomize=True)
hypothesis.settings.load_profile("trmml")


@pytest.hookimpl(tryfirst=True)  # before fixtures, which draw too
def pytest_runtest_setup() -> None:
    """Draws without a generator of their own are the same in any order of the tests."""
    torch.manual_seed(0)


@dataclass(frozen=True)
class ToyImages:
    """Folders of coloured squares with the complete wide table of each."""

    train: Path
    train_table: Path
    test: Path
    test_table: Path


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Features and measurements of the tests stay out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRMML_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def encoder() -> ToyEncoder:
    return ToyEncoder()


@pytest.fixture(scope="session")
def toy_images(tmp_path_factory: pytest.TempPathFactory) -> ToyImages:
    root = tmp_path_factory.mktemp("images")
    for seed, (name, count) in enumerate((("train", 48), ("test", 16))):
        shown = write_images(root / name, count, seed)
        write_table(root / f"{name}.csv", shown)
    return ToyImages(root / "train", root / "train.csv", root / "test", root / "test.csv")


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> Callable[[Counts, Counts], None]:
    """Say what was published of the form `folder`."""

    def publish(train: Counts, test: Counts) -> None:
        reader = replace(named.READERS["folder"], counts={"": (train, test)})
        monkeypatch.setattr(named, "READERS", {**named.READERS, "folder": reader})

    return publish


@pytest.fixture(scope="session")
def finished_run(toy_images: ToyImages, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run on the tiny images; read it, never write into it: the end of the tests looks."""
    from trmml.datasets.formats.folder import read_folder
    from trmml.settings.sections import Settings
    from trmml.training.fit import train_run

    run = tmp_path_factory.mktemp("runs") / "toy"
    settings = Settings(training={"epochs": 4, "batch_size": 16, "held_out_share": 0.3})
    data = read_folder(toy_images.train, toy_images.train_table)
    for _ in train_run(
        data, ToyEncoder(), run, settings=settings, encoder_spec=TOY_SPEC, device="cpu"
    ):
        pass
    written = {path.name: path.read_bytes() for path in run.iterdir()}
    yield run
    assert {path.name: path.read_bytes() for path in run.iterdir()} == written
