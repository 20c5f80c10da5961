"""What the writer keeps in memory: another process's changes are never overlooked."""

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from agent_service.app import verify_store
from agent_service.controllers.ppo import PPOSettings
from agent_service.domain.errors import AlreadyExists, FailedPrecondition, ResourceExhausted
from agent_service.domain.rewards import Scores
from agent_service.domain.runs import (
    ChunkReport,
    Decision,
    FinishRun,
    Mode,
    Outcome,
    StartRun,
    Use,
)
from agent_service.metrics.decisions import DecisionMetrics
from agent_service.rules.capacity import Capacity
from agent_service.rules.catalog import Catalog
from agent_service.rules.runs import RunService
from agent_service.store.rows import cache as cache_module
from agent_service.store.store import SqlStore
from tests.agent_service.learned import learn_once
from tests.agent_service.specs import spec

MOST_RUNS = 6
SMALL = PPOSettings(rollout_size=2, batch_size=2, n_epochs=1, net_arch=(4,))


class Process:
    """One of several that serve the same store, each with what it knows."""

    def __init__(self, path: Path) -> None:
        self.store = SqlStore(f"sqlite:///{path}")
        self.run_service: RunService = RunService(
            self.store,
            metrics=DecisionMetrics(CollectorRegistry()),
            capacity=Capacity(runs=MOST_RUNS),
        )
        self.catalog = Catalog(self.store)

    def start(self, run_id: str = "r") -> Decision:
        wish = StartRun(controller="c", run_id=run_id, labels={})
        return self.run_service.start_run(wish).result()

    def report(self, chunk: int, run_id: str = "r", *, loss: float = 1.0) -> Decision:
        return self.run_service.report_chunk(
            ChunkReport(
                run_id=run_id,
                chunk=chunk,
                losses=np.full(4, loss),
                feedback=Scores(training=0.5, validation=0.5),
            )
        ).result()

    def finish(self, run_id: str = "r") -> None:
        self.run_service.finish_run(FinishRun(run_id=run_id, outcome=Outcome.TERMINATED)).result()


@pytest.fixture
def two(tmp_path: Path) -> Iterator[tuple[Process, Process]]:
    one, other = Process(tmp_path / "agent.db"), Process(tmp_path / "agent.db")
    one.catalog.create_controller(spec(algorithm=SMALL), Mode.LEARNING).result()
    yield one, other
    for process in (one, other):
        process.store.close()
    verify_store(f"sqlite:///{tmp_path}/agent.db")


def test_processes_take_turns_with_a_run(two: tuple[Process, Process]) -> None:
    """Each sees the chunks that the other took, positions go on, and the log verifies."""
    one, other = two
    one.start()
    decisions = [(one, other)[chunk % 2].report(chunk) for chunk in range(1, 8)]

    assert [decision.chunk for decision in decisions] == list(range(2, 9))
    assert [decision.position for decision in decisions] == list(range(2, 9))


def test_a_chunk_that_another_process_took_is_not_taken_again(two: tuple[Process, Process]) -> None:
    """The same report is answered the same; another content is refused; a later one is expected."""
    one, other = two
    one.start()
    one.report(1)
    taken = other.report(2)

    assert one.report(2).position == taken.position
    with pytest.raises(AlreadyExists):
        one.report(2, loss=9.0)
    with pytest.raises(FailedPrecondition) as raised:
        one.report(5)
    assert raised.value.expected_chunk == 3


def test_a_run_that_another_process_finished_takes_no_report(two: tuple[Process, Process]) -> None:
    """Nor is it abandoned, or finished otherwise."""
    one, other = two
    one.start()
    one.report(1)
    other.finish()

    with pytest.raises(FailedPrecondition, match="finished"):
        one.report(2)
    assert one.run_service.abandon_silent_runs(lease=-1.0).result() == 0


def test_a_run_that_another_process_abandoned_is_revived(two: tuple[Process, Process]) -> None:
    """Though the one that it reports to has it in memory as active."""
    one, other = two
    one.start()
    one.report(1)
    assert other.run_service.abandon_silent_runs(lease=-1.0).result() == 1

    one.report(2)

    run, _ = one.run_service.get_run("r")
    assert run.abandoned_at is None
    assert run.reported_chunks == 2


def test_a_new_policy_version_is_used_at_once(two: tuple[Process, Process]) -> None:
    """Learned in another process, it decides the next chunk of a run that is in memory."""
    one, other = two
    one.start()
    for chunk in (1, 2, 3):
        assert one.report(chunk).policy_version == 1
    assert learn_once(other.store) == 1

    assert one.report(4).policy_version == 2
    log = one.store.read(lambda session: session.decisions(after=0, limit=9))
    assert [decision.use for _, decision in log][:2] == [Use.LEARNED, Use.LEARNED]


def test_a_controller_that_another_process_froze_learns_no_more(
    two: tuple[Process, Process],
) -> None:
    """A learning run of it is refused where it was known as learning."""
    one, other = two
    one.start()
    other.catalog.set_mode("c", Mode.FROZEN).result()

    wish = StartRun(controller="c", run_id="s", mode=Mode.LEARNING, labels={})
    with pytest.raises(FailedPrecondition, match="frozen"):
        one.run_service.start_run(wish).result()


@pytest.mark.parametrize("bound", [{"RUNS_KEPT": 2}, {"RUNS_BYTES": 5000}])
def test_more_runs_than_are_kept_go_on(
    bound: dict[str, int], request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With room for two runs, by number or by bytes, five take turns and lose nothing."""
    for name, most in bound.items():
        monkeypatch.setattr(cache_module, name, most)
    one, _ = request.getfixturevalue("two")
    names = [f"r{number}" for number in range(5)]
    for name in names:
        one.start(name)
    for chunk in range(1, 4):
        for name in names:
            assert one.report(chunk, name).chunk == chunk + 1


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_no_run_too_many_begins_whichever_process_is_asked(
    two: tuple[Process, Process], seed: int
) -> None:
    """Runs begin, end, are abandoned and come back in either; the limit is met to the run."""
    draws = random.Random(seed)
    active: set[str] = set()
    chunks: dict[str, int] = {}
    refused = 0
    process, _other = two
    for number in range(300):
        if draws.random() < 0.05:  # what a process knows lasts until another one writes
            process = draws.choice(two)
        what = draws.choice(["start", "start", "start", "finish", "abandon", "report"])
        if what == "start" and len(active) < MOST_RUNS:
            process.start(f"r{number}")
            active.add(f"r{number}")
            chunks[f"r{number}"] = 0
        elif what == "start":
            refused += 1
            with pytest.raises(ResourceExhausted):
                process.start(f"r{number}")
        elif what == "finish" and active:
            ended = draws.choice(sorted(active))
            process.finish(ended)
            active.remove(ended)
            del chunks[ended]
        elif what == "abandon" and draws.random() < 0.3:
            process.run_service.abandon_silent_runs(lease=-1.0).result()
            active.clear()
        elif what == "report" and chunks:
            name = draws.choice(sorted(chunks))
            chunks[name] += 1
            process.report(chunks[name], name)
            active.add(name)
    assert refused > 5
