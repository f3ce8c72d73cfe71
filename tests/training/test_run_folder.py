import itertools
import json
import random
import shutil
from dataclasses import replace

import pytest

from tests.toy import ToyEncoder
from trmml.encoders.frozen import frozen_encoder
from trmml.errors import CheckpointError
from trmml.reporting.report import write_report
from trmml.training.run_folder import SUMMED, RunCard, load_card, load_model


def test_a_card_survives_the_round_trip(finished_run):
    card = load_card(finished_run)
    again = type(card).from_dict(card.to_dict(), "here")
    assert again.to_dict() == card.to_dict()


def test_the_encoder_must_be_the_one_trained_on(finished_run):
    card = load_card(finished_run)
    assert load_model(finished_run, frozen_encoder(ToyEncoder()), card).text_is_frozen
    without = ToyEncoder()
    without.has_text = False
    assert load_model(finished_run, frozen_encoder(without), card).text_is_frozen
    with pytest.raises(CheckpointError, match=r"at 24 px \(weights .*images differently"):
        load_model(finished_run, frozen_encoder(ToyEncoder(seed=1)), card)
    other_text = replace(card, encoder=replace(card.encoder, checksum="0" * 64))
    with pytest.raises(CheckpointError, match=r"with text 000000000000\).*texts differently"):
        load_model(finished_run, frozen_encoder(ToyEncoder()), other_text)
    assert load_model(finished_run, frozen_encoder(without), other_text).text_is_frozen


def test_another_format_is_refused(finished_run):
    for other in (1, 99):
        tree = load_card(finished_run).to_dict() | {"format": other}
        reads = r"this version of trmml reads 5 and 6\. Train again"
        message = rf"model\.json has format {other}; {reads}"
        with pytest.raises(CheckpointError, match=message):
            RunCard.from_dict(tree, "model.json")


# Checksums -----------------------------------------------------------------------------------


def test_a_flipped_bit_anywhere_in_a_run_is_found_or_without_effect(finished_run, tmp_path):
    """Without effect: the name of a sum, a blank, and the encoder's place, whose sum is checked."""
    run, draw = shutil.copytree(finished_run, tmp_path / "run"), random.Random(0)
    names = sorted(path.name for path in run.iterdir() if path.name != ".lock")
    assert {*SUMMED, "model.json", "model.safetensors"} - {"skipped.json"} == set(names)
    said, found = told(run), 0
    for number in range(105):
        path = run / names[number % len(names)]
        whole = path.read_bytes()
        damaged = bytearray(whole)
        damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        try:
            write_report(run)
        except CheckpointError as error:
            found += path.name in str(error)
        else:
            assert path.name == "model.json" and told(run) == said
        path.write_bytes(whole)
    assert found > 95


def told(run):
    """What a card says, but for where the encoder is found."""
    return {**load_card(run).to_dict(), "encoder_spec": None}


def test_a_file_that_is_missing_or_of_another_run_is_named(finished_run, tmp_path):
    for name, change in itertools.product(load_card(finished_run).files, (b"", None)):
        run = shutil.copytree(finished_run, tmp_path / "run", dirs_exist_ok=True)
        (run / name).unlink()
        if change is not None:
            (run / name).write_bytes(change)
        with pytest.raises(CheckpointError, match=f"{name} is missing or is not the file that"):
            write_report(run)


def test_a_card_without_sums_is_read(finished_run, tmp_path):
    run = shutil.copytree(finished_run, tmp_path / "run")
    tree = json.loads((run / "model.json").read_text("utf-8"))
    del tree["files"], tree["card_sha256"]
    (run / "model.json").write_text(json.dumps(tree), "utf-8")
    assert load_card(run).files == {} and write_report(run).is_file()
