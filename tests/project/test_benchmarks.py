import json
import sys
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from benchmarks import record
from benchmarks.accuracy import ablation
from benchmarks.speed import quick, scaling, startup, store, synthetic, tagging, time_to_map, timing

from tests.conftest import TOY_SPEC
from tests.toy import COLOURS, ToyEncoder, write_images
from trmml.benchmark.catalog import METHODS
from trmml.benchmark.method_settings import shared_changes
from trmml.datasets import Dataset
from trmml.datasets.base import Boxes
from trmml.encoders.base import identify
from trmml.features.base import MemoryFeatures
from trmml.labels.masks import share_known, single_positive
from trmml.labels.matrix import LabelMatrix
from trmml.settings.sections import Settings
from trmml.tagging.tagger import Tagger


def coloured(folder: Path, images: int, seed: int) -> Dataset:
    shown = torch.from_numpy(write_images(folder, images, seed))
    return Dataset(
        root=folder,
        images=tuple(f"{number:03}.png" for number in range(images)),
        category_names=tuple(COLOURS),
        matrix=LabelMatrix(shown, torch.ones_like(shown)),
        rows=tuple(range(images)),
    )


# How time is taken


def test_ways_take_turns_and_the_first_round_does_not_count() -> None:
    calls: list[str] = []
    ways = {name: lambda name=name: calls.append(name) for name in "ab"}
    seconds = timing.in_turn(ways, 2)
    assert "".join(calls) == "ababab"
    assert {name: len(taken) for name, taken in seconds.items()} == {"a": 2, "b": 2}
    shorter = {name: lambda name=name: calls.append(name.upper()) for name in "ab"}
    calls.clear()
    timing.in_turn(ways, 1, warm_up=shorter)
    assert "".join(calls) == "ABab"


def test_make_bench_runs_every_benchmark_that_has_a_quick_form() -> None:
    folder = Path(quick.__file__).parent
    texts = {path.stem: path.read_text("utf-8") for path in folder.glob("*.py")}
    assert set(quick.BENCHMARKS) == {name for name, text in texts.items() if '"--quick", a' in text}


def test_rates_by_hand() -> None:
    found = timing.rates(8, [1.0, 2.0, 4.0])
    assert found == {"images_per_second": 4.0, "lowest": 2.0, "highest": 8.0}


def test_slopes_by_hand() -> None:
    first, linear, quadratic = timing.slopes([1, 10, 20], [3.0, 30.0, 120.0])
    assert first is None
    assert (linear, quadratic) == (pytest.approx(1), pytest.approx(2))


def test_a_cell_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    script = tmp_path / "cell.py"
    script.write_text("import sys, json\nprint('noise')\nprint(json.dumps({'got': sys.argv[2]}))")
    assert timing.in_process("cell", {"C": 1}) == {"got": '{"C": 1}'}
    script.write_text("raise SystemExit('no such shape')")
    with pytest.raises(RuntimeError, match=r"'C': 1.* failed: no such shape"):
        timing.in_process("cell", {"C": 1})


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc here")
def test_peak_memory_counts_what_was_touched() -> None:
    before = timing.peak_gib()
    block = torch.ones(2**28, dtype=torch.uint8)
    assert timing.peak_gib() >= before
    assert timing.peak_gib() > len(block) / 2**30


# What is measured on


def test_the_synthetic_encoder_keeps_the_protocol_and_its_store_gives_features_back(
    tmp_path: Path,
) -> None:
    identity = identify(synthetic.SyntheticEncoder(4, 6, 5))
    assert (identity.patches, identity.hidden_size, identity.feature_size) == (4, 6, 5)
    source = synthetic.filled_store(tmp_path, identity, 7, "fp32")
    found, made = source.batch(torch.arange(7)), synthetic.random_features(identity, 7)
    assert torch.equal(found.hidden_patches, made.hidden_patches)


# The scripts, on tiny shapes


def test_a_step_of_the_head_has_a_time_and_a_peak() -> None:
    cell = {"categories": 5, "images": 24, "patches": 4, "batch": 8, "hidden": 6, "feature": 5}
    found = scaling.head_cell({**cell, "rounds": 1})
    assert found["epoch_seconds"] == pytest.approx(3 * found["step_seconds"])
    assert found["peak_gib"] > 0
    row = {"axis": "batch", **cell, **found, "slope": None}
    assert "batch" in scaling.table([row])


def test_a_form_halves_the_bytes() -> None:
    encoder = synthetic.SyntheticEncoder(16, 64, 8)
    half, whole = (store.rate_row("tiny", encoder, form, 64, 1) for form in ("fp16", "fp32"))
    assert 0.45 < half["bytes_per_image"] / whole["bytes_per_image"] < 0.6
    assert "tiny" in store.table([half, whole])


def test_tagging_and_its_overhead_on_a_toy_run(tmp_path: Path) -> None:
    run = tagging.finished_run(tmp_path, TOY_SPEC, ["red", "green", "blue"])
    tagger = Tagger.load(run, trust=True)
    paths = tagging.write_photos(tmp_path / "more", 3, 60, 40)
    seen: list[list[Path]] = []
    plain = SimpleNamespace(sequential=seen.append, loader=seen.append)
    ways = tagging.tagging_ways(plain, tagger, ["fp32"], quick=False)
    rows = tagging.tagging_rows("tiny", paths, ways, 1)
    assert [row["way"] for row in rows][-1] == "trmml, fp32"
    assert rows[0]["ratio"] == 1
    assert seen == [paths] * 4
    assert len(tagging.tagging_ways(plain, tagger, ["fp32"], quick=True)) == 2
    found = tagging.overhead(run, tagger, torch.randn(4, 3, 24, 24), "fp32", 1)
    assert (found["categories"], found["batch"]) == (3, 4)
    assert found["lowest"] <= found["overhead_percent"] <= found["highest"]
    assert "tiny" in tagging.table(rows)
    assert "fp32" in tagging.overhead_table([found])


def test_images_are_the_same_every_time(tmp_path: Path) -> None:
    one, two = (tagging.write_photos(tmp_path / name, 2, 60, 40) for name in "ab")
    assert [p.read_bytes() for p in one] == [p.read_bytes() for p in two]
    assert one[0].read_bytes() != one[1].read_bytes()


def test_a_race_ends_at_the_target_when_time_is_up_or_when_a_way_is_done() -> None:
    figures = (float(number) for number in count(0, 10))  # 0, 10, 20, ...
    reached = time_to_map.race((iter([None] * 9), lambda: next(figures)), 20.0, 60.0, 2)
    assert (reached["steps"], reached["best_map_percent"]) == (4, 20.0)
    assert reached["seconds"] == reached["spent"]
    done = time_to_map.race((iter([None] * 3), lambda: 5.0), 20.0, 60.0, 2)
    assert (done["steps"], done["seconds"]) == (3, None)
    late = time_to_map.race((iter([None] * 3), lambda: 5.0), 20.0, 1e-9, 2)
    assert late["seconds"] is None
    assert "not reached" in time_to_map.table([{"seed": 0, "way": "slow", **late}], 20.0)


def test_both_ways_learn_on_toy_images(tmp_path: Path) -> None:
    encoder = ToyEncoder()
    train, test = coloured(tmp_path / "train", 64, 0), coloured(tmp_path / "test", 20, 1)
    settings = Settings(training={"epochs": 2, "batch_size": 32})
    ways = (
        time_to_map.field_way(encoder, train, train.matrix, test),
        time_to_map.trmml_way(encoder, train, train.matrix, test, tmp_path / "store", settings),
    )
    for way in ways:
        found = time_to_map.race(way, 101.0, 0.3, 1)
        assert 0 < found["best_map_percent"] <= 100
        assert found["steps"] >= 1


def test_startup_times_processes_and_names_the_one_that_fails() -> None:
    verbs = {("now", "nothing"): ("-c", "pass"), ("now", "much"): ("-c", "b'x' * 2**27")}
    rows = startup.measure(verbs, {"now": sys.executable}, 1)
    assert rows[0]["seconds"] > 0
    assert rows[1]["mib"] > 128 > rows[0]["mib"]
    assert "nothing" in startup.table(rows)
    with pytest.raises(RuntimeError, match="failed: oh"):
        startup.call(sys.executable, "-c", "raise SystemExit('oh')")


@pytest.mark.slow
def test_an_exported_toy_says_what_torch_says(tmp_path: Path) -> None:
    from benchmarks.speed import export

    run = tagging.finished_run(tmp_path, TOY_SPEC, ["red", "green", "blue"])
    rows = export.rows_of("toy", run, tmp_path, 2, 1)
    files = [row for row in rows if row["way"] == "onnxruntime"]
    assert [row["part"] for row in files] == ["all", "head"]
    assert all(row["deviation_here"] < export.TOLERANCE for row in files)
    assert "toy" in export.table(rows)


# What parts are worth -------------------------------------------------------------------------


def test_pointing_by_hand() -> None:
    peaks = torch.tensor([[0, 8], [4, 2]])  # of 2 images and 2 categories, in 3 x 3 patches
    attention = torch.nn.functional.one_hot(peaks, 9).float()
    boxes = Boxes(
        image=torch.tensor([0, 0, 1, 1, 1]),
        category=torch.tensor([0, 0, 0, 1, 1]),
        edges=torch.tensor(
            [
                [0.5, 0.5, 1.0, 1.0],  # missed by the patch at (1/6, 1/6) ...
                [0.0, 0.0, 0.2, 0.2],  # ... which is in the other box of this pair
                [0.0, 0.0, 0.4, 0.4],  # (1/2, 1/2) is outside
                [0.6, 0.0, 1.0, 0.3],  # (5/6, 1/6) is inside, and in the next one not
                [0.6, 0.3, 1.0, 0.5],
            ]
        ),
    )
    source = MemoryFeatures(torch.zeros(1, 2, 9, 4), torch.zeros(1, 2, 4))

    class Looking(torch.nn.Module):
        def forward(self, features: object) -> SimpleNamespace:
            return SimpleNamespace(attention=attention)

    data = SimpleNamespace(
        test=SimpleNamespace(boxes=boxes),
        encoded_test=SimpleNamespace(features=lambda pooled: source),
        frozen=SimpleNamespace(device="cpu"),
    )
    assert ablation.pointing(data, Looking()) == pytest.approx(2 / 3)


LOSSES = "with pseudo-labels", "with the contrastive term", "with distillation", "with all three"


@pytest.mark.parametrize(
    ("key", "as_they_are"),
    [
        ("trmml", {"no CSRA head", "no neighbour head", "image head: no spectrum power"}),
        ("trmml-paper", set(LOSSES)),
    ],
)
def test_every_row_of_the_ablation_changes_a_setting(key: str, as_they_are: set[str]) -> None:
    methods, settings = ablation.variants(
        METHODS[key], ablation.ROWS["parts"][key], None, shared_changes(2, None)
    )
    full = settings[key].values["partial"]
    assert full.training.views == full.training.scored_views == 2
    values = [settings[method.key].values["partial"].model_dump() for method in methods]
    assert len({json.dumps(each, sort_keys=True) for each in values}) == len(values)
    left_out = set(ablation.ROWS["parts"][key]) - {method.name for method in methods}
    assert left_out == as_they_are  # in the defaults
    assert METHODS[key].settings().training.views == 1


def test_a_row_counts_where_it_changes_something(tmp_path: Path) -> None:
    (tmp_path / "trmml.toml").write_text("[partial.csra_head]\nuse = true\n")
    base = METHODS["trmml"]
    methods, settings = ablation.variants(base, ablation.DEFAULT, tmp_path, {})
    by = {method.name: method for method in methods}
    for name, expected in (
        ("no CSRA head", [True, False]),
        ("with the CSRA head", [False, True]),
        ("no learned text", [True, True]),
    ):
        rules = share_known(0.5), single_positive()
        found = [ablation.trains_otherwise(settings, base, by[name], each) for each in rules]
        assert found == expected


@pytest.mark.filterwarnings("ignore::UserWarning:lightning_fabric")
def test_an_ablation_on_a_toy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root, out = tmp_path / "data", tmp_path / "out"
    lines = ["image,labels"]
    for number, row in enumerate(write_images(root / "images", 48, 0)):
        names = [name for name, there in zip(COLOURS, row, strict=True) if there]
        lines.append(f"{number:03}.png,{';'.join(names)}")
    (root / "train.csv").write_text("\n".join(lines) + "\n")  # no test images are looked for
    (root / "categories.txt").write_text("\n".join(COLOURS))
    rows = {name: ablation.DEFAULT[name] for name in ("trmml (default)", "no image head")}
    monkeypatch.setattr(ablation, "ROWS", {"parts": {"trmml": rows}, "training": {"trmml": rows}})
    monkeypatch.setattr(record, "RESULTS", tmp_path / "results")
    given = ["--data", "corel5k", root, "--encoder", TOY_SPEC, "--known", 50, "--seeds", 1]
    (tmp_path / "trmml.toml").write_text(
        "[partial.training]\nepochs = 12\n[single_positive.training]\nepochs = 1\n"
    )
    given += ["--single-positive", "--settings", tmp_path, "--out", out]
    monkeypatch.setattr(sys, "argv", ["ablation.py", *map(str, given)])
    ablation.main()
    tree = json.loads((tmp_path / "results" / "corel5k" / "ablation.json").read_text())
    assert [row["change"] for row in tree["rows"]] == list(rows.values())
    assert (tree["images"], tree["held_out"]) == (36, 12)
    assert all(set(row["map"]) == {"50 %", "single positive"} for row in tree["rows"])
    epochs = tree["runs"]["50 %"]["pseudo"]
    assert len(epochs) == 12 and "pointing" not in tree["runs"]["50 %"]
    assert all(0 <= (row["negative_recall"] or 0) <= 1 for row in epochs)
    assert "no image head" in capsys.readouterr().out
    # Another share: what was measured before stays beside it.
    more = [*given[:6], 30, *given[7:9], *given[10:]]
    monkeypatch.setattr(sys, "argv", ["ablation.py", *map(str, more)])
    ablation.main()
    both = json.loads((tmp_path / "results" / "corel5k" / "ablation.json").read_text())
    assert list(both["runs"]) == ["30 %", "50 %", "single positive"]
    for row, before in zip(both["rows"], tree["rows"], strict=True):
        assert list(row["map"]) == list(both["runs"])
        assert before["map"].items() < row["map"].items()
    # The same cells, for a table that leaves nothing out: no look into pseudo-labels.
    monkeypatch.setattr(sys, "argv", ["ablation.py", *map(str, given), "--rows", "training"])
    ablation.main()
    other = json.loads((tmp_path / "results" / "corel5k" / "training.json").read_text())
    assert other["rows"] == tree["rows"] and "runs" not in other
