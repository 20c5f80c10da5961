"""Messages of the agent's contract and the values that they stand for."""

from enum import StrEnum

from agent_service.wire.convert import Numbers


class Colour(StrEnum):
    ORANGE = "orange"


class Fruit(StrEnum):
    ORANGE = "orange"


def test_members_of_different_enums_have_their_own_numbers() -> None:
    """Though they are equal, as the linear scale and the linear schedule are."""
    numbers = Numbers({1: Colour.ORANGE}, {2: Fruit.ORANGE})

    assert Colour.ORANGE == Fruit.ORANGE  # type: ignore[comparison-overlap]
    assert (numbers[Colour.ORANGE], numbers[Fruit.ORANGE]) == (1, 2)
