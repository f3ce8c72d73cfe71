"""Sessions are kept one by one, read again, and summed up over seeds."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from trmml.benchmark import simulation
from trmml.benchmark.simulation import Finished, read_finished, run_sessions, session_table
from trmml.benchmark.simulation_plot import plot_curves
from trmml.curation.learning_curve import Point
from trmml.curation.simulate import Session, SimulatedData
from trmml.errors import CheckpointError
from trmml.labels.matrix import LabelMatrix

SAME = {"data": "a"}
SESSIONS = [Session("random", budget=60.0, rounds=2, start_known=0.2, seed=seed) for seed in (0, 1)]


def make_data() -> SimulatedData:
    draw = torch.Generator().manual_seed(0)
    inputs = torch.randn(80, 6, generator=draw)
    truth = inputs[:, :3] > 0.5
    known = torch.ones_like(truth)
    return SimulatedData(
        inputs=inputs[:40],
        features=F.normalize(inputs[:40], dim=1),
        truth=LabelMatrix(truth[:40], known[:40]),
        test_inputs=inputs[40:],
        test=LabelMatrix(truth[40:], known[40:]),
    )


def made(session: Session, area: float, points: list[Point]) -> Finished:
    return Finished(session, points, area, [area - 0.1, area, area + 0.1], 0.5, {}, None)


def test_what_is_finished_is_read_and_not_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = list(run_sessions(make_data(), SESSIONS[:1], tmp_path, SAME))
    both = list(run_sessions(make_data(), SESSIONS, tmp_path, SAME))
    assert both[0] == first[0]
    assert len(list(tmp_path.iterdir())) == 2
    assert len(first[0].drawn) == simulation.DRAWS
    low, high = min(first[0].drawn), max(first[0].drawn)
    assert low < first[0].area < high
    monkeypatch.setattr(simulation, "simulate", None)  # nothing may be simulated any more
    assert list(run_sessions(make_data(), SESSIONS, tmp_path, SAME)) == both


def test_other_data_and_other_settings_have_other_files(tmp_path: Path) -> None:
    session = SESSIONS[0]
    for each, same in (
        (session, SAME),
        (session, {"data": "b"}),
        (replace(session, flip=0.1), SAME),
    ):
        list(run_sessions(make_data(), [each], tmp_path, same))
    assert len(list(tmp_path.iterdir())) == 3


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    list(run_sessions(make_data(), SESSIONS[:1], tmp_path, SAME))
    path = next(tmp_path.iterdir())
    tree = json.loads(path.read_text())
    path.write_text(json.dumps({**tree, "area": "much"}))
    with pytest.raises(CheckpointError, match=r"random-blocks.*area.*remove it and run again"):
        read_finished(path)


def test_table_by_hand() -> None:
    points = [Point(0.1), Point(0.5, answers=40, present=8)]
    table = session_table(
        [made(SESSIONS[0], 0.2, points), made(SESSIONS[1], 0.4, points)], "squares"
    )
    assert [row.label for row in table.rows] == ["random, blocks"]
    area, end, needed, present = table.rows[0].values
    assert area is not None and end is not None and needed is not None and present is not None
    assert (round(area.mean, 6), round(area.deviation or 0, 3)) == (30.0, 14.142)
    assert area.interval == pytest.approx((20.5, 39.5))
    assert (end.mean, present.mean) == (50.0, 8.0)
    assert needed.mean == pytest.approx(40 * 0.35 / 0.4)  # 90 % of 0.5
    short = session_table([made(SESSIONS[0], 0.2, points[:1])], "squares")
    assert short.rows[0].values[2] is None


def test_a_curve_for_each_policy_and_way_of_asking() -> None:
    points = [Point(0.1), Point(0.5, answers=40)]
    other = replace(SESSIONS[0], policy="trmml", asking="images")
    figure = plot_curves([made(s, 0.2, points) for s in (*SESSIONS, other)], "squares")
    names = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert names == ["random, blocks", "trmml, images", "every label known"]
    assert figure.axes[0].lines[0].get_ydata()[0] == 10.0
