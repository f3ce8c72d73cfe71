"""docs/reproduce.md: sizes and times follow from the store's formula and the published rates."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from trmml.benchmark.tuning import Plan
from trmml.features.store import StoreKey
from trmml.settings.sections import Settings

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reproduce.md").read_text("utf-8")

# Images to train and to test on, and categories: docs/data.md and the readers have the sources.
SETS = {
    "COCO 2014, all images": (82_783, 40_504, 80),
    "COCO 2014, annotated": (82_081, 40_137, 80),
    "VOC 2007": (5_011, 4_952, 20),
    "VOC 2012": (5_717, 5_823, 20),
    "VG-200": (98_249, 10_000, 200),
    "NUS-WIDE, official": (161_789, 107_859, 81),
    "NUS-WIDE, ASL's": (119_103, 50_720, 81),
    "CUB": (5_994, 5_794, 312),
}
ENCODERS = {"RN101": (448, 196, 2048, 512), "RN50": (224, 49, 2048, 1024)}
RUNS, TRIALS = 30, 8
MASKS = 3  # of a search: 10 % and 50 % known, and single positive


def table(head: str) -> dict[str, list[str]]:
    """The rows of the table that begins with a column head, by their first cell."""
    lines = PAGE[PAGE.index(f"| {head} |") :].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    return {row[0]: row[1:] for row in rows[: rows.index([""])]}


def size(encoder: str, form: Any, images: int) -> str:
    """Gigabytes on disk, as the store foretells them."""
    pixels, patches, hidden, feature = ENCODERS[encoder]
    key = StoreKey(encoder, "", pixels, "", "fp32", "pillow", form, patches, hidden, feature)
    return f"{images * key.row_bytes / 1e9:.1f} GB"


def hours(seconds: float) -> str:
    """Hours, or days from the third on."""
    value = seconds / 3600
    if value >= 72:
        return f"{value / 24:.1f} days"
    return f"{value:.1f} h"


def rate(way: str) -> float:
    """Images a second, RN101 at 448 px, as published in benchmarks/results."""
    rows = json.loads((ROOT / "benchmarks/results/training.json").read_text("utf-8"))["rows"]
    (row,) = (row for row in rows if row["case"] == "rn101-448" and row["way"] == way)
    return float(row["images_per_second"])


def slope() -> float:
    """How the time of a step grows from 80 to 800 categories."""
    rows = json.loads((ROOT / "benchmarks/results/scaling.json").read_text("utf-8"))["rows"]
    (row,) = (r for r in rows if r["axis"] == "categories" and r["categories"] == 800)
    return float(row["slope"])


def test_sizes_on_disk() -> None:
    expected = {
        name: [f"{train:,}", f"{test:,}"]
        + [size(encoder, form, train + test) for encoder in ENCODERS for form in ("fp16", "int8")]
        for name, (train, test, _) in SETS.items()
    }
    assert table("set | train | test") == expected


def test_times_from_published_rates() -> None:
    training, plan = Settings().training, Plan(trials=TRIALS)
    expected = {}
    for name, (train, test, categories) in SETS.items():
        passes = training.epochs * (1 - training.held_out_share)
        step = max(1.0, categories / 80) ** slope()
        run = train * passes / rate("context frozen (default)") * step
        encoding = (train + test) / rate("first epoch, context frozen (default)")
        search = TRIALS * plan.folds * MASKS * (1 - plan.held_out_share) * run
        expected[name] = [hours(encoding), hours(run), hours(RUNS * run), hours(search)]
    assert table("set | encoding") == expected


@pytest.mark.parametrize(
    ("way", "shown"),
    [
        ("first epoch, context frozen (default)", "1.11 images/s"),
        ("context frozen (default)", "63.0 images/s"),
        ("16 context tokens trained", "9.1 images/s"),
        ("field's loop", "0.73 images/s"),
    ],
)
def test_rates_are_those_published(way: str, shown: str) -> None:
    digits = len(shown.split()[0].partition(".")[2])
    assert f"{rate(way):.{digits}f} images/s" == shown and shown in PAGE
    assert f"(C/80)^{slope():.2f}" in PAGE


def test_every_set_has_a_check_and_a_grid() -> None:
    listed = set(table("name | below ROOT"))
    named = {f"`{name}`" for name in re.findall(r"trmml benchmark --data (\w+)", PAGE)}
    checked = {f"`{name}`" for name in re.findall(r"trmml data check (\w+)", PAGE)}
    assert listed == checked == named


def test_the_citation_is_that_of_the_file() -> None:
    yaml = pytest.importorskip("yaml", reason="PyYAML reads CITATION.cff")
    tree = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    paper = tree["preferred-citation"]
    names = [f"{author['family-names']}, {author['given-names']}" for author in paper["authors"]]
    for said in (
        paper["title"],
        " and ".join(names),
        f"{paper['start']}--{paper['end']}",
        paper["doi"],
        paper["collection-title"],
        f"version = {{{tree['version']}}}",
    ):
        assert said in PAGE


def test_the_page_and_the_references_cite_the_paper_alike() -> None:
    references = (ROOT / "src/trmml/benchmark/references.bib").read_text("utf-8")
    paper = references[: references.index("\n}\n") + 3]
    assert paper.startswith("@inproceedings{ma2024trmml,") and paper in PAGE
