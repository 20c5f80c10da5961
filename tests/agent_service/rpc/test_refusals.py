"""Errors of any request change nothing; long names are refused in short messages."""

import sqlite3
from contextlib import closing, suppress
from typing import Any

import pytest
from google.protobuf.message import Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent_service.client import AgentClient
from agent_service.domain.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
)
from agent_service.v1 import agent_pb2 as pb
from tests.agent_service.calls import Call, report_of
from tests.agent_service.specs import spec
from tests.given import ServedAgent, of_sqlite

NAMES = st.sampled_from(["", "c", "live", "new", "nobody", "../x", 'a"b', "$", "é", "x" * 200])
NUMBERS = st.sampled_from([-(2**31), -1, 0, 1, 2, 3, 1001, 2**31 - 1])
FLOATS = st.sampled_from([0.5, 0.0, -1.0, 1.5, 1e308, float("nan"), float("inf")])
LABELS = st.dictionaries(NAMES, NAMES, max_size=2)
REQUESTS: st.SearchStrategy[Message] = st.one_of(
    st.builds(
        lambda **fields: pb.CreateControllerRequest(spec=pb.ControllerSpec(**fields)),
        name=NAMES,
        chunk_size=NUMBERS,
        hyperparameters=st.lists(
            st.builds(pb.Hyperparameter, name=NAMES, low=FLOATS, high=FLOATS), max_size=2
        ),
        ppo=st.builds(pb.Ppo, gamma=FLOATS, rollout_size=NUMBERS, learning_rate=FLOATS),
    ),
    st.builds(pb.GetControllerRequest, name=NAMES),
    st.builds(pb.ListControllersRequest, page_size=NUMBERS, page_token=NAMES),
    st.builds(pb.UpdateControllerRequest, name=NAMES, mode=NUMBERS),
    st.builds(pb.DeleteControllerRequest, name=NAMES),
    st.builds(pb.StartRunRequest, controller=NAMES, run_id=NAMES, mode=NUMBERS, labels=LABELS),
    st.builds(
        pb.ReportChunkRequest,
        run_id=NAMES,
        chunk_index=NUMBERS,
        losses=st.lists(FLOATS, min_size=3, max_size=5),
        scores=st.none() | st.builds(pb.Scores, training=FLOATS, validation=FLOATS),
        applied=st.none() | st.builds(pb.Applied, values=st.dictionaries(NAMES, FLOATS)),
    ),
    st.builds(pb.FinishRunRequest, run_id=NAMES, outcome=NUMBERS, final_score=FLOATS),
    st.builds(pb.GetRunRequest, run_id=NAMES),
    st.builds(
        pb.ListRunsRequest,
        controller=NAMES,
        state=NUMBERS,
        labels=LABELS,
        page_size=NUMBERS,
        page_token=NAMES | NUMBERS.map(str),
    ),
    st.builds(pb.StreamTransitionsRequest, controller=NAMES, run_id=NAMES, after_position=NUMBERS),
    st.builds(pb.ExportPolicyRequest, controller=NAMES, policy_version=NUMBERS),
)
REFUSALS = (InvalidArgument, NotFound, AlreadyExists, FailedPrecondition)


def content(served: ServedAgent) -> str:
    with closing(sqlite3.connect(served.url.removeprefix("sqlite:///"))) as connection:
        return "\n".join(connection.iterdump())


@of_sqlite
@settings(
    max_examples=120,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(requests=st.lists(REQUESTS, min_size=1, max_size=4))
def test_an_error_changes_nothing(
    served: ServedAgent,
    client: AgentClient,
    call: Call,
    requests: list[Message],
) -> None:
    """Any error of any request is the caller's, and leaves every row as it was."""
    # An example before this one may have finished the run, and deleted the controller.
    with suppress(AlreadyExists, FailedPrecondition, NotFound):
        client.create_controller(spec())
        client.run("c", run_id="live")
    for request in requests:
        before = content(served)
        try:
            call(request)
        except REFUSALS:
            assert content(served) == before, f"{request} was refused, and changed something"


def named(name: str) -> list[Message]:
    """Return requests that each have a name in another field."""
    good, wrong = (pb.Hyperparameter(name=n, high=0.5) for n in ("dropout", name))
    warm = pb.Ppo(warm_start=pb.WarmStart(controller=name))
    shipped = pb.Ppo(warm_start=pb.WarmStart(pretrained=name), observe=pb.OBSERVE_UNIVERSAL)
    of: list[dict[str, Any]] = [
        {"name": name, "hyperparameters": [good], "random": pb.Random()},
        {"hyperparameters": [wrong], "random": pb.Random()},
        {"hyperparameters": [good], "constant": pb.Constant(values={name: 0.1})},
        {"hyperparameters": [good], "replay": pb.Replay(run_id=name)},
        {"hyperparameters": [good], "ppo": warm},
        {"hyperparameters": [good], "ppo": shipped},
        {"hyperparameters": [good], "pretrained": pb.Pretrained(policy=name)},
    ]
    return [
        *(
            pb.CreateControllerRequest(spec=pb.ControllerSpec(**{"name": "n", **fields}))
            for fields in of
        ),
        pb.GetControllerRequest(name=name),
        pb.UpdateControllerRequest(name=name, mode=pb.MODE_FROZEN),
        pb.DeleteControllerRequest(name=name),
        pb.StartRunRequest(controller=name, run_id="s"),
        pb.StartRunRequest(controller="c", run_id=name),
        pb.StartRunRequest(controller="c", run_id="s", labels={name * 5: "x"}),
        pb.StartRunRequest(controller="c", run_id="s", labels={"x": name * 10}),
        report_of(name),
        report_of("r", applied=pb.Applied(values={name: 0.1})),
        pb.FinishRunRequest(run_id=name, outcome=pb.OUTCOME_TERMINATED),
        pb.GetRunRequest(run_id=name),
        pb.ListRunsRequest(page_token=name),
        pb.ListRunsRequest(controller=name, page_size=1, page_token="t"),
        pb.ListPolicyVersionsRequest(controller=name),
    ]


@pytest.mark.parametrize("name", ["x" * 129, "\u6f22" * 5_000, "x" * 200_000])
def test_a_long_name_is_refused_in_a_short_message(
    client: AgentClient, call: Call, name: str
) -> None:
    """By its length, in any field: never by an error of gRPC, which cannot carry long details."""
    client.create_controller(spec())
    client.run("c", run_id="r")
    for request in named(name):
        with pytest.raises((InvalidArgument, NotFound)) as raised:
            call(request)
        assert len(str(raised.value)) < 600, type(request)

    assert [c.spec.name for c in client.list_controllers()] == ["c"]
    assert client.get_run("r").reported_chunks == 0


def test_a_refusal_of_long_names_is_cut(client: AgentClient, call: Call) -> None:
    """It has the length and the bound; 64 names of 63 letters would exceed a client's limit."""
    client.create_controller(spec())
    with pytest.raises(InvalidArgument, match=r"run_id: 'xxx.*5,000 characters.* at most 128"):
        call(pb.StartRunRequest(controller="c", run_id="x" * 5_000))
    with pytest.raises(NotFound, match=r"no controller 'xxx.*5,000 characters"):
        call(pb.GetControllerRequest(name="x" * 5_000))

    rates = [pb.Hyperparameter(name=f"{'x' * 60}-{n:02}", high=0.5) for n in range(64)]
    of = pb.ControllerSpec(name="n", hyperparameters=rates, constant=pb.Constant(values={"y": 0.1}))
    with pytest.raises(InvalidArgument, match="no such hyperparameter; there are") as raised:
        call(pb.CreateControllerRequest(spec=of))
    assert len(str(raised.value)) <= 1100
