"""Few kills of the kind that `make test-kills` makes many of."""

from pathlib import Path

from tests.end_to_end.kills import kill_under_load, train_in_order


def test_nothing_acknowledged_is_lost_to_kills(tmp_path: Path) -> None:
    """Each answer is given again, stands in the log once, and is learned from once at the most."""
    figures = kill_under_load(
        tmp_path / "agent.db", kills=4, callers=6, seed=3, progress=lambda _text: None
    )

    assert figures["server_kills"] + figures["learner_kills"] == 4
    assert figures["policy_versions"] > 1


def test_a_policy_trained_through_kills_equals_one_trained_without(tmp_path: Path) -> None:
    """To the bit, every version and the whole log, where reports arrive in the same order."""
    through = train_in_order(tmp_path / "killed.db", runs=2, kills=2, seed=4)

    assert through == train_in_order(tmp_path / "quiet.db", runs=2, kills=0, seed=4)
