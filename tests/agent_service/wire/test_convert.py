"""Messages of the agent's contract and the values that they stand for."""

from dataclasses import fields
from enum import StrEnum

import pytest

from agent_service.controllers.registry import KINDS
from agent_service.v1 import agent_pb2 as pb
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


def test_the_contract_has_every_algorithm() -> None:
    """And no other."""
    algorithms = pb.ControllerSpec.DESCRIPTOR.oneofs_by_name["algorithm"].fields

    assert [field.name for field in algorithms] == list(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_message_has_the_fields_of_its_settings(kind: str) -> None:
    """They go there and back by name."""
    message = type(getattr(pb.ControllerSpec(), kind)).DESCRIPTOR

    told = {field.name for field in message.fields}
    assert told == {field.name for field in fields(KINDS[kind])} - {"kind"}  # type: ignore[arg-type]
