"""A few damaged files for each reader, the same in every run; `make fuzz` tries many more."""

import time

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from tests.fuzz import all_targets
from tests.fuzz.target import Target

EXAMPLES = 25
LONGEST = 5.0  # seconds that a reader may compute for a small file, however busy the machine is


@pytest.mark.parametrize("target", all_targets(), ids=lambda target: target.name)
def test_the_valid_file_is_read(target: Target) -> None:
    assert target.attempt(target.valid)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "target",
    all_targets(),
    ids=lambda target: target.name,
)
@settings(
    max_examples=EXAMPLES,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(random=st.randoms(use_true_random=False))
def test_damaged_files_are_refused_in_words(target: Target, random) -> None:
    data = target.damage(target.valid, random)
    note(f"{target.name}: {data!r:.2000}")
    started = time.process_time()
    target.attempt(data)
    assert time.process_time() - started < LONGEST
