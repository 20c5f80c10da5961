"""Hyperparameters: the policy's range maps onto theirs and back, and bounds are never left."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_service.domain.hyperparameters import Hyperparameter, Scale

UNITS = st.floats(-1, 1)
ANY = st.floats(allow_nan=False)


@st.composite
def hyperparameters(draw: st.DrawFn, *, scale: Scale) -> Hyperparameter:
    # Ranges narrower than the twelve digits that are kept have no inside.
    if scale is Scale.LOG:
        low = draw(st.floats(1e-9, 1e6))
        high = low * draw(st.floats(1 + 1e-6, 1e9))
    else:
        low = draw(st.floats(-1e6, 1e6))
        high = low + max(abs(low), 1e-6) * draw(st.floats(1e-6, 1e6))
    return Hyperparameter(name="h", low=low, high=high, scale=scale)


EITHER = hyperparameters(scale=Scale.LINEAR) | hyperparameters(scale=Scale.LOG)


@given(EITHER, ANY)
def test_bounds_are_never_left(h: Hyperparameter, unit: float) -> None:
    """Whatever a policy samples, infinite or out of [-1, 1], the value is in [low, high]."""
    assert h.low <= h.value(unit) <= h.high


@given(EITHER)
def test_the_ends_of_the_range_are_its_bounds(h: Hyperparameter) -> None:
    """-1 is low and 1 is high, and all beyond is clipped to them."""
    relative = 1e-11  # the twelve digits that are kept, where a bound has more
    for unit, bound in ((-1.0, h.low), (-7.5, h.low), (1.0, h.high), (math.inf, h.high)):
        assert h.value(unit) == pytest.approx(bound, rel=relative, abs=0)


@given(hyperparameters(scale=Scale.LINEAR), UNITS)
def test_a_linear_scale_is_affine(h: Hyperparameter, unit: float) -> None:
    """value(u) = low + (u + 1) / 2 (high - low)."""
    expected = h.low + (unit + 1) / 2 * (h.high - h.low)

    assert h.value(unit) == pytest.approx(expected, rel=1e-9, abs=1e-9 * (h.high - h.low))


@given(hyperparameters(scale=Scale.LOG), UNITS)
def test_a_log_scale_has_equal_ratios(h: Hyperparameter, unit: float) -> None:
    """value(u) = low (high / low)^((u + 1) / 2)."""
    expected = h.low * (h.high / h.low) ** ((unit + 1) / 2)

    assert h.value(unit) == pytest.approx(expected, rel=1e-9)


@given(EITHER, UNITS)
def test_unit_is_the_inverse_of_value(h: Hyperparameter, unit: float) -> None:
    """A value taken back to [-1, 1] gives the same value again."""
    value = h.value(unit)

    assert h.value(h.unit(value)) == pytest.approx(value, rel=1e-9, abs=1e-9 * (h.high - h.low))


@pytest.mark.parametrize("value", [0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9])
def test_a_short_number_comes_back_as_it_went(value: float) -> None:
    """A constant of 0.3 is 0.3 in every action, and not 0.30000000000000004."""
    h = Hyperparameter(name="h", low=0.0, high=0.9)

    assert h.value(h.unit(value)) == value
