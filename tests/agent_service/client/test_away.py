"""The agent goes away in the middle of a training: killed, frozen, never there; and comes back."""

import logging
from collections.abc import Iterator

import pytest
from torch import nn

from agent_service.client import AgentClient, Hold, Mode, Run
from agent_service.client import delivery as delivery_module
from agent_service.domain.errors import InvalidArgument, Unavailable
from agent_service.v1 import agent_pb2 as pb
from tests.agent_service.client.network import Network
from tests.agent_service.specs import spec
from tests.given import ServedAgent


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery_module, "SHORTEST_WAIT", 0.0)


@pytest.fixture
def agent(served: ServedAgent) -> Iterator[Network]:
    with Network(served.address) as network:
        yield network


def train(run: Run, chunks: int) -> list[dict[str, float]]:
    """Train and report so many chunks; return what each ran under."""
    values = []
    for _ in range(chunks):
        values.append(run.hyperparameters)
        losses = [1.0 / (run.action.chunk_index + i) for i in range(4)]
        run.report_chunk(losses, training_score=0.5, validation_score=0.5)
    return values


def check_log(client: AgentClient, values: list[dict[str, float]], *, held: range) -> None:
    """Check that each chunk is in the log once and in order, with what it truly ran under."""
    transitions = list(client.transitions(run_id="r"))
    assert [t.chunk_index for t in transitions] == [*range(1, len(values) + 1)]
    for transition, value in zip(transitions, values, strict=True):
        if transition.chunk_index in held:
            assert dict(transition.applied.values) == value
            assert transition.use == pb.USE_RECORDED, "a held chunk is never learned from"
        else:
            assert dict(transition.action.values) == value
            assert not transition.HasField("applied")
    assert client.get_run("r").state == pb.RUN_STATE_FINISHED


def test_a_training_goes_on_while_the_agent_is_killed(
    agent: Network, caplog: pytest.LogCaptureFixture
) -> None:
    """Under the last action; all is delivered when it is back, and the user is told both once."""
    caplog.set_level(logging.WARNING, "agent_service.client")
    with AgentClient(agent.address, budget_seconds=0.2) as client:
        client.create_controller(spec())
        with client.run("c", run_id="r") as run:
            values = train(run, 3)
            agent.leave()
            values += train(run, 4)
            assert all(value == values[3] for value in values[4:])
            agent.come_back()
            client.wait_ready(20)
            values += train(run, 1)
            values += train(run, 2)
        # Chunk 4 ran under what was decided for it; its report was the first that was held.
        check_log(client, values, held=range(5, 9))
    said = [record.message for record in caplog.records]
    assert len(said) == 2
    assert "agent-service serve" in said[0]
    assert "is back" in said[1]


def test_a_frozen_agent_costs_no_more_than_a_deadline(
    agent: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that neither answers nor refuses is left alone between tries."""
    with AgentClient(agent.address, budget_seconds=0.2) as client:
        client.create_controller(spec())
        with client.run("c", run_id="r", when_away=Hold()) as run:
            values = train(run, 1)
            agent.cut()
            with monkeypatch.context() as impatient:
                impatient.setattr(delivery_module, "PATIENCE_SECONDS", 0.5)
                impatient.setattr(delivery_module, "TRY_SECONDS", 0.2)
                values += train(run, 3)
            agent.mend()
            values += train(run, 1)
            while run._is_own:
                values += train(run, 1)
            values += train(run, 1)
        transitions = list(client.transitions(run_id="r"))
        assert [t.chunk_index for t in transitions] == [*range(1, len(values) + 1)]
        told = [
            dict((t.applied if t.HasField("applied") else t.action).values) for t in transitions
        ]
        assert told == values


def test_a_run_begins_without_an_agent(agent: Network) -> None:
    """Given the spec and values, it trains under these, and all is there when the agent comes."""
    agent.leave()
    hold = Hold(values={"dropout": 0.25})
    with AgentClient(agent.address, budget_seconds=0.1) as client:
        with client.run(spec(), run_id="r", when_away=hold) as run:
            values = train(run, 3)
            assert values == [{"dropout": 0.25}] * 3
            agent.come_back()
            client.wait_ready(20)
            values += train(run, 2)
        check_log(client, values, held=range(1, 5))


def test_an_agent_that_never_comes_ends_no_training(caplog: pytest.LogCaptureFixture) -> None:
    """The script goes on after the run; the log says how much was not delivered."""
    hold = Hold(values={"dropout": 0.25})
    with AgentClient("127.0.0.1:9", budget_seconds=0.1) as client:
        with client.run(spec(), run_id="r", when_away=hold) as run:
            train(run, 3)
        with client.run(spec(), run_id="run-1", when_away=hold) as run:
            train(run, 1)

    assert " run-1: its last report was not delivered" in f" {caplog.text}"
    assert "run run-1" not in caplog.text
    assert "run r: its last 3 reports were not delivered" in caplog.text


def test_without_hold_an_agent_that_is_away_raises() -> None:
    """At the run's begin, and with values that are not the controller's."""
    with AgentClient("127.0.0.1:9", budget_seconds=0.1) as client:
        with pytest.raises(Unavailable, match="agent-service serve"):
            client.run(spec(), when_away=None)
        with pytest.raises(Unavailable, match=r"Hold\(values="):
            client.run(spec(), when_away=Hold())
        with pytest.raises(InvalidArgument, match=r"when_away.values\[rate\]: no such"):
            client.run(spec(), when_away=Hold(values={"rate": 0.1}))
        with pytest.raises(InvalidArgument, match=r"when_away.values\[dropout\]: 2.0 is not in"):
            client.run(spec(), when_away=Hold(values={"dropout": 2.0}))


def test_how_long_an_agent_was_waited_for_is_told_as_a_person_would() -> None:
    """Not as 0.2999998 seconds, which is what was left of a deadline."""
    client = AgentClient("127.0.0.1:9", budget_seconds=0.2999998)
    with client, pytest.raises(Unavailable, match=r"after 0\.3 s;"):
        client.get_run("r")


def test_values_to_begin_under_are_checked_also_where_the_agent_is_there(
    agent: Network,
) -> None:
    """By the controller's name or its spec: a mistake shows before the outage that needs them."""
    with AgentClient(agent.address) as client:
        client.create_controller(spec())
        for controller in ("c", spec()):
            with pytest.raises(InvalidArgument, match=r"when_away.values\[droput\]: no such"):
                client.run(controller, when_away=Hold(values={"droput": 0.2}))
        assert not list(client.list_runs())


def test_what_is_held_is_bounded(agent: Network, caplog: pytest.LogCaptureFixture) -> None:
    """At the limit the run ends, not the training; what it held is there when the agent is back."""
    with AgentClient(agent.address, budget_seconds=0.2) as client:
        client.create_controller(spec())
        with client.run("c", run_id="r", when_away=Hold(limit=5)) as run:
            train(run, 1)
            agent.leave()
            train(run, 5)
            assert not run.is_finished
            train(run, 5)
            assert run.is_finished
            agent.come_back()
            client.wait_ready(20)

        assert client.get_run("r").reported_chunks == 6
        assert client.get_run("r").outcome == pb.OUTCOME_TRUNCATED
    assert caplog.text.count("5 of its reports are queued for the agent") == 1


def test_a_shadow_run_tells_its_models_rate_while_the_agent_is_away(agent: Network) -> None:
    """What was held in place of a decision is nothing that the model ran under."""
    dropout = nn.Dropout(0.3)
    with AgentClient(agent.address, budget_seconds=0.2) as client:
        client.create_controller(spec())
        model = nn.Sequential(nn.Linear(2, 2), dropout)
        with client.run("c", run_id="r", mode=Mode.SHADOW, model=model, when_away=Hold()) as run:
            train(run, 1)
            agent.leave()
            train(run, 3)
            agent.come_back()
            client.wait_ready(20)
            train(run, 1)

        log = list(client.transitions(run_id="r"))
        assert [dict(t.applied.values) for t in log] == [{"dropout": 0.3}] * 5
