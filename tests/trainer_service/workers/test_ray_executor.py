"""Run processes on Ray's nodes: their events, requests to them, and lost nodes.

Ray and the processes on its nodes are fakes; `make test-ray` uses the real ones.
"""

import os
import platform
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from agent_service import __version__
from agent_service.domain.errors import AgentError, FailedPrecondition
from tests.end_to_end.processes import wait_for
from tests.trainer_service.specs import run_spec
from tests.trainer_service.workers.fake_ray import FakeRay
from trainer_service import app
from trainer_service.config import ExecutorName, TrainerConfig
from trainer_service.runs.run import EventContent, Planned, Run, RunState, StateChanged
from trainer_service.workers import ray_actor, ray_executor, ray_pool
from trainer_service.workers.executor import supervise
from trainer_service.workers.ray_actor import MARK, WorkerActor
from trainer_service.workers.ray_executor import RayExecutor, RayProcess

NODE = f"(on node {platform.node()})"
WAITS = StateChanged(state=RunState.RUNNING, cause="waits for a place on Ray: 1 CPU, 0.5 GPU")
RESUMES = StateChanged(state=RunState.RUNNING)


class FakeProcess:
    """A process on a node: sends the events that a test sets, and records requests."""

    def __init__(self) -> None:
        self.events: list[list[tuple[str, EventContent | None]]] = []
        """Results of the next calls of `receive`."""
        self.requests: list[str] = []
        self.is_stuck = threading.Event()
        self.goes_on = threading.Event()
        """Set to end a `receive` without events."""
        self.last = StateChanged(state=RunState.QUEUED, cause="ended unexpectedly")

    def receive(self, seconds: float) -> Sequence[tuple[str, EventContent | None]]:
        if not self.events:
            self.is_stuck.set()
            self.goes_on.wait(seconds)
            return []
        return self.events.pop(0)

    def acknowledge(self, run_id: str) -> None:
        self.requests.append(f"acknowledge {run_id}")

    def cancel(self, run_id: str) -> None:
        self.requests.append(f"cancel {run_id}")

    def preempt(self) -> None:
        self.requests.append("preempt")

    def join(self, seconds: float) -> StateChanged:
        return self.last


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeRay]:
    """A cluster with free places."""
    fake = FakeRay()
    monkeypatch.setattr(ray_executor, "ray", fake)
    monkeypatch.setattr(ray_pool, "ray", fake)
    monkeypatch.setattr(os, "environ", dict(os.environ))  # a node sets its number of threads
    yield fake
    for actor in fake.actors:
        actor.die()
    fake.room.set()  # lets their threads end


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> FakeProcess:
    """The process that every node starts."""
    process = FakeProcess()

    class FakeExecutor:
        def __init__(self, config: TrainerConfig) -> None:
            assert config.data.is_absolute()

        def start(self, runs: Sequence[Run], parents: Mapping[str, Run]) -> FakeProcess:
            assert [run.id for run in runs] == ["a", "b"]
            assert list(parents) == ["parent"]
            return process

    monkeypatch.setattr(ray_actor, "LocalExecutor", FakeExecutor)
    return process


@pytest.fixture
def executor(tmp_path: Path, fake: FakeRay) -> Iterator[RayExecutor]:
    executor = RayExecutor(
        TrainerConfig(
            runs=tmp_path / "trainer.db",
            executor=ExecutorName.RAY,
            gpus_per_process=0.5,
            threads=1,
        )
    )
    yield executor
    executor.close()
    assert fake.is_shut_down


def run(run_id: str) -> Run:
    return Run(
        id=run_id,
        key=1,
        spec=run_spec(),
        state=RunState.RUNNING,
        cause="",
        trained_chunks=0,
        planned_chunks=0,
        result=None,
        created_at=0.0,
    )


def start(executor: RayExecutor) -> RayProcess:
    """Start a process of two runs."""
    return executor.start([run("a"), run("b")], {"parent": run("parent")})


def received(process: RayProcess) -> Sequence[tuple[str, EventContent | None]]:
    """Receive the next events."""
    return process.receive(60)


def ends(process: RayProcess) -> dict[str, StateChanged]:
    """Supervise a process to its end; return each run's last state."""
    left: dict[str, StateChanged] = {}
    supervise(process, ["a", "b"], lambda *_: None, left.__setitem__, stall_seconds=60)
    return left


def test_events_of_a_process_arrive_from_its_node(
    executor: RayExecutor, process: FakeProcess
) -> None:
    """By run; events of the run itself are acknowledged, and failures name the node."""
    failed = StateChanged(state=RunState.FAILED, cause="no data")
    process.events = [
        [("a", Planned(chunks=3))],
        [("b", Planned(chunks=5)), ("a", failed)],
        [("a", None)],
        [("b", None)],
    ]
    here = start(executor)
    first = received(here)
    here.acknowledge("a")
    second = received(here)
    here.acknowledge("b")
    rest = [*received(here), *received(here)]
    end = here.join(60)

    assert first == [("a", Planned(chunks=3))]
    assert second == [
        ("b", Planned(chunks=5)),
        ("a", StateChanged(state=RunState.FAILED, cause=f"no data {NODE}")),
    ]
    assert rest == [("a", None), ("b", None)]
    assert process.requests == ["acknowledge a", "acknowledge b"]
    assert end == StateChanged(state=RunState.QUEUED, cause=f"ended unexpectedly {NODE}")
    assert executor.describe() == "1 nodes of Ray at auto"


def test_runs_that_wait_for_a_place_say_so(
    executor: RayExecutor, process: FakeProcess, fake: FakeRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each run repeats what it waits for, and reports the end of the wait."""
    monkeypatch.setattr(ray_executor, "WAIT_SECONDS", 0.01)
    process.events = [[("a", Planned(chunks=3))]]
    fake.room.clear()
    here = start(executor)
    waiting = [received(here), received(here)]
    for run_id in ("a", "b"):
        here.acknowledge(run_id)  # no run on a node waits for this receipt
    fake.room.set()
    wait_for(lambda: received(here) == [("a", RESUMES), ("b", RESUMES)])

    assert waiting == [[("a", WAITS), ("b", WAITS)]] * 2
    assert received(here) == [("a", Planned(chunks=3))]
    assert process.requests == []


def test_runs_of_a_lost_node_are_queued_again(
    executor: RayExecutor, process: FakeProcess, fake: FakeRay
) -> None:
    """Also if it is lost during `receive` or before `join`; idle actors are ended, too."""
    lost = StateChanged(
        state=RunState.QUEUED, cause=f"its process on node {platform.node()} is lost: The node died"
    )
    process.events = [[("a", None)], [("b", None)]]
    here, idle = start(executor), start(executor)
    ends(idle)

    def dies_while_receiving() -> None:
        process.is_stuck.wait(60)
        fake.actors[0].die()

    threading.Thread(target=dies_while_receiving).start()

    assert ends(here) == {"a": lost, "b": lost}
    assert all(actor.is_dead for actor in fake.actors)
    process.events = [[("a", None), ("b", None)]]
    here = start(executor)
    received(here)
    fake.actors[-1].die()
    assert here.join(60) == lost


def test_an_actor_that_hangs_sends_no_events(
    executor: RayExecutor, process: FakeProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the service treats its runs as stalled, as with a process that hangs."""
    monkeypatch.setattr(process, "receive", lambda _seconds: process.goes_on.wait(60))
    monkeypatch.setattr(ray_executor, "REPLY_SECONDS", 0.0)

    assert start(executor).receive(0.2) == []
    process.goes_on.set()


@pytest.mark.parametrize(
    ("error", "state"),
    [(FailedPrecondition("other version"), RunState.FAILED), (OSError("?"), RunState.QUEUED)],
)
def test_a_node_that_cannot_start_a_process_says_why(
    executor: RayExecutor, monkeypatch: pytest.MonkeyPatch, error: Exception, state: RunState
) -> None:
    """Runs fail with the reason if a restart cannot help; else they are queued again."""

    def refuse(*_about: object) -> None:
        raise error

    monkeypatch.setattr(WorkerActor, "start", refuse)

    end = StateChanged(state=state, cause=str(error))
    assert ends(start(executor)) == {"a": end, "b": end}


def test_an_actor_that_dies_before_the_start_is_replaced(
    executor: RayExecutor, process: FakeProcess, fake: FakeRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is lost yet; a killed process requests no other actor."""
    monkeypatch.setattr(ray_executor, "WAIT_SECONDS", 0.01)
    process.events = [[("a", Planned(chunks=3))]]
    fake.room.clear()
    here, killed = start(executor), start(executor)
    for actor in fake.actors:
        actor.die()
    fake.room.set()
    first = received(here)
    received_again = [received(here), received(here)]
    killed.kill()

    assert first == [("a", WAITS), ("b", WAITS)]
    assert received_again == [[("a", RESUMES), ("b", RESUMES)], [("a", Planned(chunks=3))]]
    assert received(killed) == [("a", None), ("b", None)]
    assert len(fake.actors) == 3


def test_a_process_without_a_place_ends_when_cancelled_or_preempted(
    executor: RayExecutor, process: FakeProcess, fake: FakeRay
) -> None:
    """It is killed; a started process receives the request."""
    fake.room.clear()
    start(executor).cancel("a")
    start(executor).preempt()
    assert [actor.is_dead for actor in fake.actors] == [True, True]

    fake.room.set()
    process.events = [[("a", Planned(chunks=3))]]
    here = start(executor)
    received(here)
    here.cancel("a")
    here.preempt()
    wait_for(lambda: sorted(process.requests) == ["cancel a", "preempt"])
    here.kill()
    assert fake.actors[-1].is_dead


def test_an_actor_is_kept_for_the_next_process_for_a_while(
    executor: RayExecutor, process: FakeProcess, fake: FakeRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next process starts there at once; without one, the actor ends."""

    def train() -> None:
        process.events = [[("a", None), ("b", None)]]
        here = start(executor)
        received(here)
        here.join(60)

    train()
    monkeypatch.setattr(ray_pool, "IDLE_SECONDS", 0.01)
    train()

    (actor,) = fake.actors
    wait_for(lambda: actor.is_dead)
    assert fake.options == {"num_cpus": 1, "num_gpus": 0.5, "max_concurrency": 3}
    train()
    assert len(fake.actors) == 2


def test_a_node_that_differs_from_the_service_is_refused(tmp_path: Path) -> None:
    """Another version, or a checkpoint folder that is not the service's."""
    config = TrainerConfig(runs=tmp_path / "trainer.db")
    actor = WorkerActor()
    with pytest.raises(FailedPrecondition, match=r"has version .*, and the service 0\.0; install"):
        actor.start("0.0", b"mark", [], {}, config)
    with pytest.raises(FailedPrecondition, match=r"does not see .*; give the service a --storage"):
        actor.start(__version__, b"mark", [], {}, config)
    mark = tmp_path / "trainer.db.checkpoints" / MARK
    mark.parent.mkdir()
    mark.write_bytes(b"other")
    with pytest.raises(FailedPrecondition, match="does not see"):
        actor.start(__version__, b"mark", [], {}, config)


def test_an_unreachable_ray_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a cluster, or without the extra."""
    config = TrainerConfig(
        runs=tmp_path / "trainer.db", executor=ExecutorName.RAY, address="127.0.0.1:9"
    )
    with pytest.raises(AgentError, match=r"no Ray cluster at 127\.0\.0\.1:9: "):
        RayExecutor(config)
    monkeypatch.setitem(sys.modules, "ray", None)
    for module in ("ray_executor", "ray_pool"):
        monkeypatch.delitem(sys.modules, f"trainer_service.workers.{module}")
    with pytest.raises(AgentError, match=r"pip install 'reinforced-regularization\[ray\]'"):
        app._executor(config)
