"""The agent's contract has the names of the values that it carries."""

from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_service.controllers.registry import KINDS
from agent_service.domain.problem import MOST, Problem
from agent_service.v1 import agent_pb2 as pb
from agent_service.wire import convert

COUNTS = st.none() | st.integers(2, MOST)


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


@given(
    problem=st.none()
    | st.builds(
        Problem,
        **{f.name: COUNTS for f in fields(Problem) if f.name != "learning_rate"},
        learning_rate=st.none() | st.floats(min_value=5e-324, allow_infinity=False),
    )
)
def test_a_problem_is_the_same_behind_the_wire(problem: Problem | None) -> None:
    """What is unknown stays unknown: no field becomes 0, and no problem one of unknown fields."""
    message = pb.StartRunRequest(
        controller="c",
        run_id="r",
        problem=None if problem is None else convert.problem_to_message(problem),
    )

    there = pb.StartRunRequest.FromString(message.SerializeToString())
    assert convert.start_from_message(there).problem == problem
    known = {} if problem is None else problem.known()
    assert {field.name for field, _ in there.problem.ListFields()} == known.keys()


def test_the_contract_has_every_descriptor_of_a_problem() -> None:
    """In the same order."""
    assert [f.name for f in pb.Problem.DESCRIPTOR.fields] == [f.name for f in fields(Problem)]
