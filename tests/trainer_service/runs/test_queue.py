"""The run queue, without processes."""

import threading
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent_service.domain.errors import InvalidArgument, ResourceExhausted, Unavailable
from agent_service.rules.catalog import Catalog
from tests.end_to_end.processes import wait_for
from tests.given import ServedAgent, of_sqlite
from tests.trainer_service.specs import run_spec
from trainer_service.config import ExecutorName, TrainerConfig
from trainer_service.runs.agent_lookup import AgentLookup
from trainer_service.runs.queue import RunQueue
from trainer_service.runs.run import RunState, StateChanged
from trainer_service.runs.store import RunStore
from trainer_service.workers.local import LocalExecutor


def test_checkpoints_of_runs_that_have_ended_are_removed(tmp_path: Path) -> None:
    """Also unfinished ones, and those of unknown runs; kept ones stay."""
    config = TrainerConfig(runs=tmp_path / "trainer.db")
    checkpoints = tmp_path / "trainer.db.checkpoints"
    store = RunStore(config.runs)
    for name, state in (("ended", RunState.CANCELLED), ("kept", RunState.SUCCEEDED)):
        store.add(name, replace(run_spec(), keep=True))
        store.append(name, StateChanged(state=state))
    for name in ("ended", "kept", "unknown"):
        (checkpoints / name).mkdir(parents=True)
        (checkpoints / name / "000000001.checkpoint").write_text("")
        (checkpoints / name / "000000002.checkpoint.4711").write_text("unfinished")

    runs = RunQueue(store, config, LocalExecutor(config), observers=[])
    left = [str(path.relative_to(checkpoints)) for path in checkpoints.rglob("*")]
    runs.close()

    assert sorted(left) == ["kept", "kept/000000001.checkpoint"]
    with pytest.raises(Unavailable, match="drains"):
        runs.submit("late", run_spec())
    store.close()


def test_more_runs_than_max_runs_are_refused(tmp_path: Path) -> None:
    """Resubmissions are answered, and ended runs do not count."""
    config = TrainerConfig(runs=tmp_path / "trainer.db", max_runs=2)
    with (
        closing(RunStore(config.runs)) as store,
        closing(RunQueue(store, config, LocalExecutor(config), observers=[])) as runs,
    ):
        for name in ("ended", "one", "two"):
            store.add(name, run_spec())
        store.append("ended", StateChanged(state=RunState.CANCELLED))

        with pytest.raises(ResourceExhausted, match=r"at most 2 runs \(--max-runs\)") as raised:
            runs.submit("three", run_spec())
        assert raised.value.limit == "runs"
        assert runs.submit("one", run_spec()).id == "one"
        assert store.find("three") is None


@of_sqlite
def test_a_submission_does_not_wait_for_an_agent_that_hangs(
    served: ServedAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It accepts calls and answers none; once it answers again, what is not there is refused."""
    goes_on, find = threading.Event(), Catalog.get_controller

    def hang(catalog: Catalog, name: str) -> Any:
        goes_on.wait(60)
        return find(catalog, name)

    monkeypatch.setattr(Catalog, "get_controller", hang)
    with closing(AgentLookup(TrainerConfig(agent=served.address))) as agent:

        def check() -> None:
            agent.check_controller("first")
            agent.check_controller("second")

        def is_refused() -> bool:
            with suppress(InvalidArgument):
                agent.check_controller("third")
                return False
            return True

        checking = threading.Thread(target=check)
        checking.start()
        checking.join(15)
        is_done = not checking.is_alive()
        goes_on.set()
        checking.join()

        assert is_done
        wait_for(is_refused)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"parallel": 0}, "parallel"),
        ({"threads": -1}, "threads"),
        ({"checkpoint_seconds": -1.0}, "checkpoint_seconds"),
        ({"grace_seconds": -1.0}, "grace_seconds"),
        ({"restarts": -1}, "restarts"),
        ({"stall_seconds": 0.0}, "stall_seconds"),
        ({"agent_seconds": -1.0}, "agent_seconds"),
        ({"max_runs": 0}, "max_runs"),
        ({"address": "auto"}, "address"),
        ({"gpus_per_process": 0.5}, "gpus_per_process"),
        ({"executor": ExecutorName.RAY, "device": "cuda:1"}, "device"),
        ({"executor": ExecutorName.RAY, "gpus_per_process": 2.0}, "gpus_per_process"),
        (
            {"executor": ExecutorName.RAY, "device": "cuda", "gpus_per_process": 0.0},
            "gpus_per_process",
        ),
    ],
)
def test_an_invalid_option_is_refused_by_name(changes: dict[str, Any], field: str) -> None:
    """Before anything is opened."""
    with pytest.raises(InvalidArgument) as raised:
        TrainerConfig(**changes)

    assert [v.field for v in raised.value.violations] == [field]
