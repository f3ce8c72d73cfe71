import json
import logging
import os
import sys
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from tests.conftest import TOY_SPEC, ToyImages
from tests.toy import ToyEncoder
from trmml.baselines.zero_shot import build_zero_shot
from trmml.cli.main import app
from trmml.datasets import Dataset
from trmml.datasets.formats.folder import read_folder
from trmml.encoders import load_encoder
from trmml.errors import CheckpointError
from trmml.features.extract import encode_images
from trmml.labels import masks
from trmml.labels.matrix import LabelMatrix
from trmml.labels.statistics import counted_by_blanks
from trmml.method.interface import predict
from trmml.metrics.calibration import calibrate
from trmml.metrics.measure import measure
from trmml.reporting.comparison import figures
from trmml.reporting.fit import fit
from trmml.reporting.report import write_report
from trmml.settings.sections import Settings, changed
from trmml.storage.tensors import load_tensors

SETTINGS = Settings(training={"epochs": 2, "batch_size": 16, "held_out_share": 0.3, "seed": 3})
OPTIONS = ("--epochs", "2", "--seed", "3", "--device", "cpu", "--set", "training.batch_size=16",
           "--set", "training.held_out_share=0.3")  # fmt: skip


@pytest.fixture
def train(toy_images: ToyImages) -> Dataset:
    return read_folder(toy_images.train, toy_images.train_table)


@pytest.fixture
def test(toy_images: ToyImages) -> Dataset:
    return read_folder(toy_images.test, toy_images.test_table)


def finish(records: Generator[Any, None, dict[str, Any]]) -> tuple[list[str], dict[str, Any]]:
    """The epochs as text, and the summary that the generator returns."""
    epochs = []
    while True:
        try:
            epochs.append(str(next(records)))
        except StopIteration as end:
            return epochs, end.value


def test_the_function_does_what_the_command_does(
    train: Dataset, test: Dataset, toy_images: ToyImages, tmp_path: Path
) -> None:
    notes: list[str] = []
    epochs, summary = finish(
        fit(
            train,
            load_encoder(TOY_SPEC),
            tmp_path / "python",
            settings=SETTINGS,
            mask=masks.share_known(0.5),
            test=test,
            device="cpu",
            note=notes.append,
        )
    )
    paths = ("--images", toy_images.train, "--labels", toy_images.train_table, "--known", "0.5")
    tests = ("--test-images", toy_images.test, "--test-labels", toy_images.test_table)
    command = ["fit", *paths, *tests, "--out", tmp_path / "shell", "--encoder", TOY_SPEC, "--json"]
    shell = CliRunner().invoke(app, [str(word) for word in (*command, *OPTIONS)])
    assert shell.exit_code == 0, shell.output
    tree = json.loads(shell.stdout)
    assert len(epochs) == 2 and list(summary) == list(tree)
    differ = {"run", "seconds", "trained", "report", "chosen"}
    assert {k: v for k, v in summary.items() if k not in differ} == {
        k: v for k, v in tree.items() if k not in differ
    }
    names = {path.name for path in (tmp_path / "python").iterdir()}
    assert names == {path.name for path in (tmp_path / "shell").iterdir()}
    assert {"model.json", "results.json", "report.html"} <= names
    models = [(tmp_path / run / "model.safetensors").read_bytes() for run in ("python", "shell")]
    assert models[0] == models[1]  # what was known has the same checksum, in the summaries
    assert notes == [line for line in shell.stderr.splitlines() if line in notes]
    zero_shot = [tree["methods"][name] for name in ("zero-shot", "zero-shot dense")]
    assert zero_shot == _calibrated_by_hand(train, test, tmp_path / "python")
    assert notes[0].startswith("48 images, 4 categories, ") and notes[1].startswith("Kept epoch ")


def _calibrated_by_hand(train: Dataset, test: Dataset, run: Path) -> list[dict[str, Any]]:
    """Figures of zero-shot on images and on patches, with thresholds from the run's held-out."""
    known = LabelMatrix.load(run / "known.safetensors")
    held = load_tensors(run / "held_out.safetensors")[0]["images"]
    sources = [encode_images(data.paths, ToyEncoder()).source for data in (train, test)]
    found = []
    for look in ("image", "dense"):
        model = build_zero_shot(ToyEncoder(), train.category_names, look=look)
        logits, asked = predict(model, sources[0], held), predict(model, sources[1]).double()
        fitted = calibrate(logits, known.subset(held), counted_by_blanks(known))
        pairs = (test.matrix.labels, test.matrix.known, test.category_names)
        probabilities = fitted.probabilities(asked)
        found.append(figures(measure(probabilities, *pairs, threshold=fitted.thresholds)))
    return found


def test_features_that_are_given_compare_the_same(
    train: Dataset, test: Dataset, tmp_path: Path
) -> None:
    given = encode_images(train.paths, ToyEncoder(), views=SETTINGS.training.encoded_views, seed=3)
    _, whole = finish(begin(train, test, tmp_path / "whole"))
    _, again = finish(begin(train, test, tmp_path / "again", encoded=given))
    assert again["methods"] == whole["methods"]


def test_a_matrix_is_used_as_it_is(train: Dataset, tmp_path: Path) -> None:
    mask = train.matrix.hide(0.5, seed=8)
    _, summary = finish(
        fit(train, load_encoder(TOY_SPEC), tmp_path, settings=SETTINGS, mask=mask, device="cpu")
    )
    assert summary["mask_sha256"] == mask.checksum() and "methods" not in summary
    assert LabelMatrix.load(tmp_path / "known.safetensors").checksum() == mask.checksum()
    assert (tmp_path / "report.html").is_file() and not (tmp_path / "results.json").exists()


def test_a_run_that_zero_shot_beats_is_warned_of(
    train: Dataset, test: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from trmml.reporting import fit as module

    original = module.zero_shot_metrics

    def perfect(encoder: Any, source: Any, data: Dataset, **options: Any) -> Any:
        from trmml.metrics.measure import measure

        names = original(encoder, source, data, **options)
        labels = data.matrix.labels
        everything = torch.ones_like(labels)
        return dict.fromkeys(
            names, measure(labels.double(), labels, everything, data.category_names)
        )

    monkeypatch.setattr(module, "zero_shot_metrics", perfect)
    with caplog.at_level(logging.WARNING, "trmml"):
        finish(
            fit(
                train,
                load_encoder(TOY_SPEC),
                tmp_path,
                settings=SETTINGS,
                mask=masks.quota(2, 2),
                test=test,
                device="cpu",
            )
        )
    assert "training did not beat the encoder's own zero-shot" in caplog.text


# A run that was stopped at its end -----------------------------------------------------------


def begin(train: Dataset, test: Dataset, out: Path, **options: Any) -> Any:
    options = {"mask": masks.share_known(0.5), "device": "cpu", "settings": SETTINGS, **options}
    return fit(train, load_encoder(TOY_SPEC), out, test=test, **options)


@pytest.mark.parametrize("last", ["write_report", "_write_results", "load_card"])
def test_a_run_that_was_stopped_after_its_training_is_concluded(
    train: Dataset, test: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: str
) -> None:
    (train.paths[0].parent / "more").mkdir(exist_ok=True)
    broken = replace(train, images=("more/missing.png", *train.images[1:]))
    _, whole = finish(begin(broken, test, tmp_path / "whole", on_bad_image="skip"))

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    module = sys.modules["trmml.reporting.fit"]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, last, stop)
        finish(begin(broken, test, tmp_path / "cut", on_bad_image="skip"))
    assert (tmp_path / "cut" / "state.safetensors").is_file()
    write_report(tmp_path / "cut")  # as `trmml report` does; the run stays open
    other = begin(train, test, tmp_path / "cut", mask=masks.share_known(0.6), resume=True)
    with pytest.raises(CheckpointError, match="was trained on other images or labels"):
        finish(other)
    longer = changed(SETTINGS, {"training.epochs": SETTINGS.training.epochs + 1})
    other = begin(broken, test, tmp_path / "cut", resume=True, settings=longer)
    with pytest.raises(CheckpointError, match=r"begun otherwise: training\.epochs is"):
        finish(other)
    epochs, cut = finish(begin(broken, test, tmp_path / "cut", resume=True, on_bad_image="skip"))
    assert epochs == [] and cut["methods"] == whole["methods"]
    names = [{p.name for p in (tmp_path / run).iterdir()} for run in ("whole", "cut")]
    assert names[0] == names[1] and not [name for name in names[1] if name.startswith(".")]
    with pytest.raises(CheckpointError, match="finished already; nothing is left to resume"):
        finish(begin(train, test, tmp_path / "cut", resume=True))


def test_a_second_fit_into_one_folder_is_refused(
    train: Dataset, test: Dataset, tmp_path: Path
) -> None:
    with ThreadPoolExecutor(1) as other:
        first = begin(train, test, tmp_path / "run")
        other.submit(next, first).result()
        with pytest.raises(CheckpointError, match=f"in use by process {os.getpid()} on"):
            finish(begin(train, test, tmp_path / "run", resume=True))
        other.submit(first.close).result()
    finish(begin(train, test, tmp_path / "run", resume=True))


def test_test_images_that_are_trained_on_are_told(
    train: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "linked").symlink_to(train.root)
    some = replace(train.subset(range(4)), root=tmp_path / "linked")
    finish(begin(train, some, tmp_path / "run"))
    assert "4 of 4 test images are trained on too, first " in caplog.text
