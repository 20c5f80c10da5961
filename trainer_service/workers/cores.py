"""Divides CPU cores among processes; imports no torch, which reads its settings at import."""

from __future__ import annotations

from collections.abc import MutableMapping


def set_threads(environment: MutableMapping[str, str], *, threads: int, parallel: int) -> int:
    """Configure OpenMP for processes that share cores; return the threads of each.

    Variables that are set already stay. Call it before torch is imported.

    Args:
        environment: of this process, inherited by run processes.
        threads: per process; 0 is usable cores / `parallel`, by affinity and container quota.
        parallel: number of processes.
    """
    threads = threads or _share(parallel)
    environment.setdefault("OMP_NUM_THREADS", str(threads))
    # By default waiting threads spin, on cores that other processes need.
    environment.setdefault("OMP_WAIT_POLICY", "passive")
    return threads


def _share(parallel: int) -> int:
    import joblib  # slow to import, and not needed if `threads` is set

    cores: int = joblib.cpu_count()
    return max(1, cores // parallel)
