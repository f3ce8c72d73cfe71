import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks import record
from benchmarks.accuracy import parts_worth, published, results_page, trained_again

from tests.benchmark.test_results import MAPS
from tests.toy_cells import toy_cell, toy_grid
from trmml.benchmark.records import CellFolder, ranks_of
from trmml.benchmark.results import Results, load_results
from trmml.benchmark.table_text import to_markdown
from trmml.benchmark.tables import map_table
from trmml.errors import CheckpointError, DataError
from trmml.labels.masks import MEAN
from trmml.labels.matrix import LabelMatrix
from trmml.settings.files import read_toml

COMMAND = "trmml benchmark --data folder data/toys --out runs/toys"


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished grid of three methods on two shares and single positive."""
    folder = CellFolder(tmp_path_factory.mktemp("runs") / "toys")
    rng = np.random.default_rng(0)
    labels = LabelMatrix(torch.from_numpy(rng.random((20, 3)) < 0.5), torch.ones(20, 3).bool())
    folder.open(toy_grid(3), labels)
    for method, maps in MAPS.items():
        for share, values in maps.items():
            for seed, value in enumerate(values):
                aps = [value, value + 0.00012, None]
                settings = {"training": {"seed": seed, "epochs": 3 if share else 4}}
                cell = toy_cell(method, share, seed, aps, settings=settings)
                folder.add(cell, ranks_of(rng.random((20, 3))))
    return folder.root


def run(tmp_path: Path, *arguments: object) -> int:
    (tmp_path / "docs").mkdir(exist_ok=True)
    places = ["--results", tmp_path / "results", "--docs", tmp_path / "docs"]
    return results_page.main([str(each) for each in [*arguments, *places]])


def test_what_is_published_reads_as_it_was(out: Path, tmp_path: Path) -> None:
    (tmp_path / "found").mkdir()
    (tmp_path / "found" / "trmml.toml").write_text("[partial.training]\nepochs = 3\n")
    (tmp_path / "found" / "left.journal").write_text("")
    published.publish(out, tmp_path, command=COMMAND, draws=20, settings=tmp_path / "found")
    assert [p.name for p in (tmp_path / "toys" / "settings").iterdir()] == ["trmml.toml"]
    whole = load_results(CellFolder(out), count=20)
    found = published.read_published(tmp_path / "toys")
    assert found.results.grid["encoder"]["name"] == "toy.py:ToyEncoder"
    assert found.commands == [COMMAND] and found.tried == ""
    assert to_markdown(map_table(found.results)) == to_markdown(map_table(whole))
    assert found.results.comparisons == whole.comparisons
    for small, cell in zip(found.results.cells, whole.cells, strict=True):
        assert small.key == cell.key and small.settings == cell.settings
        assert small.ap[1] == round(cell.ap[1] or 0.0, 3) and small.ap[2] is None
        assert small.encoder == {**cell.encoder, "name": "toy.py:ToyEncoder"}
        assert small.mask == cell.mask
    grid = json.loads((tmp_path / "toys" / "grid.json").read_text())
    assert [each["training"]["epochs"] for each in grid["settings"]] == [3, 4]
    assert [path.name for path in tmp_path.rglob("*.safetensors")] == ["draws.safetensors"]


def test_a_grid_can_be_published_in_parts(out: Path, tmp_path: Path) -> None:
    whole, folder = load_results(CellFolder(out), count=20), CellFolder(out)
    cells = list(folder.cells().values())
    wrong = replace(cells[0], figures={**cells[0].figures, "map": 0.9})  # run anew, and replaced
    for number, mine in enumerate(([wrong, *cells[2::2]], [*cells[:1], *cells[1::2]])):
        part = CellFolder(tmp_path / f"part{number}")
        part.open(folder.grid(), folder.test_labels())
        for cell in mine:
            ranks = folder.ranks(cells[-1] if cell is wrong else cell)
            part.add(replace(cell, fingerprint="f" * 40) if cell is wrong else cell, ranks)
        said = f"{COMMAND} {number}"
        published.publish(part.root, tmp_path / "both", command=said, draws=20)
    about = json.loads((tmp_path / "both" / "toys" / "about.json").read_text())
    assert about == {"commands": [f"{COMMAND} 0", f"{COMMAND} 1"]}
    found = published.read_published(tmp_path / "both" / "toys").results
    assert {c.key for c in found.cells} == {c.key for c in whole.cells}
    assert len(found.cells) == len(whole.cells)
    assert len(found.comparisons) == len(whole.comparisons) == 4
    for mine, theirs in zip(found.comparisons, whole.comparisons, strict=True):
        assert mine.rival == theirs.rival and mine.differences.keys() == theirs.differences.keys()
        for key, difference in theirs.differences.items():
            merged = mine.differences[key]
            assert merged.mean == pytest.approx(difference.mean, abs=1e-4)  # figures are rounded
            assert merged.low == pytest.approx(difference.low, abs=1e-4)
            assert merged.high == pytest.approx(difference.high, abs=1e-4)


def test_settings_go_with_the_cells_that_ran_with_them(out: Path, tmp_path: Path) -> None:
    found, place = tmp_path / "found", tmp_path / "toys" / "settings"
    found.mkdir()
    for key in ("trmml", "probe-masked", "coop"):
        (found / f"{key}.toml").write_text("[partial.training]\nepochs = 3\n")
    published.publish(out, tmp_path, command=COMMAND, draws=5, settings=found)
    # Not that of CoOp, which has no cell here.
    assert sorted(p.name for p in place.iterdir()) == ["probe-masked.toml", "trmml.toml"]
    (found / "trmml.toml").unlink()
    folder = CellFolder(out)
    part = CellFolder(tmp_path / "part")
    part.open(folder.grid(), folder.test_labels())
    for cell in folder.cells().values():
        if cell.method == "trmml":
            part.add(cell, folder.ranks(cell))
    published.publish(part.root, tmp_path, command=COMMAND, draws=5, settings=found)
    assert [p.name for p in place.iterdir()] == ["probe-masked.toml"]


def test_settings_of_the_other_protocol_stay(out: Path, tmp_path: Path) -> None:
    found, place = tmp_path / "found", tmp_path / "toys" / "settings"
    found.mkdir()
    text = "[partial.training]\nepochs = {}\n\n[single_positive.training]\nepochs = {}\n"
    text += "\n[provenance.partial]\ntrials = {}\n"
    (found / "trmml.toml").write_text(text.format(3, 4, 8))
    published.publish(out, tmp_path, command=COMMAND, draws=5, settings=found)
    assert read_toml(place / "trmml.toml") == read_toml(found / "trmml.toml")
    (found / "trmml.toml").write_text(text.format(5, 6, 9))
    folder, part = CellFolder(out), CellFolder(tmp_path / "part")
    part.open(folder.grid(), folder.test_labels())
    for cell in folder.cells().values():
        if cell.method == "trmml" and cell.protocol == "partial":
            part.add(cell, folder.ranks(cell))
    published.publish(part.root, tmp_path, command=COMMAND, draws=5, settings=found)
    assert (place / "trmml.toml").read_text() == text.format(5, 4, 9)


def test_draws_that_lack_are_told(out: Path, tmp_path: Path) -> None:
    published.publish(out, tmp_path, command=COMMAND, draws=5)
    (tmp_path / "toys" / "draws.safetensors").unlink()
    with pytest.raises(CheckpointError, match="lacks draws of published cells"):
        published.publish(out, tmp_path, command=COMMAND, draws=5)


def test_parts_that_do_not_belong_together_are_refused(out: Path, tmp_path: Path) -> None:
    published.publish(out, tmp_path, command=COMMAND, draws=20)
    before = (tmp_path / "toys" / "cells.jsonl").read_bytes()
    with pytest.raises(CheckpointError, match="its number of draws is 20, not 5; publish with"):
        published.publish(out, tmp_path, command=COMMAND, draws=5)
    folder = CellFolder(out)
    other = CellFolder(tmp_path / "other")
    other.open(folder.grid() | {"same": {"encoder": "another"}}, folder.test_labels())
    with pytest.raises(DataError, match=r"no cell in .* is finished"):
        published.publish(other.root, tmp_path, command=COMMAND, draws=20)
    cell = next(iter(folder.cells().values()))
    other.add(cell, folder.ranks(cell))
    with pytest.raises(CheckpointError, match="its data or encoder is"):
        published.publish(other.root, tmp_path, command=COMMAND, draws=20)
    assert (tmp_path / "toys" / "cells.jsonl").read_bytes() == before


def test_the_page_by_hand(out: Path, tmp_path: Path) -> None:
    assert run(tmp_path, "--add", out, "--command", COMMAND, "--draws", 20) == 0
    text = (tmp_path / "docs" / "results.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| toys |")]
    assert len(rows) == 2
    start = "| toys | single positive | trmml (default) 40.0 | zero-shot 20.0 | +20.0 ["
    assert rows[1].startswith(start)
    assert COMMAND in text and "at commit abc1234." in text
    assert "The epoch is chosen on held-out training labels." in text
    # What lost is told: 50 % is behind, the others are not.
    lost = text.partition("### What lost")[2].partition("<details>")[0]
    assert "At 50 %, trmml (default) is behind linear probe, masked BCE by 5.0 mAP." in lost
    assert "At 10 %" not in lost and "all labels" not in lost
    assert "The interval of the difference in mAP holds zero at" in lost
    assert "masked BCE has the higher AP in 2 of 2 categories." in lost
    for name in ("map", "gain-by-category", "gain-by-frequency"):
        assert f"(images/results/toys-{name}.png)" in text
        assert (tmp_path / "docs" / "images" / "results" / f"toys-{name}.png").is_file()
    assert "\\begin{tabular}" in text and "all figures, single positive" in text


def test_a_stale_page_is_noticed(
    out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, "--check") == 1 and "results.md is stale" in capsys.readouterr().err
    assert run(tmp_path) == 0 and run(tmp_path, "--check") == 0
    assert "No grid is published yet" in (tmp_path / "docs" / "results.md").read_text()
    published.publish(out, tmp_path / "results", command=COMMAND, draws=5)
    assert run(tmp_path, "--check") == 1
    assert run(tmp_path) == 0 and run(tmp_path, "--check") == 0
    (tmp_path / "docs" / "images" / "results" / "toys-map.png").unlink()
    assert run(tmp_path, "--check") == 1
    assert "a plot is missing: toys-map.png" in capsys.readouterr().err


def test_what_was_tried_stands_on_the_page(out: Path, tmp_path: Path) -> None:
    published.publish(out, tmp_path / "results", command=COMMAND, draws=0)
    (tmp_path / "results" / "toys" / "tried.md").write_text("- Larger steps: 2 points less.\n")
    assert run(tmp_path) == 0
    text = (tmp_path / "docs" / "results.md").read_text()
    assert "- Larger steps: 2 points less." in text.partition("### What lost")[2]
    (tmp_path / "results" / "notes.md").write_text("## Before you quote\n\n- Who drew it.\n")
    assert run(tmp_path) == 0
    text = (tmp_path / "docs" / "results.md").read_text()
    assert "- Who drew it." in text.partition("non-interpolated")[2].partition("## toys")[0]


def test_what_parts_are_worth_stands_on_the_page(out: Path, tmp_path: Path) -> None:
    published.publish(out, tmp_path / "results", command=COMMAND, draws=0)
    rows = [
        {"name": "TRM-ML", "change": {}, "map": {"10 %": [50.0, 52.0]}},
        {"name": "no x", "change": {"x.use": False}, "map": {"10 %": [49.0, 50.0]}},
    ]
    epoch = {"epoch": 3, "positive_count": 0, "positive_precision": None, "positive_recall": None}
    epoch |= {"negative_count": 40, "negative_precision": 0.975, "negative_recall": 0.25}
    none = epoch | {"negative_count": 0, "negative_precision": None, "negative_recall": None}
    before = [none | {"epoch": number} for number in (1, 2)]
    run_ = {"pseudo": [*before, epoch], "pointing": {"before": 0.25, "after": 0.5}}
    tree = {"commit": "abc", "seeds": [0, 1], "rows": rows, "runs": {"10 %": run_}}
    tree |= {"dataset": "toys", "method": "trmml-paper", "images": 1200, "held_out": 400}
    (tmp_path / "results" / "toys" / "ablation-paper.json").write_text(json.dumps(tree))
    assert run(tmp_path) == 0
    text = (tmp_path / "docs" / "results.md").read_text().partition("### What each part")[2]
    assert (
        " of TRM-ML is worth here" in text and "--data toys data/toys --method trmml-paper" in text
    )
    assert "| no x | -1.5 |  |  |" in (tmp_path / "docs" / "results.md").read_text()
    assert "on 400 held-out training images, after training on the\n1,200 others." in text
    assert "| no x | `x.use=false` | 49.5 ± 0.7 (-1.5) |" in text
    assert "Before training 25.0 %, after it 50.0 %." in text
    assert "| 1 to 2 | 0 |  |  | 0 |  |  |\n| 3 |" in text
    assert "| 3 | 0 |  |  | 40 | 97.5 % | 25.0 % |" in text


def test_where_a_part_earns_by_hand() -> None:
    def tree(data: str, full: list[float], **rows: list[float]):
        found = [{"name": "TRM-ML", "map": {"10 %": full}}]
        found += [{"name": name, "map": {"10 %": values}} for name, values in rows.items()]
        return {"dataset": data, "runs": {"10 %": {}}, "rows": found}

    text = parts_worth.parts_everywhere(
        [
            tree("one", [50.0, 51.0, 52.0], x=[49.0, 50.5, 52.0], y=[51.0, 51.5, 53.0]),
            tree("two", [20.0, 20.0, 20.0], x=[20.1, 19.0, 20.8], z=[21.0, 21.1, 20.9]),
            tree("few", [20.0, 20.0], x=[10.0, 10.0]),
        ]
    )
    assert "| variant | one: 10 % | two: 10 % | few: 10 % | worse on | better on |" in text
    assert "| x | -0.5 | +0.0 | -10.0 |  |  |" in text  # -1.0, -0.5, 0.0: error 0.29
    assert "| y | +0.8 | - | - |  | one |" in text  # 1.0, 0.5, 1.0: error 0.17
    assert "| z | - | +1.0 | - |  | two |" in text
    assert parts_worth.parts_everywhere([]) == ""


def test_what_training_again_gains_by_hand(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record, "RESULTS", tmp_path / "results")
    cells = [
        toy_cell("trmml", share, 0, [value], refit_map=again)
        for share, value, again in ((0.1, 0.40, 0.42), (0.5, 0.50, 0.51), (None, 0.3, 0.2))
    ]
    cells += [toy_cell("probe-masked", 0.1, 0, [0.2], refit_map=0.2)]
    cells += [toy_cell("probe-masked", 0.5, 0, [0.3], refit_map=0.4)]
    cells += [toy_cell("probe-full", share, 0, [0.9], refit_map=0.9) for share in (0.1, 0.5)]
    tree = trained_again.measured([*cells, toy_cell("zero-shot", 0.1, 0, [0.1])])
    assert [row["method"] for row in tree["rows"]] == ["trmml", "probe-masked", "probe-full"]
    assert tree["rows"][0]["map"]["10 %"] == {"0": [40.0, 42.0]}
    published.publish(out, tmp_path / "results", command=COMMAND, draws=0)
    (tmp_path / "results" / "toys" / "refit.json").write_text(json.dumps(tree))
    assert run(tmp_path) == 0
    text = (tmp_path / "docs" / "results.md").read_text()
    assert "| method | toys: partial | single |" in text
    assert "| trmml (default) | 46.5 (+1.5) | 20.0 (-10.0) |" in text
    assert "| linear probe, masked BCE | 30.0 (+5.0) | - |" in text
    assert "| trmml (default) | +20.0 to +16.5 | - |" in text  # over no upper bound
    # A method that is measured later joins the others; one measured again is replaced.
    later = trained_again.measured(
        [toy_cell("zero-shot", 0.1, 0, [0.1], refit_map=0.2), replace(cells[0], refit_map=0.6)]
    )
    assert {row["method"] for row in later["rows"]} == {
        "zero-shot",
        "trmml",
        "probe-masked",
        "probe-full",
    }
    assert {row["method"]: row["map"] for row in later["rows"]}["trmml"] == {
        "10 %": {"0": [40.0, 60.0]}
    }
    other = toy_cell("trmml", 0.5, 0, [0.5], refit_map=0.5, dataset="other")
    for wrong in ([*cells, other], cells[:0]):
        with pytest.raises(DataError, match="of one data set, got"):
            trained_again.measured(wrong)


def test_the_time_of_a_grid_by_hand() -> None:
    methods = ("probe-masked", "probe-full", "trmml")
    cells = [
        toy_cell(m, share, seed, [0.5]) for m in methods for share in (0.1, 0.5) for seed in (0, 1)
    ]
    cells += [toy_cell("trmml", None, 0, [0.5])]  # single positive is no share
    seconds = {"probe-masked": 60.0, "probe-full": 120.0, "trmml": 180.0}
    cells = [replace(c, seconds={"train": seconds[c.method], "predict": 60.0}) for c in cells]
    cells = [replace(c, full_labels=c.method == "probe-full") for c in cells]
    # Seed 0: two cells of 2 and of 4 minutes, and one upper bound of 3 that stands twice.
    (text,) = results_page._took(Results(toy_grid(1), cells))
    assert text.startswith("The 2 shares of seed 0 took 15 minutes for all 3 methods.")
    assert text.endswith("Longest, in minutes: `trmml` 8, `probe-masked` 4, `probe-full` 3.")
    # A method that lacks a share would look faster than it is; single positive is none.
    lacking = [c for c in cells if (c.method, c.share, c.seed) != ("probe-masked", 0.5, 0)]
    (text,) = results_page._took(Results(toy_grid(1), lacking))
    assert text.startswith("The 2 shares of seed 0 took 11 minutes for all 2 methods.")
    single = [c for c in cells if c.share is None]
    assert results_page._took(Results(toy_grid(1), single)) == []


def test_forms_of_the_method_that_lose_are_told() -> None:
    cells = [toy_cell("trmml", 0.1, 0, [0.5])]
    other = toy_cell("trmml", 0.1, 0, [0.4])
    cells.append(replace(other, method="trmml-x", name="trmml without x"))
    results = Results(toy_grid(1), cells)
    text = results_page.what_lost(results, "")
    assert "- trmml without x, mAP against trmml (default): -10.0 (mean of 1 share)" in text
    assert "Nothing on this page" in results_page.what_lost(Results(toy_grid(1), cells[:1]), "")
    assert results.headlines == [MEAN]


def test_figures_that_lose_are_told() -> None:
    ours = toy_cell("trmml", 0.1, 0, [0.5, 0.7])
    rival = toy_cell("probe-masked", 0.1, 0, [0.6, 0.2])
    ours = replace(ours, figures={**ours.figures, "of1": 0.40, "cf1": 0.50})
    rival = replace(rival, figures={**rival.figures, "of1": 0.45, "cf1": 0.50})
    said = results_page.what_lost(Results(toy_grid(2), [ours, rival]), "")
    name = "linear probe, masked BCE"
    assert f"- In the mean of 1 share, behind the best baseline in OF1 40.0 ({name} 45.0)." in said
    assert f"- In the mean of 1 share, {name} has the higher AP in 1 of 2 categories." in said
    assert "CF1 50" not in said and "behind linear" not in said


def test_what_ends_below_its_untrained_start_is_told() -> None:
    cells = [toy_cell("trmml", s, 0, [0.5]) for s in (0.1, 0.5)]
    rival = [toy_cell("probe-masked", s, 0, [v]) for s, v in ((0.1, 0.2), (0.5, 0.4))]
    results = Results(toy_grid(1), cells + rival)
    said = results_page.what_lost(results, "", {"probe-masked": 25.0, "trmml": 49.0})
    name = "linear probe, masked BCE"
    assert f"- {name} ends below its untrained start of 25.0: 20.0 (10 %)." in said
    assert said.count("untrained start") == 1


def test_publishing_needs_the_command(out: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        run(tmp_path, "--add", out)


def test_the_committed_page_is_fresh() -> None:
    assert results_page.main(["--check"]) == 0, "run python -m benchmarks.accuracy.results_page"
