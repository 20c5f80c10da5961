"""The rules of runs: start, chunk reports, end, and the log that they leave.

Each write is one atomic step of the store, in which a repeated call finds and returns the result of
the first. The only state here is a cache of policies, which never change.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import NoReturn

import numpy as np

from agent_service.controllers.derivation import derive
from agent_service.controllers.observations import check_plan, context_size
from agent_service.domain.checks import quoted
from agent_service.domain.errors import AlreadyExists, FailedPrecondition, NotFound, invalid
from agent_service.domain.rewards import compute_reward
from agent_service.domain.runs import (
    Appended,
    Choice,
    ChunkReport,
    Controller,
    Decision,
    FinishRun,
    LogPage,
    Mode,
    Outcome,
    Run,
    RunState,
    StartRun,
    Use,
)
from agent_service.domain.specs import ControllerSpec
from agent_service.domain.store import Situation, T
from agent_service.learning import policies
from agent_service.metrics.decisions import DecisionMetrics
from agent_service.rules.capacity import DEFAULT, Capacity
from agent_service.rules.final_scores import learn_from_end
from agent_service.rules.lookups import (
    CREATE_IT,
    found_controller,
    found_run,
    other_start,
    pinned_version,
    stored_decision,
)
from agent_service.rules.policy_cache import PolicyCache
from agent_service.store.rows.session import Session
from agent_service.store.store import SqlStore

ABANDONED_AT_ONCE = 100
"""Maximum number of runs that one atomic step abandons."""
PAGE_BYTES = 2**19
"""Size of losses after which a page of the log ends, to bound the memory of slow readers."""
APPENDED_AT_ONCE = 1000
"""Maximum number of log entries per poll for followers."""


class RunService:
    """Starts, advances, ends and reads runs, and reads the decision log.

    Writes return futures that are done when the change is durable; reads return at once.
    Thread-safe.
    """

    def __init__(
        self,
        store: SqlStore,
        *,
        metrics: DecisionMetrics,
        capacity: Capacity = DEFAULT,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Use `store`, which the caller closes; `metrics` observe what became durable."""
        self._store = store
        self._slow: dict[str, bool] = {}
        self._policies = PolicyCache()
        self._metrics = metrics
        self._capacity = capacity
        self._clock = clock

    def start_run(self, start: StartRun) -> Future[Decision]:
        """Start a run and decide A_0.

        Raises:
            NotFound: the controller, or the requested policy version, does not exist.
            AlreadyExists: the run id exists with another controller, mode, version, labels, plan or
                problem, or belonged to a pruned run.
            InvalidArgument: `planned_chunks` is missing though the controller observes progress; or
                a policy version is given for a learning run, or without a policy.
            FailedPrecondition: a learning run of a frozen controller.
            ResourceExhausted: the limit of active runs is reached.
        """
        return self._store.write(lambda session: self._start_run(session, start))

    def is_slow_to_start(self, controller: str) -> bool:
        """Whether A_0 of a controller's runs may take long; true if unknown."""
        return self._slow.get(controller, True)

    def precompute(self, start: StartRun) -> None:
        """Compute and cache a slow proposal for A_0, so that `start_run` finds it ready.

        An invalid start is left for `start_run` to refuse.
        """

        def work(session: Session) -> tuple[Controller, bytes] | None:
            controller = session.find_controller(start.controller)
            if controller is None:
                return None
            self._slow[start.controller] = controller.spec.algorithm.learns_from_scores
            modes = start.mode or controller.mode, controller.mode
            if not self._slow[start.controller] or set(modes) != {Mode.LEARNING}:
                return None
            policy = session.find_policy(controller, controller.policy_version)
            return None if policy is None else (controller, policy.data)

        if (found := self._store.read(work)) is None:
            return
        controller, data = found
        controller.spec.algorithm.decide(
            controller.spec,
            Situation(
                run_id=start.run_id,
                chunk=1,
                observation=np.zeros(controller.spec.chunk_size),
                mode=Mode.LEARNING,
                previous=None,
                policy=policies.load(data, controller.spec),
            ),
        )

    def _start_run(self, session: Session, start: StartRun) -> Decision:
        run = session.find_run(start.run_id)
        if run is not None:
            if run.archive is not None:
                raise AlreadyExists(
                    f"run {run.id!r} was pruned into the archive file {run.archive}; its id stays "
                    "taken: choose another"
                )
            if other := other_start(session, run, start):
                raise AlreadyExists(
                    f"run {start.run_id!r} exists with another start: {other}; choose another id"
                )
            return stored_decision(session, run, 1)
        controller = found_controller(session, start.controller, fix=CREATE_IT)
        check_plan(start, controller.spec)
        mode = start.mode or controller.mode
        if mode is Mode.LEARNING and controller.mode is Mode.FROZEN:
            raise FailedPrecondition(
                f"controller {start.controller!r} is frozen; start a frozen run, or update its mode"
            )
        pinned = pinned_version(session, start, controller, mode)
        self._capacity.check_new_run(session)
        run = session.add_run(
            start, controller, mode=mode, pinned_version=pinned, now=self._clock()
        )
        return self._decide(session, run, report=None, running=None, reward=None)

    def report_chunk(self, report: ChunkReport) -> Future[Decision]:
        """Store a chunk's report and decide the next action.

        Raises:
            NotFound: the run does not exist.
            InvalidArgument: the count of losses is not N, or the reward needs other feedback.
            AlreadyExists: this chunk was reported with other content.
            FailedPrecondition: another chunk is expected, the run is finished, or it is abandoned
                and its controller was deleted.
        """
        return self._store.write(partial(self._report_chunk, report=report), run_id=report.run_id)

    def _report_chunk(self, session: Session, report: ChunkReport) -> Decision:
        run = found_run(session, report.run_id)
        _check_against_spec(report, run.controller.spec)
        if run.mode is Mode.SHADOW and report.applied is None:
            raise invalid("applied", "is not set; a shadow run must give its chunks' values")
        if report.chunk <= run.reported_chunks:
            decision = stored_decision(session, run, report.chunk + 1)
            if not _is_same(report, decision):
                raise AlreadyExists(
                    f"chunk {report.chunk} of run {run.id!r} was reported with other content"
                )
            return decision
        if run.outcome is not None or run.controller.is_deleted:
            _refuse_closed(run)
        expected = run.reported_chunks + 1
        if report.chunk != expected:
            raise FailedPrecondition(
                f"run {run.id!r} expects chunk {expected}, not {report.chunk}",
                expected_chunk=expected,
            )
        running = stored_decision(session, run, report.chunk)
        reward = compute_reward(run.controller.spec.reward, report.feedback, running.feedback)
        self._update_uses(session, run, report, running)
        session.count_chunk(run, now=self._clock())
        return self._decide(session, run, report=report, running=running, reward=reward)

    def _update_uses(
        self, session: Session, run: Run, report: ChunkReport, running: Decision
    ) -> None:
        """Update the use of the transitions that this report completes.

        The reported chunk's transition is now complete, but stays pending if it is learned from:
        the next report or the run's end shows whether it ends the episode. Its predecessor is now
        known not to end it.
        """
        is_learned_from = run.is_learned_from
        is_as_decided = report.applied is None or dict(report.applied) == dict(running.values)
        if not (is_learned_from and is_as_decided):
            session.set_use(run, report.chunk, was=Use.PENDING, use=Use.RECORDED)
        if is_learned_from:
            session.set_use(run, report.chunk - 1, was=Use.PENDING, use=Use.READY)

    def _decide(
        self,
        session: Session,
        run: Run,
        *,
        report: ChunkReport | None,
        running: Decision | None,
        reward: float | None,
    ) -> Decision:
        """Derive the decision after `report` (None for A_0) and append it to the log.

        `running` is the decision that the reported chunk ran under, and `reward` its reward.
        """
        spec = run.controller.spec
        version = run.pinned_version
        if version is None:
            version = run.controller.policy_version
        state = np.zeros(spec.chunk_size) if report is None else report.losses
        feedback = None if report is None else report.feedback
        applied = None if report is None else report.applied
        derived = derive(
            run,
            running,
            state=state,
            feedback=feedback,
            applied=applied,
            policy=self._policies.get(session, run.controller, version),
        )
        decision = Decision(
            position=session.next_position(),
            run_id=run.id,
            chunk=1 if running is None else running.chunk + 1,
            state=state,
            context=derived.context,
            feedback=feedback,
            reward=reward,
            applied=applied,
            choice=derived.choice,
            values=derived.values,
            policy_version=version,
            use=Use.PENDING,
            learned_in=None,
            created_at=self._clock(),
        )
        session.append(run, decision)
        session.after_commit(partial(self._metrics.decided, run, decision, running))
        return decision

    def finish_run(self, finish: FinishRun) -> Future[Run]:
        """End a run.

        Raises:
            NotFound: the run does not exist.
            FailedPrecondition: it was already finished with another outcome or score.
        """
        return self._store.write(
            lambda session: self._finish_run(session, finish), run_id=finish.run_id
        )

    def _finish_run(self, session: Session, finish: FinishRun) -> Run:
        run = found_run(session, finish.run_id)
        if run.state is RunState.FINISHED:
            if (run.outcome, run.final_score) != (finish.outcome, finish.final_score):
                raise FailedPrecondition(
                    f"run {run.id!r} was finished as {run.outcome} with score {run.final_score}"
                )
            return run
        session.finish_run(
            run, outcome=finish.outcome, final_score=finish.final_score, now=self._clock()
        )
        self._end_episode(session, run)
        if finish.outcome is Outcome.DIVERGED:
            self._punish(session, run)
        learn_from_end(session, run, finish, cache=self._policies, now=self._clock())
        return found_run(session, finish.run_id)

    def _end_episode(self, session: Session, run: Run) -> None:
        """Make the last complete transition ready for learning, since none will follow."""
        session.set_use(run, run.reported_chunks, was=Use.PENDING, use=Use.READY)
        session.after_commit(lambda: self._metrics.ended(run))

    def _punish(self, session: Session, run: Run) -> None:
        """Complete the transition of the chunk that diverged, which has no report."""
        spec = run.controller.spec
        if spec.reward_of_divergence is None:
            return
        diverged = stored_decision(session, run, run.reported_chunks + 1)
        end = Decision(
            position=session.next_position(),
            run_id=run.id,
            chunk=diverged.chunk + 1,
            state=np.zeros(spec.chunk_size),
            context=np.zeros(context_size(spec)),
            feedback=None,
            reward=spec.reward_of_divergence,
            applied=None,
            choice=Choice((), log_probability=0.0, explored=False),
            values={},
            policy_version=diverged.policy_version,
            use=Use.PENDING,
            learned_in=None,
            created_at=self._clock(),
        )
        session.append(run, end)
        use = Use.READY if run.is_learned_from else Use.RECORDED
        session.set_use(run, diverged.chunk, was=Use.PENDING, use=use)

    def abandon_silent_runs(self, *, lease: float) -> Future[int]:
        """Abandon runs that reported nothing for `lease` seconds; return how many.

        Their next report revives them. Abandons a limited number, so that reports do not wait: call
        again until it returns 0.
        """

        def work(session: Session) -> int:
            now = self._clock()
            silent = session.silent_runs(since=now - lease, limit=ABANDONED_AT_ONCE)
            for run in silent:
                session.abandon_run(run, now=now)
                self._end_episode(session, run)
            return len(silent)

        return self._store.write(work)

    def get_run(self, run_id: str) -> tuple[Run, Decision]:
        """Return a run and its newest decision; raises NotFound."""

        def work(session: Session) -> tuple[Run, Decision]:
            run = found_run(session, run_id)
            return run, stored_decision(session, run, run.reported_chunks + 1)

        return self._store.read(work)

    def list_runs(
        self,
        *,
        controller: str,
        state: RunState | None,
        labels: Mapping[str, str],
        before: int | None,
        limit: int,
        page: Callable[[Iterator[tuple[Run, Decision]]], T],
    ) -> T:
        """Return `page` of the runs, newest first, each with its newest decision.

        Each is read when it is taken from the iterator, since labels may be large.
        """

        def work(session: Session) -> T:
            found = session.list_runs(
                controller=controller,
                state=state,
                labels=labels,
                before=before,
                limit=limit,
            )
            return page(
                (run, stored_decision(session, run, run.reported_chunks + 1)) for run in found
            )

        return self._store.read(work)

    def transitions(self, *, controller: str, run_id: str, after: int, limit: int) -> LogPage:
        """Return the next complete transitions of the log, by position.

        At most `limit`, and fewer if their losses take much memory.

        Raises:
            InvalidArgument: `after` is negative.
            NotFound: the named controller or run does not exist.
        """
        if after < 0:
            raise invalid("after_position", f"{after} is negative; 0 starts at the log's beginning")

        def work(session: Session) -> LogPage:
            if controller and session.find_controller(controller) is None:
                raise NotFound(f"no controller {quoted(controller)}")
            if run_id:
                found_run(session, run_id)
            log = session.transitions(
                controller=controller, run_id=run_id, after=after, limit=limit
            )
            found, size = [], 0
            for run, transition in log:
                found.append((run, transition))
                size += transition.nbytes
                if size >= PAGE_BYTES:
                    break
            if len(found) == limit or size >= PAGE_BYTES:
                return LogPage(found, reached=found[-1][1].position, is_last=False)
            return LogPage(found, reached=session.last_position(), is_last=True)

        return self._store.read(work)

    def appended(self, *, after: int) -> Sequence[Appended]:
        """Return the controllers and runs of log entries after a position, oldest first."""
        return self._store.read(
            lambda session: session.appended(after=after, limit=APPENDED_AT_ONCE)
        )


def _refuse_closed(run: Run) -> NoReturn:
    if run.outcome is not None:
        raise FailedPrecondition(f"run {run.id!r} is finished ({run.outcome}); start another")
    # A controller can only be deleted when all its runs are finished or abandoned.
    raise FailedPrecondition(
        f"run {run.id!r} was abandoned, and its controller {run.controller.spec.name!r} is "
        "deleted; start another run under another controller"
    )


def _check_against_spec(report: ChunkReport, spec: ControllerSpec) -> None:
    if len(report.losses) != spec.chunk_size:
        raise invalid(
            "losses",
            f"{len(report.losses)} given; controller {spec.name!r} has chunks of {spec.chunk_size}",
        )
    if report.applied is None:
        return
    names = {h.name for h in spec.hyperparameters}
    if set(report.applied) != names:
        given = quoted(sorted(report.applied))
        raise invalid("applied", f"names {given}; give exactly {sorted(names)}")
    for name, value in report.applied.items():
        if not np.isfinite(value):
            raise invalid(f"applied.values[{name}]", f"{value} is not finite")


def _is_same(report: ChunkReport, decision: Decision) -> bool:
    """Whether a report equals the one that led to `decision`, bit for bit."""
    return (
        report.losses.tobytes() == decision.state.tobytes()
        and report.feedback == decision.feedback
        and report.applied == decision.applied
    )
