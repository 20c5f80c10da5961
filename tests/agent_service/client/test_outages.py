"""The agent is killed, frozen, restarted, unreachable or never there, and may come back.

Between the client and a real server stands a network that can be cut.
"""

from __future__ import annotations

import logging
import os
import random
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from torch import nn

from agent_service.client import AgentClient, Hold, Mode, Problem, Run
from agent_service.client import delivery as delivery_module
from agent_service.client.connection import calls as calls_module
from agent_service.domain.errors import InvalidArgument, Unavailable
from agent_service.serving import server as serving
from agent_service.v1 import agent_pb2 as pb
from tests.agent_service.client.network import Network
from tests.agent_service.specs import spec
from tests.end_to_end.processes import AgentProcess, wait_for

NOBODY = "127.0.0.1:9"
HELD = Hold(values={"dropout": 0.25})
SEED = 20
STEP_SECONDS = 0.02
"""A chunk's training."""


@dataclass
class Training:
    """A script that trains under a run."""

    run: Run
    values: list[dict[str, float]] = field(default_factory=list)
    """Those that each chunk ran under."""
    held: set[int] = field(default_factory=set)
    """Chunks whose values the agent did not decide."""
    most_waiting: int = 0

    def train(self, chunks: int) -> None:
        for _ in range(chunks):
            chunk = len(self.values) + 1
            self.values.append(self.run.hyperparameters)
            if self.run._is_own:
                self.held.add(chunk)
            self.run.report_chunk([1.0 / chunk] * 4, training_score=0.5, validation_score=0.5)
            queued = len(self.run._delivery._waiting)  # type: ignore[attr-defined]
            self.most_waiting = max(self.most_waiting, queued)

    def train_until(self, end: threading.Event) -> None:
        while not end.wait(STEP_SECONDS) or self.run._is_own:
            self.train(1)
        self.train(1)

    def check_log(self, client: AgentClient) -> None:
        """Check that each chunk is in the log once, in order, with the values that it ran under."""
        log = list(client.transitions(run_id="r"))
        assert [t.chunk_index for t in log] == [*range(1, len(self.values) + 1)]
        for transition, values in zip(log, self.values, strict=True):
            if transition.chunk_index in self.held:
                assert dict(transition.applied.values) == values
                # At an end of the range the held value may equal the decided one.
                is_as_decided = dict(transition.action.values) == values
                assert is_as_decided or transition.use == pb.USE_RECORDED
            else:
                assert not transition.HasField("applied")
                assert dict(transition.action.values) == values
        assert client.get_run("r").outcome == pb.OUTCOME_TERMINATED


def test_a_training_continues_while_the_agent_is_killed(
    agent: Network, caplog: pytest.LogCaptureFixture
) -> None:
    """Under the last action; reports are delivered when it is back; both are logged once."""
    caplog.set_level(logging.WARNING, "agent_service.client")
    with AgentClient(agent.address, budget_seconds=0.2) as client:
        with client.run("c", run_id="r") as run:
            training = Training(run)
            training.train(3)
            agent.leave()
            training.train(4)
            assert all(values == training.values[3] for values in training.values[4:])
            agent.come_back()
            client.wait_ready(20)
            training.train(3)
        # Chunk 4 ran under its decision; its report was the first that was queued.
        assert training.held == {5, 6, 7, 8}
        training.check_log(client)
    away, back = (record.message for record in caplog.records)
    assert "agent-service serve" in away
    assert "is back" in back


def test_a_run_starts_without_an_agent(agent: Network) -> None:
    """Given the spec and values, it trains under them; all is delivered when the agent comes."""
    agent.leave()
    with AgentClient(agent.address, budget_seconds=0.1) as client:
        options: dict[str, Any] = {"when_away": HELD, "problem": Problem(classes=7)}
        with client.run(spec("new"), run_id="r", **options) as run:
            training = Training(run)
            training.train(3)
            assert training.values == [HELD.values] * 3
            agent.come_back()
            client.wait_ready(20)
            training.train(2)
        assert training.held == {1, 2, 3, 4}
        training.check_log(client)
        assert client.get_run("r").problem == pb.Problem(classes=7)


def test_undelivered_reports_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    """With their number, if the agent never comes; the script goes on."""
    with AgentClient(NOBODY, budget_seconds=0.1) as client:
        with client.run(spec(), run_id="r", when_away=HELD) as run:
            Training(run).train(3)
        with client.run(spec(), run_id="run-1", when_away=HELD) as run:
            Training(run).train(1)

    assert " run-1: its last report was not delivered" in f" {caplog.text}"
    assert "run run-1" not in caplog.text
    assert "run r: its last 3 reports were not delivered" in caplog.text


@pytest.mark.parametrize("when_away", [None, Hold()])
def test_an_absent_agent_raises_if_the_run_cannot_start(when_away: Hold | None) -> None:
    """Without `Hold.values` and without a model."""
    message = "agent-service serve" if when_away is None else r"Hold\(values="
    with (
        AgentClient(NOBODY, budget_seconds=0.1) as client,
        pytest.raises(Unavailable, match=message),
    ):
        client.run(spec(), when_away=when_away)


@pytest.mark.parametrize(
    ("values", "message"),
    [({"droput": 0.2}, r"\[droput\]: no such"), ({"dropout": 2.0}, r"\[dropout\]: 2.0 is not in")],
)
def test_values_to_start_under_are_checked(
    agent: Network, values: dict[str, float], message: str
) -> None:
    """By the controller's name or its spec, and not only during an outage."""
    hold = Hold(values=values)
    with AgentClient(agent.address, budget_seconds=0.1) as client:
        for controller in ("c", spec()):
            with pytest.raises(InvalidArgument, match=f"when_away.values{message}"):
                client.run(controller, when_away=hold)
        assert not list(client.list_runs())
        agent.leave()
        with pytest.raises(InvalidArgument, match=f"when_away.values{message}"):
            client.run(spec(), when_away=hold)


def test_queued_reports_are_limited(agent: Network, caplog: pytest.LogCaptureFixture) -> None:
    """At the limit the run ends, not the training; the queued reports are still delivered."""
    with AgentClient(agent.address, budget_seconds=0.2) as client:
        with client.run("c", run_id="r", when_away=Hold(limit=5)) as run:
            training = Training(run)
            training.train(1)
            agent.leave()
            training.train(5)
            assert not run.is_finished
            training.train(5)
            assert run.is_finished
            agent.come_back()
            client.wait_ready(20)

        assert client.get_run("r").reported_chunks == 6
        assert client.get_run("r").outcome == pb.OUTCOME_TRUNCATED
    assert caplog.text.count("5 of its reports are queued for the agent") == 1


def test_a_shadow_run_reports_its_models_rate_during_an_outage(agent: Network) -> None:
    """Not the held values, which the model never ran under."""
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.3))
    with AgentClient(agent.address, budget_seconds=0.2) as client:
        with client.run("c", run_id="r", mode=Mode.SHADOW, model=model, when_away=Hold()) as run:
            training = Training(run)
            training.train(1)
            agent.leave()
            training.train(2)
            agent.come_back()
            client.wait_ready(20)
            training.train(1)

        log = list(client.transitions(run_id="r"))
        assert [dict(t.applied.values) for t in log] == [{"dropout": 0.3}] * 4


def kill(agent: AgentProcess, _network: Network) -> Callable[[], None]:
    agent.kill()
    return agent.start


def restart(agent: AgentProcess, _network: Network) -> Callable[[], None]:
    assert agent.stop() == 0
    return agent.start


def freeze(agent: AgentProcess, _network: Network) -> Callable[[], None]:
    os.kill(agent.process.pid, signal.SIGSTOP)
    return lambda: os.kill(agent.process.pid, signal.SIGCONT)


def cut(_agent: AgentProcess, network: Network) -> Callable[[], None]:
    network.cut()
    return network.mend


def test_a_training_survives_outages_at_random_moments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each chunk is in the log once, and no report stays queued once it is delivered."""
    rng = random.Random(SEED)
    outages = [kill, restart, freeze, cut]
    rng.shuffle(outages)
    with (
        AgentProcess(tmp_path / "agent.db") as agent,
        Network(agent.address) as network,
        AgentClient(network.address, budget_seconds=0.1) as client,
    ):
        client.create_controller(spec())
        end = threading.Event()
        with client.run("c", run_id="r", when_away=Hold()) as run:
            for name, seconds in (
                ("SHORTEST_WAIT", 0.01),
                ("LONGEST_WAIT", 0.05),
                ("TRY_SECONDS", 0.2),
                ("PATIENCE_SECONDS", 0.5),
            ):
                monkeypatch.setattr(delivery_module, name, seconds)
            training = Training(run)
            script = threading.Thread(target=training.train_until, args=[end])
            script.start()
            for outage in outages:
                # Anywhere in a chunk, or in its report.
                goal = len(training.values) + rng.randint(1, 4)
                wait_for(lambda goal=goal: len(training.values) >= goal and not run._is_own)  # type: ignore[misc]
                end.wait(rng.uniform(0, 2 * STEP_SECONDS))
                recover = outage(agent, network)
                goal = len(training.held) + rng.randint(2, 5)
                wait_for(lambda goal=goal: len(training.held) >= goal)  # type: ignore[misc]
                recover()
            end.set()
            script.join(60)
            assert not run._delivery._waiting  # type: ignore[attr-defined]
        training.check_log(client)
    assert 2 <= training.most_waiting <= len(training.held) + 1


def test_a_silently_lost_connection_is_replaced(
    agent: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pings of gRPC detect it, and the call is retried over a new one."""
    assert dict(calls_module.KEEPALIVE)["grpc.keepalive_time_ms"] > serving.PINGS[0][1]
    quick = [(option, 300) for option, _ in calls_module.KEEPALIVE]
    monkeypatch.setattr(calls_module, "KEEPALIVE", quick)
    with AgentClient(agent.address, budget_seconds=20) as client:
        client.get_controller("c")
        agent.forget()

        assert client.get_controller("c").spec.name == "c"


def test_a_queued_report_takes_a_few_hundred_bytes() -> None:
    """As `Hold` promises for chunks of 20 losses: 100,000 of them fit in memory."""
    reports = 10_000
    with AgentClient(NOBODY, budget_seconds=0) as client:
        run = client.run(spec(chunk_size=20), when_away=HELD)
        losses = [1.2345] * 20

        def report() -> None:
            run.report_chunk(losses, training_score=0.5, validation_score=0.5)

        for _ in range(100):
            report()
        before = psutil.Process().memory_info().rss
        for _ in range(reports):
            report()
        grown = psutil.Process().memory_info().rss - before

    assert grown / reports < 800
