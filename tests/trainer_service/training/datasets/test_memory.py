"""Free memory: the host's, or less where a container has a limit."""

from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest
import torch

from trainer_service.training.datasets import memory

CPU = torch.device("cpu")
MIB = 2**20


def test_free_memory_is_no_more_than_there_is() -> None:
    """And images may take half of it."""
    assert 0 < memory.free_bytes(CPU) <= psutil.virtual_memory().total
    assert memory.fits(1000, CPU)
    assert not memory.fits(psutil.virtual_memory().total, CPU)


NEW = ("memory.max", "memory.current")
OLD = ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes")


@pytest.mark.parametrize(
    ("names", "limit", "free"),
    [
        (NEW, "3145728\n", MIB),
        (NEW, "max\n", None),
        (OLD, "3145728\n", MIB),
        (OLD, f"{2**63 - 4096}\n", None),
        ((), "", None),
    ],
)
def test_a_containers_limit_counts(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    names: Sequence[str],
    limit: str,
    free: int | None,
) -> None:
    """3 MiB with 2 in use leave 1, in either version of control groups; else the host's count."""
    (tmp_path / "memory").mkdir()
    for name, text in zip(names, (limit, "2097152\n"), strict=False):
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(memory, "_CONTAINER", tmp_path)

    measured = memory.free_bytes(CPU)

    assert measured == free if free is not None else measured > MIB
