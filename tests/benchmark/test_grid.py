import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.conftest import ToyImages
from tests.toy import ToyEncoder
from trmml.benchmark.catalog import METHODS, Method
from trmml.benchmark.data import BenchmarkData, encode_benchmark_data
from trmml.benchmark.grid import Finished, find_methods, run_benchmark
from trmml.benchmark.method_settings import MethodSettings, parse_method_settings
from trmml.benchmark.records import Cell, CellFolder, CellKey
from trmml.datasets.base import Dataset
from trmml.datasets.formats.folder import read_folder
from trmml.errors import CheckpointError, ConfigError, DataError, TrainingError
from trmml.features.extract import Encoding
from trmml.labels.masks import fixed, quota, share_known, single_positive
from trmml.labels.matrix import LabelMatrix
from trmml.method.interface import predict
from trmml.metrics.measure import measure
from trmml.settings.choices import PROTOCOLS
from trmml.settings.old_names import first_names

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning_fabric")

KEYS = ("zero-shot", "probe-masked", "trmml", "probe-full")
QUICK = {"training": {"epochs": 2, "batch_size": 16, "held_out_share": 0.3}}
THIRTY, SIXTY = share_known(0.3), share_known(0.6)


def pair(toy_images: ToyImages) -> tuple[Dataset, Dataset]:
    return (
        read_folder(toy_images.train, toy_images.train_table),
        read_folder(toy_images.test, toy_images.test_table),
    )


@pytest.fixture(scope="module")
def data(toy_images: ToyImages) -> BenchmarkData:
    return encode_benchmark_data("toys", *pair(toy_images), ToyEncoder())


def quick(changes: dict[str, Any] | None = None) -> dict[str, MethodSettings]:
    """Two epochs for every method."""
    found = {}
    for key in KEYS:
        tree = {"training": {**QUICK["training"], **(changes or {})}}
        values = parse_method_settings(METHODS[key], tree, "test")
        found[key] = MethodSettings(dict.fromkeys(PROTOCOLS, values), {p: {} for p in PROTOCOLS})
    return found


@dataclass
class Counted:
    """Methods that count how often a model is built."""

    built: list[str]

    def methods(self, keys: Sequence[str] = KEYS) -> list[Method]:
        def counting(key: str, build: Callable[..., Any]) -> Callable[..., Any]:
            def counted(*arguments: Any) -> Any:
                self.built.append(key)
                return build(*arguments)

            return counted

        return [replace(METHODS[k], build=counting(k, METHODS[k].build)) for k in keys]


def run(
    data: BenchmarkData, out: Path, methods: Sequence[Method], **changes: Any
) -> list[Finished]:
    given: dict[str, Any] = {"known": [THIRTY, SIXTY, single_positive()], "seeds": [0, 1]}
    given |= {"settings": quick()}
    return list(run_benchmark(data, out, methods=methods, **{**given, **changes}))


# What a cell holds --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(data: BenchmarkData, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Counted]:
    """A finished grid; read it, never write into it."""
    out, counted = tmp_path_factory.mktemp("grid") / "out", Counted([])
    finished = run(data, out, counted.methods(), best_on_test=True)
    assert [(f.done, f.total) for f in finished] == [(n, 24) for n in range(1, 25)]
    assert finished[-1].seconds_left == 0 and finished[1].seconds_left > 0
    assert "24/24  linear probe, all labels, single positive, seed 1: mAP" in str(finished[-1])
    return out, counted


def test_what_needs_no_mask_is_built_once(whole: tuple[Path, Counted]) -> None:
    built = whole[1].built
    assert built.count("zero-shot") == 1
    assert built.count("probe-full") == 2  # a seed each
    assert built.count("trmml") == built.count("probe-masked") == 6


def test_a_cell_says_all_that_its_figures_depend_on(
    whole: tuple[Path, Counted], data: BenchmarkData
) -> None:
    cells = CellFolder(whole[0]).cells()
    assert len(cells) == 24
    cell = cells[CellKey("probe-masked", "30 %", 1)]
    mask = data.train.matrix.hide(0.3, 1)
    assert cell.mask["sha256"] == mask.checksum()
    assert cell.mask["positives"] == int(mask.positives.sum())
    assert cell.settings["training"]["seed"] == 1 and cell.settings["training"]["epochs"] == 2
    assert cell.settings["training"]["choose_epoch"] == "held-out"
    assert cell.encoder["checksum"] == data.frozen.identity.checksum
    assert cell.encoder["form"] == "fp16"
    assert cell.data == data.fingerprint and cell.dataset == "toys"
    assert cell.versions["torch"] and cell.device == "cpu" and cell.epoch["of"] == 2
    full = cells[CellKey("probe-full", "single positive", 0)]
    assert full.mask["sha256"] == data.train.matrix.checksum() and full.mask["known_share"] == 1


def test_figures_are_those_of_the_ranks(whole: tuple[Path, Counted], data: BenchmarkData) -> None:
    folder = CellFolder(whole[0])
    labels = folder.test_labels()
    assert labels.checksum() == data.test.matrix.checksum()
    for cell in folder.cells().values():
        scores = 1 / (1 + torch.from_numpy(folder.ranks(cell).astype(float)))
        names = data.test.category_names
        metrics = measure(scores, labels.labels, labels.known, names)
        assert cell.mean_ap == pytest.approx(metrics.mean_ap)
        assert cell.figures["map_interpolated"] == pytest.approx(metrics.mean_ap_interpolated)
        assert cell.ap == pytest.approx([row.ap for row in metrics.per_category])


def test_the_curve_has_a_point_for_each_epoch(whole: tuple[Path, Counted]) -> None:
    for cell in CellFolder(whole[0]).cells().values():
        steps = [step for step, _ in cell.curve]
        assert len(steps) == cell.epoch.get("of", 0) and steps == sorted(set(steps))


def test_epochs_that_least_steps_added_are_counted(data: BenchmarkData, tmp_path: Path) -> None:
    more = quick({"least_steps": 10})["trmml"]
    methods = Counted([]).methods(["trmml"])
    run(data, tmp_path, methods, known=[SIXTY], seeds=[0], settings={"trmml": more})
    (cell,) = CellFolder(tmp_path).cells().values()
    assert len(cell.curve) == cell.epoch["of"] > 2 and cell.curve[-1][0] >= 10


def test_best_on_test_stands_apart(whole: tuple[Path, Counted]) -> None:
    for cell in CellFolder(whole[0]).cells().values():
        if cell.method == "zero-shot":
            assert cell.best_on_test is None
        else:
            assert cell.best_on_test is not None and cell.best_on_test["epoch"] in (1, 2)
            if cell.epoch["chosen"] > 0:
                assert cell.best_on_test["map"] >= cell.mean_ap - 1e-9


def test_cells_of_a_grid_with_old_names_are_not_run_again(
    data: BenchmarkData, tmp_path: Path
) -> None:
    run(data, tmp_path, Counted([]).methods(["trmml"]), known=[SIXTY], seeds=[0])
    file = tmp_path / "cells.jsonl"
    (line,) = file.read_text("utf-8").splitlines()
    cell = json.loads(line)
    old = {**cell, "settings": first_names(cell["settings"])}
    assert old["settings"]["opinions"] == {"frozen": True, "weigh": True}
    old["ground"] = old.pop("dataset")
    file.write_text(json.dumps(old) + "\n", "utf-8")
    again = Counted([])
    assert run(data, tmp_path, again.methods(["trmml"]), known=[SIXTY], seeds=[0]) == []
    assert again.built == []
    kept = next(iter(CellFolder(tmp_path).cells().values())).settings
    assert first_names(kept) == first_names(cell["settings"])


def test_asking_for_the_test_sets_best_epoch_changes_no_headline(
    data: BenchmarkData, tmp_path: Path, whole: tuple[Path, Counted]
) -> None:
    methods = find_methods(["trmml"])
    (plain,) = run(data, tmp_path, methods, known=[THIRTY], seeds=[0])
    there = CellFolder(whole[0]).cells()[plain.cell.key]
    assert plain.cell.best_on_test is None and there.fingerprint == plain.cell.fingerprint
    assert plain.cell.figures == there.figures
    (again,) = run(data, tmp_path, methods, known=[THIRTY], seeds=[0], best_on_test=True)
    assert again.cell.best_on_test == there.best_on_test
    assert not run(data, tmp_path, methods, known=[THIRTY], seeds=[0])


def test_the_last_epoch_is_reported_where_asked_for(data: BenchmarkData, tmp_path: Path) -> None:
    methods = find_methods(["probe-masked"])
    (found,) = run(data, tmp_path, methods, known=[THIRTY], seeds=[0], epoch="last")
    assert found.cell.epoch["chosen"] == 2 and found.cell.epoch["by"] == "last"


def test_a_fixed_mask_is_the_same_for_every_seed(data: BenchmarkData, tmp_path: Path) -> None:
    mask = data.train.matrix.hide(0.4, 7)
    methods = find_methods(["probe-masked"])
    found = run(data, tmp_path, methods, known=[fixed("peer", mask)])
    assert {f.cell.mask["sha256"] for f in found} == {mask.checksum()}
    assert [f.cell.known for f in found] == ["peer", "peer"]
    single = fixed("one", data.train.matrix.keep_single_positive())
    assert (fixed("peer", mask).protocol, single.protocol) == ("partial", "single_positive")
    with pytest.raises(DataError, match="mask 'small' is of 3 images and 4 categories"):
        run(data, tmp_path, methods, known=[fixed("small", mask.subset([0, 1, 2]))])


def test_a_pass_that_serves_several_cells_is_timed_alone_and_told_in_each(
    data: BenchmarkData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]

    def timed(model: Any, source: Any, *rows: Any, device: str) -> torch.Tensor:
        clock[0] += 0.5 if len(source) == len(data.test) else 3.0
        return predict(model, source, *rows, device=device)

    monkeypatch.setattr("trmml.benchmark.run_cell.predict", timed)
    watch = SimpleNamespace(monotonic=lambda: clock[0])
    monkeypatch.setattr("trmml.benchmark.run_cell.time", watch)
    found = run(data, tmp_path, find_methods(["zero-shot"]), known=[THIRTY, SIXTY])
    assert [each.cell.seconds for each in found] == 4 * [{"train": 0.0, "predict": 0.5}]


def test_without_a_known_test_positive_the_figures_are_none_and_the_grid_is_done(
    data: BenchmarkData, tmp_path: Path
) -> None:
    matrix = data.test.matrix
    nothing = LabelMatrix(matrix.labels, matrix.known & ~matrix.labels)
    blind, keys = replace(data, test=replace(data.test, matrix=nothing)), (*TWO, "neighbours")
    asked: dict[str, Any] = {"known": [THIRTY], "seeds": [0], "best_on_test": True, "refit": True}
    found = [each.cell for each in run(blind, tmp_path, find_methods(keys), **asked)]
    assert [(c.figures["map"], c.best_on_test, c.refit_map) for c in found] == 3 * [(None,) * 3]
    assert run(blind, tmp_path, find_methods(keys), **asked) == []


# Going on -----------------------------------------------------------------------------------

TWO = ("zero-shot", "probe-masked")


def started(data: BenchmarkData, out: Path) -> None:
    assert len(run(data, out, find_methods(TWO))) == 12


def again(data: BenchmarkData, out: Path, **changes: Any) -> tuple[list[str], list[Cell]]:
    """Models that a further run builds, and cells that it yields."""
    counted = Counted([])
    finished = run(data, out, counted.methods(TWO), **changes)
    return counted.built, [each.cell for each in finished]


def without_time(cell: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in cell.items() if name not in ("date", "seconds")}


def test_a_finished_grid_builds_nothing(data: BenchmarkData, tmp_path: Path) -> None:
    started(data, tmp_path)
    before = (tmp_path / "cells.jsonl").read_bytes()
    assert again(data, tmp_path) == ([], [])
    assert (tmp_path / "cells.jsonl").read_bytes() == before


def test_a_line_that_a_kill_cut_off_is_done_again_and_no_other(
    data: BenchmarkData, tmp_path: Path
) -> None:
    started(data, tmp_path)
    path = tmp_path / "cells.jsonl"
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]) + lines[-1][:99])
    built, cells = again(data, tmp_path)
    assert built == ["probe-masked"] and len(cells) == 1
    assert cells[0].key == CellKey("probe-masked", "single positive", 1)
    parsed = [json.loads(line) for line in path.read_text().splitlines()]
    first, last = (without_time(tree) for tree in (json.loads(lines[-1]), parsed[-1]))
    assert len(parsed) == 12 and first == last
    assert again(data, tmp_path) == ([], [])


def test_a_cell_without_its_scores_is_done_again_and_no_other(
    data: BenchmarkData, tmp_path: Path
) -> None:
    started(data, tmp_path)
    folder = CellFolder(tmp_path)
    lost = folder.cells()[CellKey("probe-masked", "60 %", 0)]
    (tmp_path / "scores" / f"{lost.fingerprint[:32]}.safetensors").unlink()
    with pytest.raises(CheckpointError, match="run the benchmark again"):
        folder.ranks(lost)
    built, cells = again(data, tmp_path)
    assert built == ["probe-masked"] and [cell.key for cell in cells] == [lost.key]
    assert len(folder.cells()) == 12


def test_a_kill_between_cells_loses_none(data: BenchmarkData, tmp_path: Path) -> None:
    cells = run_benchmark(
        data, tmp_path, methods=find_methods(TWO), known=[THIRTY], seeds=[0, 1], settings=quick()
    )
    next(cells)
    second = next(cells).cell
    cells.close()
    built, rest = again(data, tmp_path, known=[THIRTY])
    assert second.key == CellKey("probe-masked", "30 %", 0)
    assert built == ["zero-shot", "probe-masked"] and {cell.seed for cell in rest} == {1}


def test_changed_settings_are_run_again(data: BenchmarkData, tmp_path: Path) -> None:
    started(data, tmp_path)
    built, cells = again(data, tmp_path, settings=quick({"weight_decay": 0.2}))
    assert built.count("probe-masked") == 6 and len(cells) == 12
    kept = CellFolder(tmp_path).cells()
    assert len(kept) == 12  # the later line counts
    assert kept[CellKey("probe-masked", "30 %", 0)].settings["training"]["weight_decay"] == 0.2
    # Changed back, nothing is run: the first lines and their scores are still there.
    built, cells = again(data, tmp_path)
    assert built == [] and len(cells) == 12
    kept = CellFolder(tmp_path).cells()
    assert kept[CellKey("probe-masked", "30 %", 0)].settings["training"]["weight_decay"] != 0.2


def test_another_format_is_run_again(
    data: BenchmarkData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started(data, tmp_path)
    monkeypatch.setattr("trmml.benchmark.grid.CELL_FORMAT", 99)
    assert len(again(data, tmp_path, known=[THIRTY], seeds=[0])[1]) == 2


def test_a_quota_is_a_rule_of_its_own(data: BenchmarkData, tmp_path: Path) -> None:
    methods = find_methods(["probe-masked"])
    cells = run(data, tmp_path, methods, known=[quota(3, 5), quota(3, 0)], seeds=[7])
    assert [cell.cell.known for cell in cells] == ["quota 3 + 5", "quota 3 + 0"]
    both, positives = (cell.cell for cell in cells)
    assert both.protocol == "partial" and positives.protocol == "single_positive"
    count = len(data.train.category_names)
    assert (both.mask["positives"], both.mask["negatives"]) == (3 * count, 5 * count)
    assert positives.mask["negatives"] == 0 and both.seed == 7 and both.share is None


def test_more_seeds_run_only_what_is_new(data: BenchmarkData, tmp_path: Path) -> None:
    started(data, tmp_path)
    _, cells = again(data, tmp_path, seeds=[0, 1, 2])
    assert len(cells) == 6 and {cell.seed for cell in cells} == {2}


def test_a_damaged_line_is_named(data: BenchmarkData, tmp_path: Path) -> None:
    started(data, tmp_path)
    path = tmp_path / "cells.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], b"{not json}\n", *lines[2:]]))
    with pytest.raises(CheckpointError, match=r"cells\.jsonl line 3 is damaged"):
        again(data, tmp_path)


def test_the_folder_of_another_grid_is_refused(
    data: BenchmarkData, toy_images: ToyImages, tmp_path: Path
) -> None:
    started(data, tmp_path)
    other = encode_benchmark_data("toys", *pair(toy_images), ToyEncoder(seed=1))
    with pytest.raises(CheckpointError, match="holds the cells of another grid: its encoder is"):
        run(other, tmp_path, find_methods(TWO))
    form = encode_benchmark_data(
        "toys", *pair(toy_images), ToyEncoder(), encoding=Encoding(form="int8")
    )
    with pytest.raises(CheckpointError, match="its form is fp16, not int8"):
        run(form, tmp_path, find_methods(TWO))
    (tmp_path / "grid.json").unlink()
    with pytest.raises(CheckpointError, match=r"lies without its grid\.json"):
        run(data, tmp_path, find_methods(TWO))
    with pytest.raises(CheckpointError, match="is a file"):
        run(data, toy_images.train_table, find_methods(TWO))


def test_a_cell_that_diverges_stops_no_other(data: BenchmarkData, tmp_path: Path) -> None:
    def failing(*arguments: Any) -> Any:
        raise TrainingError("the loss is not finite")

    methods = [replace(METHODS["trmml"], build=failing), *find_methods(["probe-masked"])]
    found = []
    with pytest.raises(
        TrainingError, match=r"2 of 4 cells failed, first trmml \(default\), 30 %, seed 0"
    ):
        for finished in run_benchmark(
            data, tmp_path, methods=methods, known=[THIRTY], seeds=[0, 1], settings=quick()
        ):
            found.append(finished.cell.method)
    assert found == ["probe-masked", "probe-masked"]


# The data ---------------------------------------------------------------------------------


def test_pooled_features_are_the_mean_of_the_patches(data: BenchmarkData) -> None:
    rows = torch.tensor([3, 0, 7])
    whole = data.encoded_train.features(pooled=False).batch(rows)
    pooled = data.encoded_train.features(pooled=True).batch(rows)
    assert pooled.hidden_patches.shape == (3, 1, 12)
    mean = whole.hidden_patches.mean(dim=1, keepdim=True)
    torch.testing.assert_close(pooled.hidden_patches, mean, atol=1e-3, rtol=0)
    torch.testing.assert_close(pooled.image_feature, whole.image_feature)


def test_features_that_do_not_fit_stay_in_the_store(
    toy_images: ToyImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trmml.benchmark.data.MEMORY_SHARE", 0.0)
    small = encode_benchmark_data("toys", *pair(toy_images), ToyEncoder())
    source = small.encoded_train.features(pooled=False)
    assert type(source).__name__ != "MemoryFeatures"
    monkeypatch.undo()
    large = encode_benchmark_data("toys", *pair(toy_images), ToyEncoder()).encoded_train.features(
        pooled=False
    )
    assert type(large).__name__ == "MemoryFeatures"
    rows = torch.arange(len(source))
    for name in ("hidden_patches", "image_feature"):
        both = (getattr(each.batch(rows), name) for each in (source, large))
        torch.testing.assert_close(*both, atol=0, rtol=0)


@pytest.mark.parametrize("form", ["int8", "live"])
def test_other_forms_give_the_same_features_in_memory_and_not(
    toy_images: ToyImages, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    encoding = Encoding(live=True) if form == "live" else Encoding(form="int8")
    small = encode_benchmark_data("toys", *pair(toy_images), ToyEncoder(), encoding=encoding)
    assert small.same["form"] == ("fp32" if form == "live" else form)
    large = small.encoded_train.features(pooled=False)
    assert type(large).__name__ == "MemoryFeatures"
    monkeypatch.setattr("trmml.benchmark.data.MEMORY_SHARE", 0.0)
    small = encode_benchmark_data("toys", *pair(toy_images), ToyEncoder(), encoding=encoding)
    source, rows = small.encoded_train.features(pooled=False), torch.arange(5)
    assert type(source).__name__ != "MemoryFeatures"
    both = (each.batch(rows).hidden_patches for each in (source, large))
    torch.testing.assert_close(*both, atol=1e-6, rtol=0)


def test_a_method_draws_from_as_many_views_as_it_asks_for(toy_images: ToyImages) -> None:
    data = encode_benchmark_data("toys", *pair(toy_images), ToyEncoder(), views=2)
    for pooled in (False, True):
        one, two = (data.encoded_train.features(pooled=pooled, views=v) for v in (1, 2))
        assert (one.views, two.views) == (1, 2) and len(one) == 48
        row = torch.tensor([5])
        plain = two.batch(row).hidden_patches
        assert torch.equal(one.subset([5, 6]).batch(torch.tensor([0])).hidden_patches, plain)
        other = two.batch(row, torch.tensor([1])).hidden_patches
        assert not torch.equal(plain, other)
    with pytest.raises(ConfigError, match=r"scored_views is 3, but 2 are encoded"):
        data.encoded_train.features(pooled=True, views=3)


def test_categories_must_be_the_same(toy_images: ToyImages, tmp_path: Path) -> None:
    train, test = pair(toy_images)
    fewer = replace(
        test, category_names=test.category_names[:3], matrix=test.matrix.columns([0, 1, 2])
    )
    with pytest.raises(DataError, match="got 4 and 3; only in train: yellow; only in test: none"):
        encode_benchmark_data("toys", train, fewer, ToyEncoder())
    with pytest.raises(DataError, match="48 images are in the training and the test set"):
        encode_benchmark_data("toys", train, train, ToyEncoder())
    (tmp_path / "linked").symlink_to(train.root)
    linked = replace(train, root=tmp_path / "linked")
    with pytest.raises(DataError, match="48 images are in the training and the test set"):
        encode_benchmark_data("toys", train, linked, ToyEncoder())


# Wrong requests -----------------------------------------------------------------------------


def test_wrong_requests_are_refused(data: BenchmarkData, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no method 'trm-ml'; did you mean trmml\?"):
        find_methods(["trm-ml"])
    with pytest.raises(ConfigError, match="named twice"):
        find_methods(["trmml", "trmml"])
    with pytest.raises(ConfigError, match="at least one method"):
        find_methods([])
    for share in (0.0, 1.5, -0.1):
        with pytest.raises(ConfigError, match="above 0 and at most 1"):
            share_known(share)
    methods = find_methods(TWO)
    for changes, said in (
        ({"seeds": []}, "at least one seed"),
        ({"seeds": [1, 1]}, "a seed is named twice"),
        ({"known": []}, "at least one share"),
        ({"known": [THIRTY, share_known(0.3)]}, "known labels are named twice"),
    ):
        with pytest.raises(ConfigError, match=said):
            run(data, tmp_path, methods, **changes)
    with pytest.raises(ConfigError, match="at least one method to run"):
        run(data, tmp_path, [])
    tree = {"neighbour_head": {"use": True}, "stacking": {"fit_weights": False}}
    values = parse_method_settings(METHODS["trmml"], tree, "test")
    never = MethodSettings(dict.fromkeys(PROTOCOLS, values), {p: {} for p in PROTOCOLS})
    with pytest.raises(ConfigError, match=r"needs stacking\.fit_weights=true"):
        list(
            run_benchmark(
                data, tmp_path, methods=find_methods(["trmml"]), known=[THIRTY],
                settings={"trmml": never},
            )
        )  # fmt: skip
    assert not list(tmp_path.iterdir())


def test_a_mask_of_known_labels_reads_no_label_of_its_own(data: BenchmarkData) -> None:
    mask = data.train.matrix.hide(0.5, 1)
    lying = LabelMatrix(~mask.labels, mask.known)
    found = fixed("peer", lying).apply(data.train.matrix, seed=0)
    assert found.checksum() == mask.checksum()
