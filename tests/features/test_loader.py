import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.toy import ToyEncoder, write_images
from trmml.encoders.frozen import frozen_encoder
from trmml.encoders.speed import precision
from trmml.errors import DataError
from trmml.features import decoding
from trmml.features.decoding import Decoding, ImageView, load_for_card, on_card_holds, reduced_holds
from trmml.features.loader import load_batches
from trmml.images import read_image

ENCODER = ToyEncoder()
FROZEN = frozen_encoder(ENCODER)
ON_CARD = Decoding(on_card=True)
# As many mentions of a picture as are compared.
ENOUGH = decoding.CHECKED


def photo(path: Path, size: tuple[int, int], **save) -> Path:
    """A JPEG with coarse and fine structure."""
    generator = np.random.default_rng(0)
    coarse = Image.fromarray(generator.integers(0, 255, (6, 6, 3), dtype=np.uint8))
    image = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC), dtype=float)
    noisy = (image + generator.normal(0, 10, image.shape)).clip(0, 255).astype(np.uint8)
    Image.fromarray(noisy).save(path, "JPEG", quality=90, **save)
    return path


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    write_images(tmp_path / "p", 7)
    return sorted((tmp_path / "p").iterdir())


def decoding_threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("decode")]


def test_batches_come_in_order_and_equal_preprocessing_by_hand(paths, monkeypatch):
    monkeypatch.setattr(precision, "CPU_BATCH", 3)
    batches = list(load_batches([ImageView(path) for path in paths], FROZEN))
    assert [batch.numbers for batch in batches] == [[0, 1, 2], [3, 4, 5], [6]]
    pixels = torch.cat([batch.pixels for batch in batches])
    by_hand = torch.stack([ENCODER.preprocess(read_image(path)) for path in paths])
    assert torch.equal(pixels, by_hand) and not decoding_threads()


def test_unreadable_images_raise_or_are_reported(paths, monkeypatch):
    monkeypatch.setattr(precision, "CPU_BATCH", 2)
    for number in (2, 3):
        paths[number].write_bytes(b"")
    pictures = [ImageView(path) for path in paths]
    with pytest.raises(DataError, match=paths[2].name):
        list(load_batches(pictures, FROZEN))
    assert not decoding_threads()
    batches = list(load_batches(pictures, FROZEN, on_bad_image="skip"))
    assert [batch.numbers for batch in batches] == [[0, 1], [], [4, 5], [6]]
    assert set(batches[1].bad) == {2, 3} and batches[1].pixels.shape == (0, 3, 24, 24)


def test_stopping_early_leaves_no_thread_and_decodes_no_further(paths, monkeypatch):
    monkeypatch.setattr(precision, "CPU_BATCH", 1)
    read = []
    monkeypatch.setattr(
        decoding, "read_image", lambda path, **k: read.append(path) or read_image(path)
    )
    batches = load_batches([ImageView(path) for path in paths], FROZEN)
    next(batches)
    batches.close()
    assert not decoding_threads() and len(read) < len(paths)


def test_images_are_given_where_asked_for(paths):
    (batch,) = load_batches([ImageView(paths[0])], FROZEN, keep_images=True)
    assert batch.images[0].size == (48, 48)


class Card(ToyEncoder):
    """An encoder whose images may be decoded elsewhere."""

    def preprocess_pixels(self, image):
        return self.preprocess(Image.fromarray(image.permute(1, 2, 0).cpu().numpy()))


CARD = frozen_encoder(Card())


@pytest.mark.filterwarnings("ignore:The image decoding")  # torchvision hands over to torchcodec
def test_jpegs_are_decoded_on_the_device_and_the_rest_by_pillow(tmp_path):
    """The processor's own decoder stands in for the card's."""
    exif = Image.Exif()
    exif[decoding.ORIENTATION_TAG] = 6
    names = ["plain.jpg", "turned.jpg", "grey.jpg", "other.png"]
    photo(tmp_path / names[0], (80, 60))
    photo(tmp_path / names[1], (80, 60), exif=exif)
    Image.new("L", (40, 40), 90).save(tmp_path / names[2])
    Image.new("RGB", (40, 40), "red").save(tmp_path / names[3])
    pictures = [ImageView(tmp_path / name) for name in names] + [ImageView(tmp_path / names[0], 5)]
    (plain,) = load_batches(pictures, CARD)
    (card,) = load_batches(pictures, CARD, ON_CARD)
    assert card.numbers == [0, 1, 2, 3, 4]
    assert torch.equal(card.pixels[1:], plain.pixels[1:])
    assert torch.allclose(card.pixels[0], plain.pixels[0], atol=0.1)
    assert load_for_card(pictures[0], CARD.encoder, reduced=False, keep=False)[0].ndim == 1
    assert load_for_card(pictures[1], CARD.encoder, reduced=False, keep=False)[0].ndim == 3


@pytest.mark.filterwarnings("ignore:The image decoding")  # torchvision hands over to torchcodec
def test_what_the_device_cannot_decode_is_left_to_pillow(tmp_path, caplog):
    good, bad = photo(tmp_path / "good.jpg", (80, 60)), photo(tmp_path / "bad.jpg", (80, 60))
    bad.write_bytes(bad.read_bytes()[:700])
    pictures = [ImageView(good), ImageView(bad)]
    with caplog.at_level("INFO", "trmml"):
        (batch,) = load_batches(pictures, CARD, ON_CARD, on_bad_image="skip")
    assert batch.numbers == [0] and set(batch.bad) == {1}
    with pytest.raises(DataError, match=r"bad\.jpg"):
        list(load_batches(pictures, CARD, ON_CARD))


@pytest.mark.filterwarnings("ignore:The image decoding")  # torchvision hands over to torchcodec
def test_one_damaged_jpeg_does_not_send_its_batch_to_pillow(tmp_path, monkeypatch):
    good, bad = photo(tmp_path / "good.jpg", (80, 60)), photo(tmp_path / "bad.jpg", (80, 60))
    bad.write_bytes(bad.read_bytes()[:700])
    read = []
    monkeypatch.setattr(
        decoding, "read_image", lambda path, **k: read.append(path) or read_image(path, **k)
    )
    pictures = [ImageView(good), ImageView(bad), ImageView(good)]
    (batch,) = load_batches(pictures, CARD, ON_CARD, on_bad_image="skip")
    assert batch.numbers == [0, 2] and set(batch.bad) == {1} and read == [bad]


def test_decoding_on_a_card_needs_a_card_and_an_encoder_that_can(tmp_path):
    path = photo(tmp_path / "a.jpg", (80, 60))
    assert on_card_holds([path], CARD) is False
    assert on_card_holds([path], replace(FROZEN, device="cuda")) is False


@pytest.mark.parametrize("save", [{}, {"progressive": True}, {"exif": b"turned"}])
def test_large_jpegs_are_decoded_smaller(tmp_path, save):
    if "exif" in save:
        exif = Image.Exif()
        exif[0x0112] = 6  # a quarter turn
        save = {"exif": exif}
    path = photo(tmp_path / "large.jpg", (800, 600), **save)
    whole, small = read_image(path), read_image(path, at_least=140)
    assert small.size == (whole.width // 4, whole.height // 4) and min(small.size) >= 140
    shrunk = np.asarray(whole.resize(small.size, Image.Resampling.BOX), dtype=float)
    assert np.abs(shrunk - np.asarray(small)).mean() < 4
    assert read_image(path, at_least=700).size == whole.size


def test_other_formats_and_modes_keep_their_size(tmp_path):
    Image.new("RGB", (800, 600)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png", at_least=10).size == (800, 600)
    Image.new("CMYK", (800, 600)).save(tmp_path / "a.jpg")
    assert read_image(tmp_path / "a.jpg", at_least=140).mode == "RGB"


def test_the_reduced_holds_for_an_encoder_of_coarse_things(tmp_path):
    path = photo(tmp_path / "large.jpg", (800, 600))
    assert reduced_holds([path] * ENOUGH, FROZEN) is True
    (batch,) = load_batches([ImageView(path)], FROZEN, Decoding(reduced=True))
    (plain,) = load_batches([ImageView(path)], FROZEN)
    assert not torch.equal(batch.pixels, plain.pixels)
    hidden, whole = (ENCODER.encode_image(b.pixels)[0] for b in (batch, plain))
    assert torch.cosine_similarity(hidden, whole, dim=-1).min() >= decoding.LEAST_COSINE


def test_the_shortcut_is_off_where_features_would_change(tmp_path):
    class Sharp(ToyEncoder):
        """Sees the finest differences between neighbours and nothing else."""

        def preprocess(self, image):
            left = image.width // 3
            values = np.asarray(image.crop((left, left, left + 24, left + 24)), dtype=np.float32)
            return torch.from_numpy(values - values.mean()).permute(2, 0, 1)

    encoder = frozen_encoder(Sharp())
    path = photo(tmp_path / "large.jpg", (800, 600))
    assert reduced_holds([path] * ENOUGH, encoder) is False


def test_the_shortcut_is_undecided_without_large_jpegs(paths, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    assert reduced_holds([*paths, broken] * 9, FROZEN) is None


def test_the_check_decodes_only_as_many_as_it_compares(tmp_path, monkeypatch):
    path, read = photo(tmp_path / "large.jpg", (800, 600)), []
    monkeypatch.setattr(
        decoding, "read_image", lambda path, **k: read.append(path) or read_image(path, **k)
    )
    assert reduced_holds([path] * 9, FROZEN) is True
    assert len(read) == 2 * decoding.CHECKED


def test_views_are_cut_from_the_whole_image(tmp_path):
    view = ImageView(photo(tmp_path / "large.jpg", (800, 600)), view_seed=3)
    (short,) = load_batches([view], FROZEN, Decoding(reduced=True))
    (plain,) = load_batches([view], FROZEN)
    assert torch.equal(short.pixels, plain.pixels)
