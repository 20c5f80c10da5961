"""How much memory is free, and whether images fit in it."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

import psutil
import torch

SHARE = 0.5
"""Largest share of free memory for images: the child, and other runs, need the rest."""
_CONTAINER = Path("/sys/fs/cgroup")
"""Folder of a container's own limits on Linux."""
_LIMIT_AND_USE = (
    ("memory.max", "memory.current"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
)
"""By version 2 of control groups, and by version 1."""


class Memory(StrEnum):
    """Storage of images while a child trains; no result depends on it."""

    AUTO = "auto"
    """Resident if they fit in half of what is free, else streamed."""
    RESIDENT = "resident"
    """All of them on the device."""
    STREAMED = "streamed"
    """Read batch by batch, ahead of the training."""


def free_bytes(device: torch.device) -> int:
    """Return the memory that is free now: the device's, or for a CPU the host's."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = int(psutil.virtual_memory().available)
    for names in _LIMIT_AND_USE:
        try:
            limit, used = (int((_CONTAINER / name).read_text()) for name in names)
        except (OSError, ValueError):  # no container, or one without a limit, which reads `max`
            continue
        free = min(free, limit - used)
    return free


def fits(size: int, device: torch.device) -> bool:
    """Return whether `size` bytes of images may be held on a device."""
    return size <= SHARE * free_bytes(device)
