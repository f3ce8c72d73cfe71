import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import TOY_SPEC
from tests.toy import ToyEncoder
from trmml.datasets.formats.folder import read_folder
from trmml.encoders.speed.precision import batch_size
from trmml.errors import CheckpointError, ConfigError, DataError, EncoderError
from trmml.features.base import MemoryFeatures
from trmml.features.extract import Encoding, encode_images
from trmml.features.views import JoinedViews
from trmml.settings.sections import Settings
from trmml.tagging.evaluate import evaluate
from trmml.tagging.region_maps import overlay, region_map, shrink
from trmml.tagging.tagger import REPAID_FROM, Tagger
from trmml.training.fit import train_run


@pytest.fixture(scope="module")
def tagger(finished_run) -> Tagger:
    return Tagger.load(finished_run, trust=True)


def test_tags_are_sorted_and_above_their_threshold(tagger, toy_images):
    paths = sorted(toy_images.test.iterdir())
    results = list(tagger.tag(paths))
    assert [r.path for r in results] == paths and any(result.tags for result in results)
    for result in results:
        shown = [tag.probability for tag in result.tags]
        assert shown == sorted(shown, reverse=True)
        assert all(tag.probability >= tag.threshold for tag in result.tags)


def test_one_image_alone_equals_it_among_others(tagger, toy_images):
    paths = sorted(toy_images.test.iterdir())
    together = list(tagger.tag(paths, top=4))
    for path, result in zip(paths, together, strict=True):
        (alone,) = tagger.tag([path], top=4)
        assert len(alone.tags) == 4
        for one, two in zip(alone.tags, result.tags, strict=True):
            assert one.category == two.category
            assert one.probability == pytest.approx(two.probability, abs=1e-5)


def test_the_encoder_is_made_once_per_precision(tagger, toy_images, monkeypatch):
    made, paths = [], sorted(toy_images.test.iterdir())[:2]

    def in_precision(encoder, precision):
        made.append(precision)
        return encoder

    monkeypatch.setattr(sys.modules[Tagger.__module__], "in_precision", in_precision)
    monkeypatch.setattr(tagger, "_by_precision", {})
    for precision in ("fp32", "fp32", "channels-last"):
        list(tagger.tag(paths, precision=precision))
    assert made == ["fp32", "channels-last"]


def test_few_small_images_do_not_repay_checking_ways_to_decode(
    finished_run, toy_images, tmp_path, monkeypatch
):
    checked = []
    module = sys.modules[Tagger.__module__]
    monkeypatch.setattr(module, "drawn_reduced_holds", lambda _: bool(checked.append(1)))
    path, large = sorted(toy_images.test.iterdir())[0], tmp_path / "large.jpg"
    Image.new("RGB", (400, 300)).save(large)
    for paths, checks in (([path] * (REPAID_FROM - 1), 0), ([large], 1), ([path] * REPAID_FROM, 1)):
        checked.clear()
        list(Tagger.load(finished_run, trust=True).tag(paths))
        assert len(checked) == checks


def test_top_and_threshold(tagger, toy_images):
    path = sorted(toy_images.test.iterdir())[0]
    assert len(next(tagger.tag([path], top=2)).tags) == 2
    assert len(next(tagger.tag([path], threshold=0.0)).tags) == 4
    assert next(tagger.tag([path], threshold=1.0)).tags == ()
    assert len(next(tagger.tag([path], threshold=0.0, top=3)).tags) == 3


def test_a_new_name_is_scored_and_changes_no_other(finished_run, tagger, toy_images):
    path = sorted(toy_images.test.iterdir())[0]
    also = Tagger.load(finished_run, also=["zebra crossing"], trust=True)
    before = {t.category: t.probability for t in next(tagger.tag([path], threshold=0.0)).tags}
    after = {t.category: t.probability for t in next(also.tag([path], threshold=0.0)).tags}
    assert 0 <= after.pop("zebra crossing") <= 1
    assert after == pytest.approx(before, abs=1e-6)


def test_new_names_are_calibrated_as_trained_names_scored_by_text_alone(toy_images, tmp_path):
    from trmml.features.extract import encode_images
    from trmml.settings.sections import Settings
    from trmml.training.fit import train_run

    data = read_folder(toy_images.train, toy_images.train_table)
    settings = Settings(training={"epochs": 20, "batch_size": 16, "held_out_share": 0.3})
    encoder = ToyEncoder()
    list(train_run(data, encoder, tmp_path / "run", settings=settings, device="cpu"))
    tagger = Tagger.load(tmp_path / "run", encoder=encoder, also=["a", "b", "c", "d"])
    tagger._new_text = tagger.model.prompts.start_features  # new names that mean the trained ones
    source = encode_images(data.paths, encoder).source
    shares = tagger.score(source.batch(torch.arange(len(data)))).probabilities[:, 4:]
    assert float(shares.mean()) == pytest.approx(float(data.matrix.labels.float().mean()), rel=0.4)
    assert (shares >= tagger.thresholds()[4:]).any()


def test_region_maps_are_written_one_per_tag(tagger, toy_images, tmp_path):
    path = sorted(toy_images.test.iterdir())[0]
    result = next(tagger.tag([path], top=2, explain=tmp_path / "maps"))
    assert len(result.maps) == 2
    for file in result.maps:
        with Image.open(file) as picture:
            assert picture.size == (48, 48)


def test_images_of_one_name_keep_their_own_maps(tagger, toy_images, tmp_path):
    path = sorted(toy_images.test.iterdir())[0]
    other = tmp_path / "other" / path.name
    other.parent.mkdir()
    shutil.copy(path, other)
    results = list(tagger.tag([path, other], top=1, explain=tmp_path / "maps"))
    assert results[0].maps != results[1].maps


def test_unreadable_images_stop_or_say_why(tagger, toy_images, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff")
    good = sorted(toy_images.test.iterdir())[0]
    with pytest.raises(DataError, match=r"broken\.jpg"):
        list(tagger.tag([good, broken]))
    results = list(tagger.tag([broken, good], on_bad_image="skip"))
    assert "broken.jpg" in results[0].error and results[0].tags == ()
    assert results[1].error is None


@pytest.mark.parametrize("options", [{"top": 0}, {"threshold": 1.5}])
def test_values_out_of_range(tagger, options):
    with pytest.raises(ConfigError, match="expected"):
        list(tagger.tag(["a.jpg"], **options))


def test_errors_of_loading(finished_run, tmp_path):
    with pytest.raises(ConfigError, match="'red' is a category already"):
        Tagger.load(finished_run, also=["red"], trust=True)
    with pytest.raises(ConfigError, match="a name in --also is blank"):
        Tagger.load(finished_run, also=["owl", " "], trust=True)
    with pytest.raises(CheckpointError, match="trmml fit"):
        Tagger.load(tmp_path)


def test_evaluation_ignores_unknown_labels_and_orders_categories(tagger, toy_images):
    data = read_folder(toy_images.test, toy_images.test_table)
    whole = evaluate(tagger, data)
    turned = read_folder(
        toy_images.test, toy_images.test_table, categories=["yellow", "blue", "green", "red"]
    )
    again = evaluate(tagger, turned)
    assert whole.metrics.mean_ap == pytest.approx(again.metrics.mean_ap)
    part = data.matrix.hide(0.5)
    known = type(data)(data.root, data.images, data.category_names, part, data.rows)
    assert evaluate(tagger, known).metrics.known_share == pytest.approx(part.known_share)


def test_evaluation_needs_every_category(tagger, toy_images):
    data = read_folder(toy_images.test, toy_images.test_table, categories=["red", "blue"])
    with pytest.raises(
        DataError, match=r"lack 2 of the 4 categories that are needed, first 'green'"
    ):
        evaluate(tagger, data)


def test_tags_agree_with_the_evaluation(tagger, toy_images):
    data = read_folder(toy_images.test, toy_images.test_table)
    evaluation = evaluate(tagger, data)
    for row, result in zip(evaluation.probabilities, tagger.tag(data.paths, top=4), strict=True):
        for tag in result.tags:
            expected = float(row[tagger.category_names.index(tag.category)])
            # The evaluation read fp16 features from the store.
            assert tag.probability == pytest.approx(expected, abs=1e-3)


def test_region_map_is_where_the_attention_is():
    attention = torch.zeros(6)
    attention[5] = 1  # the last of two rows and three columns
    weights = region_map(attention, (2, 3), (30, 20))
    assert weights.shape == (20, 30)
    assert weights[15, 25] > 0.8 and weights[5, 5] < 0.1
    shown = np.asarray(overlay(Image.new("RGB", (30, 20), (100, 100, 100)), weights))
    assert np.abs(shown[15, 25].astype(int) - 100).max() > 40
    assert np.abs(shown[5, 5].astype(int) - 100).max() < 20


def test_long_thin_images_shrink_to_at_least_one_pixel():
    assert shrink(Image.new("RGB", (5000, 3))).size == (480, 1)
    assert shrink(Image.new("RGB", (20, 10))).size == (20, 10)


def test_a_run_on_an_encoder_object_needs_it_again(toy_images, tmp_path):
    from trmml.settings.sections import Settings
    from trmml.training.fit import train_run

    data = read_folder(toy_images.train, toy_images.train_table)
    settings = Settings(training={"epochs": 1})
    list(train_run(data, ToyEncoder(), tmp_path / "run", settings=settings, device="cpu"))
    with pytest.raises(ConfigError, match="pass it as encoder="):
        Tagger.load(tmp_path / "run")
    tagger = Tagger.load(tmp_path / "run", encoder=ToyEncoder())
    assert list(tagger.tag([Path(data.paths[0])], top=1))


@pytest.mark.parametrize(("also", "wanted"), [((), False), (("purple",), True)])
def test_the_text_tower_is_loaded_for_new_names_only(finished_run, monkeypatch, also, wanted):
    asked = []

    def load(spec, *, image_size, text):
        asked.append(text)
        return ToyEncoder(image_size)

    monkeypatch.setattr("trmml.encoders.needed.load_encoder", load)
    Tagger.load(finished_run, also=also, trust=True)
    assert asked == [wanted]


@pytest.fixture(scope="module")
def looking_twice(toy_images, tmp_path_factory) -> Path:
    """A run whose images are scored by three views."""
    run = tmp_path_factory.mktemp("runs") / "views"
    training = {"epochs": 1, "batch_size": 16, "held_out_share": 0.3, "scored_views": 3}
    data = read_folder(toy_images.train, toy_images.train_table)
    settings = Settings(training=training)
    for _ in train_run(
        data, ToyEncoder(), run, settings=settings, encoder_spec=TOY_SPEC, device="cpu"
    ):
        pass
    return run


def test_several_views_are_tagged_as_they_are_evaluated(looking_twice, toy_images, tmp_path):
    tagger = Tagger.load(looking_twice, trust=True)
    data = read_folder(toy_images.test, toy_images.test_table)
    evaluation = evaluate(tagger, data, encoding=Encoding(tmp_path / "store", form="fp32"))
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no picture")
    # Batches of the encoder are no multiple of three, so views of a picture fall into two of them,
    # of the unreadable one as well.
    place = batch_size("cpu") // 3
    paths = [*data.paths[:place], bad, *data.paths[place:]]
    tagged = list(tagger.tag(paths, threshold=0.0, on_bad_image="skip"))
    assert tagged.pop(place).error is not None and [t.path for t in tagged] == data.paths
    for found, row in zip(tagged, evaluation.probabilities, strict=True):
        for tag in found.tags:
            place = tagger.category_names.index(tag.category)
            assert tag.probability == pytest.approx(float(row[place]), abs=1e-5)
    maps = evaluation.attention([0, 1])
    assert maps.shape[2] == tagger.card.encoder.patches
    assert torch.allclose(maps.sum(dim=2), torch.ones(maps.shape[:2]), atol=1e-5)


def test_more_views_than_are_encoded(looking_twice, toy_images, tmp_path):
    tagger = Tagger.load(looking_twice, trust=True)
    data = read_folder(toy_images.test, toy_images.test_table)
    encoded = encode_images(data.paths, tagger.frozen, encoding=Encoding(tmp_path / "s"), views=2)
    with pytest.raises(ConfigError, match=r"training\.scored_views = 3, but 2 are encoded"):
        evaluate(tagger, data, encoded=encoded)


def test_views_are_joined_patch_after_patch():
    hidden, image = torch.randn(2, 4, 5, 6), torch.randn(2, 4, 3)
    joined = JoinedViews(MemoryFeatures(hidden, image), 2).subset([3, 1])
    batch = joined.batch(torch.tensor([1]))
    assert torch.equal(batch.hidden_patches[0], torch.cat([hidden[0, 1], hidden[1, 1]]))
    mean = image[:, 1].mean(dim=0)
    assert torch.allclose(batch.image_feature[0], mean / mean.norm())


def test_a_run_runs_no_code_that_was_not_asked_for(finished_run, tmp_path, monkeypatch):
    run = shutil.copytree(finished_run, tmp_path / "given")
    monkeypatch.chdir(tmp_path)
    for folder in (tmp_path, tmp_path / "pack"):
        folder.mkdir(exist_ok=True)
        (folder / "evil.py").write_text("from pathlib import Path\nPath('ran').touch()\n")
    (tmp_path / "pack" / "__init__.py").write_text("from pack import evil\n")
    for spec, place in {
        "evil.py:factory": f"run factory of {tmp_path / 'evil.py'}",
        f"{tmp_path}/evil.py:x": f"run x of {tmp_path / 'evil.py'}",
        "pack.evil:factory": f"factory of the module pack.evil \\({tmp_path / 'pack'}",
        "pack.sub.evil:factory": f"factory of the module pack.sub.evil \\({tmp_path / 'pack'}",
        "absent.evil:factory": r"factory of the module absent.evil \(which is not found\)",
        "json:loads": r"loads of the module json \(.*json",
    }.items():
        tree = json.loads((run / "model.json").read_text())
        (run / "model.json").write_text(json.dumps(tree | {"encoder_spec": spec}))
        with pytest.raises(CheckpointError, match=f"{place}.*Nothing was run.*--trust"):
            Tagger.load(run)
    (run / "model.json").write_text(json.dumps(tree | {"encoder_spec": "evil:factory"}))
    with pytest.raises(EncoderError, match="'evil'"):  # no installed module, and no architecture
        Tagger.load(run, trust=True)
    assert not (tmp_path / "ran").exists()
    assert Tagger.load(run, encoder=TOY_SPEC).category_names
