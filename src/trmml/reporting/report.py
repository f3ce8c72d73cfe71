"""A run's report: one self-contained page on its task, its labels, its training and its results."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from jinja2 import Environment, PackageLoader, StrictUndefined, TemplateError
from torch import Tensor

from trmml.errors import CheckpointError, DataError
from trmml.labels.matrix import LabelMatrix
from trmml.metrics.calibration import Calibration
from trmml.metrics.figures import Metrics
from trmml.metrics.measure import measure
from trmml.reporting.sections import (
    Scored,
    calibration,
    categories,
    curves,
    data,
    images,
    pseudo,
    results,
    setup,
)
from trmml.storage.atomic import write_text
from trmml.storage.json_text import parse_object
from trmml.storage.tensors import load_tensors
from trmml.training.run_folder import RunCard, check_files, load_card

if TYPE_CHECKING:
    from trmml.tagging.evaluate import Evaluation

# What stands for an undefined figure, and before a negative one.
DASH, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"
# What values of another form than were written may raise.
SHAPES = (LookupError, TypeError, ValueError, AttributeError, RuntimeError, ArithmeticError)
# Keeps the logit of a probability finite.
SMALLEST = 1e-15
# In the head of a page with figures of test images.
TEST_MARK = '<meta name="figures" content="test images">'


def write_report(
    run: Path,
    evaluation: "Evaluation | None" = None,
    *,
    baselines: Mapping[str, Metrics] | None = None,
    truth: LabelMatrix | None = None,
    title: str | None = None,
) -> Path:
    """Write `report.html` into a finished run's folder and return its path.

    Args:
        run: made by `fit`.
        evaluation: of the run; without one, the figures are those of the held-out images.
        baselines: figures of other methods on the evaluation's images, by name.
        truth: complete labels of the training images, to say how right pseudo-labels are.
        title: of the page; by default the folder's name.

    Raises:
        CheckpointError: no finished run there, or its log or labels are damaged.
        DataError: `truth` or the evaluation does not belong to this run.

    Example:
        >>> write_report(Path("runs/photos"), evaluation)  # doctest: +SKIP
        PosixPath('runs/photos/report.html')
    """
    run = Path(run)
    card = load_card(run)
    check_files(run, card)
    try:
        text = _page(run, card, evaluation, baselines or {}, truth, title or run.resolve().name)
    except (
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
        RuntimeError,
        TemplateError,
    ) as error:
        if card.files:  # they are what was written: the fault is ours
            raise
        raise CheckpointError(
            f"a file of {run}, which has no checksums, is damaged ({error!r:.200}); restore it or"
            " train again"
        ) from error
    path = run / "report.html"
    write_text(path, text)
    return path


def has_test_figures(run: Path) -> bool:
    """Whether a run has a report, and it was made with test images."""
    page = run / "report.html"
    if not page.is_file():
        return False
    with page.open(encoding="utf-8", errors="replace") as file:
        # Reports of before 2026-12 have no mark: `fit` wrote results.json beside them.
        return TEST_MARK in file.read(4096) or (run / "results.json").is_file()


def _page(
    run: Path,
    card: RunCard,
    evaluation: "Evaluation | None",
    baselines: Mapping[str, Metrics],
    truth: LabelMatrix | None,
    title: str,
) -> str:
    """The page as HTML."""
    known = LabelMatrix.load(run / "known.safetensors")
    log = _read_log(run / "log.jsonl")
    _check(card, known, evaluation, truth)
    scored = score_run(run, card, evaluation)
    others = dict(baselines) if evaluation is not None else {}
    page = {
        "title": title,
        "mark": TEST_MARK,
        "setup": setup(run, card),
        "data": data(run, card, known),
        "curves": curves(card, log),
        "results": results(scored, others),
        "categories": categories(scored, others),
        "calibration": calibration(scored, card),
        "pseudo": pseudo(run, card, log, truth),
        "images": images(evaluation, card),
    }
    return _environment().get_template("report.html.j2").render(page)


def percent(share: float | None) -> str:
    """A share in [0, 1] in percent, a dash where it is undefined.

    Example:
        >>> percent(0.6126), len(percent(float("nan")))
        ('61.3', 1)
    """
    return DASH if share is None or math.isnan(share) else f"{100 * share:.1f}"


def points(difference: float) -> str:
    """A difference of shares in signed percentage points, a dash where it is undefined.

    Example:
        >>> points(0.031), points(-0.0001)
        ('+3.1', '0.0')
    """
    if math.isnan(difference):
        return DASH
    shown = round(100 * difference, 1)
    return f"{shown:+.1f}".replace("-", MINUS) if shown else "0.0"


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("trmml.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "points": points, "count": "{:,}".format}
    return environment


def _read_log(path: Path) -> list[dict[str, Any]]:
    try:
        return [parse_object(line) for line in path.read_bytes().splitlines() if line]
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"cannot read {path}, one JSON record per epoch: {error}; restore it or train again"
        ) from None


def _check(
    card: RunCard, known: LabelMatrix, evaluation: "Evaluation | None", truth: LabelMatrix | None
) -> None:
    """Refuse what belongs to another run."""
    names = card.category_names
    if truth is not None and truth.known.shape != known.known.shape:
        raise DataError(
            f"expected the truth of the run's {len(known)} training images and {len(names)}"
            f" categories, got {tuple(truth.known.shape)}; leave out the images that"
            " skipped.json lists"
        )
    if evaluation is not None and evaluation.data.category_names[: len(names)] != names:
        raise DataError(
            "expected an evaluation of this run, got one with other categories;"
            " evaluate this run first"
        )


def score_run(run: Path, card: RunCard, evaluation: "Evaluation | None" = None) -> Scored:
    """Figures of an evaluation; without one, of the images that the run held out."""
    if evaluation is not None:
        probabilities, matrix = evaluation.probabilities.double(), evaluation.data.matrix
        plain = _uncalibrated(probabilities, card.calibration)
        return Scored(False, evaluation.metrics, probabilities, plain, matrix.labels, matrix.known)
    held, _ = load_tensors(run / "held_out.safetensors")
    logits, labels, known = held["logits"].double(), held["labels"], held["known"]
    probabilities = card.calibration.probabilities(logits)
    thresholds = card.calibration.thresholds
    metrics = measure(probabilities, labels, known, card.category_names, threshold=thresholds)
    return Scored(True, metrics, probabilities, logits.sigmoid(), labels, known)


def _uncalibrated(
    probabilities: Float[Tensor, "N C"], calibration: Calibration
) -> Float[Tensor, "N C"] | None:
    """The plain sigmoid of the logits; None with categories that the calibration lacks."""
    if probabilities.shape[1] != len(calibration.slope):
        return None
    log_odds = probabilities.clamp(SMALLEST, 1 - SMALLEST).logit()
    return ((log_odds - calibration.offset) / calibration.slope).sigmoid()
