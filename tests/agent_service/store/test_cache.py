"""The writer's cache: changes of another process are never overlooked."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent_service.app import verify_store
from agent_service.controllers.ppo import PPOSettings
from agent_service.domain.errors import AlreadyExists, FailedPrecondition, ResourceExhausted
from agent_service.domain.runs import Mode, Use
from agent_service.rules.capacity import Capacity
from agent_service.store.rows import cache as cache_module
from agent_service.store.store import SqlStore
from tests.agent_service.analysis.trainings import LEASE, Trainings
from tests.agent_service.learned import learn_once
from tests.agent_service.specs import spec

MOST_RUNS = 6
SMALL = PPOSettings(rollout_size=2, batch_size=2, n_epochs=1, net_arch=(4,))


@pytest.fixture
def two(tmp_path: Path) -> Iterator[tuple[Trainings, Trainings]]:
    """Two processes that serve one store, each with a cache of its own."""
    url = f"sqlite:///{tmp_path}/agent.db"
    with SqlStore(url) as first, SqlStore(url) as second:
        capacity = Capacity(runs=MOST_RUNS)
        one, other = (Trainings(store, capacity=capacity) for store in (first, second))
        one.create(spec("random", SMALL))
        yield one, other
    verify_store(url)


def test_processes_take_turns_with_a_run(two: tuple[Trainings, Trainings]) -> None:
    """Each sees the chunks that the other took; what was reported to it is answered the same."""
    one, other = two
    one.start("r")
    decisions = [(one, other)[chunk % 2].report("r", chunk) for chunk in range(1, 8)]

    assert [decision.chunk for decision in decisions] == list(range(2, 9))
    assert [decision.position for decision in decisions] == list(range(2, 9))
    taken = other.report("r", 8)
    assert one.report("r", 8).position == taken.position
    with pytest.raises(AlreadyExists):
        one.report("r", 8, training=0.75)
    with pytest.raises(FailedPrecondition) as raised:
        one.report("r", 11)
    assert raised.value.expected_chunk == 9


def test_the_end_of_a_run_in_another_process_is_seen(two: tuple[Trainings, Trainings]) -> None:
    """A run that another process finished takes no report; one that it abandoned is revived."""
    one, other = two
    for run_id in ("r", "s"):
        one.start(run_id)
        one.report(run_id, 1)
    other.finish("r")

    with pytest.raises(FailedPrecondition, match="finished"):
        one.report("r", 2)
    other.now += LEASE + 1
    assert other.run_service.abandon_silent_runs(lease=LEASE).result() == 1
    one.report("s", 2)
    run, _ = one.run_service.get_run("s")
    assert (run.abandoned_at, run.reported_chunks) == (None, 2)


def test_a_controller_changes_in_another_process(two: tuple[Trainings, Trainings]) -> None:
    """A version that it learns decides the next chunk; frozen there, it starts no learning run."""
    one, other = two
    one.start("r")
    for chunk in (1, 2, 3):
        assert one.report("r", chunk).policy_version == 1
    assert learn_once(other.store) == 1

    assert one.report("r", 4).policy_version == 2
    log = one.store.read(lambda session: session.decisions(after=0, limit=9))
    assert [decision.use for _, decision in log][:2] == [Use.LEARNED, Use.LEARNED]
    other.catalog.set_mode("random", Mode.FROZEN).result()
    with pytest.raises(FailedPrecondition, match="frozen"):
        one.start("s", mode=Mode.LEARNING)


@pytest.mark.parametrize("bound", [{"RUNS_KEPT": 2}, {"RUNS_BYTES": 5000}])
def test_more_runs_than_are_cached_go_on(
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
            assert one.report(name, chunk).chunk == chunk + 1


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_no_run_beyond_the_limit_begins_in_any_process(
    two: tuple[Trainings, Trainings], seed: int
) -> None:
    """Runs begin, end, are abandoned and come back in either; the limit is met to the run."""
    draws = random.Random(seed)
    active: set[str] = set()
    chunks: dict[str, int] = {}
    refused = 0
    process, _other = two
    for number in range(300):
        if draws.random() < 0.05:  # a cache lasts until another process writes
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
            process.report(name, chunks[name])
            active.add(name)
    assert refused > 5
