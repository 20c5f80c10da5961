"""Little of the traffic that `make test-traffic` sends much of."""

from pathlib import Path

from tests.end_to_end.traffic_run import GROWTH, attack_agent


def test_malformed_traffic_harms_nobody(tmp_path: Path) -> None:
    """No fault of ours, no changed state, no memory kept, and another client served meanwhile."""
    told: list[str] = []

    figures = attack_agent(
        tmp_path, count=300, times=1, idle=200, seconds=1, seed=5, tell=told.append
    )

    assert figures.codes.total() == 300
    assert {"OK", "INVALID_ARGUMENT", "NOT_FOUND"} <= figures.codes.keys()
    assert len(told) == len(figures.ratios) == 5
    before, after = figures.memory
    assert after < before + GROWTH
