"""Rewards: the paper's gap (Eq. 11) and the others that a controller may name."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_service.domain.errors import InvalidArgument
from agent_service.domain.rewards import (
    REWARDS,
    GivenReward,
    Reward,
    Scores,
    compute_reward,
    course_of_rewards,
)

SCORES = st.builds(Scores, training=st.floats(0, 1), validation=st.floats(0, 1))


@given(SCORES, st.none() | SCORES)
def test_gap_and_validation_depend_on_their_chunk_alone(now: Scores, before: Scores | None) -> None:
    """R_t = MVF_{t+1} - MTF_{t+1} (Eq. 11), and MVF_{t+1}, whatever came before."""
    assert compute_reward(Reward.GAP, now, before) == now.validation - now.training
    assert compute_reward(Reward.VALIDATION, now, before) == now.validation


@given(st.lists(SCORES, min_size=1, max_size=20))
def test_improvements_sum_to_the_last_validation_score(chunks: list[Scores]) -> None:
    """R_t = MVF_{t+1} - MVF_t with MVF_0 = 0: over a run they add up to where it ended."""
    before = [None, *chunks[:-1]]

    total = math.fsum(
        compute_reward(Reward.IMPROVEMENT, now, previous)
        for now, previous in zip(chunks, before, strict=True)
    )

    assert total == pytest.approx(chunks[-1].validation, abs=1e-12)


@pytest.mark.parametrize("reward", [name for name in REWARDS if not REWARDS[name].is_given])
@given(chunks=st.lists(SCORES, max_size=20))
def test_a_runs_rewards_are_those_of_its_chunks(reward: str, chunks: list[Scores]) -> None:
    """As each was computed when it was reported, and none below the worst."""
    earned = course_of_rewards(
        reward,
        training=[scores.training for scores in chunks],
        validation=[scores.validation for scores in chunks],
    )

    assert earned == [
        compute_reward(reward, now, before)
        for now, before in zip(chunks, [None, *chunks], strict=False)
    ]
    worst = REWARDS[reward].worst
    assert worst is not None
    assert all(one >= worst for one in earned)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_given_reward_is_taken_as_it_is(value: float) -> None:
    """To the bit, whatever its size."""
    assert compute_reward(Reward.GIVEN, GivenReward(value), None) == value


@pytest.mark.parametrize("reward", REWARDS)
def test_feedback_of_the_wrong_kind_is_refused(reward: str) -> None:
    """The error names the field that was sent and the one to send instead."""
    scores, ready = Scores(training=0.5, validation=0.5), GivenReward(0.1)
    wrong, field, other = (
        (scores, "scores", "`reward`")
        if REWARDS[reward].is_given
        else (ready, "reward", "`scores`")
    )

    with pytest.raises(InvalidArgument, match=other) as raised:
        compute_reward(reward, wrong, None)

    assert [v.field for v in raised.value.violations] == [field]


@given(st.floats().filter(lambda x: not 0 <= x <= 1))
def test_scores_outside_their_range_are_refused(score: float) -> None:
    """NaN and the infinities too."""
    with pytest.raises(InvalidArgument, match=r"scores\.training"):
        Scores(training=score, validation=0.5)
    with pytest.raises(InvalidArgument, match=r"scores\.validation"):
        Scores(training=0.5, validation=score)
