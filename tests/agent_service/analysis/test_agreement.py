"""How two courses of decisions agree."""

import pytest

from agent_service.analysis.agreement import compare_values
from agent_service.domain.hyperparameters import Hyperparameter, Scale
from tests.agent_service.specs import DROPOUT

DECAY = Hyperparameter(name="decay", low=1e-6, high=1e-1, scale=Scale.LOG)


def test_differences_are_in_the_hyperparameters_own_unit() -> None:
    """Their mean, Pearson's correlation, and how many lie within 5% of the range, by hand."""
    found = compare_values(DROPOUT, [0.1, 0.2, 0.3, 0.9], [0.145, 0.2, 0.4, 0.5])

    assert found.decisions == 4
    assert found.mean_difference == pytest.approx((0.045 + 0 + 0.1 + 0.4) / 4)
    assert found.correlation == pytest.approx(0.8762, abs=1e-4)
    assert found.close == 0.5  # 0.045 is just 5% of 0.9


def test_a_log_scale_is_close_by_ratio() -> None:
    """5% of five decades is a quarter of one: 1.7 times as much is close, twice is not."""
    found = compare_values(DECAY, [1e-5, 1e-5, 1e-2, 1e-2], [1.7e-5, 2e-5, 1.7e-2, 2e-2])

    assert found.close == 0.5


def test_a_constant_correlates_with_nothing() -> None:
    """There is none, instead of a NaN."""
    assert compare_values(DROPOUT, [0.1, 0.1], [0.1, 0.2]).correlation is None


def test_courses_pair_up() -> None:
    """None at all, or unequally many, is the caller's mistake."""
    for ours, theirs in (([], []), ([0.1], [0.1, 0.2])):
        with pytest.raises(ValueError, match="give equally many"):
            compare_values(DROPOUT, ours, theirs)
