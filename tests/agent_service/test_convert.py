"""Messages of the agent's contract and the values that they stand for."""

from collections.abc import Mapping

import pytest

from agent_service.wire import convert


@pytest.mark.parametrize(
    "name",
    ["SCALES", "REWARDS", "MODES", "OUTCOMES", "STATES", "USES", "FROZEN_STARTS", "SHAPES"],
)
def test_an_enums_values_have_their_own_numbers(name: str) -> None:
    """Though values of different enums may be equal as strings, and share one table."""
    values: Mapping[int, object] = getattr(convert, name)

    assert [convert._NUMBERS[value] for value in values.values()] == list(values)
