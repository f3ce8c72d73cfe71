"""The kept ONNX file of a run: the same tags as by torch, and never another file's."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import onnx
import pytest
import torch
import torch.nn.functional as F
from filelock import FileLock
from PIL import Image
from torch import nn

from tests.toy import WHOLE, ToyEncoder
from trmml.datasets.formats.folder import read_folder
from trmml.deploy import kept as module
from trmml.deploy.kept import keep, open_kept
from trmml.deploy.onnx_file import export
from trmml.deploy.tag import TORCH_FROM, _on_processor, tag
from trmml.errors import DataError, EncoderError
from trmml.features.decoding import REDUCED_MARGIN
from trmml.settings.sections import Settings
from trmml.tagging.onnx_tagger import BATCH, OnnxTagger
from trmml.tagging.tagger import Tagger
from trmml.tagging.tags import Choice
from trmml.training.fit import train_run

why_not = module._why_not
# pydantic is not among them: typer itself imports it.
HEAVY = ("torch", "torchvision", "open_clip", "timm", "polars", "matplotlib", "sympy")


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache, and the toy taken for an encoder of trmml's own."""
    monkeypatch.setenv("TRMML_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "_why_not", lambda card: None)
    return tmp_path / "cache" / "taggers"


@pytest.fixture(scope="module")
def kept_cache(finished_run, tmp_path_factory) -> Path:
    """A cache that holds the finished run; read it only."""
    folder = tmp_path_factory.mktemp("kept")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRMML_CACHE", str(folder))
        patch.setattr(module, "_why_not", lambda card: None)
        patch.setattr("trmml.deploy.onnx_file.export", partial(export, trust=True))
        keep(finished_run)
    return folder


@pytest.fixture
def kept(kept_cache, finished_run, monkeypatch) -> OnnxTagger:
    monkeypatch.setenv("TRMML_CACHE", str(kept_cache))
    found = open_kept(finished_run)
    assert found is not None
    return found


def without_torch(monkeypatch):
    """From here on, loading a run by torch fails."""

    def load(*_, **__):
        raise AssertionError("torch was asked")

    monkeypatch.setattr(Tagger, "load", load)


# The same tags ----------------------------------------------------------------------------------


def images_of_many_kinds(folder: Path, toy_images) -> list[Path]:
    """Small and large images, grey, transparent, turned, and one that is broken; two batches."""
    small = sorted(toy_images.test.iterdir())
    made = {
        "large.jpg": Image.open(small[0]).convert("RGB").resize((1200, 900)),
        "grey.png": Image.open(small[1]).convert("L"),
        "clear.png": Image.open(small[2]).convert("RGBA").resize((60, 50)),
    }
    for name, image in made.items():
        image.save(folder / name)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.open(small[3]).convert("RGB").save(folder / "turned.jpg", exif=turned)
    paths = [*small, *sorted(folder.iterdir())] * 2
    assert len(paths) > BATCH
    return paths


@pytest.mark.parametrize("options", [{}, {"top": 2}, {"threshold": 0.4}, {"threshold": 0.1}])
def test_the_tags_are_those_of_torch(kept, finished_run, toy_images, tmp_path, options):
    paths = images_of_many_kinds(tmp_path, toy_images)
    wanted = Tagger.load(finished_run, trust=True).tag(paths, on_bad_image="skip", **options)
    found = kept.tag(paths, Choice(**options), on_bad_image="skip")
    for one, two in zip(found, wanted, strict=True):
        assert (one.path, one.error) == (two.path, two.error)
        assert [t.category for t in one.tags] == [t.category for t in two.tags]
        assert [t.threshold for t in one.tags] == [t.threshold for t in two.tags]
        for a, b in zip(one.tags, two.tags, strict=True):
            assert a.probability == pytest.approx(b.probability, abs=1e-4)


def test_both_ways_decode_large_jpegs_alike(kept, finished_run):
    reduced = Tagger.load(finished_run, trust=True).reduced
    assert kept._about["at_least"] == (REDUCED_MARGIN * ToyEncoder.size if reduced else None)


def test_an_unreadable_image_stops_or_is_counted(kept, toy_images, tmp_path, caplog):
    paths = [sorted(toy_images.test.iterdir())[0], tmp_path / "missing.jpg"]
    with pytest.raises(DataError, match=r"missing\.jpg"):
        list(kept.tag(paths, Choice(), on_bad_image="error"))
    list(kept.tag(paths[1:], Choice(), on_bad_image="skip"))
    assert "1 of 1 images cannot be read" in caplog.text


# Which way --------------------------------------------------------------------------------------


def test_the_kept_file_is_used_where_it_does_all_that_is_asked(
    kept, finished_run, toy_images, monkeypatch, caplog
):
    path = sorted(toy_images.test.iterdir())[0]
    without_torch(monkeypatch)
    caplog.set_level("INFO", "trmml")
    assert tag(finished_run, [path], device="auto", precision="auto")[0].path == path
    assert "tagging by ONNX Runtime" in caplog.text
    for more in ({"also": ["zebra"]}, {"explain": "maps"}, {"encoder": "bundled"}):
        with pytest.raises(AssertionError, match="torch was asked"):
            tag(finished_run, [path], **more)


def test_what_the_kept_files_do_as_well():
    assert _on_processor("auto", "auto", 1) == "fp32" == _on_processor("cpu", "fp32", TORCH_FROM)
    assert _on_processor("auto", "fp32", TORCH_FROM) is None is _on_processor("cuda", "fp32", 1)
    assert _on_processor("cpu", "int8", TORCH_FROM) == "int8"
    assert _on_processor("cpu", "bf16", 1) is None


@pytest.fixture
def own_kept(kept_cache, tmp_path, monkeypatch) -> Path:
    """A cache that holds the finished run, to write into."""
    shutil.copytree(kept_cache, tmp_path / "cache")
    monkeypatch.setenv("TRMML_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "taggers"


def test_int8_is_made_once_and_leaves_small_products(
    own_kept, finished_run, toy_images, monkeypatch
):
    without_torch(monkeypatch)
    paths = sorted(toy_images.test.iterdir())
    plain = tag(finished_run, paths)
    for _ in range(2):
        for one, two in zip(tag(finished_run, paths, precision="int8"), plain, strict=True):
            assert [t.category for t in one.tags] == [t.category for t in two.tags]
            for a, b in zip(one.tags, two.tags, strict=True):
                assert a.probability == pytest.approx(b.probability, abs=1e-4)
        monkeypatch.setattr("trmml.encoders.speed.onnx.quantise", None)
    (path,) = own_kept.glob("*.int8.onnx")
    assert b"DynamicQuantizeLinear" not in path.read_bytes()
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    assert open_kept(finished_run, "int8") is None  # nothing quantises any more
    monkeypatch.undo()
    monkeypatch.setenv("TRMML_CACHE", str(own_kept.parent))
    assert open_kept(finished_run, "int8") is not None and path.stat().st_size == len(whole)


class WideEncoder(ToyEncoder):
    """The toy with the widths of ViT-B-32: W = 768, D = 512, and a product between."""

    def __init__(self) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        sizes = {"lift": (3, 768), "block": (768, 768), "projection": (768, 512), "text": (6, 512)}
        for name, size in sizes.items():
            weight = torch.randn(*size, generator=draw) / size[0] ** 0.5
            setattr(self, name, nn.Parameter(weight, requires_grad=False))

    @torch.no_grad()
    def encode_image(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        means = F.adaptive_avg_pool2d(pixels, 3).flatten(2).transpose(1, 2)
        hidden = torch.tanh(torch.tanh(means @ self.lift) @ self.block)
        return hidden, F.normalize(self.project(hidden).mean(dim=1), dim=-1)


def test_at_real_widths_the_encoder_is_int8_and_all_of_the_head_is_fp32(
    cache, toy_images, tmp_path, monkeypatch
):
    data, run = read_folder(toy_images.train, toy_images.train_table), tmp_path / "run"
    training = {"epochs": 1, "batch_size": 16, "held_out_share": 0.3}
    settings = Settings(**{**WHOLE, "training": training})
    for _ in train_run(data, WideEncoder(), run, settings=settings, device="cpu"):
        pass
    made = partial(export, encoder=WideEncoder())
    monkeypatch.setattr("trmml.deploy.onnx_file.export", made)
    keep(run)
    paths, every = sorted(toy_images.test.iterdir()), Choice(threshold=0.0)
    plain, int8 = (open_kept(run, precision) for precision in ("fp32", "int8"))
    pairs = zip(*(t.tag(paths, every, on_bad_image="error") for t in (plain, int8)), strict=True)
    for one, two in pairs:
        exact = {each.category: each.probability for each in one.tags}
        moved = [abs(each.probability - exact[each.category]) for each in two.tags]
        assert max(moved) < 0.2  # rounding differs by processor
    before, after = (
        {weight.name: tuple(weight.dims) for weight in onnx.load(path).graph.initializer}
        for path in sorted(cache.glob("*.onnx"), key=lambda path: "int8" in path.name)
    )
    # The head's own reader of regions and image head, as large as what the encoder has.
    assert list(before.values()).count((768, 512)) == 2 and (1024, 768) in before.values()
    quantised = {name: size for name, size in after.items() if name.endswith("_quantized")}
    assert quantised == {
        "head.encoder.block_quantized": (768, 768),
        "head.encoder.projection_quantized": (768, 512),
    }


def test_auto_that_chose_int8_takes_its_kept_file(
    own_kept, finished_run, toy_images, monkeypatch, caplog
):
    monkeypatch.setattr(Tagger, "best_precision", lambda *_: "int8")
    monkeypatch.setattr("trmml.deploy.tag.TORCH_FROM", 2)
    caplog.set_level("INFO", "trmml")
    paths = sorted(toy_images.test.iterdir())[:2]
    assert len(tag(finished_run, paths, trust=True, precision="auto")) == 2
    assert "quantising" in caplog.text and "tagging by ONNX Runtime" in caplog.text


def test_a_card_refuses_int8_whether_or_not_a_file_is_kept(
    own_kept, finished_run, toy_images, monkeypatch, tmp_path
):
    """A tagger on the processor, which says that it is on a card."""
    there, load = sorted(toy_images.test.iterdir())[:1], Tagger.load

    def load_there(run, *, device, **named):
        tagger = load(run, device="cpu", **named)
        card = "cpu" if device == "cpu" else "cuda"
        tagger.frozen = replace(tagger.frozen, device=card)
        return tagger

    monkeypatch.setattr(Tagger, "load", load_there)
    for cache in (own_kept.parent, tmp_path / "empty"):
        monkeypatch.setenv("TRMML_CACHE", str(cache))
        with pytest.raises(EncoderError, match="int8 runs on the processor only, not on cuda"):
            tag(finished_run, there, device="cuda", precision="int8", trust=True)
        assert len(tag(finished_run, there, device="auto", precision="int8", trust=True)) == 1


def test_one_image_is_tagged_without_anything_heavy(kept, finished_run, toy_images):
    image = sorted(toy_images.test.iterdir())[0]
    code = (
        "import sys\nfrom trmml.cli.main import app\n"
        f"app(['tag', {str(finished_run)!r}, {str(image)!r}, '--jsonl'], standalone_mode=False)\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    line, heavy = done.stdout.splitlines()
    assert json.loads(line)["image"] == str(image) and heavy == "[]"


# Keeping ----------------------------------------------------------------------------------------


def counted(monkeypatch, *, fail: Exception | None = None) -> list[Path]:
    """Instead of exports: a file that is none, or an error; the paths asked for."""
    made: list[Path] = []

    class Done:
        external_data = None

        def __init__(self, path):
            self.path = path

    def export(run, out):
        made.append(out)
        if fail is not None:
            raise fail
        out.write_bytes(b"no model")
        return Done(out)

    monkeypatch.setattr("trmml.deploy.onnx_file.export", export)
    return made


def test_a_run_on_the_users_own_code_is_never_kept(finished_run, cache, monkeypatch):
    monkeypatch.setattr(module, "_why_not", why_not)
    made = counted(monkeypatch)
    keep(finished_run)
    assert made == [] and open_kept(finished_run) is None


def test_the_first_tagging_by_torch_keeps_the_run(finished_run, cache, toy_images, monkeypatch):
    path = sorted(toy_images.test.iterdir())[0]
    made = counted(monkeypatch)
    for _ in range(2):
        tag(finished_run, [path], also=["zebra"], trust=True)  # asks for more, and so keeps nothing
    assert made == []
    tag(finished_run, [path], trust=True)
    keep(finished_run)
    assert len(made) == 1


def test_what_cannot_be_exported_is_not_tried_again(finished_run, cache, monkeypatch):
    made = counted(monkeypatch, fail=EncoderError("no file can hold it"))
    keep(finished_run)
    keep(finished_run)
    assert len(made) == 1 and open_kept(finished_run) is None
    (note,) = cache.glob("*.json")
    assert json.loads(note.read_text()) == {"reason": "no file can hold it"}


def test_a_failure_of_another_kind_is_logged_and_tried_again(
    finished_run, cache, monkeypatch, caplog
):
    made = counted(monkeypatch, fail=OSError(28, "No space left on device"))
    caplog.set_level("INFO", "trmml")
    keep(finished_run)
    keep(finished_run)
    assert len(made) == 2 and "No space left" in caplog.text


def test_a_file_that_was_changed_is_not_used(kept_cache, finished_run, cache, monkeypatch, caplog):
    shutil.copytree(kept_cache / "taggers", cache)
    assert open_kept(finished_run) is not None
    (file,) = cache.glob("*.onnx")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    caplog.set_level("INFO", "trmml")
    assert open_kept(finished_run) is None
    assert "is not the file that was written" in caplog.text
    made = counted(monkeypatch)
    keep(finished_run)
    assert made == [file]


@pytest.mark.parametrize("bytes_left", [0, 9, -1])
def test_a_file_that_was_cut_off_is_made_anew(own_kept, finished_run, monkeypatch, bytes_left):
    monkeypatch.setattr(module, "_why_not", lambda card: None)
    monkeypatch.setattr("trmml.deploy.onnx_file.export", partial(export, trust=True))
    assert open_kept(finished_run, "int8") is not None
    (plain,) = (path for path in own_kept.glob("*.onnx") if "int8" not in path.name)
    plain.write_bytes(plain.read_bytes()[:bytes_left])
    assert open_kept(finished_run) is None
    keep(finished_run)
    assert open_kept(finished_run) is not None and open_kept(finished_run, "int8") is not None


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
def test_a_run_that_was_changed_has_no_kept_file(kept, finished_run, tmp_path, name):
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    assert open_kept(run) is not None
    with (run / name).open("ab") as file:
        file.write(b" ")
    assert open_kept(run) is None
    (run / name).unlink()
    assert open_kept(run) is None
    keep(run)  # and nothing is raised


def copied_run(run: Path, out: Path, number: int) -> Path:
    """A run that is like no other."""
    out.mkdir()
    for name in ("model.json", "model.safetensors"):
        shutil.copy(run / name, out)
    (out / "model.json").write_text((out / "model.json").read_text() + " " * number)
    return out


def stem(run: Path) -> str:
    note = module._note_path(run)
    assert note is not None
    return note.stem


def aged(cache: Path) -> None:
    """Make each note older than what comes after it."""
    for note in cache.glob("*.json"):
        os.utime(note, (note.stat().st_atime, note.stat().st_mtime - 60))


@pytest.mark.parametrize("fail", [None, EncoderError("no file")])
def test_the_files_of_the_runs_used_last_stay(finished_run, cache, tmp_path, monkeypatch, fail):
    monkeypatch.setattr(module, "KEPT", 2)
    counted(monkeypatch, fail=fail)
    runs = [copied_run(finished_run, tmp_path / f"run{n}", n) for n in range(4)]
    for run in runs[:3]:
        keep(run)
        aged(cache)
    assert {note.stem for note in cache.glob("*.json")} == {stem(run) for run in runs[1:3]}
    assert {path.stem for path in cache.iterdir()} == {stem(run) for run in runs[1:3]}
    # What a run was asked for last counts; there is no file to be opened.
    monkeypatch.setattr(module, "_check", lambda note, files: None)
    monkeypatch.setattr(module, "OnnxTagger", lambda path: object.__new__(OnnxTagger))
    open_kept(runs[1])
    keep(runs[3])
    assert {note.stem for note in cache.glob("*.json")} == {stem(runs[1]), stem(runs[3])}


def test_runs_that_cannot_be_kept_take_the_place_of_no_file(
    finished_run, cache, tmp_path, monkeypatch
):
    monkeypatch.setattr(module, "KEPT", 1)
    counted(monkeypatch)
    good = copied_run(finished_run, tmp_path / "good", 0)
    keep(good)
    counted(monkeypatch, fail=EncoderError("no file"))
    for number in (1, 2):
        aged(cache)
        last = copied_run(finished_run, tmp_path / f"run{number}", number)
        keep(last)
    assert {note.stem for note in cache.glob("*.json")} == {stem(good), stem(last)}


def test_the_lock_of_a_run_that_is_being_kept_stays(finished_run, cache, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "KEPT", 0)
    counted(monkeypatch)
    cache.mkdir(parents=True)
    held = cache / "0123.lock"
    held.with_suffix(".json").touch()
    with FileLock(held):
        keep(finished_run)
        assert sorted(path.suffix for path in cache.iterdir()) == [".json", ".lock"]
    keep(finished_run)
    assert not list(cache.iterdir())


def test_a_cache_that_may_only_be_read_serves(finished_run, kept_cache, cache, monkeypatch):
    shutil.copytree(kept_cache / "taggers", cache)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr(module.os, "utime", refuse)
    assert open_kept(finished_run) is not None
    monkeypatch.setattr(module, "OnnxTagger", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)
    assert open_kept(finished_run) is None


def test_a_file_that_cannot_be_quantised_stays(finished_run, kept_cache, cache, monkeypatch):
    shutil.copytree(kept_cache / "taggers", cache)
    monkeypatch.setattr(module, "_int8", lambda *_: 1 / 0)
    assert open_kept(finished_run, "int8") is None
    assert open_kept(finished_run) is not None


def test_onnx_runtime_keeps_no_id_of_the_device(tmp_path):
    code = "import trmml, onnxruntime"
    env = {**os.environ, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], env=env, check=True)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
