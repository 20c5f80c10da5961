"""Any interleaving of calls, repeats, refusals, updates and restarts agrees with a simple model.

The model keeps what was answered. Whatever happens in between, the same call gets the same answer
again, what was refused changed nothing, and in the end the log holds what was acknowledged, once.
"""

import shutil
import tempfile
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from prometheus_client import CollectorRegistry

from agent_service.app import verify_store
from agent_service.controllers.bayesian import BayesianSettings
from agent_service.controllers.ppo import PPOSettings
from agent_service.controllers.random import RandomSettings
from agent_service.domain.errors import AgentError, AlreadyExists, FailedPrecondition
from agent_service.domain.rewards import Scores
from agent_service.domain.runs import (
    ChunkReport,
    Decision,
    FinishRun,
    Mode,
    Outcome,
    Run,
    RunState,
    StartRun,
    Use,
)
from agent_service.metrics.decisions import DecisionMetrics
from agent_service.rules.catalog import Catalog
from agent_service.rules.runs import RunService
from agent_service.store.store import SqlStore
from tests.agent_service.learned import learn_once
from tests.agent_service.specs import spec
from tests.given import new_store

T = TypeVar("T")
CONTROLLERS = {
    "ppo": spec("ppo", PPOSettings(rollout_size=6, batch_size=3, n_epochs=1, net_arch=(4,))),
    "all": spec(
        "all",
        PPOSettings(
            rollout_size=6,
            batch_size=3,
            n_epochs=1,
            net_arch=(4,),
            observe_action=True,
            observe_progress=True,
            observe_scores=True,
            max_change=0.25,
        ),
    ),
    "random": spec("random", RandomSettings(), seed=3),
    "bayesian": spec("bayesian", BayesianSettings(n_startup_trials=2)),
}
FAR = 1e9
"""Seconds after which any lease is over."""


@dataclass
class ModelRun:
    """A run as its caller remembers it: its calls and their answers."""

    start: StartRun
    answers: list[Decision]
    """To the start, then to each report."""
    reports: list[ChunkReport] = field(default_factory=list)
    finish: FinishRun | None = None
    is_silent: bool = False
    """Whether its lease ran out after its last report."""

    @property
    def state(self) -> RunState:
        if self.finish is not None:
            return RunState.FINISHED
        return RunState.ABANDONED if self.is_silent else RunState.ACTIVE


class ServiceMachine(RuleBasedStateMachine):
    """Drives the rules on a real SQLite store, and remembers what was answered."""

    runs = Bundle("runs")

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.url = new_store(self.folder / "agent.db")
        self.model: dict[str, ModelRun] = {}
        self.open()
        catalog = Catalog(self.store)
        for one in CONTROLLERS.values():
            catalog.create_controller(one, Mode.LEARNING).result()

    def open(self) -> None:
        self.store = SqlStore(self.url)
        self.run_service = RunService(self.store, metrics=DecisionMetrics(CollectorRegistry()))

    def teardown(self) -> None:
        if not hasattr(self, "store"):
            return
        self.store.close()
        decided = sum(len(run.answers) for run in self.model.values())
        diverged = sum(
            run.finish is not None and run.finish.outcome is Outcome.DIVERGED
            for run in self.model.values()
        )
        if decided:
            assert verify_store(self.url) == decided + diverged
        shutil.rmtree(self.folder)

    # What callers do

    @rule(
        target=runs,
        number=st.integers(0, 10**9),
        controller=st.sampled_from(sorted(CONTROLLERS)),
        mode=st.sampled_from([None, Mode.FROZEN]),
        planned=st.integers(1, 9),
    )
    def start(self, number: int, controller: str, mode: Mode | None, planned: int) -> str:
        run_id = f"r{number}"
        wish = StartRun(
            controller=controller, run_id=run_id, mode=mode, labels={}, planned_chunks=planned
        )
        if run_id in self.model:
            return run_id
        self.model[run_id] = ModelRun(wish, [self.run_service.start_run(wish).result()])
        return run_id

    @rule(
        run_id=runs,
        losses=st.lists(st.floats(0, 10), min_size=4, max_size=4),
        score=st.floats(0, 1),
        applied=st.sampled_from([None, {"dropout": 0.25}]),
    )
    def report(
        self, run_id: str, losses: list[float], score: float, applied: dict[str, float] | None
    ) -> None:
        run = self.model[run_id]
        report = ChunkReport(
            run_id=run_id,
            chunk=len(run.reports) + 1,
            losses=np.array(losses),
            feedback=Scores(training=0.5, validation=score),
            applied=applied,
        )
        if run.finish is not None:
            self.refused(self.run_service.report_chunk(report), FailedPrecondition)
            return
        run.answers.append(self.run_service.report_chunk(report).result())
        run.reports.append(report)
        run.is_silent = False

    @rule(run_id=consumes(runs), outcome=st.sampled_from(Outcome))
    def finish(self, run_id: str, outcome: Outcome) -> None:
        run = self.model[run_id]
        if run.finish is None:
            run.finish = FinishRun(run_id=run_id, outcome=outcome, final_score=0.5)
        self.run_service.finish_run(run.finish).result()

    # What callers do again, or wrongly

    @rule(run_id=runs, data=st.data())
    def repeat(self, run_id: str, data: st.DataObject) -> None:
        run = self.model[run_id]
        again = data.draw(st.integers(0, len(run.reports)))
        future = (
            self.run_service.start_run(run.start)
            if again == 0
            else self.run_service.report_chunk(run.reports[again - 1])
        )
        assert_same(future.result(), run.answers[again])

    @rule(run_id=runs, data=st.data())
    def report_other_content(self, run_id: str, data: st.DataObject) -> None:
        run = self.model[run_id]
        if not run.reports:
            return
        known = data.draw(st.sampled_from(run.reports))
        other = ChunkReport(
            run_id=run_id, chunk=known.chunk, losses=known.losses + 1, feedback=known.feedback
        )
        self.refused(self.run_service.report_chunk(other), AlreadyExists)

    @rule(run_id=runs, ahead=st.integers(1, 3))
    def skip(self, run_id: str, ahead: int) -> None:
        chunk = len(self.model[run_id].reports) + 1 + ahead
        skipped = ChunkReport(
            run_id=run_id,
            chunk=chunk,
            losses=np.zeros(4),
            feedback=Scores(training=0.5, validation=0.5),
        )
        self.refused(self.run_service.report_chunk(skipped), FailedPrecondition)

    def refused(self, future: Future[T], error: type[AgentError]) -> None:
        before = self.decisions()
        with pytest.raises(error):
            future.result()
        assert self.decisions() == before

    # What happens beside

    @rule()
    def learn(self) -> None:
        learn_once(self.store)

    @rule()
    def leases_pass(self) -> None:
        self.run_service.abandon_silent_runs(lease=-FAR).result()
        for run in self.model.values():
            run.is_silent = True

    @rule()
    def restart(self) -> None:
        self.store.close()
        self.open()

    # What is always true

    def decisions(self) -> int:
        return len(self.store.read(lambda session: session.decisions(after=0, limit=10**6)))

    @precondition(lambda self: hasattr(self, "store"))
    @invariant()
    def runs_stand_where_their_callers_left_them(self) -> None:
        for run_id, model in self.model.items():
            run, newest = self.run_service.get_run(run_id)
            assert run.reported_chunks == len(model.reports)
            assert run.state is model.state
            assert newest.chunk == len(model.reports) + 1
            assert_same(newest, model.answers[-1])

    @precondition(lambda self: hasattr(self, "store"))
    @invariant()
    def the_log_is_what_was_acknowledged(self) -> None:
        log = self.store.read(
            lambda s: list(s.transitions(controller="", run_id="", after=0, limit=10**6))
        )
        reported = {
            (run_id, report.chunk) for run_id, run in self.model.items() for report in run.reports
        }
        logged = [(run.id, step.decision.chunk) for run, step in log if step.feedback is not None]
        assert len(logged) == len(set(logged))
        assert set(logged) == reported
        for run, step in log:
            assert_use(run, step.decision, self.model[run.id], step.applied is not None)


def assert_same(decision: Decision, answered: Decision) -> None:
    """To the bit, in all that a caller gets."""
    for name in ("position", "run_id", "chunk", "choice", "policy_version"):
        assert getattr(decision, name) == getattr(answered, name)
    assert dict(decision.values) == dict(answered.values)


def assert_use(run: Run, decision: Decision, model: ModelRun, is_other: bool) -> None:
    """Assert that what may be learned from is, at most once, by a later version; the rest never."""
    is_newest = decision.chunk == len(model.reports)
    if not run.is_learned_from or is_other:
        assert decision.use is Use.RECORDED
    elif decision.use is Use.LEARNED:
        assert decision.learned_in is not None
        assert decision.learned_in > decision.policy_version
    elif is_newest and model.state is RunState.ACTIVE:
        assert decision.use is Use.PENDING, "the next report shows whether it ends the episode"
    elif decision.chunk <= len(model.reports):
        assert decision.use is Use.READY


def test_the_service_agrees_with_the_model() -> None:
    """Random histories of up to thirty steps."""
    run_state_machine_as_test(
        ServiceMachine,
        settings=settings(max_examples=100, stateful_step_count=30, deadline=None),
    )
