"""Settings of a method by search on held-out training images; the test images are never read.

Every method gets the same number of trials, folds and masks. The first trial is the method's own
defaults, so a search never ends below them on what it searched. Other starts that it names follow.
"""

import hashlib
import json
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Int
from torch import Tensor

from trmml.benchmark.catalog import Method
from trmml.benchmark.data import BenchmarkData
from trmml.benchmark.method_settings import parse_method_settings, shared_changes, write_settings
from trmml.benchmark.records import CELL_FORMAT
from trmml.benchmark.run_cell import for_cell
from trmml.benchmark.tuning_search import ask, distribution, open_study, tell
from trmml.encoders.base import short_name
from trmml.errors import ConfigError, DataError, TrainingError
from trmml.features.base import Progress
from trmml.features.views import joined
from trmml.labels.masks import MaskRule, share_known, single_positive
from trmml.labels.statistics import scorable
from trmml.method.interface import predict
from trmml.metrics.average_precision import average_precisions, mean_defined
from trmml.settings.changes import nested
from trmml.settings.choices import EpochRule, Precision, Protocol
from trmml.settings.old_names import current_name, first_name, first_names
from trmml.storage.provenance import commit, versions
from trmml.training.loop import train

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True)
class Plan:
    """The budget of a search, the same for every method.

    Attributes:
        trials: settings that are tried, the defaults included.
        folds: random splits of the training images that each of them is scored on; one split of a
            few thousand images cannot tell settings apart that differ by a point.
        held_out_share: of the images of a fold, to score on; with all their known labels.
        shares: of known labels in the rest; single positive is searched apart.
        views: of each image, to train on and to be scored by; None leaves the method's own.
        precision: of training; None leaves the method's own.
        seed: of folds, masks, training and search.

    Raises:
        ConfigError: a number is out of range.
    """

    trials: int
    folds: int = 2
    held_out_share: float = 0.25
    shares: tuple[float, ...] = (0.1, 0.5)
    views: int | None = None
    precision: Precision | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the numbers."""
        if min(self.trials, self.folds) < 1:
            raise ConfigError(
                f"expected at least 1 trial and 1 fold, got {self.trials} and {self.folds}"
            )
        if not 0 < self.held_out_share < 1:
            raise ConfigError(f"held_out_share must be between 0 and 1, not {self.held_out_share}")

    def rules(self, protocol: Protocol) -> list[MaskRule]:
        """The masks of a protocol."""
        if protocol == "single_positive":
            return [single_positive()]
        return [share_known(share) for share in self.shares]


@dataclass(frozen=True)
class Trial:
    """What `tune` yields."""

    method: str
    protocol: Protocol
    number: int  # counted from 1; the first is the defaults
    trials: int  # how many there will be
    value: float  # mean held-out mAP, in [0, 1]; 0 where training diverged
    best: float  # of all so far
    changes: Mapping[str, Any]  # by dotted setting name

    def __str__(self) -> str:
        changes = ", ".join(
            f"{n}={v:.4g}" if isinstance(v, float) else f"{n}={v}" for n, v in self.changes.items()
        )
        return (
            f"tuning {self.method} ({self.protocol.replace('_', ' ')}) {self.number}/{self.trials}:"
            f" held-out mAP {100 * self.value:.2f}, best {100 * self.best:.2f}  {changes}"
        )


def tune(
    data: BenchmarkData,
    method: Method,
    protocol: Protocol,
    plan: Plan,
    *,
    folder: Path,
    work: Path,
    epoch: EpochRule = "held-out",
    progress: Progress | None = None,
) -> Iterator[Trial]:
    """Search a method's settings for one protocol; a generator of trials as they are finished.

    After the last, `folder/<key>.toml` holds the best changes and their provenance. A search that
    was stopped continues from its journal, as if it had not been. A method without a space has
    nothing to tune.

    Args:
        data: its training set is used.
        method: what to tune.
        protocol: which kind of masks.
        plan: the budget.
        folder: where settings are written.
        work: where the journal is kept.
        epoch: the rule by which an epoch is chosen, as in the grid.
        progress: told (what, done, total) within a trial.

    Raises:
        MissingExtraError: Optuna is not installed.
        ConfigError: a default lies outside the method's space.
    """
    if not method.space:
        return
    defaults = _defaults(method)
    starts = [defaults, *({**defaults, **each} for each in method.starts)]
    space = {  # the journal knows settings by their first names
        first_name(name): distribution(name, each, defaults[name])
        for name, each in method.space.items()
    }
    identity = _identity(data, method, protocol, plan, epoch)
    study = open_study(work / f"{method.key}-{protocol}-{identity[:12]}.journal")
    alike = shared_changes(plan.views, plan.precision)
    while True:
        done = [trial for trial in study.trials if trial.value is not None]
        if done:
            yield _trial(method, protocol, plan, done)
        if len(done) >= plan.trials:
            break
        if len(done) < len(starts):
            changes, trial = starts[len(done)], None
        else:
            trial = ask(study, space, plan.seed, len(done))
            changes = _changes(trial.params)
        seen = {**changes, **alike}
        value = _score(data, method, protocol, plan, seen, epoch, progress)
        tell(study, space, trial, {first_name(n): v for n, v in changes.items()}, value)
    card = _provenance(data, method, protocol, plan, done[: plan.trials])
    best = max(done[: plan.trials], key=lambda each: each.value or 0.0)
    write_settings(method, folder, protocol, {**_changes(best.params), **alike}, card)


def _score(
    data: BenchmarkData,
    method: Method,
    protocol: Protocol,
    plan: Plan,
    changes: Mapping[str, Any],
    epoch: EpochRule,
    progress: Progress | None,
) -> float:
    """Mean held-out mAP over folds and masks; 0 where training diverges."""
    settings = parse_method_settings(method, nested(changes), f"tuning of {method.key}")
    labels, found = data.train.matrix, []
    source = data.encoded_train.features(
        pooled=method.pooled, views=settings.training.encoded_views
    )
    rules = plan.rules(protocol)[:1] if method.full_labels else plan.rules(protocol)
    for fold in range(plan.folds):
        seed = plan.seed + fold
        kept, held = split(len(labels), plan.held_out_share, seed)
        own, truth = labels.subset(kept), labels.subset(held)
        for rule in rules:
            mask = own if method.full_labels else rule.apply(own, seed)
            chosen = for_cell(settings, seed=seed, choose_epoch=epoch)
            part = source.subset(kept.tolist())
            trainer = method.trainer(data.frozen, data.train.category_names, chosen, part, mask)
            try:
                for _ in train(trainer, progress=progress):
                    pass
            except TrainingError:
                return 0.0
            looked = joined(source, settings.training.scored_views)
            logits = predict(trainer.model, looked, held, device=data.frozen.device)
            aps = average_precisions(logits, truth.labels, truth.known)
            found.append(mean_defined(aps.where(scorable(truth, labels), math.nan)))
    if not any(math.isfinite(value) for value in found):
        raise DataError(
            "expected a category with known present and absent labels among the"
            f" {len(held)} held-out training images of {data.name} to score settings by, got none;"
            " say in the data what is absent, label more images, or leave --tune out"
        )
    return statistics.fmean(value for value in found if math.isfinite(value))


def split(
    count: int, held_out_share: float, seed: int
) -> tuple[Int[Tensor, " K"], Int[Tensor, " H"]]:
    """Positions to train on and to score on, both ascending; at least one each."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(count, generator=generator)
    held = min(max(1, round(held_out_share * count)), count - 1)
    return order[held:].sort().values, order[:held].sort().values


def _defaults(method: Method) -> dict[str, Any]:
    """The method's own value of every setting in its space."""
    found = {}
    for name in method.space:
        value: Any = method.settings()
        for part in name.split("."):
            value = getattr(value, part)
        found[name] = value
    return found


def _identity(
    data: BenchmarkData, method: Method, protocol: Protocol, plan: Plan, epoch: EpochRule
) -> str:
    """Hash of all that trials depend on; the number of trials may grow."""
    budget = {name: value for name, value in asdict(plan).items() if name != "trials"}
    encoder = {name: value for name, value in data.same.items() if name != "data"}
    parts = [CELL_FORMAT, data.fingerprint["train"], encoder, method.key, protocol]
    parts += [budget, epoch, {first_name(name): part for name, part in _space(method).items()}]
    start = for_cell(method.settings(), seed=0, choose_epoch="held-out")
    parts.append(first_names(start.model_dump()))
    parts += [{first_name(n): v for n, v in each.items()} for each in method.starts]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _changes(params: Mapping[str, Any]) -> dict[str, Any]:
    """What a trial changes, by the present names of settings."""
    return {current_name(name): value for name, value in params.items()}


def _space(method: Method) -> dict[str, Any]:
    return {name: asdict(part) for name, part in method.space.items()}


def _trial(
    method: Method, protocol: Protocol, plan: Plan, done: "Sequence[optuna.trial.FrozenTrial]"
) -> Trial:
    values = [each.value or 0.0 for each in done]
    last = _changes(done[-1].params)
    return Trial(method.key, protocol, len(done), plan.trials, values[-1], max(values), last)


def _provenance(
    data: BenchmarkData,
    method: Method,
    protocol: Protocol,
    plan: Plan,
    done: "Sequence[optuna.trial.FrozenTrial]",
) -> dict[str, Any]:
    """Where the settings come from; written beside them."""
    values = [each.value or 0.0 for each in done]
    return {
        "dataset": data.name,
        "encoder": short_name(data.frozen.identity.name),
        "known": ["all"] if method.full_labels else [r.name for r in plan.rules(protocol)],
        **{name: value for name, value in asdict(plan).items() if name != "shares"},
        "best_held_out_map": round(max(values), 6),
        "default_held_out_map": round(values[0], 6),
        "best_trial": 1 + values.index(max(values)),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "versions": versions(),
        "space": _space(method),
    }
