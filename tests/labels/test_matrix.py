import os
import tracemalloc
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from trmml.errors import CheckpointError, ConfigError, DataError
from trmml.labels.matrix import LabelMatrix


def random_matrix(count: int = 50, width: int = 7, seed: int = 0) -> LabelMatrix:
    generator = torch.Generator().manual_seed(seed)
    states = torch.randint(0, 3, (count, width), generator=generator)
    return LabelMatrix(states == 1, states < 2)


def test_counts_by_hand() -> None:
    labels = torch.tensor([[True, True, False], [True, False, True]])
    known = torch.tensor([[True, False, True], [True, True, True]])
    matrix = LabelMatrix(labels, known)
    assert matrix.labels.tolist() == [[True, False, False], [True, False, True]]
    assert matrix.known_share == 5 / 6
    assert matrix.positives.tolist() == [2, 0, 1]
    assert matrix.negatives.tolist() == [0, 1, 1]
    assert len(matrix) == 2


def test_rows_and_columns_by_hand() -> None:
    matrix = random_matrix()
    picked = matrix.subset([3, 1, 3]).columns(torch.tensor([6, 0]))
    assert torch.equal(picked.labels, matrix.labels[[3, 1, 3]][:, [6, 0]])
    assert torch.equal(picked.known, matrix.known[[3, 1, 3]][:, [6, 0]])
    assert matrix.subset([]).known.shape == (0, 7)
    assert matrix.columns([]).known.shape == (50, 0)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("count", [1, 50, 8192, 8193])
def test_hide_draws_what_the_field_draws(share: float, count: int) -> None:
    matrix = random_matrix(count)
    before = np.random.get_state()[1].tolist()  # type: ignore[index]
    hidden = matrix.hide(share, seed=3)
    assert np.random.get_state()[1].tolist() == before  # type: ignore[index]
    draws = np.random.RandomState(3).random_sample((count, 7))
    assert np.array_equal(hidden.known.numpy(), matrix.known.numpy() & (draws < share))
    assert torch.equal(hidden.labels, matrix.labels & hidden.known)


def test_hide_is_numpys_global_stream_with_seed_0() -> None:
    state = np.random.get_state()
    try:
        np.random.seed(0)
        draws = np.random.random((50, 7))
    finally:
        np.random.set_state(state)
    matrix = random_matrix()
    assert np.array_equal(matrix.hide(0.3).known.numpy(), matrix.known.numpy() & (draws < 0.3))


def test_hide_is_nested_over_shares() -> None:
    matrix = random_matrix(300)
    hidden = [matrix.hide(share / 10, seed=5) for share in range(1, 11)]
    for small, large in pairwise(hidden):
        assert not (small.known & ~large.known).any()
    assert torch.equal(hidden[-1].known, matrix.known)
    assert abs(hidden[2].known.sum() / matrix.known.sum() - 0.3) < 0.03


def test_keep_single_positive_keeps_one_present_category_uniformly() -> None:
    labels = torch.tensor([[True, False, True, True], [False] * 4]).repeat(3000, 1)
    single = LabelMatrix(labels, torch.ones_like(labels)).keep_single_positive(seed=1)
    assert single.known[::2].sum(1).tolist() == [1] * 3000
    assert not single.known[1::2].any()
    assert torch.equal(single.labels, single.known)
    assert not (single.labels & ~labels).any()
    assert ((single.positives[[0, 2, 3]] - 1000).abs() < 110).all()
    again = LabelMatrix(labels, torch.ones_like(labels)).keep_single_positive(seed=1)
    assert torch.equal(again.known, single.known)


def slow_hide(matrix: LabelMatrix, share: float, seed: int) -> list[list[bool]]:
    """The field's rule pair by pair, with numpy's global generator."""
    state = np.random.get_state()
    try:
        np.random.seed(seed)
        return [
            [np.random.random() < share and known for known in row] for row in matrix.known.tolist()
        ]
    finally:
        np.random.set_state(state)


def slow_single(matrix: LabelMatrix, seed: int) -> list[list[bool]]:
    """One draw per image, which counts off its present categories."""
    draw = np.random.RandomState(seed)
    kept = []
    for row in matrix.labels.tolist():
        value, present = draw.random_sample(), [c for c, here in enumerate(row) if here]
        chosen = present[int(value * len(present))] if present else None
        kept.append([c == chosen for c in range(len(row))])
    return kept


def slow_quota(matrix: LabelMatrix, positives: int, negatives: int, seed: int) -> list[list[bool]]:
    """Each category goes through its labels from the smallest number to the largest."""
    draw = np.random.RandomState(seed)
    numbers = [[draw.random_sample() for _ in row] for row in matrix.known.tolist()]
    kept = [[False] * len(row) for row in numbers]
    for c in range(matrix.known.shape[1]):
        left = {True: positives, False: negatives}
        for _, i in sorted((row[c], i) for i, row in enumerate(numbers)):
            answer = bool(matrix.labels[i, c])
            if matrix.known[i, c] and left[answer] > 0:
                left[answer] -= 1
                kept[i][c] = True
    return kept


SIZES = st.tuples(st.integers(1, 12), st.integers(1, 5))
SEEDS = st.integers(0, 2**32 - 1)


@given(SIZES, SEEDS, st.floats(0, 1, exclude_min=True))
def test_hide_equals_a_slow_loop(size: tuple[int, int], seed: int, share: float) -> None:
    matrix = random_matrix(*size, seed=seed)
    assert matrix.hide(share, seed).known.tolist() == slow_hide(matrix, share, seed)


@given(SIZES, SEEDS)
def test_keep_single_positive_equals_a_slow_loop(size: tuple[int, int], seed: int) -> None:
    matrix = random_matrix(*size, seed=seed)
    assert matrix.keep_single_positive(seed).known.tolist() == slow_single(matrix, seed)


@given(SIZES, SEEDS, st.integers(0, 4), st.integers(0, 14))
def test_keep_quota_equals_a_slow_loop(
    size: tuple[int, int], seed: int, positives: int, negatives: int
) -> None:
    matrix = random_matrix(*size, seed=seed)
    negatives += positives == 0 == negatives  # a quota of nothing is refused
    kept = matrix.keep_quota(positives, negatives, seed)
    assert kept.known.tolist() == slow_quota(matrix, positives, negatives, seed)
    assert torch.equal(kept.labels, matrix.labels & kept.known)


@pytest.mark.parametrize("size", [(1, 1), (7, 3), (5011, 20), (9000, 2)])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("seed", [0, 2**32 - 1])
def test_hide_is_one_line_of_numpy(size: tuple[int, int], share: float, seed: int) -> None:
    every = torch.ones(size, dtype=torch.bool)
    state = np.random.get_state()
    try:
        np.random.seed(seed)
        expected = np.random.random(size) < share
    finally:
        np.random.set_state(state)
    assert np.array_equal(LabelMatrix(every, every).hide(share, seed).known.numpy(), expected)


def test_a_quota_by_hand() -> None:
    labels = torch.tensor([[True, True], [True, False], [True, False], [False, False]])
    known = torch.tensor([[True, True], [True, True], [False, True], [True, False]])
    kept = LabelMatrix(labels, known).keep_quota(2, 1, seed=4)
    assert kept.positives.tolist() == [2, 1]  # all that there are
    assert kept.negatives.tolist() == [1, 1]  # one of two in the second category
    assert not (kept.known & ~known).any()


def test_quotas_are_exact_nested_and_without_a_preference() -> None:
    matrix = random_matrix(400, 5)
    before = np.random.get_state()[1].tolist()  # type: ignore[index]
    quotas = [matrix.keep_quota(n, 2 * n, seed=9) for n in (1, 3, 40, 60, 1000)]
    assert np.random.get_state()[1].tolist() == before  # type: ignore[index]
    for small, large in pairwise(quotas):
        assert not (small.known & ~large.known).any()
    assert quotas[2].positives.tolist() == [40] * 5 and quotas[2].negatives.tolist() == [80] * 5
    assert torch.equal(quotas[-1].known, matrix.known)
    assert torch.equal(quotas[1].labels, matrix.keep_quota(3, 0, seed=9).labels)
    every = torch.ones(3, 1000, dtype=torch.bool)
    drawn = LabelMatrix(every, every).keep_quota(1, 0, seed=2).known.sum(1)
    assert ((drawn - 333).abs() < 60).all()  # four deviations


@pytest.mark.parametrize("quota", [(0, 0), (-1, 3), (3, -1)])
def test_a_quota_of_nothing_is_refused(quota: tuple[int, int]) -> None:
    with pytest.raises(ConfigError, match=rf"not both 0, but {quota[0]} and {quota[1]} were"):
        random_matrix().keep_quota(*quota)


def test_labels_behind_unknown_pairs_do_not_matter() -> None:
    matrix = random_matrix()
    other = LabelMatrix(matrix.labels | ~matrix.known, matrix.known)
    assert torch.equal(other.labels, matrix.labels)
    assert other.checksum() == matrix.checksum()


def test_the_matrix_owns_its_memory() -> None:
    labels, known = torch.ones(2, 2, dtype=torch.bool), torch.ones(2, 2, dtype=torch.bool)
    matrix = LabelMatrix(labels, known)
    labels.zero_()
    known.zero_()
    assert matrix.labels.all() and matrix.known.all()


def test_one_answer_for_all_pairs_takes_a_byte_of_its_own() -> None:
    known = torch.tensor(True)
    matrix = LabelMatrix(torch.ones(3, 2, dtype=torch.bool), known.expand(3, 2))
    known.zero_()
    assert matrix.known.tolist() == [[True, True]] * 3
    assert matrix.known.untyped_storage().nbytes() == 1
    assert matrix.checksum() == LabelMatrix(*[torch.ones(3, 2, dtype=torch.bool)] * 2).checksum()


def test_counts_take_no_copy_of_eight_bytes_a_pair() -> None:
    matrix = LabelMatrix(*torch.ones(2, 3000, 1000, dtype=torch.bool))
    with torch.profiler.profile(profile_memory=True) as profile:
        counts = matrix.positives, matrix.negatives, matrix.known_share
    assert counts[0].tolist() == [3000] * 1000 and not counts[1].any() and counts[2] == 1
    most = max(abs(event.self_cpu_memory_usage) for event in profile.events())
    assert most <= 8 * 2**20  # torch sums a part of 2**20 pairs as numbers of 8 bytes


def test_a_single_positive_takes_no_copy_of_eight_bytes_a_pair() -> None:
    matrix = LabelMatrix(*torch.ones(2, 3000, 1000, dtype=torch.bool))
    with torch.profiler.profile(profile_memory=True) as profile:
        single = matrix.keep_single_positive(seed=1)
    assert (single.known.sum(1) == 1).all()
    most = max(abs(event.self_cpu_memory_usage) for event in profile.events())
    assert most <= 8 * 2**20  # as above


def test_quotas_hold_no_draw_of_every_pair() -> None:
    matrix = random_matrix(100_000, 20)
    tracemalloc.start()
    try:
        kept = matrix.keep_quota(100, 200, seed=3)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert kept.positives.tolist() == [100] * 20 and kept.negatives.tolist() == [200] * 20
    assert most < 100_000 * 20 * 8  # all draws; two parts of them and some bits are half of it
    draws = np.random.RandomState(3).random_sample((100_000, 20))
    rows = matrix.labels[:, 7].nonzero()[:, 0].numpy()
    assert kept.labels[:, 7].nonzero()[:, 0].tolist() == sorted(
        rows[np.argsort(draws[rows, 7], kind="stable")[:100]].tolist()
    )


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0), (1, 1)])
def test_degenerate_shapes_are_finite(shape: tuple[int, int], tmp_path: Path) -> None:
    empty = torch.zeros(shape, dtype=torch.bool)
    matrix = LabelMatrix(empty, empty)
    assert matrix.known_share == 0
    assert matrix.hide(0.5).known.shape == shape
    assert matrix.keep_single_positive().known.shape == shape
    assert matrix.keep_quota(1, 1).known.shape == shape
    matrix.save(tmp_path / "m")
    assert LabelMatrix.load(tmp_path / "m").known.shape == shape


@given(st.integers(0, 20), st.integers(0, 20), st.integers(0, 2**31))
def test_save_and_load_return_the_same(
    tmp_path_factory: pytest.TempPathFactory, count: int, width: int, seed: int
) -> None:
    matrix = random_matrix(count, width, seed)
    path = tmp_path_factory.mktemp("labels") / "labels.safetensors"
    matrix.save(path)
    loaded = LabelMatrix.load(path)
    assert torch.equal(loaded.labels, matrix.labels) and torch.equal(loaded.known, matrix.known)
    assert loaded.checksum() == matrix.checksum()
    assert os.listdir(path.parent) == [path.name]


def test_checksum_tells_shape_known_and_labels_apart() -> None:
    no, yes = torch.zeros(2, 3, dtype=torch.bool), torch.ones(2, 3, dtype=torch.bool)
    turned = LabelMatrix(no.T, no.T)
    sums = {LabelMatrix(no, no).checksum(), LabelMatrix(no, yes).checksum(), turned.checksum()}
    assert len(sums | {LabelMatrix(yes, yes).checksum()}) == 4
    assert all(len(value) == 64 for value in sums)


def construct(labels: object, known: object) -> None:
    """Construct as in use: in tests, the shape checker would come before our own check."""
    matrix = object.__new__(LabelMatrix)
    object.__setattr__(matrix, "labels", labels)
    object.__setattr__(matrix, "known", known)
    matrix.__post_init__()


def test_a_matrix_of_the_wrong_kind_is_refused() -> None:
    good = torch.zeros(2, 3, dtype=torch.bool)
    with pytest.raises(
        DataError, match=r"labels must be a bool tensor .* torch.float32 .*\(2, 3\)"
    ):
        construct(good.float(), good)
    with pytest.raises(DataError, match=r"known must be a bool tensor .* labels == 1"):
        construct(good, good[0])
    with pytest.raises(DataError, match=r"known must be .* not list"):
        construct(good, [[True]])
    with pytest.raises(DataError, match=r"one shape, but are \(2, 3\) and \(3, 2\)"):
        construct(good, good.T)


@pytest.mark.parametrize("share", [0.0, -0.1, 1.1, 10.0, float("nan")])
def test_a_share_out_of_range_is_refused(share: float) -> None:
    with pytest.raises(ConfigError, match=rf"at most 1, not {share}.*write 0.1"):
        random_matrix().hide(share)


def test_a_seed_out_of_range_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"seed must be .* not -1"):
        random_matrix().hide(0.5, seed=-1)


def test_indices_out_of_range_are_refused() -> None:
    with pytest.raises(DataError, match="image index 50 does not exist: there are 50"):
        random_matrix().subset([0, 50])
    with pytest.raises(DataError, match="category index -1 does not exist"):
        random_matrix().columns([-1])
    with pytest.raises(DataError, match=r"image indices must be .*nonzero"):
        random_matrix().subset([True, False])


def test_every_damage_of_a_saved_file_is_found(tmp_path: Path) -> None:
    path = tmp_path / "labels.safetensors"
    random_matrix().save(path)
    data = path.read_bytes()
    for position in range(0, len(data), 3):
        changed = bytearray(data)
        changed[position] ^= 0x10
        path.write_bytes(bytes(changed))
        with pytest.raises(CheckpointError, match=r"labels\.safetensors"):
            LabelMatrix.load(path)
    for length in (0, 1, 8, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(CheckpointError, match="Restore the file or write it again"):
            LabelMatrix.load(path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"cannot read the labels in .*nowhere"):
        LabelMatrix.load(tmp_path / "nowhere")
    save_file({"weight": np.zeros(3)}, tmp_path / "weights")
    with pytest.raises(CheckpointError, match=r"weights does not hold labels.*LabelMatrix\.save"):
        LabelMatrix.load(tmp_path / "weights")
    with pytest.raises(CheckpointError, match=r"cannot write the labels to .*a folder that exists"):
        random_matrix().save(tmp_path / "none" / "labels")
