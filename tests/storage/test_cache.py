from pathlib import Path

import pytest

from trmml.storage import cache

GB = 10**9


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A system with 400 GB available, whose files a test adds to."""
    write(tmp_path / "proc/meminfo", f"MemTotal: 9 kB\nMemAvailable: {400 * GB // 1024} kB\n")
    monkeypatch.setattr(cache, "_ROOT", tmp_path)
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")


def group(folder: Path, limit: str, used: int, cached: int, version: int) -> None:
    """The files of a cgroup."""
    names = {1: ("limit_in_bytes", "usage_in_bytes"), 2: ("max", "current")}[version]
    stat = (
        f"inactive_file {cached}\n"
        if version == 2
        else f"inactive_file 7\ntotal_inactive_file {cached}\n"
    )
    for name, text in zip((*names, "stat"), (f"{limit}\n", f"{used}\n", stat), strict=True):
        write(folder / f"memory.{name}", text)


def test_without_cgroups_what_the_machine_has_available_is_free(system: Path) -> None:
    assert cache.free_memory() == 400 * GB // 1024 * 1024
    write(system / "proc/self/cgroup", "1:cpu,cpuacct:/job\n0::/job\n")
    assert cache.free_memory() == 400 * GB // 1024 * 1024
    (system / "proc/meminfo").unlink()
    assert cache.free_memory() > 0


def test_the_limit_of_a_job_holds_and_pages_of_files_count_as_free(system: Path) -> None:
    write(system / "proc/self/cgroup", "0::/slurm/job_7/step_0\n")
    top = system / "sys/fs/cgroup/slurm"
    group(top / "job_7/step_0", "max", 5 * GB, GB, version=2)  # no limit of its own
    group(top / "job_7", str(16 * GB), 6 * GB, 2 * GB, version=2)
    group(top, str(200 * GB), 90 * GB, 0, version=2)
    assert cache.free_memory() == 12 * GB
    group(top, str(200 * GB), 197 * GB, 0, version=2)  # other jobs fill what all of them share
    assert cache.free_memory() == 3 * GB
    group(top / "job_7", str(16 * GB), 17 * GB, 0, version=2)
    assert cache.free_memory() == 0


def test_version_1_and_a_container_that_sees_its_own_group_as_the_top(system: Path) -> None:
    write(system / "proc/self/cgroup", "5:cpuset:/\n4:hugetlb,memory:/docker/abc\n0::/\n")
    top = system / "sys/fs/cgroup/memory"
    group(top, str(8 * GB), 5 * GB, GB, version=1)
    assert cache.free_memory() == 4 * GB
    group(top, "9223372036854771712", 5 * GB, GB, version=1)  # how no limit is written
    assert cache.free_memory() == 400 * GB // 1024 * 1024
