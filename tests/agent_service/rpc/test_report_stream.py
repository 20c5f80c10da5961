"""Fleets: many runs' reports over one stream, under the rules of single reports."""

import math
import subprocess
import sys
import threading
from dataclasses import replace
from typing import Any
from unittest.mock import Mock

import pytest

from agent_service.client import (
    AgentClient,
    FleetReport,
    Hold,
    Run,
    Scores,
    delivery,
)
from agent_service.domain.errors import FailedPrecondition, InvalidArgument, Unavailable
from agent_service.v1 import agent_pb2 as pb
from tests.agent_service.client.network import Network
from tests.agent_service.specs import spec
from tests.end_to_end.processes import wait_for
from tests.given import ServedAgent

LOSSES = [2.0, 1.5, 1.25, 1.0]


def reports(runs: list[Run], *, validation: float = 0.5) -> list[FleetReport]:
    scores = Scores(training=0.5, validation=validation)
    return [FleetReport(run=run, losses=LOSSES, feedback=scores) for run in runs]


def fleet(client: AgentClient, size: int, *, when_away: Hold | None = None) -> list[Run]:
    client.create_controller(spec())
    ids = [f"r{number}" for number in range(size)]
    return [client.run("c", run_id=run_id, when_away=when_away) for run_id in ids]


def test_a_fleet_gets_the_actions_that_calls_get(client: AgentClient) -> None:
    """Each of 40 runs moves on as by a call of its own."""
    runs = fleet(client, 40)
    with client.report_stream() as stream:
        for _ in range(3):
            assert stream.report(reports(runs)) == [None] * 40

    assert {run.action.chunk_index for run in runs} == {4}
    for run in runs:
        assert run.action == client.get_run(run.run_id).action


def test_a_refused_report_holds_up_no_other(client: AgentClient) -> None:
    """A finished run's error has all that a call's has; the others move on."""
    runs = fleet(client, 3)
    client.run("c", run_id="r1").finish()
    with client.report_stream() as stream:
        first, second, third = stream.report(reports(runs))

    assert (first, third) == (None, None)
    assert isinstance(second, FailedPrecondition)
    assert [run.action.chunk_index for run in runs] == [2, 1, 2]


def test_a_value_out_of_range_sends_nothing(client: AgentClient) -> None:
    """Named by its field; no run has moved."""
    runs = fleet(client, 2)
    right, wrong = reports(runs)
    wrong = replace(wrong, feedback=Scores(training=0.5, validation=0.5), losses=[1.0] * 3)
    with client.report_stream() as stream, pytest.raises(InvalidArgument, match="losses: 3 given"):
        stream.report([right, wrong])

    assert client.get_run("r0").reported_chunks == 0


def test_a_loss_that_is_not_finite_ends_its_run_alone(client: AgentClient) -> None:
    """As diverged; the others move on, then and later."""
    runs = fleet(client, 2)
    with client.report_stream() as stream:
        right, wrong = reports(runs)
        wrong = replace(wrong, losses=[1.0, float("nan"), 1.0, 1.0])
        assert stream.report([wrong, right]) == [None, None]
        assert stream.report(reports(runs)) == [None, None]

    assert client.get_run("r1").outcome == pb.OUTCOME_DIVERGED
    assert [client.get_run(run.run_id).reported_chunks for run in runs] == [2, 0]


def test_an_end_that_cannot_be_told_holds_up_no_other_run(
    client: AgentClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a run that diverges while its agent is away, and is to raise then."""
    first, second = fleet(client, 2)
    away = Unavailable("away")
    monkeypatch.setattr(first._delivery, "send", Mock(side_effect=away))
    with client.report_stream() as stream:
        lost, sent = reports([first, second])

        answers = stream.report([replace(lost, losses=[math.nan] * 4), sent])

    assert answers == [away, None]
    assert not first.is_finished
    assert client.get_run(second.run_id).reported_chunks == 1


class _Interrupted:
    """A stream on which Ctrl-C comes after the first answer."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._is_next = True

    def __next__(self) -> Any:
        if not self._is_next:
            raise KeyboardInterrupt
        self._is_next = False
        return next(self._stream)

    def cancel(self) -> None:
        self._stream.cancel()


class _Unusable:
    """A stream that answers all reports with one action."""

    def __init__(self, action: pb.Action) -> None:
        self._action = action

    def __next__(self) -> pb.StreamReportsResponse:
        return pb.StreamReportsResponse(action=self._action)

    def cancel(self) -> None: ...


@pytest.mark.parametrize(
    "action",
    [
        pb.Action(chunk_index=2),
        pb.Action(values={"other": 0.1}, chunk_index=2),
        pb.Action(values={"dropout": 0.1}, chunk_index=1),
    ],
)
def test_an_answer_that_makes_no_sense_is_asked_for_again(
    client: AgentClient, action: pb.Action
) -> None:
    """By a call of each run's own, whose answer it goes on under."""
    runs = fleet(client, 2)
    with client.report_stream() as stream:
        stream._stream = _Unusable(action)
        assert stream.report(reports(runs)) == [None] * 2

    for run in runs:
        assert run.action.chunk_index == 2
        assert run.action == client.get_run(run.run_id).action


def test_an_interrupted_report_mixes_up_no_answers(client: AgentClient) -> None:
    """After Ctrl-C amid the answers the same may be reported again, and each run gets its own."""
    runs = fleet(client, 5)
    with client.report_stream() as stream:
        stream.report(reports(runs))
        stream._stream = _Interrupted(stream._stream)
        with pytest.raises(KeyboardInterrupt):
            stream.report(reports(runs))
        assert stream.report(reports(runs)) == [None] * 5

    for run in runs:
        assert run.action == client.get_run(run.run_id).action


def test_a_fleet_goes_on_when_the_service_is_killed(served: ServedAgent) -> None:
    """Reports that a broken stream did not answer are sent by calls; the next ones stream again."""
    with Network(served.address) as agent, AgentClient(agent.address) as client:
        runs = fleet(client, 5)
        with client.report_stream() as stream:
            assert stream.report(reports(runs)) == [None] * 5
            agent.leave()
            agent.come_back()
            assert stream.report(reports(runs)) == [None] * 5
            assert stream.report(reports(runs)) == [None] * 5

        assert [client.get_run(run.run_id).reported_chunks for run in runs] == [3] * 5


def test_nobody_there_is_said_once_for_all(served: ServedAgent) -> None:
    """Each report has the error, the budget is spent once, and the same may be reported again."""
    with (
        Network(served.address) as agent,
        AgentClient(agent.address, budget_seconds=0.5) as client,
        client.report_stream() as stream,
    ):
        runs = fleet(client, 5)
        agent.leave()
        errors = stream.report(reports(runs))
        assert {type(error) for error in errors} == {Unavailable}
        assert len({id(error) for error in errors}) == 1
        agent.come_back()
        wait_for(lambda: stream.report(reports(runs)) == [None] * 5)


def test_a_fleet_that_holds_trains_on_while_the_agent_is_killed(served: ServedAgent) -> None:
    """No error; once it is back all runs' chunks are in the log, those of the outage too."""
    with (
        Network(served.address) as agent,
        AgentClient(agent.address, budget_seconds=0.2) as client,
    ):
        runs = fleet(client, 5, when_away=Hold())
        with client.report_stream() as stream:
            stream.report(reports(runs))
            agent.leave()
            for _ in range(3):
                assert stream.report(reports(runs)) == [None] * 5
            agent.come_back()
            client.wait_ready(20)
        for run in runs:
            run.finish()

        assert [client.get_run(run.run_id).reported_chunks for run in runs] == [4] * 5


@pytest.mark.timeout(30)
def test_a_fleet_does_not_wait_for_an_agent_that_hangs(
    served: ServedAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither for the stream's answers, nor with the next reports; all is delivered at last."""
    with (
        Network(served.address) as network,
        AgentClient(network.address) as client,
    ):
        runs = fleet(client, 5, when_away=Hold())
        with client.report_stream() as stream:
            stream.report(reports(runs))
            network.cut()
            with monkeypatch.context() as hasty:
                hasty.setattr(delivery, "PATIENCE_SECONDS", 0.5)
                for _ in range(3):
                    assert stream.report(reports(runs)) == [None] * 5
            network.mend()
        for run in runs:
            run.finish()

        assert [client.get_run(run.run_id).reported_chunks for run in runs] == [4] * 5


def test_a_stream_has_the_patience_of_a_call(
    client: AgentClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a little for each report, so that a large fleet's are not given up too early."""
    waits = []

    class Timer(threading.Timer):
        def __init__(self, seconds: float, end: Any) -> None:
            waits.append(seconds)
            super().__init__(seconds, end)

    monkeypatch.setattr(threading, "Timer", Timer)
    with client.report_stream() as stream:
        stream.report(reports(fleet(client, 5)))
    assert waits == [pytest.approx(20.05)]


def test_an_open_stream_does_not_keep_the_interpreter(
    served: ServedAgent, client: AgentClient
) -> None:
    """A script that forgot to leave the context ends all the same."""
    fleet(client, 1)
    code = f"""
from agent_service.client import AgentClient, FleetReport, Scores
client = AgentClient({served.address!r})
stream = client.report_stream()
run = client.run("c", run_id="r0")
report = FleetReport(run=run, losses={LOSSES}, feedback=Scores(training=0.5, validation=0.5))
print(stream.report([report]))
"""
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)

    assert shown.stdout == "[None]\n", shown.stderr
