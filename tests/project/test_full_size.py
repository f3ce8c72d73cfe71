"""The real architectures, with random weights: loaded from a file, trained a step, and tagging."""

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from tests.toy import WHOLE, write_images, write_table
from trmml.datasets.formats.folder import read_folder
from trmml.encoders import load_encoder
from trmml.settings.sections import Settings
from trmml.tagging.tagger import Tagger
from trmml.training.fit import train_run


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), [("RN101", 448), ("ViT-B-16", 224)])
@pytest.mark.parametrize("train_context", [True, False])
def test_weights_from_a_file_train_and_tag(name, size, train_context, tmp_path_factory):
    root = tmp_path_factory.getbasetemp() / name
    weights = root / "weights.safetensors"
    if not weights.exists():
        root.mkdir()
        torch.manual_seed(0)
        save_file(open_clip.create_model(name).state_dict(), weights)
        write_table(root / "labels.csv", write_images(root / "images", 6))
    encoder = load_encoder(f"{name}:{weights}", image_size=size)
    data = read_folder(root / "images", root / "labels.csv")
    settings = Settings(
        prompts={"train_context": train_context},
        training={"epochs": 1, "batch_size": 4, "held_out_share": 0.3},
        **WHOLE,
    )
    run = root / f"run-{train_context}"
    (record,) = train_run(data, encoder, run, settings=settings, device="cpu")
    assert record.step == 1
    tagger = Tagger.load(run)  # the card says how to load the encoder again
    (tagged,) = tagger.tag([data.paths[0]], top=2)
    assert len(tagged.tags) == 2 and tagger.card.encoder.size == size
