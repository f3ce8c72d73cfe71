"""Sessions of the simulated annotator on a data set, each kept as it ends, and their table."""

import hashlib
import json
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from trmml.benchmark.bootstrap import draws, resampled_map
from trmml.benchmark.data import BenchmarkData, EncodedSplit
from trmml.benchmark.records import ranks_of
from trmml.benchmark.table_text import Table, TableRow, TableValue
from trmml.curation.cross_fit import directions_of
from trmml.curation.learning_curve import Point, area, needed
from trmml.curation.simulate import Session, SimulatedData, full_score, simulate
from trmml.errors import CheckpointError
from trmml.features.base import Features
from trmml.storage.atomic import write_json
from trmml.storage.json_text import of_kind, parse_object
from trmml.storage.provenance import commit, versions

# Of the test images, for intervals.
DRAWS = 200
# The share of the mAP with every label known that "needed" counts to.
GOAL = 0.9


@dataclass(frozen=True)
class Finished:
    """A session that ended.

    Attributes:
        session: what was simulated.
        points: where it stood after each round.
        area: mean mAP over the budget, in [0, 1].
        drawn: the same in each of `DRAWS` draws of the test images.
        full: mAP of the head with every label known.
        versions: of packages.
        commit: of the checkout.
    """

    session: Session
    points: list[Point]
    area: float
    drawn: list[float]
    full: float
    versions: dict[str, str]
    commit: str | None

    @property
    def needed(self) -> float | None:
        """Answers or seconds until `GOAL` of the full mAP; None if the budget did not reach it."""
        return needed(self.points, self.session.unit, GOAL * self.full)


def simulated_data(data: BenchmarkData) -> SimulatedData:
    """What sessions need of an encoded data set; directions are learned from training images."""
    train, test = (
        _pooled(split, len(images))
        for split, images in ((data.encoded_train, data.train), (data.encoded_test, data.test))
    )
    means = train.hidden_patches[:, 0]
    return SimulatedData(
        inputs=directions_of(means),
        features=train.image_feature,
        truth=data.train.matrix,
        test_inputs=directions_of(test.hidden_patches[:, 0], learned_from=means),
        test=data.test.matrix,
    )


def run_sessions(
    data: SimulatedData, sessions: Sequence[Session], folder: Path, same: dict[str, Any]
) -> Iterator[Finished]:
    """Yield every session as it ends; those that the folder holds are read.

    Args:
        data: from `simulated_data`.
        sessions: what to simulate.
        folder: a file of JSON for each session.
        same: what their figures depend on besides; see `BenchmarkData.same`.

    Raises:
        CheckpointError: a file is damaged.
    """
    full: float | None = None
    for session in sessions:
        path = folder / f"{_name(session, same)}.json"
        if not path.exists():
            full = full_score(data) if full is None else full
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, {**asdict(_run(data, session, full)), "same": same})
        yield read_finished(path)


def read_finished(path: Path) -> Finished:
    """A session that `run_sessions` kept.

    Raises:
        CheckpointError: the file is damaged.
    """
    try:
        found: Finished = of_kind(Finished, parse_object(path.read_bytes()))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); remove it and run again") from None
    return found


def session_table(finished: Sequence[Finished], title: str) -> Table:
    """Area, last mAP and what was needed of each policy, over seeds; intervals by drawing images.

    Args:
        finished: sessions of one unit, budget and kind of start.
        title: of the table.
    """
    groups: dict[str, list[Finished]] = {}
    for each in finished:
        groups.setdefault(f"{each.session.policy}, {each.session.asking}", []).append(each)
    unit = finished[0].session.unit
    return Table(
        name="simulate",
        title=title,
        note=f"test mAP in percent, mean and deviation over seeds; area: over the {unit}, with the"
        f" interval by drawing test images; needed: {unit} until {100 * GOAL:g} % of the mAP of all"
        " labels",
        columns=("area", "end", f"{unit} needed", "present found"),
        rows=tuple(TableRow(name, _values(group)) for name, group in groups.items()),
        mark_best=False,
    )


def _values(group: Sequence[Finished]) -> tuple[TableValue | None, ...]:
    drawn = torch.tensor([each.drawn for each in group], dtype=torch.float64).mean(dim=0)
    mean = statistics.fmean(each.area for each in group)
    edges = torch.quantile(drawn - drawn.mean() + mean, drawn.new_tensor([0.025, 0.975]))
    low, high = (100 * edges).tolist()
    reached = [each.needed for each in group]
    return (
        replace(_value([100 * each.area for each in group]), interval=(low, high)),
        _value([100 * each.points[-1].mean_ap for each in group]),
        None if None in reached else _value([each for each in reached if each is not None]),
        _value([float(each.points[-1].present) for each in group]),
    )


def _value(found: Sequence[float]) -> TableValue:
    spread = statistics.stdev(found) if len(found) > 1 else None
    return TableValue(statistics.fmean(found), spread)


def _run(data: SimulatedData, session: Session, full: float) -> Finished:
    counts = draws(len(data.test), DRAWS)
    points, drawn = [], []
    for point, logits in simulate(data, session):
        points.append(point)
        drawn.append(resampled_map(ranks_of(logits.numpy()), data.test, counts).tolist())
    areas = [
        area(
            [replace(p, mean_ap=score) for p, score in zip(points, scores, strict=True)],
            session.unit,
            session.budget,
        )
        for scores in zip(*drawn, strict=True)
    ]
    return Finished(
        session=session,
        points=points,
        area=area(points, session.unit, session.budget),
        drawn=[round(each, 5) for each in areas],
        full=full,
        versions=versions(),
        commit=commit(),
    )


def _name(session: Session, same: dict[str, Any]) -> str:
    tree = json.dumps([asdict(session), same], sort_keys=True)
    digest = hashlib.sha256(tree.encode()).hexdigest()[:8]
    return f"{session.policy}-{session.asking}-{session.start}-seed{session.seed}-{digest}"


def _pooled(split: EncodedSplit, images: int) -> Features:
    return split.features(pooled=True).batch(torch.arange(images))
