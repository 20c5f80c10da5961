"""Shares CPU cores among processes; knows no torch, which reads its settings when imported."""

from __future__ import annotations

from collections.abc import MutableMapping


def set_threads(environment: MutableMapping[str, str], *, threads: int, parallel: int) -> int:
    """Set OpenMP up for runs that share cores; return the threads of each.

    What the environment says already stays. To be called before torch is imported.

    Args:
        environment: of this process, which its runs inherit.
        threads: of each process; 0 is its share of the cores that this one may use, by affinity
            and by its container's quota.
        parallel: processes at once.
    """
    threads = threads or _share(parallel)
    environment.setdefault("OMP_NUM_THREADS", str(threads))
    # Threads that wait otherwise spin: where pools share cores, on the cores that others need.
    environment.setdefault("OMP_WAIT_POLICY", "passive")
    return threads


def _share(parallel: int) -> int:
    import joblib  # slow to import, for those alone who leave the choice to us

    cores: int = joblib.cpu_count()
    return max(1, cores // parallel)
