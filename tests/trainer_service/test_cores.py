"""Threads by the cores that there are."""

import os
from pathlib import Path

import pytest

from trainer_service.cores import set_threads, usable_cores

ALL = len(os.sched_getaffinity(0))


def test_cores_are_those_that_the_process_may_use(tmp_path: Path) -> None:
    """Affinity counts, not the machine."""
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert usable_cores(tmp_path) == 1
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("max 100000", ALL), ("100000 100000", 1), ("50000 100000", 1), ("9900000 100000", ALL)],
)
def test_a_containers_quota_bounds_them(tmp_path: Path, quota: str, cores: int) -> None:
    """Version 2 of control groups; less than one core is one."""
    (tmp_path / "cpu.max").write_text(f"{quota}\n")

    assert usable_cores(tmp_path) == cores


@pytest.mark.parametrize(("quota", "cores"), [("-1", ALL), ("100000", 1)])
def test_an_older_containers_quota_bounds_them(tmp_path: Path, quota: str, cores: int) -> None:
    """Version 1 of control groups."""
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(f"{quota}\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")

    assert usable_cores(tmp_path) == cores


def test_runs_share_the_cores_and_wait_without_spinning() -> None:
    """By default; what is asked for, or stands in the environment, counts more."""
    default: dict[str, str] = {}
    own = {"OMP_NUM_THREADS": "5", "OMP_WAIT_POLICY": "active"}

    assert set_threads(default, threads=0, parallel=1) == usable_cores()
    assert set_threads(default | {}, threads=0, parallel=10_000) == 1
    assert set_threads(own, threads=3, parallel=2) == 3
    assert default == {"OMP_NUM_THREADS": str(usable_cores()), "OMP_WAIT_POLICY": "passive"}
    assert own == {"OMP_NUM_THREADS": "5", "OMP_WAIT_POLICY": "active"}
