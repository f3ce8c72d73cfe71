import json
import math
import re
import shlex
import shutil
import warnings
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from tests.conftest import ToyImages
from tests.toy import ToyEncoder
from trmml.datasets import Dataset
from trmml.datasets.formats.folder import read_folder
from trmml.errors import CheckpointError, DataError
from trmml.labels.matrix import LabelMatrix
from trmml.metrics.measure import measure
from trmml.metrics.reliability import ReliabilityBin
from trmml.reporting.charts import line_chart, reliability_diagram, short, ticks
from trmml.reporting.ranked_images import best_and_worst
from trmml.reporting.report import percent, points, write_report
from trmml.reporting.sections import setup
from trmml.settings.files import load_settings
from trmml.storage.hashes import hash_file
from trmml.tagging.evaluate import Evaluation, evaluate
from trmml.tagging.tagger import Tagger
from trmml.training.run_folder import load_card, summed

NASTY = "<script>alert('x')</script>"
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Outline(HTMLParser):
    """Checks that tags are balanced; collects attributes and text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.seen if name == tag]


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    """A copy that may be written into."""
    return Path(shutil.copytree(finished_run, tmp_path / "toy"))


@pytest.fixture(scope="module")
def evaluation(finished_run: Path, toy_images: ToyImages) -> Evaluation:
    data = read_folder(toy_images.test, toy_images.test_table)
    return evaluate(Tagger.load(finished_run, encoder=ToyEncoder()), data)


def outline(path: Path) -> Outline:
    return Outline(path.read_text("utf-8"))


def relabelled(run: Path, evaluation: Evaluation, names: tuple[str, ...]) -> Evaluation:
    """The run and its evaluation, with other category names."""
    card = json.loads((run / "model.json").read_text("utf-8"))
    del card["card_sha256"]
    (run / "model.json").write_text(json.dumps({**card, "category_names": list(names)}), "utf-8")
    data = replace(evaluation.data, category_names=names)
    found = measure(evaluation.probabilities, data.matrix.labels, data.matrix.known, names)
    return replace(evaluation, data=data, metrics=found)


# By hand -------------------------------------------------------------------------------------


def test_numbers_as_people_read_them() -> None:
    assert percent(0.5) == "50.0" and percent(None) == percent(math.nan) == "\N{EN DASH}"
    assert points(0.1) == "+10.0" and points(-0.1) == "\N{MINUS SIGN}10.0"
    assert points(1e-9) == "0.0" and points(math.nan) == "\N{EN DASH}"
    assert [short(v) for v in (0.0, 3.0, 12345.6, 0.00012345)] == ["0", "3", "12,346", "0.000123"]


@pytest.mark.parametrize("low, high", [(0, 1), (0.2, 0.21), (-3, 7), (5, 5), (0, 0), (1e-9, 3e-9)])
def test_ticks_enclose_their_range(low: float, high: float) -> None:
    marks = ticks(low, high)
    assert 2 <= len(marks) <= 8 and marks == sorted(set(marks))
    assert marks[0] <= low + 1e-12 and marks[-1] >= high - 1e-12


def test_a_line_chart_puts_points_in_their_places() -> None:
    chart = str(line_chart([0.0, 10.0], name="held-out mAP", unit=" %", mark=2))
    line = re.search(r'<polyline class="line" points="([^"]+)"', chart)
    assert line is not None
    (x0, y0), (x1, y1) = (map(float, pair.split(",")) for pair in line[1].split())
    assert x1 > x0 and y1 < y0  # later is further right, more is higher up
    assert "chosen: epoch 2, 10 %" in chart and 'role="img"' in chart
    assert "first 0 %, last 10 %; chosen: epoch 2" in chart


def test_a_line_chart_without_a_value_is_empty() -> None:
    assert line_chart([None, math.nan], name="nothing") == ""
    assert "<circle" in line_chart([None, 3.0, None], name="one", band=[None, 1.0, None])


@pytest.mark.parametrize("epochs", [1, 2, 12, 13, 40, 200])
def test_epoch_labels_do_not_crowd(epochs: int) -> None:
    chart = str(line_chart([1.0] * epochs, name="flat"))
    shown = [int(n) for n in re.findall(r">(?:epoch )?(\d+)</text>", chart.split("</line>")[-1])]
    assert len(re.findall(r'text-anchor="middle"', chart)) <= 13 and shown


def test_larger_dots_hold_more_pairs() -> None:
    diagram = str(
        reliability_diagram([ReliabilityBin(0.1, 0.1, 1), ReliabilityBin(0.9, 1, 99)], None)
    )
    few, many = (float(r) for r in re.findall(r'class="after" [^>]*r="([\d.]+)"', diagram))
    assert many > few and 'class="before"' not in diagram


def test_images_are_ranked_and_marked(evaluation: Evaluation) -> None:
    labels = evaluation.data.matrix.labels[:3].clone()
    labels[:] = torch.tensor([True, False, False, True])
    known = torch.ones_like(labels)
    known[1, 1] = False
    scores = torch.tensor(
        [[0.9, 0.1, 0.1, 0.8], [0.9, 0.7, 0.1, 0.2], [0.1, 0.9, 0.8, 0.2]]
    ).double()
    old = evaluation.data
    data = Dataset(
        old.root, old.images[:3], old.category_names, LabelMatrix(labels, known), (1, 2, 3)
    )
    found = measure(scores, labels, known, data.category_names, threshold=0.5)
    part = Evaluation(found, scores, data, [], evaluation.tagger, evaluation.source)
    best, worst = best_and_worst(part, (3, 3))
    assert [p.ap for p in best] == sorted((p.ap for p in best), reverse=True) and worst == []
    verdicts = {p.name: [(t.name, t.verdict) for t in p.tags] for p in best}
    first, second, third, last = data.category_names
    assert verdicts[data.images[0]] == [(first, "right"), (last, "right")]
    assert verdicts[data.images[1]] == [(first, "right"), (second, "unknown"), (last, "missed")]
    wrong = [(second, "wrong"), (third, "wrong"), (last, "missed"), (first, "missed")]
    assert verdicts[data.images[2]] == wrong
    assert all(p.uri is not None and len(p.maps) <= 3 for p in best)


# The page ------------------------------------------------------------------------------------


def test_a_full_report(run: Path, evaluation: Evaluation, toy_images: ToyImages) -> None:
    matrix = evaluation.data.matrix
    even = torch.full_like(evaluation.probabilities, 0.5)
    zero = measure(even, matrix.labels, matrix.known, evaluation.data.category_names)
    truth = read_folder(toy_images.train, toy_images.train_table).matrix
    path = write_report(
        run, evaluation, baselines={"zero-shot": zero}, truth=truth, title="Coloured squares"
    )
    page = outline(path)
    assert path == run / "report.html" and not list(run.glob("*.part"))
    for heading in ("Set-up", "What was known", "How it learned", "Results", "Images"):
        assert heading in page.text
    gain = evaluation.metrics.mean_ap - zero.mean_ap
    for shown in ("Coloured squares", percent(evaluation.metrics.mean_ap), points(gain)):
        assert shown in page.text
    assert "training.epochs = 4" in page.text and "--set training.batch_size=16" in page.text
    assert all(name in page.text for name in evaluation.data.category_names)
    assert path.stat().st_size < 4_000_000


@pytest.mark.parametrize("source", ["paper", None])
def test_the_command_of_the_page_repeats_the_settings(source: str | None, run: Path) -> None:
    own = ["prompts.template=\"ein 'Foto' für $USER von {}\"", "training.epochs=20"]
    settings = load_settings(source, own if source is None else own[:1])
    card = replace(load_card(run), settings=settings, encoder_spec="my tower.py:Encoder")
    command = setup(run, card)["command"]
    words = shlex.split(command.replace("\\\n", " "))
    named = [value for option, value in pairwise(words) if option == "--set"]
    assert load_settings(None, named) == settings
    assert words[words.index("--encoder") + 1] == "my tower.py:Encoder"


def test_each_terms_share_of_the_gradient_is_drawn(run: Path) -> None:
    log = [json.loads(line) for line in (run / "log.jsonl").read_text("utf-8").splitlines()]
    charts = [attrs["aria-label"] or "" for attrs in outline(write_report(run)).all("svg")]
    shares = {name for record in log for name in record["gradient_shares"]}
    assert {"classification", "distillation"} <= shares
    for name in shares:
        (chart,) = [each for each in charts if each.startswith(f"{name}: share of the gradient")]
        last = [record["gradient_shares"][name] for record in log if record["gradient_shares"]][-1]
        assert f"last {100 * last:.3g} %" in chart


def test_the_page_is_self_contained_and_accessible(run: Path, evaluation: Evaluation) -> None:
    path = write_report(run, evaluation)
    page = outline(path)
    assert not re.search(r"https?://|url\(|@import|<link", path.read_text("utf-8"))
    sources = [attrs["src"] or "" for attrs in page.all("img")]
    assert sources and all(source.startswith("data:image/jpeg;base64,") for source in sources)
    assert all(attrs.get("alt") for attrs in page.all("img"))
    assert all(attrs.get("aria-label") for attrs in page.all("svg"))
    assert all("scope" in attrs for attrs in page.all("th"))
    ids = {attrs["id"] for _, attrs in page.seen if "id" in attrs}
    assert all((attrs["href"] or "")[1:] in ids for attrs in page.all("a"))


def test_without_an_evaluation_it_shows_the_held_out_images(run: Path) -> None:
    text = outline(write_report(run)).text
    assert "made without test images" in text and "kept out of training" in text
    assert "Ranked by average precision" not in text and text.count("toy") >= 1


def test_what_users_provide_is_escaped(run: Path, evaluation: Evaluation) -> None:
    names = (NASTY, "\N{CJK UNIFIED IDEOGRAPH-732B}", 'a"b', "x" * 300)
    other = relabelled(run, evaluation, names)
    images = (NASTY + ".png", *evaluation.data.images[1:])
    other = replace(other, data=replace(other.data, images=images))
    skipped = [{"name": NASTY, "row": 3, "reason": "<b>cut short</b>"}]
    (run / "skipped.json").write_text(json.dumps(skipped), "utf-8")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        path = write_report(run, other, baselines={NASTY: other.metrics}, title=NASTY)
    page = path.read_text("utf-8")
    assert NASTY not in page and "<b>cut" not in page and caught == []
    assert names[1] in page and "&lt;script&gt;" in page and "1 file left out" in page
    Outline(page)


def test_thousands_of_categories_stay_usable(
    run: Path, evaluation: Evaluation, tmp_path: Path
) -> None:
    from trmml.reporting.sections import Scored, categories

    count = 3000
    names = tuple(f"category {c}" for c in range(count))
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(20, count, generator=generator, dtype=torch.float64)
    labels = torch.rand(20, count, generator=generator) < 0.2
    known = torch.ones_like(labels)
    found = measure(scores, labels, known, names)
    before = measure(1 - scores, labels, known, names)
    tree = categories(Scored(False, found, scores, None, labels, known), {"zero-shot": before})
    assert tree["cut"] and len(tree["rows"]) == len(tree["gains"]) == 60
    shown = [gain for _, gain in tree["gains"]]
    assert shown == sorted(shown, reverse=True) and tree["up"] + tree["down"] <= count


def test_calibration_is_undone_exactly(run: Path) -> None:
    from trmml.reporting.report import _uncalibrated
    from trmml.training.run_folder import load_card

    card = load_card(run)
    logits = torch.randn(50, len(card.category_names), dtype=torch.float64)
    plain = _uncalibrated(card.calibration.probabilities(logits), card.calibration)
    assert plain is not None
    assert torch.allclose(plain, logits.sigmoid(), atol=1e-9)


def test_pseudo_labels_switched_off_are_said_to_be(run: Path) -> None:
    path = run / "model.json"
    card = json.loads(path.read_text("utf-8"))
    card["settings"]["losses"]["pseudo"] = 0
    del card["card_sha256"]
    path.write_text(json.dumps(card), "utf-8")
    assert "switched off" in outline(write_report(run)).text


def test_a_category_without_positives_is_a_dash(run: Path, evaluation: Evaluation) -> None:
    labels = evaluation.data.matrix.labels.clone()
    labels[:, 0] = False
    data = replace(evaluation.data, matrix=LabelMatrix(labels, torch.ones_like(labels)))
    found = measure(evaluation.probabilities, labels, torch.ones_like(labels), data.category_names)
    path = write_report(run, replace(evaluation, data=data, metrics=found))
    text, name = outline(path).text, re.escape(data.category_names[0])
    row = re.search(rf"<bdi>{name}</bdi></th><td>(.*?)</td>", path.read_text("utf-8"))
    assert row is not None and row[1] == "\N{EN DASH}"
    assert "1 of 4 categories without a known positive" in text and "nan" not in text


def test_an_image_that_is_gone_is_said_to_be(run: Path, evaluation: Evaluation) -> None:
    gone = replace(evaluation, data=replace(evaluation.data, root=run / "nowhere"))
    assert "can no longer be read" in outline(write_report(run, gone)).text


# Errors --------------------------------------------------------------------------------------


def test_errors_say_what_was_expected(run: Path, evaluation: Evaluation, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no trained model"):
        write_report(tmp_path)
    few = LabelMatrix(torch.ones(2, 4, dtype=torch.bool), torch.ones(2, 4, dtype=torch.bool))
    with pytest.raises(DataError, match=r"48 training images.*got \(2, 4\).*skipped.json"):
        write_report(run, truth=few)
    names = tuple(reversed(evaluation.data.category_names))
    other = replace(evaluation, data=replace(evaluation.data, category_names=names))
    with pytest.raises(DataError, match="evaluate this run first"):
        write_report(run, other)
    (run / "log.jsonl").write_text("{", "utf-8")
    with pytest.raises(CheckpointError, match=r"log\.jsonl is missing or is not.*train again"):
        write_report(run)
    tree = json.loads((run / "model.json").read_text("utf-8"))
    tree["files"]["log.jsonl"] = hash_file(run / "log.jsonl")
    (run / "model.json").write_text(json.dumps(summed(tree)), "utf-8")
    with pytest.raises(CheckpointError, match=r"log\.jsonl, one JSON record per epoch: .*train"):
        write_report(run)
