"""Runs of every readable format give the probabilities that they gave when they were written.

`run_format_5` was made by trmml 0.1.0 at commit c451c6d: `write_images(folder, 48)` with 70 % of
the labels known, every part switched on. `run_format_6` is the same run by the code that
introduced that format. Each `expected.json` holds the probabilities of its own code.
`toy_encoder.safetensors` are the encoder's weights there: other processors draw other last bits.
"""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.conftest import ToyImages
from tests.toy import WHOLE, ToyEncoder, kept_encoder, write_images
from trmml.datasets.formats.folder import read_folder
from trmml.features.base import Features
from trmml.labels.matrix import LabelMatrix
from trmml.settings.sections import Settings
from trmml.storage.tensors import load_tensors, save_tensors
from trmml.tagging.tagger import Tagger
from trmml.training.fit import train_run
from trmml.training.old_formats import PREFIXES, READABLE

FORMATS = READABLE


@pytest.mark.parametrize("number", FORMATS)
def test_a_run_of_an_old_format_gives_its_probabilities(number: int, tmp_path: Path) -> None:
    run = Path(__file__).with_name(f"run_format_{number}")
    assert json.loads((run / "model.json").read_text("utf-8"))["format"] == number
    expected = json.loads((run / "expected.json").read_text("utf-8"))
    encoder = kept_encoder()
    tagger = Tagger.load(run, encoder=encoder, also=["purple"])
    assert list(tagger.category_names) == expected["category_names"]
    write_images(tmp_path / "images", 48)
    images = [Image.open(tmp_path / "images" / name) for name in expected["probabilities"]]
    pixels = torch.stack([encoder.preprocess(image) for image in images])
    scores = tagger.score(Features(*encoder.encode_image(pixels)))
    wanted = torch.tensor(list(expected["probabilities"].values())).double()
    # On one machine they agree to 1e-6; other processors sum in another order.
    torch.testing.assert_close(scores.probabilities.double(), wanted, atol=1e-4, rtol=0)


@pytest.mark.parametrize("number", FORMATS)
def test_the_labels_of_an_old_run_are_read(number: int) -> None:
    run = Path(__file__).with_name(f"run_format_{number}")
    card = json.loads((run / "model.json").read_text("utf-8"))
    matrix = LabelMatrix.load(run / "known.safetensors")
    assert matrix.checksum() == card["data"]["mask_sha256"]
    assert matrix.known_share == card["data"]["known_share"]


def test_a_run_begun_in_format_5_goes_on(toy_images: ToyImages, tmp_path: Path) -> None:
    data = read_folder(toy_images.train, toy_images.train_table)
    settings = Settings(training={"epochs": 2, "batch_size": 16, "held_out_share": 0.3}, **WHOLE)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    list(train_run(data, ToyEncoder(), whole, settings=settings, device="cpu"))
    going = train_run(data, ToyEncoder(), cut, settings=settings, device="cpu")
    next(going)
    going.close()
    tensors, metadata = load_tensors(cut / "state.safetensors")
    del metadata["sum"]  # which the states of then lack
    for old, new in PREFIXES.items():
        assert any(f".{new}" in name for name in tensors)
        tensors = {name.replace(f".{new}", f".{old}"): each for name, each in tensors.items()}
    save_tensors(cut / "state.safetensors", tensors, metadata)
    list(train_run(data, ToyEncoder(), cut, settings=settings, resume=True, device="cpu"))
    trained = [load_tensors(run / "model.safetensors")[0] for run in (whole, cut)]
    assert trained[0].keys() == trained[1].keys()
    assert all(torch.equal(trained[0][name], trained[1][name]) for name in trained[0])
