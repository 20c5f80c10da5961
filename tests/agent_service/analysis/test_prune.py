"""Pruning: what is old enough goes to the archive whole, what is needed stays, nothing is lost."""

import os
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent_service.analysis import prune as prune_module
from agent_service.analysis.parquet import same_parquet, write_parquet
from agent_service.analysis.prune import (
    AWAITED,
    CHANGED,
    NEWEST,
    ArchiveError,
    Plan,
    Pruner,
    make_plan,
)
from agent_service.analysis.tables import Table
from agent_service.app import verify_store
from agent_service.controllers.ppo import PPOSettings
from agent_service.controllers.replay import ReplaySettings
from agent_service.domain.errors import AlreadyExists, NotFound
from agent_service.domain.runs import Mode, RunState
from agent_service.domain.store import Usage
from agent_service.store.store import SqlStore
from tests.agent_service.analysis.trainings import Trainings, in_archive, in_both, in_store, many
from tests.agent_service.learned import learn_once
from tests.agent_service.specs import DROPOUT, NOISE, spec


class Failing:
    """A function whose call number `at` fails, as on a full disk."""

    def __init__(self, call: Callable[..., Any], *, at: int) -> None:
        self._call, self._left = call, at

    def __call__(self, *words: Any) -> Any:
        self._left -= 1
        if self._left == 0:
            raise OSError(28, "No space left on device")
        return self._call(*words)


@pytest.fixture
def trainings(store_url: str) -> Iterator[Trainings]:
    with SqlStore(store_url) as store:
        trainings = Trainings(store)
        trainings.create()
        yield trainings


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "archive"


def prune(
    trainings: Trainings,
    folder: Path,
    plan: Plan | None = None,
    *,
    before: float = 1e12,
    batch: int = 250,
    per_file: int = 9,
) -> Plan:
    """Prune by a plan, or by one made now; return it without the runs that stayed."""
    pruner = Pruner(trainings.store, folder, batch=batch, per_file=per_file)
    with pruner.pruning():
        plan = plan or make_plan(trainings.store, before=before)
        plan.leave(pruner.prune(plan, progress=lambda _count: None))
    return plan


def newest_run(trainings: Trainings) -> str:
    """Return the run that the log ends with."""
    last = trainings.store.read(lambda session: session.last_position())
    ((run, _),) = trainings.store.read(lambda s: s.decisions(after=last - 1, limit=1))
    return run.id


def usage(trainings: Trainings, name: str) -> Usage:
    return trainings.catalog.get_controller(name)[1]


def recorded(trainings: Trainings, name: str) -> int:
    controller, _usage = trainings.catalog.get_controller(name)
    return trainings.store.read(lambda session: session.count_recorded(controller))


@given(data=st.data())
@settings(
    deadline=None,
    max_examples=8,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_each_transition_is_in_one_place_whatever_is_pruned(
    trainings: Trainings, store_url: str, folder: Path, data: st.DataObject
) -> None:
    """Store and archive have together what the store had, to the bit; what is left verifies.

    Any ages, batches and sizes of files; each example goes on where the one before ended.
    """
    rng = random.Random(data.draw(st.integers(0, 10**9)))
    began = trainings.now
    many(trainings, rng, f"r{began}", runs=data.draw(st.integers(1, 6)))
    before = in_both(trainings.store, folder)
    cut = data.draw(st.floats(began, trainings.now + 1))
    old = {
        run.id
        for run, _ in trainings.run_service.list_runs(
            controller="", state=None, labels={}, before=None, limit=10_000, page=list
        )
        if run.state is not RunState.ACTIVE and run.updated_at < cut
    }
    newest = newest_run(trainings)

    plan = prune(
        trainings,
        folder,
        before=cut,
        batch=data.draw(st.integers(1, 20)),
        per_file=data.draw(st.integers(1, 30)),
    )

    assert in_both(trainings.store, folder) == before
    assert {run.id for run in plan.going} == old - {newest}
    there = {row["run_id"] for row in in_store(trainings.store).values()}
    assert not there & (old - {newest})
    assert verify_store(store_url) > 0


def test_what_is_counted_stays_counted(trainings: Trainings, folder: Path) -> None:
    """Counters never fall, or Prometheus would take it for a restart; runs in a state do."""
    small = PPOSettings(rollout_size=4, batch_size=4, n_epochs=1, net_arch=(4,))
    trainings.create(spec("small", small))
    trainings.train("learned", chunks=4, controller="small")
    assert learn_once(trainings.store) == 1
    for number in range(3):
        trainings.train(f"r{number}")
    trainings.train("last", controller="constant")
    before = usage(trainings, "random")
    assert recorded(trainings, "random") == 9

    prune(trainings, folder, batch=2)

    after = usage(trainings, "random")
    assert recorded(trainings, "random") == 9
    assert after.outcomes == before.outcomes
    assert after.runs[RunState.FINISHED] == 0
    assert usage(trainings, "small").learned == 4
    versions = [row["learned_in"] for row in in_archive(folder).values() if row["learned_in"]]
    assert versions == [2, 2, 2, 2]


def test_a_pruned_run_takes_no_more_calls_and_its_id_stays_taken(
    trainings: Trainings, folder: Path
) -> None:
    """The last report again, a look, another end: NOT_FOUND, with the file; a start is refused."""
    trainings.train("old")
    trainings.train("last")
    prune(trainings, folder)
    (file,) = folder.glob("*.parquet")

    for call in (
        lambda: trainings.report("old", 3),
        lambda: trainings.report("old", 4),
        lambda: trainings.run_service.get_run("old"),
        lambda: trainings.finish("old"),
        lambda: trainings.run_service.transitions(controller="", run_id="old", after=0, limit=1),
    ):
        with pytest.raises(NotFound, match=f"'old' was pruned: it is in .*{file.name}"):
            call()
    with pytest.raises(AlreadyExists, match=r"'old' was pruned .* its id stays taken"):
        trainings.start("old")
    assert in_store(trainings.store).keys() == {6, 7, 8}


def test_positions_are_never_given_twice(trainings: Trainings, folder: Path) -> None:
    """The run that ends the log stays, however old, so the next decision goes on from there."""
    trainings.train("old")
    trainings.train("last")
    plan = prune(trainings, folder)

    assert plan.staying == {NEWEST: 1}
    trainings.start("new")
    assert trainings.run_service.get_run("new")[1].position == 9


def test_what_waits_to_be_learned_from_stays(trainings: Trainings, folder: Path) -> None:
    """Until its controller is deleted; a frozen one may learn again."""
    trainings.train("learning", controller="ppo")
    trainings.train("frozen", controller="ppo", mode=Mode.FROZEN)
    trainings.train("last")
    trainings.catalog.set_mode("ppo", Mode.FROZEN).result()
    plan = prune(trainings, folder)
    assert [run.id for run in plan.going] == ["frozen"]
    assert plan.staying == {AWAITED: 1, NEWEST: 1}

    trainings.catalog.delete_controller("ppo").result()
    assert [run.id for run in prune(trainings, folder).going] == ["learning"]


def test_a_run_that_comes_back_while_it_is_archived_stays(
    trainings: Trainings, store_url: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An abandoned child reports again just then: its file is written anew, without it."""
    for name in ("gone", "back"):
        trainings.start(name)
        trainings.report(name, 1)
    trainings.abandon()
    trainings.train("last")
    revived: list[int] = []

    def revive(table: Table, path: Path) -> bool:
        if not revived:
            revived.append(trainings.report("back", 2).chunk)
            return True
        return same_parquet(table, path)

    monkeypatch.setattr(prune_module, "same_parquet", revive)
    plan = make_plan(trainings.store, before=1e12)
    assert [run.id for run in plan.going] == ["gone", "back"]
    prune(trainings, folder, plan)

    assert [run.id for run in plan.going] == ["gone"]
    assert plan.staying[CHANGED] == 1
    assert {row["run_id"] for row in in_archive(folder).values()} == {"gone"}
    assert trainings.report("back", 3).chunk == 4
    assert verify_store(store_url) == 4 + 4


def test_two_prunes_at_once_are_one_after_the_other(trainings: Trainings, folder: Path) -> None:
    """The second into the same archive is refused; into another one it finds what is left."""
    with (
        Pruner(trainings.store, folder).pruning(),
        pytest.raises(ArchiveError, match="another prune works"),
        Pruner(trainings.store, folder).pruning(),
    ):
        pytest.fail("both prune")

    for number in range(12):
        trainings.train(f"r{number}", chunks=2)
    before = in_store(trainings.store)
    folders = [folder.with_name(f"archive-{n}") for n in range(2)]
    both = [
        threading.Thread(target=prune, args=(trainings, f), kwargs={"batch": 3}) for f in folders
    ]
    for one in both:
        one.start()
    for one in both:
        one.join()

    contents = [in_store(trainings.store), *map(in_archive, folders)]
    assert sum(map(len, contents)) == len(before)
    assert contents[0] | contents[1] | contents[2] == before
    assert len(contents[0]) == 2


def test_runs_that_another_prune_deletes_meanwhile_are_left_to_it(
    trainings: Trainings, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rows vanish between the writing of this one's file and its comparison with the store."""
    for name in ("mine", "others", "last"):
        trainings.train(name, chunks=2)
    plan = make_plan(trainings.store, before=1e12)
    others = next(run for run in plan.going if run.id == "others")

    def prune_others(table: Table, path: Path) -> bool:
        monkeypatch.undo()
        prune(trainings, folder.with_name("other"), Plan(going=[others]))
        return same_parquet(table, path)

    monkeypatch.setattr(prune_module, "same_parquet", prune_others)
    prune(trainings, folder, plan)

    assert plan.staying[CHANGED] == 1
    assert {row["run_id"] for row in in_archive(folder).values()} == {"mine"}


@pytest.mark.parametrize("after", ["written", "read back", "marked", "written anew"])
def test_a_prune_that_fails_leaves_the_runs_in_the_store(
    trainings: Trainings, folder: Path, monkeypatch: pytest.MonkeyPatch, after: str
) -> None:
    """At any step before the file has its name, and if it holds something else than was written.

    No part stays, and no run is hidden.
    """
    for name in ("one", "two", "last"):
        trainings.train(name)
    before = in_store(trainings.store)
    pruner = Pruner(trainings.store, folder)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    def write_less(table: Table, path: Path) -> None:
        write_parquet(replace(table, records=list(table.records)[:-1]), path)

    if after == "written":
        monkeypatch.setattr(prune_module, "same_parquet", full)
    elif after == "read back":
        monkeypatch.setattr(prune_module, "write_parquet", write_less)
    elif after == "marked":
        monkeypatch.setattr(os, "replace", full)
    with pruner.pruning():
        plan = make_plan(trainings.store, before=1e12)
        if after == "written anew":
            trainings.store.write(
                lambda session: session.mark_archived(plan.going[0], archive="elsewhere")
            ).result()
            monkeypatch.setattr(pruner, "_write", Failing(pruner._write, at=2))
        with pytest.raises((ArchiveError, OSError), match=r"No space left|does not read back"):
            pruner.prune(plan, progress=lambda _count: None)

    assert [path.name for path in folder.iterdir()] == [".lock"]
    with pruner.pruning() as elsewhere:
        assert elsewhere == (["elsewhere"] if after == "written anew" else [])
    trainings.store.write(lambda session: session.unmark_archived("elsewhere")).result()
    assert in_store(trainings.store) == before
    monkeypatch.undo()
    assert len(prune(trainings, folder).going) == 2
    assert in_both(trainings.store, folder) == before


def test_a_replay_of_a_pruned_run_is_created_again(trainings: Trainings, folder: Path) -> None:
    """Its values are in the controller's spec, so the same call has the same answer."""
    trainings.train("old")
    again = spec("again", ReplaySettings(run_id="old"), hyperparameters=(NOISE, DROPOUT))
    there = trainings.catalog.create_controller(again, Mode.FROZEN).result()
    trainings.train("last")
    prune(trainings, folder)

    assert trainings.catalog.create_controller(again, Mode.FROZEN).result() == there
