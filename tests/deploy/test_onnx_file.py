import ast
import importlib
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from inspect import unwrap
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner

from tests import tiny_clip
from tests.conftest import TOY_SPEC
from tests.toy import COLOURS, ToyEncoder
from trmml.cli.main import app
from trmml.datasets.formats.folder import read_folder
from trmml.deploy.onnx_file import SCENES, TOLERANCE, Exported, export
from trmml.deploy.onnx_graph import Intake
from trmml.errors import CheckpointError, ConfigError, DataError, EncoderError
from trmml.features.base import Features
from trmml.images import read_image
from trmml.settings.sections import Settings
from trmml.tagging.tagger import Tagger
from trmml.training.fit import train_run

module = importlib.import_module("trmml.deploy.onnx_file")
EXAMPLE = Path(__file__).parents[2] / "examples" / "tag_without_torch.py"
NEW = "zebra crossing"
MADE = SCENES + 1  # images that every file is checked on


@dataclass(frozen=True)
class File:
    """An exported run, and ONNX Runtime's session on it."""

    said: Exported
    session: onnxruntime.InferenceSession

    @property
    def about(self) -> dict:
        return json.loads(self.session.get_modelmeta().custom_metadata_map["trmml"])


def opened(said: Exported) -> File:
    return File(said, onnxruntime.InferenceSession(said.path))


@pytest.fixture(scope="module")
def whole(finished_run, toy_images, tmp_path_factory) -> File:
    out = tmp_path_factory.mktemp("onnx") / "new" / "toy.onnx"
    return opened(export(finished_run, out, trust=True, also=[NEW], check=[toy_images.test]))


@pytest.fixture(scope="module")
def head(finished_run, tmp_path_factory) -> File:
    out = tmp_path_factory.mktemp("head") / "head.onnx"
    return opened(export(finished_run, out, trust=True, part="head"))


def torch_says(tagger: Tagger, paths: list[Path]) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden patches, probabilities and maps (B, K, P) by the tagger's own parts."""
    pixels = torch.stack([tagger.frozen.encoder.preprocess(read_image(path)) for path in paths])
    hidden, feature = tagger.frozen.encode(pixels)
    output = tagger.output(Features(hidden, feature))
    probabilities = tagger.calibration.probabilities(output.logits.double()).float()
    return hidden, probabilities, output.regions.attention


def as_users_do(path: Path, about: dict) -> np.ndarray:
    resampling = Image.Resampling[about["interpolation"].upper()]
    return np.asarray(Image.open(path).convert("RGB").resize((about["size"],) * 2, resampling))


# What a file says --------------------------------------------------------------------------------


def test_the_file_says_what_the_tagger_says_in_batches_of_any_size(whole, finished_run, toy_images):
    paths = sorted(toy_images.test.iterdir())
    _, wanted, wanted_maps = torch_says(Tagger.load(finished_run, trust=True, also=[NEW]), paths)
    images = np.stack([as_users_do(path, whole.about) for path in paths])
    probabilities, maps = whole.session.run(None, {"image": images})
    assert maps.shape == (len(paths), 5, 3, 3)
    np.testing.assert_allclose(probabilities, wanted, atol=TOLERANCE)
    np.testing.assert_allclose(maps.reshape(wanted_maps.shape), wanted_maps, atol=TOLERANCE)
    np.testing.assert_allclose(maps.sum(axis=(2, 3)), 1, atol=1e-5)
    alone, _ = whole.session.run(None, {"image": images[:1]})
    np.testing.assert_allclose(alone[0], probabilities[0], atol=1e-5)
    assert np.ptp(probabilities, axis=0).min() > 0.01  # else all of this would prove little


def test_the_head_alone_takes_hidden_patches(head, finished_run, toy_images):
    paths = sorted(toy_images.test.iterdir())
    hidden, wanted, wanted_maps = torch_says(Tagger.load(finished_run, trust=True), paths)
    probabilities, maps = head.session.run(None, {"hidden_patches": hidden.numpy()})
    np.testing.assert_allclose(probabilities, wanted, atol=TOLERANCE)
    np.testing.assert_allclose(maps.reshape(wanted_maps.shape), wanted_maps, atol=TOLERANCE)
    assert head.about["part"] == "head" and "size" not in head.about


def test_the_metadata_hold_what_a_user_needs(whole, finished_run):
    tagger, about = Tagger.load(finished_run, trust=True, also=[NEW]), whole.about
    assert about["category_names"] == [*COLOURS, NEW] == list(whole.said.categories)
    assert about["thresholds"] == tagger.thresholds().tolist()
    assert (about["resize"], about["size"], about["interpolation"]) == ("squash", 24, "bilinear")
    assert about["grid"] == [3, 3] and about["calibrated"] is True and about["format"] == 1
    assert about["encoder"]["image_checksum"] == tagger.card.encoder.image_checksum
    assert about["scale"] == pytest.approx([2 / 255] * 3) and about["offset"] == [-1, -1, -1]


def test_the_report(whole, head):
    said = whole.said
    assert said.checked_images == MADE + 16 and head.said.checked_images == MADE
    assert said.size_bytes == said.path.stat().st_size and said.external_data is None
    assert 0 <= said.max_deviation <= TOLERANCE
    assert set(said.images_per_second) == {"onnxruntime", "torch"}
    assert min(said.images_per_second.values()) > 0
    assert [path.name for path in said.path.parent.iterdir()] == ["toy.onnx"]
    assert json.loads(json.dumps(said.to_dict()))["size_bytes"] == said.size_bytes
    # The encoder's text side and the prototypes are no part of it.
    assert head.said.size_bytes < said.size_bytes


@pytest.mark.parametrize(
    ("vision", "size"), [(tiny_clip.RESNET, 96), (tiny_clip.VIT, 40)], ids=["resnet", "vit"]
)
def test_towers_of_open_clip_at_a_size_that_is_not_their_own(vision, size, toy_images, tmp_path):
    encoder = tiny_clip.encoder(tiny_clip.clip(vision), size=size)
    data = read_folder(toy_images.train, toy_images.train_table)
    settings = Settings(training={"epochs": 2, "batch_size": 16, "held_out_share": 0.3})
    list(train_run(data, encoder, tmp_path / "run", settings=settings, device="cpu"))
    said = export(tmp_path / "run", tmp_path / "m.onnx", encoder=encoder, check=[toy_images.test])
    assert said.max_deviation <= TOLERANCE and said.checked_images == MADE + 16


def test_what_a_neighbour_head_remembers_goes_along(toy_images, tmp_path):
    data = read_folder(toy_images.train, toy_images.train_table)
    training = {"epochs": 2, "batch_size": 16, "held_out_share": 0.3}
    settings = Settings(training=training, neighbour_head={"use": True})
    list(train_run(data, ToyEncoder(), tmp_path / "run", settings=settings, device="cpu"))
    out, encoder = tmp_path / "m.onnx", ToyEncoder()
    said = export(tmp_path / "run", out, encoder=encoder, check=[toy_images.test])
    assert said.max_deviation <= TOLERANCE and said.checked_images == MADE + 16


# Preprocessing -----------------------------------------------------------------------------------


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_preprocessing_is_found_by_trying(interpolation):
    encoder = tiny_clip.encoder(
        tiny_clip.clip(tiny_clip.VIT),
        mean=(0.1, 0.2, 0.3),
        std=(0.5, 0.25, 0.2),
        interpolation=interpolation,
    )
    intake = Intake.of(encoder)
    assert (intake.size, intake.interpolation) == (32, interpolation)
    assert intake.scale == pytest.approx([1 / 127.5, 4 / 255, 5 / 255], rel=1e-5)
    assert intake.offset == pytest.approx([-0.2, -0.8, -1.5], rel=1e-5)
    picture = Image.radial_gradient("L").convert("RGB").resize((50, 71))
    pixels = intake.normalised(torch.from_numpy(intake.resized(picture))[None])[0]
    torch.testing.assert_close(pixels, encoder.preprocess(picture), atol=1e-5, rtol=0)


class Gamma(ToyEncoder):
    """Normalises in a way that is no straight line."""

    def preprocess(self, image: Image.Image) -> Tensor:
        return super().preprocess(image) ** 2


def test_preprocessing_that_no_file_can_repeat_is_refused():
    cropping = tiny_clip.encoder(tiny_clip.clip(tiny_clip.VIT), resize_mode="center-crop")
    for encoder in (cropping, Gamma()):
        with pytest.raises(EncoderError, match=r"no squash .* export the head alone"):
            Intake.of(encoder)


# Without torch -----------------------------------------------------------------------------------

BLOCKED = """
import runpy, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision", "trmml"):
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocker())
runpy.run_path(sys.argv.pop(1), run_name="__main__")
"""


def without_torch(script: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", BLOCKED, script, *arguments]
    return subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=300, check=False
    )


def test_the_example_tags_without_torch(whole, finished_run, toy_images):
    paths = sorted(toy_images.test.iterdir())[:6]
    done = without_torch(EXAMPLE, whole.said.path, *paths)
    assert (done.returncode, done.stderr) == (0, "")
    tagger = Tagger.load(finished_run, trust=True, also=[NEW])
    _, probabilities, _ = torch_says(tagger, paths)
    expected = [
        f"{path}: {tagger.category_names[c]} {100 * float(row[c]):.0f} %"
        for path, row in zip(paths, probabilities, strict=True)
        for c in row.argsort(descending=True)
        if row[c] >= tagger.thresholds()[c]
    ]
    lines = done.stdout.splitlines()
    assert expected and [line.partition(",")[0] for line in lines] == expected
    assert all("row" in line and "column" in line for line in lines)


def test_the_example_is_run_where_torch_cannot_be_imported(tmp_path):
    script = tmp_path / "script.py"
    for name in ("torch", "trmml"):
        script.write_text(f"import {name}")
        assert f"{name} is blocked" in without_torch(script).stderr


def test_the_example_has_at_most_20_lines_of_code():
    tree = ast.parse(EXAMPLE.read_text("utf-8"))
    statements = [
        node for node in ast.walk(ast.Module(tree.body[1:], [])) if hasattr(node, "lineno")
    ]
    assert len({node.lineno for node in statements}) <= 20
    imported = set[str]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").partition(".")[0])
    assert "onnxruntime" in imported and not imported & {"torch", "trmml"}


# What is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize("by", [2 * TOLERANCE, float("nan")])
@pytest.mark.parametrize("which", [0, 1], ids=["probabilities", "maps"])
def test_a_file_that_says_something_else_is_not_kept(
    by, which, head, finished_run, tmp_path, monkeypatch
):
    said = module._run

    def wrong(session, given):
        answer = said(session, given)
        answer[which][-1, -1] += by
        return answer

    monkeypatch.setattr(module, "_write", lambda _, __, path: shutil.copy(head.said.path, path))
    out = tmp_path / "m.onnx"
    export(finished_run, out, trust=True, part="head")
    before = out.read_bytes()
    monkeypatch.setattr(module, "_run", wrong)
    with pytest.raises(EncoderError, match=rf"nothing was written to {out}.* where 0\.0001"):
        export(finished_run, out, trust=True, part="head")
    assert list(tmp_path.iterdir()) == [out] and out.read_bytes() == before


class Moody(ToyEncoder):
    """Decides in Python what depends on the picture."""

    @torch.no_grad()
    def encode_image(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        return super().encode_image(pixels if pixels.mean() > 0 else -pixels)


def test_an_encoder_that_cannot_be_traced_is_refused(toy_images, tmp_path):
    data = read_folder(toy_images.train, toy_images.train_table)
    list(
        train_run(
            data, Moody(), tmp_path / "run", settings=Settings(training={"epochs": 1}), device="cpu"
        )
    )
    out = tmp_path / "m.onnx"
    with pytest.raises(EncoderError, match=r"cannot be exported to ONNX .* export part 'head'"):
        export(tmp_path / "run", out, encoder=Moody())
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_weights_beyond_one_file_go_beside_it(finished_run, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "ONE_FILE_BYTES", 0)
    said = export(finished_run, tmp_path / "m.onnx", part="head", trust=True)
    data = tmp_path / "m.onnx.data"
    assert said.external_data == data and sorted(tmp_path.iterdir()) == [said.path, data]
    assert said.size_bytes == said.path.stat().st_size + data.stat().st_size
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    export(finished_run, said.path, part="head", trust=True)  # its own weights are replaced
    for path in (said.path, data):
        path.rename(moved / path.name)
    data.write_bytes(b"of somebody")
    with pytest.raises(DataError, match=r"\.data is there already"):
        export(finished_run, said.path, part="head", trust=True)
    assert data.read_bytes() == b"of somebody" and not said.path.exists()
    onnxruntime.InferenceSession(moved / "m.onnx")  # finds the weights beside it


@pytest.mark.parametrize("name", ["photo.jpg", "other.onnx"])
def test_only_an_export_is_replaced(head, finished_run, tmp_path, monkeypatch, name):
    monkeypatch.setattr(module, "_write", lambda _, __, path: shutil.copy(head.said.path, path))
    out = tmp_path / name
    for _ in range(2):
        export(finished_run, out, part="head", trust=True)
    other = b"\x08\x0a" * 500 if name.endswith("onnx") else b"\xff\xd8" + b"\n\x05trmml\x12" * 9
    out.write_bytes(other)
    with pytest.raises(DataError, match="is there already and no ONNX file of trmml"):
        export(finished_run, out, part="head", trust=True)
    assert out.read_bytes() == other


def test_places_and_runs_that_are_none(finished_run, tmp_path):
    with pytest.raises(ConfigError, match="expected a file to write"):
        export(finished_run, tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"cannot write .*m\.onnx"):
        export(finished_run, tmp_path / "file" / "m.onnx")
    with pytest.raises(DataError, match="nowhere"):
        export(finished_run, tmp_path / "m.onnx", check=[tmp_path / "nowhere"])
    with pytest.raises(CheckpointError, match="trmml fit"):
        export(tmp_path, tmp_path / "m.onnx")
    with pytest.raises(ConfigError, match="part must be one of all, head, got 'tail'"):
        unwrap(export)(finished_run, tmp_path / "m.onnx", part="tail")  # past the tests' type check
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


# Command line ------------------------------------------------------------------------------------


def test_the_command(head, finished_run, tmp_path, monkeypatch):
    runner = CliRunner()
    monkeypatch.setattr(module, "_write", lambda _, __, path: shutil.copy(head.said.path, path))
    out = tmp_path / "m.onnx"
    done = runner.invoke(app, ["export", str(finished_run), str(out), "--part", "head", "--trust"])
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0] == f"{out}: {out.stat().st_size / 1e6:.1f} MB, opset 20"
    assert lines[1] == ("takes hidden_patches; gives probabilities and region_maps of 4 categories")
    assert lines[2].startswith("checked on 5 images: differs from torch by at most ")
    assert lines[3].startswith("images per second here: onnxruntime ") and len(lines) == 4
    given = {}

    def noted(run, out, **options):
        given.update(options)
        return export(run, out, **options)

    monkeypatch.setattr(module, "export", noted)
    arguments = [str(finished_run), str(tmp_path / "n.onnx"), "--part", "head", "--encoder"]
    done = runner.invoke(app, ["export", *arguments, TOY_SPEC, "--json"])
    assert done.exit_code == 0 and json.loads(done.stdout)["part"] == "head"
    assert given["encoder"] == TOY_SPEC
    assert given["also"] == () and given["check"] == ()


def test_errors_of_the_command(tmp_path):
    done = CliRunner().invoke(app, ["export", str(tmp_path), str(tmp_path / "m.onnx")])
    assert done.exit_code == 1 and done.stderr.startswith("Error: ") and "trmml fit" in done.stderr
    assert CliRunner().invoke(app, ["export", str(tmp_path)]).exit_code == 2
