"""What runs come to along the way: rewards of chunks, and scores against children trained."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from agent_service.domain.rewards import Reward, course_of_rewards
from trainer_service.study.entries import Learned
from trainer_service.study.results.results import Result
from trainer_service.study.results.rows import Row

RECENT = 8
"""Children that a running mean is of."""


def reward_of(row: Row) -> Reward:
    """Return the reward of a method's chunks: its own, the paper's for those that learn not."""
    return row.entry.reward if isinstance(row.entry, Learned) else Reward.GAP


def rewards(row: Row, result: Result) -> list[float]:
    """Return what each chunk of a run earned."""
    trace = result.trace
    return course_of_rewards(
        reward_of(row), training=trace.training_score, validation=trace.validation_score
    )


def running_mean(values: Sequence[float]) -> list[float]:
    """Return the mean of each value and those before it, RECENT at the most."""
    return [float(np.mean(values[max(0, i - RECENT + 1) : i + 1])) for i in range(len(values))]


def spent(row: Row) -> list[float]:
    """Return what a method has to show after each child of its budget, as a test score.

    A search: the test score of the child with the best validation score so far. A controller: the
    running mean of the test scores of its children, which it steered while it explored.
    """
    tests = [result.finished.scores.test_score_best for result in row.tuning]
    if isinstance(row.entry, Learned):
        return running_mean(tests)
    valid = [result.finished.scores.validation_score_best for result in row.tuning]
    return [tests[int(np.argmax(valid[: i + 1]))] for i in range(len(tests))]
