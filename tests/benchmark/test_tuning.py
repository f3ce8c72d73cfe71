import math
import tomllib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import ToyImages
from tests.toy import ToyEncoder
from trmml.benchmark.catalog import METHODS, Method, OneOf, Range
from trmml.benchmark.data import BenchmarkData, EncodedSplit, encode_benchmark_data
from trmml.benchmark.method_settings import read_settings
from trmml.benchmark.tuning import Plan, Trial, split, tune
from trmml.datasets.formats.folder import read_folder
from trmml.errors import ConfigError, DataError, TrainingError
from trmml.labels.matrix import LabelMatrix
from trmml.settings.choices import PROTOCOLS, Protocol
from trmml.settings.sections import TrainingSettings

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning_fabric")

BASE = METHODS["probe-masked"]


class QuickSettings(BASE.settings):  # type: ignore[misc, name-defined]
    """A probe that takes a moment."""

    training: TrainingSettings = TrainingSettings(epochs=3, batch_size=16)


QUICK = replace(
    BASE,
    settings=QuickSettings,
    space={
        "training.learning_rate": Range(1e-4, 1e-1, log=True),
        "training.epochs": OneOf((1, 3, 6)),
    },
)
PLAN = Plan(trials=4, folds=1, shares=(0.5,))


@pytest.fixture(scope="module")
def data(toy_images: ToyImages) -> BenchmarkData:
    train = read_folder(toy_images.train, toy_images.train_table)
    test = read_folder(toy_images.test, toy_images.test_table)
    return encode_benchmark_data("toys", train, test, ToyEncoder())


def search(
    data: BenchmarkData,
    out: Path,
    method: Method = QUICK,
    plan: Plan = PLAN,
    protocol: Protocol = "partial",
) -> list[Trial]:
    found = tune(data, method, protocol, plan, folder=out / "set", work=out / "work")
    return list(found)


def test_the_best_trial_is_written_with_its_origin(data: BenchmarkData, tmp_path: Path) -> None:
    trials = search(data, tmp_path)
    assert [trial.number for trial in trials] == [1, 2, 3, 4]
    assert trials[0].changes == {"training.learning_rate": 3e-3, "training.epochs": 3}
    best = max(trials, key=lambda trial: trial.value)
    assert trials[-1].best == best.value >= trials[0].value
    chosen = read_settings(QUICK, tmp_path / "set").values["partial"].training
    assert chosen.learning_rate == best.changes["training.learning_rate"]
    assert chosen.epochs == best.changes["training.epochs"]
    tree = tomllib.loads((tmp_path / "set" / "probe-masked.toml").read_text())
    card = tree["provenance"]["partial"]
    assert card["dataset"] == "toys" and card["trials"] == 4 and card["known"] == ["50 %"]
    assert card["default_held_out_map"] == pytest.approx(trials[0].value, abs=1e-6)
    assert card["best_held_out_map"] == pytest.approx(best.value, abs=1e-6)
    assert card["space"]["training.epochs"] == {"values": [1, 3, 6]}
    assert "tuning probe-masked (partial) 1/4: held-out mAP" in str(trials[0])


def test_what_a_method_names_is_tried_before_a_draw(data: BenchmarkData, tmp_path: Path) -> None:
    named = {"training.epochs": 6}
    trials = search(data, tmp_path, replace(QUICK, starts=(named,)), replace(PLAN, trials=3))
    assert trials[1].changes == {**trials[0].changes, **named}
    plain = search(data, tmp_path, plan=replace(PLAN, trials=3))  # a search of its own
    assert trials[2].changes == plain[2].changes != plain[1].changes


def test_a_stopped_search_goes_on_as_if_it_had_not_been(
    data: BenchmarkData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = search(data, tmp_path / "whole")
    cells = tune(
        data, QUICK, "partial", PLAN, folder=tmp_path / "set", work=tmp_path / "part" / "work"
    )
    assert [next(cells), next(cells)] == whole[:2]
    cells.close()  # between trials

    def killed(*arguments: Any, **named: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:  # and within one, which leaves a trial that never ends
        patch.setattr("trmml.benchmark.tuning.train", killed)
        with pytest.raises(KeyboardInterrupt):
            search(data, tmp_path / "part")
    assert search(data, tmp_path / "part")[1:] == whole[2:]
    # More trials continue the same search.
    longer = search(data, tmp_path / "part", plan=replace(PLAN, trials=5))
    assert [trial.number for trial in longer] == [4, 5]


def test_trials_do_not_read_the_test_images(data: BenchmarkData, tmp_path: Path) -> None:
    def read(**named: Any) -> Any:
        raise AssertionError("the test images were read")

    plan = replace(PLAN, trials=2)
    matrix = data.test.matrix
    wrong = replace(data.test, matrix=LabelMatrix(~matrix.labels, matrix.known))
    unread = EncodedSplit(data.encoded_test.features(pooled=True), form="fp16", free_bytes=0.0)
    unread.features = unread.scored_features = read  # type: ignore[method-assign]
    blind = replace(data, test=wrong, encoded_test=unread)
    assert search(blind, tmp_path / "a", plan=plan) == search(data, tmp_path / "b", plan=plan)


def test_the_two_protocols_are_searched_apart(data: BenchmarkData, tmp_path: Path) -> None:
    plan = replace(PLAN, trials=2)
    for protocol in PROTOCOLS:
        assert len(search(data, tmp_path, plan=plan, protocol=protocol)) == 2
    assert len(list((tmp_path / "work").glob("*.journal"))) == 2
    found = read_settings(QUICK, tmp_path / "set")
    assert found.provenance["partial"]["known"] == ["50 %"]
    assert found.provenance["single_positive"]["known"] == ["single positive"]


def test_other_defaults_are_another_search(data: BenchmarkData, tmp_path: Path) -> None:
    class Decaying(QuickSettings):
        training: TrainingSettings = TrainingSettings(epochs=3, batch_size=16, weight_decay=0.3)

    plan = replace(PLAN, trials=1)
    search(data, tmp_path, QUICK, plan)
    search(data, tmp_path, replace(QUICK, settings=Decaying), plan)  # not a part of its space
    assert len(list((tmp_path / "work").glob("*.journal"))) == 2


def test_an_upper_bound_is_tuned_with_all_labels(data: BenchmarkData, tmp_path: Path) -> None:
    full = replace(QUICK, key="full", full_labels=True)
    plan = replace(PLAN, trials=1, shares=(0.1, 0.9))
    seen = search(data, tmp_path, full, plan)
    assert seen == [
        replace(one, method="full")
        for one in search(data, tmp_path, QUICK, replace(plan, shares=(1.0,)))
    ]


def test_a_method_without_a_space_has_nothing_to_tune(data: BenchmarkData, tmp_path: Path) -> None:
    assert search(data, tmp_path, METHODS["zero-shot"]) == []
    assert not (tmp_path / "set").exists()


def test_a_trial_that_diverges_counts_as_nothing(
    data: BenchmarkData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverging(*arguments: Any, **named: Any) -> Any:
        raise TrainingError("the loss is not finite")

    monkeypatch.setattr("trmml.benchmark.tuning.train", diverging)
    assert [trial.value for trial in search(data, tmp_path, plan=replace(PLAN, trials=2))] == [
        0.0,
        0.0,
    ]


def test_nothing_to_score_by_is_said(
    data: BenchmarkData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trmml.benchmark.tuning.mean_defined", lambda aps: math.nan)
    with pytest.raises(DataError, match=r"expected a category .* among the .* label more images"):
        search(data, tmp_path)


def test_categories_without_a_known_negative_score_nothing(
    data: BenchmarkData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their AP is 1 whatever a model says: of all trials alike, so that the first would win."""

    def known_as(known: torch.Tensor) -> BenchmarkData:
        matrix = LabelMatrix(data.train.matrix.labels, known)
        return replace(data, train=replace(data.train, matrix=matrix))

    present, plan = data.train.matrix.labels, replace(PLAN, trials=1)
    with pytest.raises(DataError, match="got none; say in the data what is absent"):
        search(known_as(present), tmp_path / "none", plan=plan, protocol="single_positive")
    alone = torch.ones_like(present)
    alone[:, 1:] = present[:, 1:]  # of the first category both answers are known
    aps = torch.tensor([0.25, 1.0, 1.0, 1.0], dtype=torch.float64)
    monkeypatch.setattr("trmml.benchmark.tuning.average_precisions", lambda *_: aps)
    lacking = known_as(alone)
    (trial,) = search(lacking, tmp_path / "one", plan=plan, protocol="single_positive")
    assert trial.value == 0.25


def test_splits_are_seeded_and_cover_all() -> None:
    kept, held = split(10, 0.25, seed=1)
    assert sorted([*kept.tolist(), *held.tolist()]) == list(range(10)) and len(held) == 2
    again: Sequence[torch.Tensor] = split(10, 0.25, seed=1)
    assert all(torch.equal(a, b) for a, b in zip((kept, held), again, strict=True))
    assert [len(part) for part in split(2, 0.01, seed=0)] == [1, 1]


def test_wrong_plans_and_spaces_are_refused(data: BenchmarkData, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least 1 trial and 1 fold, got 0 and 2"):
        Plan(trials=0)
    with pytest.raises(ConfigError, match="held_out_share must be between 0 and 1"):
        Plan(trials=1, held_out_share=1.0)
    for space, said in (
        ({"training.epochs": OneOf((1, 2))}, "default of training.epochs, 3, is none of"),
        ({"training.learning_rate": Range(0.1, 1.0)}, "0.003, is not from 0.1 to 1.0"),
    ):
        with pytest.raises(ConfigError, match=said):
            search(data, tmp_path, replace(QUICK, space=space))
