"""A training whose agent is killed, frozen, restarted and out of reach, at random moments.

Between the client and a real server stands a network that can be cut.
"""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from agent_service.client import AgentClient, Hold, Run
from agent_service.client import delivery as delivery_module
from agent_service.client.connection import calls as calls_module
from agent_service.serving import server as serving
from agent_service.v1 import agent_pb2 as pb
from tests.agent_service.client.network import Network
from tests.agent_service.specs import spec
from tests.end_to_end.processes import AgentProcess, wait_for
from tests.given import ServedAgent

SEED = 20
STEP_SECONDS = 0.02
"""A chunk's training."""


@dataclass
class Training:
    """A script that trains under a run until it is told to end."""

    run: Run
    values: list[dict[str, float]] = field(default_factory=list)
    """What each chunk ran under."""
    held: set[int] = field(default_factory=set)
    """Chunks whose values nobody decided."""
    most_waiting: int = 0

    def chunk(self) -> None:
        chunk = len(self.values) + 1
        self.values.append(self.run.hyperparameters)
        if self.run._is_own:
            self.held.add(chunk)
        self.run.report_chunk([1.0 / chunk] * 4, training_score=0.5, validation_score=0.5)
        self.most_waiting = max(self.most_waiting, len(self.run._delivery._waiting))  # type: ignore[attr-defined]

    def train(self, end: threading.Event) -> None:
        while not end.wait(STEP_SECONDS) or self.run._is_own:
            self.chunk()
        self.chunk()


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


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[AgentProcess]:
    with AgentProcess(tmp_path / "agent.db") as process:
        yield process


def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Find out sooner that the agent is away, and that it is back."""
    monkeypatch.setattr(delivery_module, "SHORTEST_WAIT", 0.01)
    monkeypatch.setattr(delivery_module, "LONGEST_WAIT", 0.05)
    monkeypatch.setattr(delivery_module, "TRY_SECONDS", 0.2)
    monkeypatch.setattr(delivery_module, "PATIENCE_SECONDS", 0.5)


def test_a_training_goes_through_outages_at_random_moments(
    agent: AgentProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends as planned; each chunk is in the log once, with what it truly ran under.

    What was held is marked, and not learned from; no report is kept once it is delivered.
    """
    rng = random.Random(SEED)
    outages = [kill, restart, freeze, freeze, cut, cut]
    rng.shuffle(outages)
    with (
        Network(agent.address) as network,
        AgentClient(network.address, budget_seconds=0.1) as client,
    ):
        client.create_controller(spec())
        end = threading.Event()
        with client.run("c", run_id="r", when_away=Hold()) as run:
            hurry(monkeypatch)
            training = Training(run)
            script = threading.Thread(target=training.train, args=[end])
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
        check_log(client, training)
    assert 2 <= training.most_waiting <= len(training.held) + 1


def check_log(client: AgentClient, training: Training) -> None:
    log = list(client.transitions(run_id="r"))
    assert [t.chunk_index for t in log] == [*range(1, len(training.values) + 1)]
    for transition, values in zip(log, training.values, strict=True):
        if transition.chunk_index in training.held:
            assert dict(transition.applied.values) == values
            # At an end of the range what was held may be just what is decided then.
            is_as_decided = dict(transition.action.values) == values
            assert is_as_decided or transition.use == pb.USE_RECORDED
        else:
            assert not transition.HasField("applied")
            assert dict(transition.action.values) == values
    assert client.get_run("r").outcome == pb.OUTCOME_TERMINATED


def test_a_connection_that_was_forgotten_is_given_up(
    served: ServedAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody says that it is lost, so it is asked; the call is made again over a new one."""
    assert dict(calls_module.KEEPALIVE)["grpc.keepalive_time_ms"] > serving.PINGS[0][1]
    quick = [(option, 300) for option, _ in calls_module.KEEPALIVE]
    monkeypatch.setattr(calls_module, "KEEPALIVE", quick)
    with (
        Network(served.address) as network,
        AgentClient(network.address, budget_seconds=20) as client,
    ):
        client.create_controller(spec())
        network.forget()

        assert client.get_controller("c").spec.name == "c"


def test_what_is_held_takes_a_few_hundred_bytes_a_report() -> None:
    """As `Hold` says of chunks of 20 losses: 100,000 of them do not fill a memory."""
    import psutil

    reports = 20_000
    with AgentClient("127.0.0.1:9", budget_seconds=0) as client:
        hold = Hold(values={"dropout": 0.25})
        run = client.run(spec(chunk_size=20), when_away=hold)
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
