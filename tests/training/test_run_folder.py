from dataclasses import replace

import pytest

from tests.toy import ToyEncoder
from trmml.encoders.frozen import frozen_encoder
from trmml.errors import CheckpointError
from trmml.training.run_folder import RunCard, load_card, load_model


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
