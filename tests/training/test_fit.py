import json
import math
from dataclasses import replace
from functools import partial

import pytest
import torch

from tests.conftest import TOY_SPEC
from tests.toy import WHOLE, ToyEncoder
from trmml.datasets.formats.folder import read_folder
from trmml.encoders.base import checksum
from trmml.encoders.frozen import frozen_encoder
from trmml.errors import CheckpointError, ConfigError, DataError, TrainingError
from trmml.features.extract import Encoding
from trmml.labels.matrix import LabelMatrix
from trmml.method.interface import predict
from trmml.settings.sections import Settings, TrainingSettings, changed
from trmml.storage.tensors import load_tensors
from trmml.training import fit
from trmml.training.fit import train_run
from trmml.training.run_folder import STATE, load_card, load_model
from trmml.training.schedule import hold_out, learning_rate
from trmml.training.trainer import Trainer

QUICK = {"epochs": 3, "batch_size": 16, "held_out_share": 0.3, "refit": False}


def run_fit(toy_images, out, *, training=None, encoder=None, known=0.6, **options):
    sections = options.pop("sections", {})
    data = read_folder(toy_images.train, toy_images.train_table)
    truth = data.matrix
    hidden = type(data)(data.root, data.images, data.category_names, truth.hide(known), data.rows)
    settings = Settings(training={**QUICK, **(training or {})}, **{**WHOLE, **sections})
    return list(
        train_run(
            hidden,
            encoder or ToyEncoder(),
            out,
            settings=settings,
            encoder_spec=TOY_SPEC,
            truth=truth,
            device="cpu",
            **options,
        )
    )


def weights(run):
    return load_tensors(run / "model.safetensors")[0]


# What a run is ------------------------------------------------------------------------------


def test_a_run_leaves_what_it_promises(toy_images, tmp_path):
    records = run_fit(toy_images, tmp_path / "run")
    assert [r.epoch for r in records] == [1, 2, 3]
    names = {p.name for p in (tmp_path / "run").iterdir()}
    assert {"model.safetensors", "model.json", "settings.json", "known.safetensors"} <= names
    assert "state.safetensors" not in names and not [n for n in names if n.startswith(".")]
    log = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in log] == [1, 2, 3]
    card = load_card(tmp_path / "run")
    assert card.category_names == ("red", "green", "blue", "yellow")
    assert 0.5 < card.data["known_share"] < 0.7


def test_tensorboard_shows_every_figure_of_an_epoch(toy_images, tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    records = run_fit(toy_images, tmp_path / "run", tensorboard=True)
    log = events.EventAccumulator(str(tmp_path / "run/tensorboard"))
    log.Reload()
    terms = {"loss": "losses", "weighted": "weighted", "gradient_share": "gradient_shares"}
    names = {f"{part}/{name}" for part, own in terms.items() for name in getattr(records[0], own)}
    assert "gradient_share/distillation" in names
    assert set(log.Tags()["scalars"]) == {*names, "held_out/map", "learning_rate"}
    shown = [event.value for event in log.Scalars("gradient_share/distillation")]
    shares = [record.gradient_shares["distillation"] for record in records]
    assert shown == pytest.approx(shares)


def test_the_mask_is_saved_and_the_encoder_is_not(toy_images, tmp_path):
    run_fit(toy_images, tmp_path / "run")
    mask = LabelMatrix.load(tmp_path / "run/known.safetensors")
    full = read_folder(toy_images.train, toy_images.train_table).matrix
    assert mask.checksum() == full.hide(0.6).checksum()
    assert not any("lift" in name or "letters" in name for name in weights(tmp_path / "run"))


def test_the_encoder_is_bit_identical_afterwards(toy_images, tmp_path):
    encoder = ToyEncoder()
    before = checksum(encoder)
    run_fit(
        toy_images, tmp_path / "run", encoder=encoder, sections={"prompts": {"train_context": True}}
    )
    assert checksum(encoder) == before
    assert all(p.grad is None for p in encoder.parameters())


def test_learning_lowers_the_loss_and_beats_the_start(toy_images, tmp_path):
    records = run_fit(toy_images, tmp_path / "run", training={"epochs": 25}, known=1.0)
    assert records[-1].losses["csra"] < 0.8 * records[0].losses["csra"]
    assert records[-1].held_out_map > 0.9


def test_one_seed_gives_one_result_and_another_another(toy_images, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run_fit(toy_images, tmp_path / name, training={"seed": seed})
    a, b, c = (weights(tmp_path / name) for name in "abc")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert any(not torch.equal(a[name], c[name]) for name in a)


def test_saved_and_loaded_give_the_same_logits(toy_images, tmp_path):
    encoder = ToyEncoder()
    sections = {"prompts": {"train_context": True}}
    run_fit(toy_images, tmp_path / "run", sections=sections)
    tensors, _ = load_tensors(tmp_path / "run/held_out.safetensors")
    model = load_model(tmp_path / "run", frozen_encoder(encoder), load_card(tmp_path / "run"))
    from trmml.features.extract import encode_images
    from trmml.method.interface import predict

    data = read_folder(toy_images.train, toy_images.train_table)
    source = encode_images(data.paths, encoder).source
    logits = predict(model, source, tensors["images"])
    assert torch.allclose(logits, tensors["logits"], atol=1e-5)


def test_live_features_train_like_cached_ones(toy_images, tmp_path):
    run_fit(toy_images, tmp_path / "store", encoding=Encoding(form="fp32"))
    run_fit(toy_images, tmp_path / "live", encoding=Encoding(live=True))
    a, b = weights(tmp_path / "store"), weights(tmp_path / "live")
    assert all(torch.allclose(a[name], b[name], atol=1e-4) for name in a)


def test_pseudo_labels_are_counted_and_checked(toy_images, tmp_path):
    sections = {
        "losses": {"pseudo": 0.5},
        "prototypes": {"positive_above": 0.6, "negative_below": 0.3},
    }
    records = run_fit(toy_images, tmp_path / "run", training={"epochs": 8}, sections=sections)
    last = records[-1].pseudo
    assert last["pseudo_positive"] + last["pseudo_negative"] > 0
    assert records[0].pseudo == {}


@pytest.mark.parametrize(
    "sections",
    [
        {"regions": {"learn": False}},
        {"regions": {"hidden_rank": 0}},
        {"regions": {"mlp_size": 0}, "losses": {}},
        {"image_head": {"use": False}},
        {"image_head": {"linear": False}},
        {"prompts": {"text_residual": False, "train_context": True, "shared_context": True}},
        {"prompts": {"negative_template": "no {}"}},
        {"losses": {"pseudo": 0, "distillation": 0, "contrastive": 0}},
        {"losses": {"gamma_negative": 0, "gamma_positive": 0, "clip": 0}},
    ],
)
def test_every_part_can_be_switched_off(toy_images, tmp_path, sections):
    records = run_fit(toy_images, tmp_path / "run", training={"epochs": 1}, sections=sections)
    assert math.isfinite(records[-1].held_out_map)


def test_single_positive_and_views_and_accumulation(toy_images, tmp_path):
    data = read_folder(toy_images.train, toy_images.train_table)
    single = data.matrix.keep_single_positive()
    changed = type(data)(data.root, data.images, data.category_names, single, data.rows)
    settings = Settings(training={**QUICK, "views": 2, "accumulate": 2})
    records = list(
        train_run(changed, ToyEncoder(), tmp_path / "run", settings=settings, device="cpu")
    )
    assert all(math.isfinite(value) for value in records[-1].losses.values())


def test_the_whole_image_never_learns_from_held_out_labels(toy_images, tmp_path):
    data = read_folder(toy_images.train, toy_images.train_table)
    _, held = hold_out(data.matrix, 0.3, 0)
    found = []
    for name in ("as they are", "turned round"):
        labels = data.matrix.labels.clone()
        if name == "turned round":
            labels[held] = ~labels[held]
        matrix = LabelMatrix(labels, data.matrix.known)
        changed = type(data)(data.root, data.images, data.category_names, matrix, data.rows)
        settings = Settings(training={**QUICK, "seed": 0, "held_out_share": 0.3})
        list(train_run(changed, ToyEncoder(), tmp_path / name, settings=settings, device="cpu"))
        saved = weights(tmp_path / name)
        found.append({n: v for n, v in saved.items() if n.startswith("heads.image.")})
    assert found[0] and all(torch.equal(found[0][n], found[1][n]) for n in found[0])


def test_unanswered_images_take_part_for_pseudo_labels_only(toy_images, tmp_path):
    data = read_folder(toy_images.train, toy_images.train_table)
    known = data.matrix.known.clone()
    known[20:] = False
    matrix = LabelMatrix(data.matrix.labels, known)
    few = type(data)(data.root, data.images, data.category_names, matrix, data.rows)
    steps = []
    for weight in (0.0, 0.1):
        settings = Settings(training=QUICK, losses={"pseudo": weight})
        out = tmp_path / str(weight)
        steps.append(
            [r.step for r in train_run(few, ToyEncoder(), out, settings=settings, device="cpu")]
        )
    # 14 of the 20 that are answered are not held out, and 28 more: batches of 16
    assert steps == [[1, 2, 3], [3, 6, 9]]


def test_a_head_that_could_not_count_is_refused(toy_images, tmp_path):
    sections = {"neighbour_head": {"use": True}, "stacking": {"fit_weights": False}}
    with pytest.raises(ConfigError, match=r"use=true needs stacking.fit_weights=true"):
        run_fit(toy_images, tmp_path, sections=sections)
    Settings.model_validate(sections)  # what runs of before have is read


def test_few_images_get_more_epochs_unless_they_are_named(toy_images, tmp_path):
    data = read_folder(toy_images.train, toy_images.train_table)
    settings = Settings(training={"batch_size": 8, "held_out_share": 0.3, "refit": False})
    record = next(train_run(data, ToyEncoder(), tmp_path / "a", settings=settings, device="cpu"))
    assert (record.step, record.epochs) == (5, 200)  # 34 images are five batches: 1,000 steps
    # What was asked for is kept: `review learn` may have more labels, and need fewer epochs.
    kept = json.loads((tmp_path / "a" / "settings.json").read_text("utf-8"))["training"]
    assert (kept["epochs"], kept["least_steps"]) == (12, 1000)
    named = changed(settings, {"training.epochs": 3})
    record = next(train_run(data, ToyEncoder(), tmp_path / "b", settings=named, device="cpu"))
    assert (record.step, record.epochs) == (5, 3)


def test_training_ends_when_held_out_map_rises_no_more(toy_images, tmp_path):
    still = {"epochs": 9, "learning_rate": 1e-9, "average_share": 0.0}
    for patience, epochs in ((0, 9), (2, 3), (20, 9)):
        out = tmp_path / str(patience)
        assert len(run_fit(toy_images, out, training={**still, "patience": patience})) == epochs


@pytest.mark.parametrize(
    ("aps", "epoch"),
    [
        ([0.2, 0.9, 0.5, 0.4], 1),
        ([0.2, 0.9, 0.5, 0.9], 3),  # a tie goes to the later one
        ([math.nan] * 4, 3),
    ],
)
def test_one_category_that_can_be_scored_chooses_the_epoch(
    toy_images, tmp_path, monkeypatch, aps, epoch
):
    looks = iter(aps)  # the untrained start, and three epochs
    nothing = torch.full((3,), math.nan)
    monkeypatch.setattr(
        Trainer, "held_out_aps", lambda self: torch.cat([torch.tensor([next(looks)]), nothing])
    )
    run_fit(toy_images, tmp_path)
    assert load_card(tmp_path).chosen["epoch"] == epoch


def test_a_stray_absent_label_chooses_no_epoch(toy_images, tmp_path):
    data = read_folder(toy_images.train, toy_images.train_table)
    labels = data.matrix.labels
    _, held = hold_out(LabelMatrix(labels, labels), 0.3, 0)
    known = labels.clone()
    row = next(row for row in held.tolist() if not labels[row, 0])
    known[row, 0] = True
    few = replace(data, matrix=LabelMatrix(labels, known))
    settings = Settings(training=QUICK)
    records = list(train_run(few, ToyEncoder(), tmp_path, settings=settings, device="cpu"))
    assert all(math.isnan(record.held_out_map) for record in records)
    assert load_card(tmp_path).chosen["epoch"] == 3


# Training again on all images ---------------------------------------------------------------


def test_refit_learns_from_what_was_held_out_and_keeps_what_was_fitted_to_it(toy_images, tmp_path):
    left = []
    for again in (False, True):
        records = run_fit(toy_images, tmp_path / str(again), training={"refit": again})
        left.append([record.seconds_left / record.seconds for record in records])
    assert left[0] == [2, 1, 0]
    # The training on all images is still to come: 48 in place of 34.
    chosen = load_card(tmp_path / "True").chosen["epoch"]
    assert left[1] == pytest.approx([2 + 3 * 48 / 34, 1 + 3 * 48 / 34, chosen * 48 / 34])
    runs = tmp_path / "False", tmp_path / "True"
    kept, learned = map(weights, runs)
    moved = {name for name in kept if not torch.equal(kept[name], learned[name])}
    assert {"regions.category_queries", "heads.image.linear.bias", "matching.bias"} <= moved
    assert "heads.stacking.weights" not in moved
    cards = [load_card(run) for run in runs]
    for part in ("calibration", "new_categories"):
        one, two = (getattr(card, part).to_dict() for card in cards)
        assert one == two
    held = [load_tensors(run / "held_out.safetensors")[0]["logits"] for run in runs]
    assert torch.equal(*held)
    assert [card.chosen["refit"] for card in cards] == [False, True]
    assert not list(runs[1].glob("*refit*")), "the second state is left"


def test_refit_sees_flipped_held_out_labels(toy_images, tmp_path):
    data = read_folder(toy_images.train, toy_images.train_table)
    settings = Settings(training={**QUICK, "refit": True, "choose_epoch": "last"})
    _, held = hold_out(data.matrix, 0.3, 0)
    labels = data.matrix.labels.clone()
    labels[held] = ~labels[held]
    flipped = LabelMatrix(labels, data.matrix.known)
    for name, matrix in (("one", data.matrix), ("two", flipped)):
        changed = type(data)(data.root, data.images, data.category_names, matrix, data.rows)
        list(train_run(changed, ToyEncoder(), tmp_path / name, settings=settings, device="cpu"))
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert not torch.equal(one["matching.bias"], two["matching.bias"])


def test_the_pseudo_labels_that_are_kept_are_those_that_the_weights_learned_from(
    toy_images, tmp_path
):
    sections = {
        "losses": {"pseudo": 0.5},
        "prototypes": {"positive_above": 0.6, "negative_below": 0.3},
    }
    found = []
    for again in (False, True):
        out, training = tmp_path / str(again), {"epochs": 8, "refit": again, "choose_epoch": "last"}
        run_fit(toy_images, out, training=training, sections=sections)
        images = load_tensors(out / "held_out.safetensors")[0]["images"]
        found.append(load_tensors(out / "pseudo.safetensors")[0]["chosen"][images])
    # The first training never sees the held-out images, the one on all images does.
    assert not found[0].any() and found[1].any()


def test_a_refit_that_was_killed_goes_on_bit_exactly(toy_images, tmp_path, monkeypatch):
    options = {"training": {"refit": True}}
    run_fit(toy_images, tmp_path / "whole", **options)
    saved = Trainer.save

    def save_then_die(self, path, fingerprint):
        saved(self, path, fingerprint)
        if path.name == "refit.safetensors" and self.epoch == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Trainer, "save", save_then_die)
        run_fit(toy_images, tmp_path / "cut", **options)
    run_fit(toy_images, tmp_path / "cut", resume=True, **options)
    whole, cut = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


# Stopping and going on ----------------------------------------------------------------------


@pytest.mark.parametrize("stop_after", [1, 2])
def test_resume_is_bit_exact(toy_images, tmp_path, stop_after):
    sections = {
        "losses": {"pseudo": 0.5},
        "prototypes": {"positive_above": 0.6, "negative_below": 0.3},
    }
    options = {"training": {"epochs": 4}, "sections": sections}
    records = run_fit(toy_images, tmp_path / "whole", **options)
    assert any(record.pseudo for record in records)
    data = read_folder(toy_images.train, toy_images.train_table)
    hidden = type(data)(
        data.root, data.images, data.category_names, data.matrix.hide(0.6), data.rows
    )
    settings = Settings(training={**QUICK, "epochs": 4}, **{**WHOLE, **sections})
    going = train_run(hidden, ToyEncoder(), tmp_path / "cut", settings=settings, device="cpu")
    for _ in range(stop_after):
        next(going)
    going.close()
    with pytest.raises(CheckpointError, match=r"holds no trained model.*--resume"):
        load_card(tmp_path / "cut")
    run_fit(toy_images, tmp_path / "cut", resume=True, **options)
    whole, cut = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    assert len((tmp_path / "cut/log.jsonl").read_text().splitlines()) == 4


@pytest.mark.parametrize("accumulate", [1, 2])
def test_state_within_an_epoch_continues_bit_exactly(toy_images, tmp_path, monkeypatch, accumulate):
    monkeypatch.setattr("trmml.training.loop.STATE_SECONDS", -1.0)  # as often as may be
    options = {"training": {"accumulate": accumulate, "batch_size": 6}}
    run_fit(toy_images, tmp_path / "whole", **options)
    saved = Trainer.save
    count = 0

    def save_then_die(self, path, fingerprint):
        nonlocal count
        saved(self, path, fingerprint)
        count += 1
        # After an epoch's last batch there is nothing to go on with until the epoch is closed.
        assert self.batch < self.batches
        if count == 5:  # within an epoch, whose six batches are one or two to a step
            assert self.batch > 0
            raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "save", save_then_die)
    with pytest.raises(KeyboardInterrupt):
        run_fit(toy_images, tmp_path / "cut", **options)
    monkeypatch.setattr(Trainer, "save", saved)
    run_fit(toy_images, tmp_path / "cut", resume=True, **options)
    whole, cut = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_the_folder_of_the_images_is_no_run(toy_images):
    data = read_folder(toy_images.train, toy_images.train_table)
    with pytest.raises(CheckpointError, match="is the folder of the images"):
        list(train_run(data, ToyEncoder(), toy_images.train / "../train"))
    assert not (toy_images.train / ".lock").exists()


def test_a_run_is_never_overwritten(toy_images, tmp_path, finished_run):
    with pytest.raises(CheckpointError, match="holds a run already"):
        run_fit(toy_images, finished_run)
    with pytest.raises(CheckpointError, match="finished already"):
        run_fit(toy_images, finished_run, resume=True)


def begun(toy_images, out):
    """The data of a run that was stopped after its first epoch."""
    data = read_folder(toy_images.train, toy_images.train_table)
    going = train_run(data, ToyEncoder(), out, settings=Settings(training=QUICK), device="cpu")
    next(going)
    going.close()
    return data


def test_resume_refuses_other_settings(toy_images, tmp_path):
    data = begun(toy_images, tmp_path / "run")
    other = Settings(training={**QUICK, "epochs": 9})
    before = {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()}
    with pytest.raises(CheckpointError, match=r"begun otherwise: training\.epochs is 9 and was 3"):
        list(
            train_run(
                data, ToyEncoder(), tmp_path / "run", settings=other, resume=True, device="cpu"
            )
        )
    others = Settings(training={**QUICK, "least_steps": 700}, stacking={"fit_weights": False})
    with pytest.raises(CheckpointError, match=r"fit_weights is False and was True") as told:
        list(
            train_run(
                data, ToyEncoder(), tmp_path / "run", settings=others, resume=True, device="cpu"
            )
        )
    assert "stacking.fit_weights" in str(told.value) and "None" not in str(told.value)
    fewer = data.matrix.labels.clone(), data.matrix.known.clone()
    fewer[1][0] = False
    with pytest.raises(CheckpointError, match="the labels or the images are others"):
        list(
            train_run(
                replace(data, matrix=LabelMatrix(*fewer)),
                ToyEncoder(),
                tmp_path / "run",
                settings=Settings(training=QUICK),
                resume=True,
                device="cpu",
            )
        )
    written = before["settings.json"]
    for damaged in (b"[1]", b"{}", b'{"training": 3}', b"{"):
        (tmp_path / "run" / "settings.json").write_bytes(damaged)
        with pytest.raises(CheckpointError):
            list(
                train_run(
                    data, ToyEncoder(), tmp_path / "run", settings=other, resume=True, device="cpu"
                )
            )
    (tmp_path / "run" / "settings.json").write_bytes(written)
    with pytest.raises(CheckpointError, match="of another encoder, size, precision or form"):
        list(
            train_run(
                data,
                ToyEncoder(),
                tmp_path / "run",
                settings=Settings(training=QUICK),
                resume=True,
                device="cpu",
                encoding=Encoding(form="int8"),
            )
        )
    assert {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()} == before


# Things that go wrong -----------------------------------------------------------------------


def test_a_loss_that_is_not_finite_stops_with_its_terms_named(toy_images, tmp_path, monkeypatch):
    def broken(*args, **kwargs):
        return torch.tensor(torch.nan, requires_grad=True)

    monkeypatch.setattr("trmml.method.contrastive.contrastive_loss", broken)
    with pytest.raises(TrainingError, match=r"epoch 1, batch 1: .*contrastive nan.*learning_rate"):
        run_fit(toy_images, tmp_path / "run", sections={"losses": {"contrastive": 0.1}})


def test_a_gradient_that_is_not_finite_stops_too(toy_images, tmp_path, monkeypatch):
    def exploding(logits, *args, **kwargs):
        return (logits * 0 + 1).sqrt().sub(1).abs().sqrt().sum()  # 0, with an infinite slope

    monkeypatch.setattr("trmml.method.trmml.weighted_bce", exploding)
    with pytest.raises(TrainingError, match=r"gradient is not finite at epoch 1.*learning_rate"):
        run_fit(toy_images, tmp_path / "run")


def test_logits_that_are_not_finite_stop_too(toy_images, tmp_path, monkeypatch):
    def broken(model, source, *args, **kwargs):
        return predict(model, source, *args, **kwargs) * torch.nan

    monkeypatch.setattr("trmml.training.trainer.predict", broken)
    with pytest.raises(TrainingError, match=r"after step 0 not every logit .*learning_rate"):
        run_fit(toy_images, tmp_path / "run")


def test_a_template_without_a_name_is_refused_before_images_are_read(
    toy_images, tmp_path, monkeypatch
):
    def read(*args, **kwargs):
        raise AssertionError("images are read")

    monkeypatch.setattr(fit, "encode_images", read)
    with pytest.raises(ConfigError, match="template"):
        run_fit(toy_images, tmp_path / "run", sections={"prompts": {"template": "a photo"}})


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        ("training", {"seed": 2**43}, "expected training.seed below"),
        ("prototypes", {"negative_below": 0.95}, "negative_below is 0.95 and positive_above 0.9"),
    ],
)
def test_what_cannot_be_trained_is_refused_and_still_read(
    toy_images, tmp_path, section, values, message
):
    data = read_folder(toy_images.train, toy_images.train_table)
    settings = Settings(**{section: values})  # a run of before may have it
    with pytest.raises(ConfigError, match=message):
        next(train_run(data, ToyEncoder(), tmp_path / "run", settings=settings, device="cpu"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("again", [False, True])
def test_logits_count_as_fitted_only_where_the_heads_were(toy_images, tmp_path, monkeypatch, again):
    told: list[bool] = []
    real = fit.calibrate
    monkeypatch.setattr(fit, "calibrate", lambda *a, fitted: told.append(fitted) or real(*a))
    data = read_folder(toy_images.train, toy_images.train_table)
    for weigh in (False, True):
        settings = Settings(training={**QUICK, "refit": again}, stacking={"fit_weights": weigh})
        out = tmp_path / str(weigh)
        list(train_run(data, ToyEncoder(), out, settings=settings, device="cpu"))
    assert told == [False, True]


def test_other_settings_are_refused_before_the_first_state_too(toy_images, tmp_path):
    data = begun(toy_images, tmp_path / "run")
    (tmp_path / "run" / STATE).unlink()  # as if it had been stopped in its first epoch
    other = Settings(training={**QUICK, "learning_rate": 0.1})
    resumed = partial(train_run, data, ToyEncoder(), tmp_path / "run", resume=True, device="cpu")
    with pytest.raises(CheckpointError, match=r"learning_rate is 0\.1"):
        list(resumed(settings=other))
    (tmp_path / "run" / "known.safetensors").unlink()
    assert len(list(resumed(settings=Settings(training=QUICK)))) == QUICK["epochs"]


def test_steps_are_counted_by_the_images_that_can_be_read(toy_images, tmp_path):
    import shutil

    folder = tmp_path / "images"
    shutil.copytree(toy_images.train, folder)
    data = read_folder(folder, toy_images.train_table)
    for path in data.paths[::2]:
        path.write_bytes(b"")
    settings = Settings(training={"least_steps": 300, "batch_size": 2, "refit": False})
    records = list(
        train_run(
            data, ToyEncoder(), tmp_path / "run", settings=settings, device="cpu",
            on_bad_image="skip",
        )
    )  # fmt: skip
    assert 300 <= records[-1].step < 330


def test_unreadable_images_are_skipped_and_listed(toy_images, tmp_path):
    import shutil

    folder = tmp_path / "pictures"
    shutil.copytree(toy_images.train, folder)
    (folder / "003.png").write_bytes(b"")
    data = read_folder(folder, toy_images.train_table)
    settings = Settings(training=QUICK)
    with pytest.raises(DataError, match=r"003\.png"):
        list(train_run(data, ToyEncoder(), tmp_path / "a", settings=settings, device="cpu"))
    assert not (tmp_path / "a").exists()
    options = {"settings": settings, "device": "cpu", "on_bad_image": "skip"}
    list(train_run(data, ToyEncoder(), tmp_path / "b", **options))
    assert "003.png" in (tmp_path / "b/skipped.json").read_text()


def test_another_encoder_is_refused(finished_run):
    with pytest.raises(CheckpointError, match="pass the same encoder and input size"):
        load_model(finished_run, frozen_encoder(ToyEncoder(seed=5)), load_card(finished_run))


@pytest.mark.parametrize("name", ["model.safetensors", "model.json"])
def test_damaged_files_are_named(finished_run, tmp_path, name):
    import shutil

    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    (run / name).write_bytes((run / name).read_bytes()[:-20])
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        load_card(run)


def test_too_few_known_labels(toy_images, tmp_path):
    data = read_folder(toy_images.train, toy_images.train_table)
    known = torch.zeros_like(data.matrix.known)
    known[0, 0] = True
    alone = LabelMatrix(data.matrix.labels, known)
    changed = type(data)(data.root, data.images, data.category_names, alone, data.rows)
    with pytest.raises(DataError, match="at least 2 images"):
        list(train_run(changed, ToyEncoder(), tmp_path / "run", device="cpu"))
    absent = LabelMatrix(torch.zeros_like(known), torch.ones_like(known))
    changed = type(data)(data.root, data.images, data.category_names, absent, data.rows)
    with pytest.raises(DataError, match=r"at least one label that is present, got .* all absent"):
        list(train_run(changed, ToyEncoder(), tmp_path / "run", device="cpu"))
    assert not (tmp_path / "run").exists()


def test_unknown_device_is_a_config_error(toy_images, tmp_path):
    data = read_folder(toy_images.train, toy_images.train_table)
    with pytest.raises(ConfigError, match="device"):
        list(train_run(data, ToyEncoder(), tmp_path / "run", device="toaster"))


# Small parts --------------------------------------------------------------------------------


def test_hold_out_is_seeded_disjoint_and_only_of_answered_images():
    known = torch.zeros(20, 3, dtype=torch.bool)
    known[5:] = True
    matrix = LabelMatrix(torch.zeros(20, 3, dtype=torch.bool), known)
    kept, held = hold_out(matrix, 0.2, seed=1)
    assert sorted([*kept.tolist(), *held.tolist()]) == list(range(20))
    assert len(held) == 3 and (held >= 5).all()
    assert torch.equal(held, hold_out(matrix, 0.2, seed=1)[1])


def test_learning_rate_rises_then_falls_to_almost_nothing():
    settings = TrainingSettings(learning_rate=1.0, warm_up_share=0.2)
    rates = [learning_rate(step, 100, settings) for step in range(100)]
    assert rates.index(max(rates)) == 20 and max(rates) == 1
    assert rates[0] == pytest.approx(0.05) and rates[-1] < 0.01
