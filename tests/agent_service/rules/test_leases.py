"""Leases: a silent run is abandoned, truncated and forgotten by the metrics, until it reports.

`test_model` has abandoned runs among all other calls.
"""

import asyncio
import time
from concurrent.futures import Future
from itertools import pairwise
from pathlib import Path

import pytest
from prometheus_client import generate_latest

from agent_service.client import AgentClient, Mode
from agent_service.domain.errors import FailedPrecondition, Unavailable
from agent_service.rules.leases import SHORTEST_PAUSE, watching_leases
from agent_service.rules.runs import RunService
from agent_service.v1 import agent_pb2 as pb
from tests.agent_service.calls import Call, report, report_of
from tests.agent_service.specs import spec
from tests.end_to_end.processes import AgentProcess, wait_for
from tests.given import ServedAgent

LEASE = 3600.0


def let_leases_pass(served: ServedAgent, *, seconds: float = LEASE + 1) -> int:
    """Abandon the runs that will be silent for a lease in so many seconds; return how many."""
    run_service = RunService(
        served.store, metrics=served.metrics, clock=lambda: time.time() + seconds
    )
    return run_service.abandon_silent_runs(lease=LEASE).result()


def state(client: AgentClient, run_id: str) -> str:
    return pb.RunState.Name(client.get_run(run_id).state).removeprefix("RUN_STATE_")


def test_a_silent_run_is_abandoned_until_it_reports(
    served: ServedAgent, client: AgentClient
) -> None:
    """Its controller has no active run then, and the metrics no gauges of it."""
    client.create_controller(spec())
    run = client.run("c", run_id="silent")
    client.run("c", run_id="finished").finish()

    def shown() -> tuple[float | None, float | None]:
        get, of = served.registry.get_sample_value, {"controller": "c"}
        action = {**of, "run": "silent", "hyperparameter": "dropout"}
        return get("agent_run_action", action), get("agent_runs", {**of, "state": "abandoned"})

    assert let_leases_pass(served, seconds=LEASE - 60) == 0
    assert [let_leases_pass(served) for _ in range(2)] == [1, 0]
    assert (state(client, "silent"), state(client, "finished")) == ("ABANDONED", "FINISHED")
    assert client.get_controller("c").active_runs == 0
    assert shown() == (None, 1)

    report(run)
    assert state(client, "silent") == "ACTIVE"
    assert shown() == (run.hyperparameters["dropout"], 0)


def test_a_repeated_or_refused_call_revives_nothing(
    served: ServedAgent, client: AgentClient, call: Call
) -> None:
    """Only a new report is a sign of life; but an abandoned run may still be finished."""
    client.create_controller(spec())
    run = client.run("c", run_id="r")
    report(run)
    let_leases_pass(served)

    call(report_of("r", 1))
    with pytest.raises(FailedPrecondition):
        call(report_of("r", 9))
    assert state(client, "r") == "ABANDONED"
    run.finish(final_score=0.5)
    assert (state(client, "r"), client.get_run("r").final_score) == ("FINISHED", 0.5)


def test_a_report_extends_the_lease(served: ServedAgent, client: AgentClient) -> None:
    """The lease counts from the last accepted call, not from the start."""
    client.create_controller(spec())
    run = client.run("c", run_id="r")
    with served.store._writing.begin() as connection:
        connection.exec_driver_sql(
            f"UPDATE runs SET updated_at = updated_at - {LEASE - 10}, checksum = NULL"
        )

    report(run)

    assert let_leases_pass(served, seconds=20) == 0


def test_the_last_transition_of_an_abandoned_run_ends_no_episode(
    served: ServedAgent, client: AgentClient
) -> None:
    """As of a truncated run: nothing is known to follow, and the value bootstraps."""
    client.create_controller(spec())
    report(client.run("c", run_id="r"), 2)
    let_leases_pass(served)

    controller = served.store.read(lambda session: session.find_controller("c"))
    assert controller is not None
    ready = served.store.read(lambda session: session.ready_transitions(controller, limit=9))
    assert [t.ends_episode for t in ready] == [False, False]


def test_a_run_of_a_deleted_controller_is_not_revived(
    served: ServedAgent, client: AgentClient, call: Call
) -> None:
    """A new report is refused, a repeated one answered; no series of the controller comes back."""
    client.create_controller(spec())
    report(client.run("c", run_id="r"))
    let_leases_pass(served)
    client.delete_controller("c")
    page = generate_latest(served.registry).decode()

    with pytest.raises(FailedPrecondition, match="its controller 'c' is deleted"):
        call(report_of("r", 2))
    call(report_of("r", 1))

    assert state(client, "r") == "ABANDONED"
    assert 'controller="c"' not in page + generate_latest(served.registry).decode()


def test_many_silent_runs_are_abandoned_a_few_at_a_time(
    served: ServedAgent, client: AgentClient
) -> None:
    """No step holds the only writer for long; together they find all."""
    client.create_controller(spec())
    for number in range(120):
        client.run("c", run_id=f"r{number}", mode=Mode.FROZEN)

    assert [let_leases_pass(served) for _ in range(3)] == [100, 20, 0]


def test_a_service_watches_its_leases(tmp_path: Path) -> None:
    """A real process with a short lease: the silent run is abandoned, the reporting one is not."""
    with (
        AgentProcess(tmp_path / "agent.db", "--lease", "2") as agent,
        AgentClient(agent.address) as client,
    ):
        client.create_controller(spec())
        client.run("c", run_id="silent")
        run = client.run("c", run_id="reporting")

        def is_abandoned() -> bool:
            report(run)
            return state(client, "silent") == "ABANDONED"

        wait_for(is_abandoned)
        assert state(client, "reporting") == "ACTIVE"


class NoSilentRuns:
    """A run service that finds no silent run, or fails, and remembers when it was asked."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error
        self.asked: list[float] = []

    def abandon_silent_runs(self, *, lease: float) -> Future[int]:
        self.asked.append(time.monotonic())
        answer: Future[int] = Future()
        if self.error is None:
            answer.set_result(0)
        else:
            answer.set_exception(self.error)
        return answer


@pytest.mark.parametrize("error", [None, Unavailable("the disk is full")])
def test_the_watch_of_leases_does_not_spin(error: Exception | None) -> None:
    """However short the lease, and whether the store answers or not, it pauses between checks."""
    run_service = NoSilentRuns(error)

    async def watch() -> None:
        async with watching_leases(run_service, lease=1e-9):  # type: ignore[arg-type]
            await asyncio.to_thread(wait_for, lambda: len(run_service.asked) >= 4)

    asyncio.run(watch())

    assert min(b - a for a, b in pairwise(run_service.asked)) >= SHORTEST_PAUSE
