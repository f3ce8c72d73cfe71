import csv
import io
import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.toy_cells import toy_cell, toy_grid
from trmml.benchmark.bootstrap import Difference
from trmml.benchmark.catalog import METHODS
from trmml.benchmark.plots import plot_curves, plot_gain_by_category, plot_map, write_plots
from trmml.benchmark.records import CellFolder, ranks_of
from trmml.benchmark.report import report_benchmark
from trmml.benchmark.results import Comparison, Results, compared
from trmml.benchmark.table_text import (
    Table,
    TableRow,
    TableValue,
    escape_latex,
    to_csv,
    to_latex,
    to_markdown,
)
from trmml.benchmark.tables import map_table, result_tables
from trmml.errors import CheckpointError, DataError
from trmml.labels.masks import MEAN
from trmml.labels.matrix import LabelMatrix

SHARES = (0.1, 0.5, None)
# mAP by method, then by share and seed.
MAPS = {
    "zero-shot": {0.1: (0.2, 0.2), 0.5: (0.2, 0.2), None: (0.2, 0.2)},
    "probe-masked": {0.1: (0.3, 0.4), 0.5: (0.5, 0.6), None: (0.1, 0.1)},
    "trmml": {0.1: (0.4, 0.4), 0.5: (0.5, 0.5), None: (0.3, 0.5)},
    "probe-full": {0.1: (0.9, 0.9), 0.5: (0.9, 0.9), None: (0.9, 0.9)},
}


def toy_results() -> Results:
    cells = [
        toy_cell(method, share, seed, [value, None])
        for method, maps in MAPS.items()
        for share, values in maps.items()
        for seed, value in enumerate(values)
    ]
    comparisons = [
        Comparison(MEAN, "probe-masked", {"trmml": Difference(0.0, -0.021, 0.03)}),
        Comparison("single positive", "zero-shot", {"trmml": Difference(0.2, 0.1, 0.31)}),
    ]
    return Results(toy_grid(2), cells, comparisons, draws=100)


# By hand ------------------------------------------------------------------------------------


def test_the_map_table_by_hand() -> None:
    lines = to_markdown(map_table(toy_results())).splitlines()
    assert lines[2] == "| method | 10 % | 50 % | mean of 2 | single positive |"
    assert lines[4:8] == [
        "| zero-shot | 20.0 ± 0.0 | 20.0 ± 0.0 | 20.0 ± 0.0 | 20.0 ± 0.0 |",
        "| linear probe, masked BCE | 35.0 ± 7.1 | **55.0 ± 7.1** | **45.0 ± 7.1** | 10.0 ± 0.0 |",
        "| trmml (default) | **40.0 ± 0.0** | 50.0 ± 0.0 | **45.0 ± 0.0** | **40.0 ± 14.1** |",
        "| linear probe, all labels | 90.0 ± 0.0 | 90.0 ± 0.0 | 90.0 ± 0.0 | 90.0 ± 0.0 |",
    ]
    assert "mean ± deviation over seeds 0, 1." in lines[-1]


def test_differences_are_against_the_best_baseline_of_each_headline() -> None:
    results = toy_results()
    assert results.headlines == [MEAN, "single positive"]
    rivals = {column: results.rival(column) for column in results.columns}
    assert {column: line.key for column, line in rivals.items() if line} == {
        "10 %": "probe-masked",
        "50 %": "probe-masked",
        MEAN: "probe-masked",
        "single positive": "zero-shot",
    }
    (table,) = [t for t in result_tables(results) if t.name == "differences"]
    row = next(row for row in table.rows if row.label == "trmml (default)")
    text = to_markdown(table)
    assert row.values[2] == TableValue(0.0, interval=(-2.1, 3.0))
    assert "0.0 [-2.1, +3.0] | +20.0 [+10.0, +31.0] |" in text and "**" not in text
    assert "masked BCE (mean of 2); zero-shot (single positive)" in text
    assert "another baseline" not in text


def test_a_baseline_that_is_ahead_at_one_share_is_named() -> None:
    maps = {"zero-shot": (0.4, 0.4), "probe-masked": (0.3, 0.6), "trmml": (0.9, 0.9)}
    cells = [toy_cell(method, 0.1, 0, [pair[0]]) for method, pair in maps.items()]
    cells += [toy_cell(method, 0.5, 0, [pair[1]]) for method, pair in maps.items()]
    found = [Comparison(MEAN, "probe-masked", {"trmml": Difference(0.4, 0.3, 0.5)})]
    results = Results(toy_grid(1), cells, found, draws=100)
    (table,) = [t for t in result_tables(results) if t.name == "differences"]
    assert table.note.endswith("another baseline is ahead of it: 10 % zero-shot (by 10.0).")
    lucky = [*cells, toy_cell("zero-shot", 0.1, 1, [0.9])]  # a seed that the other lacks
    (table,) = [t for t in result_tables(replace(results, cells=lucky)) if t.name == "differences"]
    assert "another baseline" not in table.note


def test_one_seed_has_no_deviation_and_gaps_are_named() -> None:
    cells = [toy_cell("trmml", share, 0, [0.5, 0.25]) for share in (0.1, 0.5)]
    cells.append(toy_cell("probe-masked", 0.1, 0, [0.5, 0.5]))
    results = Results(toy_grid(2), cells)
    text = to_markdown(map_table(results))
    assert "| **50.0** | - | - |" in text and "| 37.5 | **37.5** | **37.5** |" in text
    assert "Cells that are not finished: linear probe, masked BCE 1." in text
    assert "seed 0 alone" in text
    assert results.rival(MEAN) is None and results.rival("10 %") is None


def test_calibration_has_a_table_where_cells_have_it() -> None:
    old = toy_cell("probe-masked", 0.1, 0, [0.5])
    figures = {**old.figures, "calibration_error": 0.031}
    results = Results(toy_grid(1), [old, toy_cell("trmml", 0.1, 0, [0.5], figures=figures)])
    (table,) = [each for each in result_tables(results) if each.name == "calibration"]
    text = to_markdown(table)
    assert "| trmml (default) | 3.1 |" in text and "linear probe" not in text
    assert not any(t.name == "calibration" for t in result_tables(replace(results, cells=[old])))


def test_mixed_settings_are_told() -> None:
    other = {"training": {"seed": 1, "epochs": 9}}
    cells = [toy_cell("trmml", 0.1, 0, [0.5]), toy_cell("trmml", 0.1, 1, [0.5], settings=other)]
    text = to_markdown(map_table(Results(toy_grid(1), cells)))
    assert "trmml (default): its cells do not all have the same settings." in text
    same = [toy_cell("trmml", 0.1, seed, [0.5]) for seed in (0, 1)]
    assert Results(toy_grid(1), same).remarks == []
    later = {"training": {"seed": 1, "epochs": 8, "refit": False}, "neighbour_head": {"use": False}}
    first = {"training": {"seed": 0, "epochs": 8}}
    cells = [
        toy_cell("trmml", 0.1, seed, [0.5], settings=settings)
        for seed, settings in enumerate((first, later))
    ]
    assert Results(toy_grid(1), cells).remarks == []  # what came later is off


def test_no_form_of_trmml_is_chosen_by_the_test_set() -> None:
    cells = [toy_cell("trmml", 0.1, 0, [0.4]), toy_cell("trmml-paper", 0.1, 0, [0.5])]
    assert Results(toy_grid(1), cells).ours("10 %").key == "trmml"
    assert Results(toy_grid(1), cells[1:]).ours("10 %").key == "trmml-paper"
    assert Results(toy_grid(1), cells[1:]).ours("single positive") is None


def test_methods_that_saw_different_views_are_told() -> None:
    both = [
        toy_cell(method, 0.1, 0, [0.5], settings={"training": {"seed": 0, "scored_views": views}})
        for method, views in (("trmml", 4), ("probe-masked", 1))
    ]
    text = to_markdown(map_table(Results(toy_grid(1), both)))
    assert "different numbers of views of each image (1, 4)" in text


def test_a_mask_whose_name_begins_like_the_mean_keeps_it() -> None:
    best = {"map": 0.6, "epoch": 1}
    cells = [toy_cell("trmml", share, 0, [0.5], best_on_test=best) for share in (0.1, None)]
    cells[1] = replace(cells[1], known="meanings")
    found = result_tables(Results(toy_grid(1), cells))
    heads = ("10 %", "mean of 1", "meanings", "mean of 1, best on test", "meanings, best on test")
    assert found[0].columns == heads
    assert [t.title for t in found if t.name == "figures-meanings"] == [
        "toys: all figures, meanings"
    ]


def test_best_on_test_is_an_extra_column_that_says_so() -> None:
    best = {"map": 0.75, "epoch": 2}
    cells = [
        toy_cell("trmml", 0.1, 0, [0.5], best_on_test=best),
        toy_cell("zero-shot", 0.1, 0, [0.1]),
    ]
    table = map_table(Results(toy_grid(1), cells))
    assert table.columns == ("10 %", "mean of 1", "mean of 1, best on test")
    assert [row.values[2] for row in table.rows][1].mean == 75.0  # type: ignore[union-attr]
    assert table.rows[0].values[2] is None and table.rows[1].values[1].mean == 50.0  # type: ignore[union-attr]
    assert "not comparable with the other columns" in table.note


def test_category_aps_by_hand() -> None:
    results = toy_results()
    found = results.category_aps("probe-masked", MEAN)
    assert found[0] == pytest.approx(0.45) and np.isnan(found[1])


def test_seeds_that_lack_a_share_count_in_no_mean() -> None:
    whole = [toy_cell("trmml", share, 0, [value]) for share, value in ((0.1, 0.2), (0.5, 0.4))]
    results = Results(toy_grid(1), [*whole, toy_cell("trmml", 0.1, 1, [0.9])])
    assert results.whole_seeds("trmml", MEAN) == {0}
    assert results.whole_seeds("trmml", "10 %") == {0, 1}
    assert results.category_aps("trmml", MEAN) == [pytest.approx(0.3)]
    assert results.category_aps("trmml", "10 %") == [pytest.approx(0.55)]


def test_methods_are_compared_on_the_seeds_that_both_have() -> None:
    maps = {"probe-masked": (0.1, 0.3, 0.5), "trmml": (0.4, 0.4)}
    cells = [toy_cell(m, 0.1, seed, [v]) for m, vs in maps.items() for seed, v in enumerate(vs)]
    drawn = {cell.fingerprint: torch.full((7,), cell.mean_ap) for cell in cells}
    found = compared(Results(toy_grid(1), cells), drawn, 7)
    for comparison in found.comparisons:
        assert comparison.rival == "probe-masked" and list(comparison.differences) == ["trmml"]
        difference = comparison.differences["trmml"]  # of seeds 0 and 1: 0.4 against 0.2
        assert difference.mean == difference.low == difference.high == pytest.approx(0.2)
    assert found.draws == 7 and [c.column for c in found.comparisons] == ["10 %", MEAN]
    assert compared(found, {}, 0) is found


def test_different_precisions_are_told() -> None:
    half = toy_cell("trmml", 0.1, 0, [0.5], settings={"training": {"precision": "bf16-mixed"}})
    plain = toy_cell("probe-masked", 0.1, 0, [0.4])
    said = Results(toy_grid(1), [half, plain]).remarks
    assert "in different precisions (32-true, bf16-mixed)" in said[0]
    untrained = replace(plain, epoch={"calibrated": True})  # zero-shot has no precision
    assert Results(toy_grid(1), [half, untrained]).remarks == []


def test_methods_with_other_masks_or_rules_of_the_epoch_are_told() -> None:
    ours = [toy_cell("trmml", share, seed, [0.5]) for share in (0.1, 0.5) for seed in (0, 1)]
    rivals = [toy_cell("probe-masked", share, 0, [0.4]) for share in (0.1, 0.5)]
    other, last = {**ours[0].mask, "sha256": "9" * 64}, {**ours[0].epoch, "by": "last"}
    seeds = [replace(c, mask=other, epoch=last) if c.seed else c for c in ours]
    assert Results(toy_grid(1), seeds).remarks == []  # each seed has a mask of its own
    full = toy_cell("probe-full", 0.1, 0, [0.9], mask=other, epoch=last)
    masked, chosen = replace(rivals[0], mask=other), replace(rivals[1], epoch=last)
    said = Results(toy_grid(1), [*ours, masked, chosen, full]).remarks
    assert "Methods had different known labels at 10 %: they cannot be compared" in said[0]
    assert "The epoch was chosen by different rules at 50 %: they cannot be" in said[1]
    lacking = Results(toy_grid(1), [*ours, *rivals, full]).remarks
    assert said[2:] == lacking and len(lacking) == 1  # of cells that are not finished


# Writers ------------------------------------------------------------------------------------

TABLE = Table(
    name="t",
    title="50 % of a_b & {c}",
    note="x ± y",
    columns=("a|b", "c#"),
    rows=(
        TableRow("first | method", (TableValue(1.25, 0.5), None), cite="who2026"),
        TableRow(
            "bound~", (TableValue(-0.04), TableValue(2.0, interval=(-1.0, 3.0))), contest=False
        ),
    ),
    signed=True,
)


def test_latex_is_escaped() -> None:
    assert escape_latex("50 % a_b & {c} $1 #2 ~ ^ \\ ±") == (
        r"50 \% a\_b \& \{c\} \$1 \#2 \textasciitilde{} \textasciicircum{} \textbackslash{} $\pm$"
    )
    lines = to_latex(TABLE).splitlines()
    assert lines[1] == r"\caption{50 \% of a\_b \& \{c\}. x $\pm$ y}"
    assert lines[2] == r"\begin{tabular}{lrr}" and r"method & a|b & c\# \\" in lines
    assert r"first | method~\cite{who2026} & \textbf{+1.2 $\pm$ 0.5} & - \\" in lines
    assert lines[-5:-3] == [r"\midrule", r"bound\textasciitilde{} & 0.0 & +2.0 [-1.0, +3.0] \\"]


def test_every_method_is_cited_from_the_references_that_lie_beside_the_tables() -> None:
    text = files("trmml.benchmark").joinpath("references.bib").read_text(encoding="utf-8")
    entries = re.findall(r"^@\w+\{(\w+),$", text, re.MULTILINE)
    assert len(entries) == len(set(entries)) == text.count("@")
    cited = {key: method.cite for key, method in METHODS.items() if method.cite}
    assert set(cited.values()) == set(entries)
    # The paper is credited with its own parts alone.
    assert {key for key, name in cited.items() if name == "ma2024trmml"} == {"trmml-paper"}
    assert set(METHODS) - set(cited) == {"trmml", "trmml-full", "two-layers"}
    assert text.count("{") == text.count("}")
    for entry in text.split("@")[1:]:
        assert all(f"  {field}" in entry for field in ("title", "author", "year")), entry


def test_bars_in_markdown_are_escaped() -> None:
    text = to_markdown(TABLE)
    assert "| method | a\\|b | c# |" in text and "| first \\| method | **+1.2 ± 0.5** | - |" in text


def test_csv_has_a_line_per_value_in_full() -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(TABLE))))
    assert rows[0] == dict(
        method="first | method", column="a|b", mean="1.25", deviation="0.5", low="", high=""
    )
    assert [row["low"] for row in rows] == ["", "", "-1.0"]


# Plots and pages ----------------------------------------------------------------------------


def many(
    categories: int,
    sizes: list[float | None] | None = None,
    shares: tuple[float | None, ...] = SHARES,
) -> Results:
    rng = np.random.default_rng(0)
    cells = [
        toy_cell(method, share, seed, rng.random(categories).tolist())
        for method in MAPS
        for share in shares
        for seed in range(2)
    ]
    return Results(toy_grid(categories, sizes), cells)


def test_trmml_is_thick_and_its_other_forms_are_dashed() -> None:
    keys = ("zero-shot", "trmml", "trmml-paper", "probe-full")
    cells = [toy_cell(key, share, 0, [0.5]) for key in keys for share in (0.1, 0.5)]
    cells = [c for c in cells if (c.method, c.share) != ("trmml", 0.5)]  # so far
    (axes,) = plot_map(Results(toy_grid(1), cells)).axes
    styles = {str(line.get_label()): (line.get_linestyle(), line.get_linewidth())
              for line in axes.lines}  # fmt: skip
    assert styles[METHODS["trmml"].name] == ("-", 2.2)
    assert styles[METHODS["trmml-paper"].name] == ("--", 1.2)
    assert styles[METHODS["probe-full"].name] == (":", 1.2)
    assert styles[METHODS["zero-shot"].name] == ("-", 1.2)


def test_plots_are_written_twice_and_the_same_again(tmp_path: Path) -> None:
    sizes = [0.1 * (c % 7) if c % 5 else None for c in range(60)]
    results = many(60, sizes, (0.1, 0.5))
    names = write_plots(results, tmp_path)
    gains = [f"gain-by-{what}" for what in ("category", "frequency", "size")]
    assert names == ["map", *gains]
    first = {path.name: path.read_bytes() for path in tmp_path.glob("*.svg")}
    for name in names:
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert min(picture.size) > 300 and len(np.unique(np.asarray(picture))) > 20
        assert ET.fromstring(first[f"{name}.svg"]).tag.endswith("svg")
    write_plots(results, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.svg")} == first


def test_curves_are_of_the_lowest_seed_at_the_share_next_to_a_half() -> None:
    curve = ((16, 0.3), (32, None), (48, 0.4))
    cells = [
        replace(toy_cell(key, share, seed, [0.5]), curve=curve if seed else ((16, 0.1), (99, 0.2)))
        for key in ("probe-masked", "trmml")
        for share in (0.1, 0.4, None)
        for seed in (0, 1)
    ]
    cells.append(toy_cell("zero-shot", 0.4, 0, [0.5]))  # trains nothing
    (axes,) = plot_curves(Results(toy_grid(1), cells)).axes
    drawn = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    assert set(drawn) == {METHODS["probe-masked"].name, METHODS["trmml"].name}
    assert all(points == [[16, 10], [99, 20]] for points in drawn.values())
    late = [cell for cell in cells if cell.seed or not cell.curve]
    (axes,) = plot_curves(Results(toy_grid(1), late)).axes
    assert axes.lines[0].get_xydata().tolist() == [[16, 30], [48, 40]]


def test_gains_are_over_the_seeds_that_both_have(tmp_path: Path) -> None:
    maps = {"probe-masked": (0.2, 0.3, 0.9), "trmml": (0.4, 0.4)}
    cells = [toy_cell(m, 0.1, seed, [v]) for m, vs in maps.items() for seed, v in enumerate(vs)]
    results = Results(toy_grid(1), cells)
    ours, rival = results.ours("10 %"), results.rival("10 %")
    assert ours is not None and rival is not None
    (axes,) = plot_gain_by_category(results, ours, rival, "10 %").axes
    assert [bar.get_width() for bar in axes.patches] == [pytest.approx(15.0)]  # 0.4 less 0.25
    apart = Results(toy_grid(1), [cells[2], cells[3]])  # of seeds 2 and 0
    assert not [name for name in write_plots(apart, tmp_path) if name.startswith("gain")]


def test_plots_without_boxes_rivals_or_several_shares_are_left_out(tmp_path: Path) -> None:
    found = write_plots(many(3), tmp_path)
    assert "gain-by-size" not in found and "gain-by-category-single-positive" in found
    alone = Results(toy_grid(1), [toy_cell("trmml", 0.1, 0, [0.5])])
    assert write_plots(alone, tmp_path) == []


def grid_folder(root: Path) -> CellFolder:
    """Two methods on one mask, with ranks that fit their AP."""
    folder = CellFolder(root)
    labels = LabelMatrix(torch.tensor([[True], [False]] * 10), torch.ones(20, 1).bool())
    folder.open(toy_grid(1), labels)
    good, bad = np.linspace(0, 1, 20)[:, None], np.linspace(1, 0, 20)[:, None]
    good[::2] += 2
    folder.add(toy_cell("trmml", 0.1, 0, [1.0]), ranks_of(good))
    folder.add(toy_cell("probe-masked", 0.1, 0, [0.6]), ranks_of(bad))
    return folder


def test_a_report_from_the_folder_alone(tmp_path: Path) -> None:
    grid_folder(tmp_path)
    report = report_benchmark(tmp_path, draws=50)
    found = json.loads((tmp_path / "summary.json").read_text())
    mean, low, high = found["comparisons"][1]["differences"]["trmml"]
    assert found["draws"] == 50 and found["comparisons"][1]["rival"] == "probe-masked"
    assert mean == pytest.approx(0.4) and 0 < low <= high < 1
    rows = list(csv.reader((tmp_path / "categories.csv").read_text().splitlines()))
    assert rows[0][4:] == ["probe-masked, mean", "trmml, mean"] and rows[1][4:] == ["0.6", "1.0"]
    page = (tmp_path / "results.md").read_text()
    assert all(f"![{name}](plots/{name}.png)" in page for name in report.plots)
    for table in report.tables:
        assert table.title in page
        for ending in ("md", "tex", "csv"):
            assert (tmp_path / "tables" / f"{table.name}.{ending}").is_file()
    cited = re.findall(r"cite\{(\w+)\}", (tmp_path / "tables" / "map.tex").read_text())
    references = (tmp_path / "tables" / "references.bib").read_text()
    assert cited and all(f"{{{key}," in references for key in cited)
    assert Comparison.from_dict(found["comparisons"][1]).differences["trmml"].mean == mean


def test_a_folder_without_results_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no benchmark"):
        report_benchmark(tmp_path / "none")
    CellFolder(tmp_path).open(
        toy_grid(1), LabelMatrix(torch.ones(1, 1).bool(), torch.ones(1, 1).bool())
    )
    with pytest.raises(DataError, match=r"no cell in .* is finished"):
        report_benchmark(tmp_path)
