"""One cell of the benchmark: build, train, calibrate, score."""

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from jaxtyping import Float, Float64, Int
from torch import Tensor

from trmml.benchmark.catalog import Method
from trmml.benchmark.data import BenchmarkData
from trmml.benchmark.records import Cell, CellKey, Ranks, ranks_of
from trmml.features.base import Progress
from trmml.labels.masks import MaskRule
from trmml.labels.matrix import LabelMatrix
from trmml.labels.statistics import counted_by_blanks
from trmml.method.heads.neighbour_head import NeighbourHead
from trmml.method.interface import MultiLabelModel, predict
from trmml.metrics.average_precision import average_precisions, mean_defined
from trmml.metrics.calibration import both_answers, calibrate
from trmml.metrics.figures import Metrics, PrecisionRecall
from trmml.metrics.measure import measure
from trmml.metrics.reliability import expected_calibration_error
from trmml.settings.choices import EpochRule
from trmml.storage.provenance import commit, versions
from trmml.training.heads import mean_patches
from trmml.training.loop import refit, train
from trmml.training.schedule import hold_out
from trmml.training.trainer import Trainer

# The short names of `PrecisionRecall`, in its order.
RATES = ("op", "or", "of1", "cp", "cr", "cf1", "mean_f1")


@dataclass(frozen=True)
class Job:
    """A cell to run: names, and all that its figures depend on."""

    method: Method
    known: MaskRule
    seed: int
    settings: Any
    provenance: Mapping[str, Any]
    mask: Mapping[str, Any]
    fingerprint: str

    @property
    def key(self) -> CellKey:
        """What the cell will be called."""
        return CellKey(self.method.key, self.known.name, self.seed)

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.method.name}, {self.known.name}, seed {self.seed}"


@dataclass(frozen=True)
class _CellLogits:
    """What a cell's model says."""

    test: Float[Tensor, "N C"]
    held: Float[Tensor, "H C"]
    held_labels: LabelMatrix
    epoch: dict[str, Any]
    seconds: dict[str, float]
    best_on_test: dict[str, Any] | None
    refit_map: float | None = None
    fitted: bool = False  # whether the logits are log-odds by a fit to the held-out labels
    curve: tuple[tuple[int, float | None], ...] = ()


@dataclass(frozen=True)
class CellRunner:
    """Runs cells on a data set."""

    data: BenchmarkData  # encoded images, labels and encoder
    epoch: EpochRule  # the rule by which the reported epoch is chosen, for the record
    best_on_test: bool  # also score every epoch on the test images
    refit: bool  # also train again on all known images, and score that
    # by method and settings: logits of training and test images, seconds of the latter
    _untrained: dict[str, tuple[Tensor, Tensor, float]] = field(default_factory=dict)

    def run(self, job: Job, mask: LabelMatrix, progress: Progress | None) -> tuple[Cell, Ranks]:
        """Train, calibrate and score one cell."""
        scored = self._train(job, mask, progress) if job.method.trains else self._look(job, mask)
        test, held = self.data.test.matrix, scored.held_labels
        by_blanks = counted_by_blanks(mask)
        calibrated = both_answers(held, by_blanks)
        calibration = calibrate(scored.held, held, by_blanks, fitted=scored.fitted)
        # In double precision, or the sigmoid would tie the best at 1; further up it still would, so
        # the ranking is that of the logits.
        scores = calibration.probabilities(scored.test.double())
        names = self.data.test.category_names
        cut = calibration.thresholds  # 0.5 each where nothing could be calibrated
        metrics = measure(scores, test.labels, test.known, names, threshold=cut)
        half = measure(scores, test.labels, test.known, names, threshold=0.5)
        ap = average_precisions(scored.test, test.labels, test.known)
        interpolated = average_precisions(scored.test, test.labels, test.known, form="interpolated")
        figures = _figures(ap, interpolated, metrics, half)
        error = expected_calibration_error(scores, test.labels, test.known)
        figures["calibration_error"] = _defined(error)
        cell = self._cell(job, scored, figures, calibrated, ap=ap, ap_interpolated=interpolated)
        return cell, ranks_of(scored.test.numpy())

    def _train(self, job: Job, mask: LabelMatrix, progress: Progress | None) -> _CellLogits:
        data, settings = self.data, job.settings
        training, started, apart = settings.training, time.monotonic(), 0.0
        pooled = job.method.pooled
        source = data.encoded_train.features(pooled=pooled, views=training.encoded_views)
        test = data.encoded_test.scored_features(pooled=pooled, views=training.scored_views)
        names = data.train.category_names
        trainer = job.method.trainer(data.frozen, names, settings, source, mask)
        model = trainer.model
        best: dict[str, Any] | None = None
        for record in train(trainer, progress=_named(progress, job.title)):
            if self.best_on_test:
                began = time.monotonic()
                with trainer.averaged():
                    found = self._map(predict(model, test, device=data.frozen.device))
                if found is not None and (best is None or found > best["map"]):
                    best = {"map": found, "epoch": record.epoch}
                apart += time.monotonic() - began
        seconds = time.monotonic() - started - apart
        began = time.monotonic()
        logits = predict(model, test, device=data.frozen.device)
        if best is not None and (settled := self._map(logits) or 0.0) > best["map"]:
            # What a method settles after its last epoch counts as well.
            best = {"map": settled, "epoch": trainer.best_record["epoch"]}
        curve = [(r["step"], _defined(r["held_out_map"])) for r in trainer.records]
        again = None
        took = {"train": seconds, "predict": time.monotonic() - began}
        if self.refit:
            refit(trainer, progress=_named(progress, job.title))
            again = self._map(predict(model, test, device=data.frozen.device))
        return _CellLogits(
            test=logits,
            held=trainer.held_logits,
            held_labels=mask.subset(trainer.held),
            epoch=_epoch(trainer, self.epoch),
            seconds=took,
            best_on_test=best,
            refit_map=again,
            fitted=trainer.held_log_odds,
            curve=tuple(curve),
        )

    def _look(self, job: Job, mask: LabelMatrix) -> _CellLogits:
        """A method without steps looks at all images once; masks only calibrate it.

        Unless it remembers labels: then each mask is another memory.
        """
        training = job.settings.training
        _, held = hold_out(mask, training.held_out_share, training.seed)
        plain = job.settings.model_dump(mode="json", exclude={"training"})
        name = json.dumps([job.method.key, plain, training.scored_views])
        if name not in self._untrained:
            names = self.data.train.category_names
            model: MultiLabelModel = job.method.build(self.data.frozen, names, job.settings)
            model.to(self.data.frozen.device)
            neighbours = model.neighbour_head()
            if neighbours is not None:
                return self._remember(job, mask, model, neighbours)
            train, _ = self._scored(model, job, test=False)
            self._untrained[name] = train, *self._scored(model, job, test=True)
        train_logits, logits, predicting = self._untrained[name]
        return _CellLogits(
            test=logits,
            held=train_logits[held],
            held_labels=mask.subset(held),
            epoch={},
            seconds={"train": 0.0, "predict": predicting},
            best_on_test=None,
            refit_map=self._map(logits) if self.refit else None,
        )

    def _remember(
        self, job: Job, mask: LabelMatrix, model: MultiLabelModel, neighbours: NeighbourHead
    ) -> _CellLogits:
        training, began = job.settings.training, time.monotonic()
        kept, held = hold_out(mask, training.held_out_share, training.seed)
        views = training.scored_views
        source = self.data.encoded_train.features(pooled=True, views=views)
        means = mean_patches(source, views, None).float().mean(dim=0)
        neighbours.remember(means[kept], mask.subset(kept))
        took = {"train": time.monotonic() - began}
        logits, took["predict"] = self._scored(model, job, test=True)
        (held_logits, _), again = self._scored(model, job, test=False, of=held), None
        if self.refit:
            neighbours.remember(means, mask)
            again = self._map(self._scored(model, job, test=True)[0])
        return _CellLogits(
            test=logits,
            held=held_logits,
            held_labels=mask.subset(held),
            epoch={},
            seconds=took,
            best_on_test=None,
            refit_map=again,
        )

    def _scored(
        self, model: MultiLabelModel, job: Job, *, test: bool, of: Int[Tensor, " N"] | None = None
    ) -> tuple[Float[Tensor, "N C"], float]:
        """Logits of test or training images, and the seconds of the pass, features at hand."""
        images = self.data.encoded_test if test else self.data.encoded_train
        seen = {"pooled": job.method.pooled, "views": job.settings.training.scored_views}
        source, began = images.scored_features(**seen), time.monotonic()
        logits = predict(model, source, of, device=self.data.frozen.device)
        return logits, time.monotonic() - began

    def _map(self, logits: Float[Tensor, "N C"]) -> float | None:
        """Test mAP in [0, 1]; None where no test positive is known."""
        test = self.data.test.matrix
        return _defined(mean_defined(average_precisions(logits, test.labels, test.known)))

    def _cell(
        self,
        job: Job,
        scored: _CellLogits,
        figures: Mapping[str, float | None],
        calibrated: bool,
        *,
        ap: Float64[Tensor, "C"],
        ap_interpolated: Float64[Tensor, "C"],
    ) -> Cell:
        data = self.data
        return Cell(
            dataset=data.name,
            method=job.method.key,
            name=job.method.name,
            baseline=job.method.baseline,
            full_labels=job.method.full_labels,
            known=job.known.name,
            share=job.known.share,
            protocol=job.known.protocol,
            seed=job.seed,
            fingerprint=job.fingerprint,
            settings=job.settings.model_dump(mode="json"),
            provenance=job.provenance,
            mask=job.mask,
            data=data.fingerprint,
            encoder=data.encoder_card,
            versions=versions(),
            commit=commit(),
            device=data.frozen.device,
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            seconds={name: round(value, 3) for name, value in scored.seconds.items()},
            epoch={**scored.epoch, "calibrated": calibrated},
            figures=figures,
            ap=[_defined(value) for value in ap.tolist()],
            ap_interpolated=[_defined(value) for value in ap_interpolated.tolist()],
            best_on_test=scored.best_on_test,
            refit_map=scored.refit_map,
            curve=scored.curve,
        )


def for_cell(settings: Any, *, seed: int, choose_epoch: EpochRule) -> Any:
    """A method's settings with the seed of the cell and the rule that all methods share."""
    update = {"seed": seed, "choose_epoch": choose_epoch, "refit": False}
    training = settings.training.model_copy(update=update)
    return settings.model_copy(update={"training": training})


def _figures(
    ap: Float64[Tensor, "C"], ap_interpolated: Float64[Tensor, "C"], metrics: Metrics, half: Metrics
) -> dict[str, float | None]:
    """Test figures by name, shares in [0, 1].

    Args:
        ap: of each category, by logits.
        ap_interpolated: the same in the interpolated form.
        metrics: of calibrated probabilities at the thresholds that were fitted.
        half: of the same at 0.5.
    """
    parts: dict[str, PrecisionRecall] = {
        "": metrics.at_threshold,
        "_half": half.at_threshold,
        f"_top{metrics.top_k}": metrics.at_top_k,
    }
    found = {
        "map": mean_defined(ap),
        "map_interpolated": mean_defined(ap_interpolated),
        "map_undefined_as_zero": mean_defined(ap.nan_to_num()),
    }
    for suffix, part in parts.items():
        found |= {n + suffix: v for n, v in zip(RATES, asdict(part).values(), strict=True)}
    return {name: _defined(value) for name, value in found.items()}


def _defined(value: float) -> float | None:
    return None if math.isnan(value) else value


def _epoch(trainer: Trainer, by: EpochRule) -> dict[str, Any]:
    best = trainer.best_record
    scored = not math.isnan(best["held_out_map"])  # single positive has nothing to choose by
    return {
        "by": by if scored else "last",
        "chosen": best["epoch"],
        "of": trainer.training.epochs,
        "held_out_map": _defined(best["held_out_map"]),
    }


def _named(progress: Progress | None, title: str) -> Progress | None:
    if progress is None:
        return None
    show: Callable[[str, int, int], None] = progress
    return lambda what, done, total: show(f"{what} of {title}", done, total)
