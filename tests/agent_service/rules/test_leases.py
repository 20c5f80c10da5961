"""Leases: a silent run is abandoned, truncated and forgotten by the metrics, until it reports."""

import time
from pathlib import Path

import pytest
from prometheus_client import generate_latest

from agent_service.app import verify_store
from agent_service.client import AgentClient, Mode, Outcome
from agent_service.domain.errors import FailedPrecondition
from agent_service.rules.runs import RunService
from agent_service.v1 import agent_pb2 as pb
from tests.agent_service.specs import spec
from tests.end_to_end.processes import AgentProcess, wait_for
from tests.given import ServedAgent

LOSSES = [2.0, 1.5, 1.25, 1.0]
LEASE = 3600.0


def run_service_in(served: ServedAgent, *, seconds: float) -> RunService:
    """Return the served store's rules, so many seconds from now."""
    return RunService(
        served.store,
        metrics=served.metrics,
        clock=lambda: time.time() + seconds,
    )


def let_leases_pass(served: ServedAgent) -> int:
    return run_service_in(served, seconds=LEASE + 1).abandon_silent_runs(lease=LEASE).result()


def state(client: AgentClient, run_id: str) -> str:
    return pb.RunState.Name(client.get_run(run_id).state).removeprefix("RUN_STATE_")


def test_a_silent_run_is_abandoned_and_a_finished_one_is_not(
    served: ServedAgent, client: AgentClient
) -> None:
    """It can be listed as such, and its controller has no active run."""
    client.create_controller(spec())
    client.run("c", run_id="silent")
    client.run("c", run_id="finished").finish()

    assert run_service_in(served, seconds=LEASE - 60).abandon_silent_runs(lease=LEASE).result() == 0
    assert state(client, "silent") == "ACTIVE"
    assert let_leases_pass(served) == 1
    assert let_leases_pass(served) == 0

    assert (state(client, "silent"), state(client, "finished")) == ("ABANDONED", "FINISHED")
    request = pb.ListRunsRequest(state=pb.RUN_STATE_ABANDONED)
    listed = client._calls.call(client._stub.ListRuns, request).runs
    assert [run.run_id for run in listed] == ["silent"]
    assert client.get_controller("c").active_runs == 0


def test_a_report_extends_the_lease(served: ServedAgent, client: AgentClient) -> None:
    """The lease counts from the last accepted call, not from the start."""
    client.create_controller(spec())
    run = client.run("c", run_id="r")
    with served.store._writing.begin() as connection:
        connection.exec_driver_sql(
            f"UPDATE runs SET updated_at = updated_at - {LEASE - 10}, checksum = NULL"
        )

    run.report_chunk(LOSSES, training_score=0.5, validation_score=0.5)

    assert run_service_in(served, seconds=20).abandon_silent_runs(lease=LEASE).result() == 0


def test_the_last_transition_of_an_abandoned_run_is_learned_from(
    served: ServedAgent, client: AgentClient
) -> None:
    """As of a truncated run: nothing is known to follow, and the value bootstraps."""
    client.create_controller(spec())
    run = client.run("c", run_id="r")
    for _ in range(2):
        run.report_chunk(LOSSES, training_score=0.5, validation_score=0.5)
    let_leases_pass(served)

    assert [t.use for t in client.transitions()] == [pb.USE_READY, pb.USE_READY]
    controller = served.store.read(lambda session: session.find_controller("c"))
    assert controller is not None
    ready = served.store.read(lambda session: session.ready_transitions(controller, limit=9))
    assert [t.ends_episode for t in ready] == [False, False]


def test_the_next_report_revives_an_abandoned_run(served: ServedAgent, client: AgentClient) -> None:
    """It is answered as if nothing had been, and the run can be abandoned again."""
    client.create_controller(spec())
    run = client.run("c", run_id="r")
    run.report_chunk(LOSSES, training_score=0.5, validation_score=0.5)
    let_leases_pass(served)

    run.report_chunk(LOSSES, training_score=0.5, validation_score=0.5)

    assert state(client, "r") == "ACTIVE"
    assert [t.use for t in client.transitions()] == [pb.USE_READY, pb.USE_PENDING]
    assert let_leases_pass(served) == 1
    assert verify_store(served.url) == 3


def test_a_run_of_a_deleted_controller_is_not_revived(
    served: ServedAgent, client: AgentClient
) -> None:
    """A new report is refused, a repeated one answered; no series of the controller comes back."""
    client.create_controller(spec())
    run = client.run("c", run_id="r", when_away=None)
    run.report_chunk(LOSSES, training_score=0.5, validation_score=0.5)
    let_leases_pass(served)
    client.delete_controller("c")
    page = generate_latest(served.registry).decode()
    again = pb.ReportChunkRequest(
        run_id="r", chunk_index=1, losses=LOSSES, scores=pb.Scores(training=0.5, validation=0.5)
    )

    with pytest.raises(FailedPrecondition, match="its controller 'c' is deleted"):
        run.report_chunk(LOSSES, training_score=0.5, validation_score=0.5)
    client._calls.call(client._stub.ReportChunk, again)

    assert state(client, "r") == "ABANDONED"
    assert 'controller="c"' not in page + generate_latest(served.registry).decode()


def test_a_refused_or_repeated_call_revives_nothing(
    served: ServedAgent, client: AgentClient
) -> None:
    """Only what moves the run on is a sign of life."""
    client.create_controller(spec())
    run = client.run("c", run_id="r")
    run.report_chunk(LOSSES, training_score=0.5, validation_score=0.5)
    let_leases_pass(served)
    again = pb.ReportChunkRequest(
        run_id="r", chunk_index=1, losses=LOSSES, scores=pb.Scores(training=0.5, validation=0.5)
    )
    skipped = pb.ReportChunkRequest(
        run_id="r", chunk_index=9, losses=LOSSES, scores=pb.Scores(training=0.5, validation=0.5)
    )

    client._calls.call(client._stub.ReportChunk, again)
    with pytest.raises(FailedPrecondition):
        client._calls.call(client._stub.ReportChunk, skipped)

    assert state(client, "r") == "ABANDONED"


def test_an_abandoned_run_can_be_finished(served: ServedAgent, client: AgentClient) -> None:
    """Whoever comes back late may still say how it ended."""
    client.create_controller(spec())
    run = client.run("c", run_id="r")
    let_leases_pass(served)

    run.finish(Outcome.TERMINATED, final_score=0.5)

    assert (state(client, "r"), client.get_run("r").final_score) == ("FINISHED", 0.5)


def test_the_metrics_forget_and_remember(served: ServedAgent, client: AgentClient) -> None:
    """Gauges of an abandoned run are gone, and back with its next report."""
    client.create_controller(spec())
    run = client.run("c", run_id="r")

    def shown() -> float | None:
        labels = {"controller": "c", "run": "r", "hyperparameter": "dropout"}
        return served.registry.get_sample_value("agent_run_action", labels)

    def abandoned() -> float | None:
        labels = {"controller": "c", "state": "abandoned"}
        return served.registry.get_sample_value("agent_runs", labels)

    let_leases_pass(served)
    assert (shown(), abandoned()) == (None, 1)

    run.report_chunk(LOSSES, training_score=0.5, validation_score=0.5)
    assert (shown(), abandoned()) == (run.hyperparameters["dropout"], 0)


def test_many_silent_runs_are_abandoned_a_few_at_a_time(
    served: ServedAgent, client: AgentClient
) -> None:
    """No step holds the only writer for long; together they find all, the longest silent first."""
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
            run.report_chunk(LOSSES, training_score=0.5, validation_score=0.5)
            return state(client, "silent") == "ABANDONED"

        wait_for(is_abandoned)
        assert state(client, "reporting") == "ACTIVE"
