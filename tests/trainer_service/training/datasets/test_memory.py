"""Free memory: the host's, or less where a container has a limit."""

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


@pytest.mark.parametrize(("limit", "free"), [("3145728\n", MIB), ("max\n", None), (None, None)])
def test_a_containers_limit_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, limit: str | None, free: int | None
) -> None:
    """3 MiB with 2 in use leave 1; a container without a limit leaves what the host has."""
    if limit is not None:
        (tmp_path / "memory.max").write_text(limit)
        (tmp_path / "memory.current").write_text("2097152\n")
    monkeypatch.setattr(memory, "_CONTAINER", tmp_path)

    measured = memory.free_bytes(CPU)

    assert measured == free if free is not None else measured > MIB


@pytest.mark.parametrize(("limit", "free"), [("3145728\n", MIB), (f"{2**63 - 4096}\n", None)])
def test_an_older_containers_limit_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, limit: str, free: int | None
) -> None:
    """Version 1 of control groups, where no limit is a very large one."""
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory/memory.limit_in_bytes").write_text(limit)
    (tmp_path / "memory/memory.usage_in_bytes").write_text("2097152\n")
    monkeypatch.setattr(memory, "_CONTAINER", tmp_path)

    measured = memory.free_bytes(CPU)

    assert measured == free if free is not None else measured > MIB
