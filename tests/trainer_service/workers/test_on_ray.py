"""Processes of runs on Ray's nodes: what they tell, are asked, and what becomes of lost ones.

Ray is a fake, and so are the processes on its nodes. `make test-ray` does it with both real.
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
from trainer_service.run import Planned, Run, RunState, StateChanged, What
from trainer_service.workers import on_ray, ray_hand, ray_places
from trainer_service.workers.following import follow
from trainer_service.workers.on_ray import RayExecutor, RayProcess
from trainer_service.workers.ray_hand import MARK, Hand

NODE = f"(on node {platform.node()})"
WAITS = StateChanged(state=RunState.RUNNING, cause="waits for a place on Ray: 1 CPU, 0.5 GPU")
GOES_ON = StateChanged(state=RunState.RUNNING)


class FakeProcess:
    """On a node: tells what a test has it tell, and notes what it is asked."""

    def __init__(self) -> None:
        self.told: list[list[tuple[str, What | None]]] = []
        """The next hearings."""
        self.asked: list[str] = []
        self.is_stuck = threading.Event()
        self.goes_on = threading.Event()
        """Ends a hearing that has nothing to tell."""
        self.last = StateChanged(state=RunState.QUEUED, cause="ended without a word")

    def hear(self, seconds: float) -> Sequence[tuple[str, What | None]]:
        if not self.told:
            self.is_stuck.set()
            self.goes_on.wait(seconds)
            return []
        return self.told.pop(0)

    def acknowledge(self, run_id: str) -> None:
        self.asked.append(f"acknowledge {run_id}")

    def cancel(self, run_id: str) -> None:
        self.asked.append(f"cancel {run_id}")

    def hand_back(self) -> None:
        self.asked.append("hand back")

    def end(self, seconds: float) -> StateChanged:
        return self.last


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeRay]:
    """A cluster with room."""
    fake = FakeRay()
    monkeypatch.setattr(on_ray, "ray", fake)
    monkeypatch.setattr(ray_places, "ray", fake)
    monkeypatch.setattr(os, "environ", dict(os.environ))  # a node sets its number of threads
    yield fake
    for actor in fake.actors:
        actor.die()
    fake.room.set()  # none of their threads waits any more


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> FakeProcess:
    """The process that any node starts."""
    process = FakeProcess()

    class FakeExecutor:
        def __init__(self, config: TrainerConfig) -> None:
            assert config.data.is_absolute()

        def start(self, runs: Sequence[Run], parents: Mapping[str, Run]) -> FakeProcess:
            assert [run.id for run in runs] == ["a", "b"]
            assert list(parents) == ["parent"]
            return process

    monkeypatch.setattr(ray_hand, "LocalExecutor", FakeExecutor)
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


def heard(process: RayProcess) -> Sequence[tuple[str, What | None]]:
    """Hear for so long as it takes."""
    return process.hear(60)


def ends(process: RayProcess) -> dict[str, StateChanged]:
    """Follow a process to its end; return how each run left it."""
    left: dict[str, StateChanged] = {}
    follow(process, ["a", "b"], lambda *_: None, left.__setitem__, stall_seconds=60)
    return left


def test_what_a_process_tells_comes_from_its_node(
    executor: RayExecutor, process: FakeProcess
) -> None:
    """Each run's own; what was told by itself gets its receipt, and a failure the node's name."""
    failed = StateChanged(state=RunState.FAILED, cause="no data")
    process.told = [
        [("a", Planned(chunks=3))],
        [("b", Planned(chunks=5)), ("a", failed)],
        [("a", None)],
        [("b", None)],
    ]
    here = start(executor)
    first = heard(here)
    here.acknowledge("a")
    second = heard(here)
    here.acknowledge("b")
    rest = [*heard(here), *heard(here)]
    end = here.end(60)

    assert first == [("a", Planned(chunks=3))]
    assert second == [
        ("b", Planned(chunks=5)),
        ("a", StateChanged(state=RunState.FAILED, cause=f"no data {NODE}")),
    ]
    assert rest == [("a", None), ("b", None)]
    assert process.asked == ["acknowledge a", "acknowledge b"]
    assert end == StateChanged(state=RunState.QUEUED, cause=f"ended without a word {NODE}")
    assert executor.describe() == "1 nodes of Ray at auto"


def test_what_waits_for_a_place_says_so(
    executor: RayExecutor, process: FakeProcess, fake: FakeRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of each run, what it waits for, again and again; then that it waits no more."""
    monkeypatch.setattr(on_ray, "WAIT_SECONDS", 0.01)
    process.told = [[("a", Planned(chunks=3))]]
    fake.room.clear()
    here = start(executor)
    waiting = [heard(here), heard(here)]
    for run_id in ("a", "b"):
        here.acknowledge(run_id)  # nobody on a node is owed a receipt for it
    fake.room.set()
    wait_for(lambda: heard(here) == [("a", GOES_ON), ("b", GOES_ON)])

    assert waiting == [[("a", WAITS), ("b", WAITS)]] * 2
    assert heard(here) == [("a", Planned(chunks=3))]
    assert process.asked == []


def test_runs_whose_node_is_lost_go_on_elsewhere(
    executor: RayExecutor, process: FakeProcess, fake: FakeRay
) -> None:
    """Also in the midst of a hearing, or before the last word; idle places are let go, too."""
    lost = StateChanged(
        state=RunState.QUEUED, cause=f"its process on node {platform.node()} is lost: The node died"
    )
    process.told = [[("a", None)], [("b", None)]]
    here, idle = start(executor), start(executor)
    ends(idle)

    def dies_in_the_midst() -> None:
        process.is_stuck.wait(60)
        fake.actors[0].die()

    threading.Thread(target=dies_in_the_midst).start()

    assert ends(here) == {"a": lost, "b": lost}
    assert all(actor.is_dead for actor in fake.actors)
    process.told = [[("a", None), ("b", None)]]
    here = start(executor)
    heard(here)
    fake.actors[-1].die()
    assert here.end(60) == lost


def test_an_actor_that_hangs_tells_nothing(
    executor: RayExecutor, process: FakeProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the service takes its runs for stalled, as it does where a process hangs."""
    monkeypatch.setattr(process, "hear", lambda _seconds: process.goes_on.wait(60))
    monkeypatch.setattr(on_ray, "REPLY_SECONDS", 0.0)

    assert start(executor).hear(0.2) == []
    process.goes_on.set()


@pytest.mark.parametrize(
    ("error", "state"),
    [(FailedPrecondition("other version"), RunState.FAILED), (OSError("?"), RunState.QUEUED)],
)
def test_a_node_that_cannot_start_a_process_says_why(
    executor: RayExecutor, monkeypatch: pytest.MonkeyPatch, error: Exception, state: RunState
) -> None:
    """A run that no other start would help fails with the reason; others go on elsewhere."""

    def refuse(*_about: object) -> None:
        raise error

    monkeypatch.setattr(Hand, "start", refuse)

    end = StateChanged(state=state, cause=str(error))
    assert ends(start(executor)) == {"a": end, "b": end}


def test_a_place_that_was_none_is_asked_for_again(
    executor: RayExecutor, process: FakeProcess, fake: FakeRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has not begun is not lost with its node; nor is it asked for once it is killed."""
    monkeypatch.setattr(on_ray, "WAIT_SECONDS", 0.01)
    process.told = [[("a", Planned(chunks=3))]]
    fake.room.clear()
    here, unwanted = start(executor), start(executor)
    for actor in fake.actors:
        actor.die()
    fake.room.set()
    told = heard(here)
    heard_again = [heard(here), heard(here)]
    unwanted.kill()

    assert told == [("a", WAITS), ("b", WAITS)]
    assert heard_again == [[("a", GOES_ON), ("b", GOES_ON)], [("a", Planned(chunks=3))]]
    assert heard(unwanted) == [("a", None), ("b", None)]
    assert len(fake.actors) == 3


def test_what_has_no_place_yet_ends_where_it_is_asked_to(
    executor: RayExecutor, process: FakeProcess, fake: FakeRay
) -> None:
    """Cancelled or handed back it is killed; one that has begun is asked there."""
    fake.room.clear()
    start(executor).cancel("a")
    start(executor).hand_back()
    assert [actor.is_dead for actor in fake.actors] == [True, True]

    fake.room.set()
    process.told = [[("a", Planned(chunks=3))]]
    here = start(executor)
    heard(here)
    here.cancel("a")
    here.hand_back()
    wait_for(lambda: sorted(process.asked) == ["cancel a", "hand back"])
    here.kill()
    assert fake.actors[-1].is_dead


def test_a_place_is_held_for_the_next_process_for_a_while(
    executor: RayExecutor, process: FakeProcess, fake: FakeRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one starts there at once; where none comes, the place is free for others."""

    def train() -> None:
        process.told = [[("a", None), ("b", None)]]
        here = start(executor)
        heard(here)
        here.end(60)

    train()
    monkeypatch.setattr(ray_places, "IDLE_SECONDS", 0.01)
    train()

    (actor,) = fake.actors
    wait_for(lambda: actor.is_dead)
    assert fake.options == {"num_cpus": 1, "num_gpus": 0.5, "max_concurrency": 3}
    train()
    assert len(fake.actors) == 2


def test_a_node_that_is_not_as_the_service_is_refused(tmp_path: Path) -> None:
    """Another version, or a folder of checkpoints that is not the service's, in words."""
    config = TrainerConfig(runs=tmp_path / "trainer.db")
    hand = Hand()
    with pytest.raises(FailedPrecondition, match=r"has version .*, and the service 0\.0; install"):
        hand.start("0.0", b"mark", [], {}, config)
    with pytest.raises(FailedPrecondition, match=r"does not see .*; give the service a --storage"):
        hand.start(__version__, b"mark", [], {}, config)
    mark = tmp_path / "trainer.db.checkpoints" / MARK
    mark.parent.mkdir()
    mark.write_bytes(b"other")
    with pytest.raises(FailedPrecondition, match="does not see"):
        hand.start(__version__, b"mark", [], {}, config)


def test_who_cannot_reach_ray_says_so_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a cluster, and without the extra."""
    config = TrainerConfig(
        runs=tmp_path / "trainer.db", executor=ExecutorName.RAY, address="127.0.0.1:9"
    )
    with pytest.raises(AgentError, match=r"no Ray cluster at 127\.0\.0\.1:9: "):
        RayExecutor(config)
    monkeypatch.setitem(sys.modules, "ray", None)
    for module in ("on_ray", "ray_places"):
        monkeypatch.delitem(sys.modules, f"trainer_service.workers.{module}")
    with pytest.raises(AgentError, match=r"pip install 'reinforced-regularization\[ray\]'"):
        app._executor(config)
