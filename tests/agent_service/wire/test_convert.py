"""The agent's contract has the names of the values that it carries."""

from dataclasses import fields

import pytest

from agent_service.controllers.registry import KINDS
from agent_service.v1 import agent_pb2 as pb


def test_the_contract_has_every_algorithm() -> None:
    """In the registry's order, and no other."""
    algorithms = pb.ControllerSpec.DESCRIPTOR.oneofs_by_name["algorithm"].fields

    assert [field.name for field in algorithms] == list(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_message_has_the_fields_of_its_settings(kind: str) -> None:
    """By their names they are converted."""
    message = type(getattr(pb.ControllerSpec(), kind)).DESCRIPTOR

    told = {field.name for field in message.fields}
    assert told == {field.name for field in fields(KINDS[kind])} - {"kind"}  # type: ignore[arg-type]
