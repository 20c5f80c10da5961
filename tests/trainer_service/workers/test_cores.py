"""Threads by usable cores."""

import joblib

from trainer_service.workers.cores import set_threads


def test_runs_share_the_cores_and_wait_without_spinning() -> None:
    """By default; options and environment variables take precedence."""
    default: dict[str, str] = {}
    own = {"OMP_NUM_THREADS": "5", "OMP_WAIT_POLICY": "active"}
    cores = joblib.cpu_count()

    assert set_threads(default, threads=0, parallel=1) == cores
    assert set_threads({}, threads=0, parallel=10_000) == 1
    assert set_threads(own, threads=3, parallel=2) == 3
    assert default == {"OMP_NUM_THREADS": str(cores), "OMP_WAIT_POLICY": "passive"}
    assert own == {"OMP_NUM_THREADS": "5", "OMP_WAIT_POLICY": "active"}
