"""Commands are killed at some of the points where they change files; the next run finishes.

`make crash` tries every point of every command.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.commands import JOBS, Job, Server, faults_of_a_kill, prepared, whole_run

POINTS = {
    "convert": 5,
    "exchange": 3,
    "resume": 4,
}  # so many of each, spread over the whole command


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    started = Server()
    yield started
    started.stop()


@pytest.mark.parametrize(
    "job", [job for job in JOBS if job.name in POINTS], ids=lambda job: job.name
)
def test_a_killed_command_is_finished_by_the_next_run(
    job: Job, server: Server, tmp_path: Path
) -> None:
    start = prepared(job, tmp_path, server)
    points, expected = whole_run(job, start, server)
    step = max(1, len(points) // POINTS[job.name])
    for number in range(2, len(points) + 1, step):
        faults = faults_of_a_kill(job, start, server, number, expected)
        assert not faults, f"{job.name}, point {number}, {points[number - 1]}: {faults}"
