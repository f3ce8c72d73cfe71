"""Fill the blanks of a table: by the image, and by what is already known of it."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from trmml.curation.acceptance import Rule, accepted, precision_cuts, raised_cuts
from trmml.curation.collection import Collection, read_collection
from trmml.curation.recalibration import Recalibration
from trmml.curation.weighing import Weighed, weigh_evidence
from trmml.datasets.base import Dataset
from trmml.encoders.base import Encoder
from trmml.errors import DataError
from trmml.features.base import Progress
from trmml.features.extract import Encoding
from trmml.labels.matrix import LabelMatrix
from trmml.labels.statistics import counted_by_blanks
from trmml.metrics.calibration import Calibration
from trmml.settings.choices import EvidenceChoice, OnBadImage

logger = logging.getLogger(__name__)

UNKNOWN, GIVEN, MODEL, EVIDENCE = range(4)
# One image in so many checks cuts where no run does.
CHECKED = 4


@dataclass(frozen=True, eq=False)
class Completed:
    """A collection with its blanks filled as far as a rule allows, in the run's order.

    Attributes:
        collection: what was completed.
        matrix: the given labels, and what was decided.
        probability: calibrated, by image and evidence.
        added: what evidence added to the log-odds of the image alone.
        expected: probabilities by heads that never saw the image; evidence compares with them.
        source: 0 unknown, 1 given, 2 by the image alone, 3 with evidence.
        weighed: the evidence.
        rule: by which labels were accepted.
        unshown: categories that cannot show the precision that the rule asks for.
        asked: names of the table that the run has; others stay unknown.
    """

    collection: Collection
    matrix: LabelMatrix
    probability: Float[Tensor, "N C"]
    added: Float[Tensor, "N C"]
    expected: Float[Tensor, "N C"]
    source: UInt8[Tensor, "N C"]
    weighed: Weighed
    rule: Rule
    unshown: tuple[str, ...]
    asked: tuple[str, ...]

    @property
    def report(self) -> dict[str, Any]:
        """JSON-safe figures."""
        decided = self.source >= MODEL
        columns = [self.collection.category_names.index(name) for name in self.asked]
        return {
            "images": len(self.collection),
            "categories": len(self.asked),
            "given": int((self.source == GIVEN).sum()),
            "open": int((~self.collection.matrix.known[:, columns]).sum()),
            "present": int((self.matrix.labels & decided).sum()),
            "absent": int((~self.matrix.labels & decided).sum()),
            "evidence": self.weighed.weights.level,
            "weights": self.weighed.weights._asdict(),
            "gain": self.weighed.gain,
            "gain_error": self.weighed.error,
            "unshown": list(self.unshown),
            "bad": [bad.name for bad in self.collection.bad],
            "run": self.collection.run,
        }


def complete(
    run: Path | str,
    data: Dataset,
    *,
    accept: str = "none",
    evidence: EvidenceChoice = "auto",
    encoder: Encoder | str | None = None,
    trust: bool = False,
    device: str = "cpu",
    on_bad_image: OnBadImage = "error",
    encoding: Encoding | None = None,
    progress: Progress | None = None,
) -> Completed:
    """A probability for every open pair of a data set, and labels where a rule accepts them.

    Args:
        run: folder of a finished run.
        data: images and labels; categories that the run lacks are left alone.
        accept: "none", "threshold", "sure=P", "precision=P" or "all"; see docs/complete.md.
        evidence: what known labels of an image may say of its open ones: "auto", "off", "pairs"
            or "stack".
        encoder: see `read_collection`, also the rest.
        trust: see above.
        device: see above.
        on_bad_image: see above.
        encoding: see above.
        progress: see above.

    Raises:
        ConfigError: there is no such rule.
        DataError: no pair is open, or the run knows none of the categories.
    """
    rule = Rule.parse(accept)
    collection = read_collection(
        run,
        data,
        encoder=encoder,
        trust=trust,
        device=device,
        on_bad_image=on_bad_image,
        encoding=encoding,
        progress=progress,
    )
    asked = tuple(name for name in collection.category_names if name in data.category_names)
    return complete_collection(collection, rule, evidence, asked)


def complete_collection(
    collection: Collection,
    rule: Rule,
    evidence: EvidenceChoice = "auto",
    asked: tuple[str, ...] | None = None,
) -> Completed:
    """See `complete`; `asked` names the categories to complete, all by default.

    Raises:
        DataError: no pair is open.
    """
    names, matrix = collection.category_names, collection.matrix
    asked = names if asked is None else asked
    wanted = torch.tensor([name in asked for name in names])
    is_open = ~matrix.known & wanted
    if not bool(is_open.any()):
        raise DataError(
            f"nothing is left to complete: all {len(asked)} categories are known in all"
            f" {len(matrix)} images; leave cells blank where nothing is known, and see whether"
            " --blank absent filled them"
        )
    expected = collection.expected.sigmoid()
    weighed = weigh_evidence(
        matrix, expected, collection.folds, collection.unseen, _allowed(matrix, evidence)
    )
    added = weighed.evidence.added(matrix, expected)
    lines = _lines(collection, weighed)
    probability = lines.probabilities(collection.logits + added, matrix)
    cuts = torch.zeros(len(names))
    if rule.name == "precision":
        cuts = _cuts(rule.number, collection, weighed, lines)
    found = accepted(rule, probability, lines.each.thresholds, cuts)
    decided = is_open & found.known
    told = matrix.known.any(dim=1, keepdim=True) & weighed.evidence.speaks
    source = torch.where(matrix.known, GIVEN, torch.where(decided, MODEL + told.int(), UNKNOWN))
    hopeless = ~cuts.isfinite() & wanted
    return Completed(
        collection=collection,
        matrix=LabelMatrix(matrix.labels | (found.labels & decided), matrix.known | decided),
        probability=torch.where(matrix.known, matrix.labels.float(), probability),
        added=added,
        expected=expected,
        source=source.to(torch.uint8),
        weighed=weighed,
        rule=rule,
        unshown=tuple(names[c] for c in hopeless.nonzero()[:, 0].tolist()),
        asked=asked,
    )


def _lines(collection: Collection, weighed: Weighed) -> Recalibration:
    """From log-odds to probabilities: fitted anew where evidence was added, else the run's own."""
    if not weighed.evidence.speaks:
        own = Calibration.identity(len(collection.category_names))
        return Recalibration(replace(own, thresholds=collection.calibration.thresholds), ())
    rows, logits, _ = collection.unseen
    given = collection.matrix.subset(rows)
    apart = weighed.added_apart(given, collection.expected[rows].sigmoid(), collection.folds[rows])
    return Recalibration.fit(logits + apart, given, counted_by_blanks(collection.matrix))


def _cuts(
    precision: float, collection: Collection, weighed: Weighed, lines: Recalibration
) -> Float[Tensor, " C"]:
    """Cuts by the linear heads, which score enough known pairs, raised by images that chose none.

    Those are the run's held-out ones, else a quarter. Where evidence speaks, they had a say in its
    weights and in `lines`.
    """
    matrix = collection.matrix
    apart = weighed.added_apart(matrix, collection.expected.sigmoid(), collection.folds)
    linear = collection.expected + apart
    rows, logits = torch.arange(0, len(matrix), CHECKED), linear[::CHECKED]
    if collection.held_out is not None:
        rows = collection.held_out.images
        logits = collection.held_out.logits + apart[rows]
    choosing, checked = matrix.known.clone(), matrix.subset(rows)
    choosing[rows] = False
    cuts = precision_cuts(precision, lines.probabilities(linear, matrix), matrix.labels, choosing)
    probability = lines.probabilities(logits, checked)
    return raised_cuts(cuts, precision, probability, checked.labels, checked.known)


def _allowed(matrix: LabelMatrix, evidence: EvidenceChoice) -> EvidenceChoice:
    """What evidence may be tried; co-occurrence is refused where absence was only assumed.

    A person who answers by hand leaves some pair of an image open. Where every answered image is
    answered whole, blanks were taken as absent, and what is absent shows a habit.
    """
    answered = matrix.known[matrix.answered]
    if evidence != "auto" or not len(answered) or not bool(answered.all()):
        return evidence
    logger.warning(
        "every image that has labels has them all, as if blanks were taken as absent: what occurs"
        " together is not counted, for it would be the habit of whoever wrote the table; if all"
        " labels were checked, say --evidence pairs (in Python: evidence='pairs')"
    )
    return "off"
