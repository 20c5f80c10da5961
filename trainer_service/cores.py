"""CPU cores that this process may use; knows no torch, which reads its settings when imported."""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")


def usable_cores(cgroups: Path = _CGROUPS) -> int:
    """Return how many cores this process may use: by affinity, and by its container's quota.

    Args:
        cgroups: where control groups are mounted.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    quota = _quota(cgroups)
    return max(1, min(cores or 1, int(quota) if quota is not None else cores or 1))


def _quota(cgroups: Path) -> float | None:
    """Return the cores' time that version 2 or 1 of control groups grants; None for no bound."""
    try:
        granted, period = (cgroups / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            granted = (cgroups / "cpu" / "cpu.cfs_quota_us").read_text().strip()
            period = (cgroups / "cpu" / "cpu.cfs_period_us").read_text()
        except OSError:
            return None
    return None if granted in ("max", "-1") else int(granted) / int(period)


def set_threads(environment: MutableMapping[str, str], *, threads: int, parallel: int) -> int:
    """Set OpenMP up for runs that share cores; return the threads of each.

    What the environment says already stays. To be called before torch is imported.

    Args:
        environment: of this process, which its runs inherit.
        threads: of each process; 0 is its share of the usable cores.
        parallel: processes at once.
    """
    threads = threads or max(1, usable_cores() // parallel)
    environment.setdefault("OMP_NUM_THREADS", str(threads))
    # Threads that wait otherwise spin: where pools share cores, on the cores that others need.
    environment.setdefault("OMP_WAIT_POLICY", "passive")
    return threads
