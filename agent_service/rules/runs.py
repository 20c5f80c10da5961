"""The rules of a run: is it valid, is it the next chunk, what is decided, what is kept.

Every write is one atomic step of the store, in which a repeated call finds what the first one
stored and answers that. Nothing is kept here but policies that were read, and what decides by them:
neither ever changes.
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
from agent_service.domain.store import Session, Situation, Store, T
from agent_service.learning import policies
from agent_service.metrics.decisions import DecisionMetrics
from agent_service.rules.capacity import DEFAULT, Capacity
from agent_service.rules.final_scores import learn_from_end
from agent_service.rules.lookups import CREATE_IT, found_controller, found_run, stored_decision
from agent_service.rules.policy_cache import PolicyCache
from agent_service.rules.starts import other_start, pinned_version

ABANDONED_AT_ONCE = 100
"""Runs that one atomic step abandons at the most."""
PAGE_BYTES = 2**19
"""Of losses in a page of the log, after which it ends: who reads slowly keeps no more in memory."""
APPENDED_AT_ONCE = 1000
"""Places in the log that are looked at at once, for those who follow it."""


class RunService:
    """Runs, from their start to their end, and the log that they leave.

    Writes answer futures that are done when the change is durable; reads answer at once.
    Thread-safe.
    """

    def __init__(
        self,
        store: Store,
        *,
        metrics: DecisionMetrics,
        capacity: Capacity = DEFAULT,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Keep the store, which stays the caller's; `metrics` are told of what became durable."""
        self._store = store
        self._slow: dict[str, bool] = {}
        self._policies = PolicyCache()
        self._metrics = metrics
        self._capacity = capacity
        self._clock = clock

    def start_run(self, start: StartRun) -> Future[Decision]:
        """Start a run and decide A_0.

        Raises:
            NotFound: no such controller, or no such policy version of it.
            AlreadyExists: the run id is there with another controller, mode, version, labels or
                plan, or was that of a run since pruned.
            InvalidArgument: no planned chunks, where the controller observes progress; a policy
                version for a learning run, or where there is no policy.
            FailedPrecondition: a learning run of a frozen controller.
            ResourceExhausted: so many runs are active already.
        """
        return self._store.write(lambda session: self._start_run(session, start))

    def is_slow_to_start(self, controller: str) -> bool:
        """Whether A_0 of a controller's runs may take long, or that is not known yet."""
        return self._slow.get(controller, True)

    def foresee(self, start: StartRun) -> None:
        """Have a proposal made for a run before it starts, so that the atomic step finds it ready.

        A call that is wrong is left for `start_run` to refuse.
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
                    f"run {start.run_id!r} is there with another start: {other}; choose another id"
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
            NotFound: no such run.
            InvalidArgument: not N losses, or feedback of another kind than the reward needs.
            AlreadyExists: this chunk was reported with other content.
            FailedPrecondition: another chunk is expected, the run is finished, or it is abandoned
                and its controller was deleted since.
        """
        return self._store.write(partial(self._report_chunk, report=report), run_id=report.run_id)

    def _report_chunk(self, session: Session, report: ChunkReport) -> Decision:
        run = found_run(session, report.run_id)
        _check_against_spec(report, run.controller.spec)
        if run.mode is Mode.SHADOW and report.applied is None:
            raise invalid("applied", "is not set; a shadow run says what its chunks ran under")
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
        """Settle what learning does with the transitions that this report completes.

        The reported chunk's own is complete. Learned from, it still waits: whether it ends the
        episode shows with the next report or the run's end. The one before it is now known not to.
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

        `running` is the decision that the reported chunk ran under, and `reward` what it earned.
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
            NotFound: no such run.
            FailedPrecondition: it was finished before with another outcome or score.
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
        """Let the last complete transition be learned from, since none is known to follow."""
        session.set_use(run, run.reported_chunks, was=Use.PENDING, use=Use.READY)
        session.after_commit(lambda: self._metrics.ended(run))

    def _punish(self, session: Session, run: Run) -> None:
        """Complete the transition of the action whose chunk diverged, which has no report."""
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
        """Abandon runs that reported nothing for `lease` seconds; answer how many were found.

        Their next report revives them. Not all at once, so that reports never wait for it: call
        again while some are found.
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
        """Return what `page` makes of runs, newest first, each with its newest decision.

        Each is read as it is taken: labels may be large.
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
        """Return the next complete transitions of the log, in order of position.

        They are `limit` at the most, and fewer where their losses take much memory.

        Raises:
            InvalidArgument: `after` is below 0.
            NotFound: the named controller or run is not there.
        """
        if after < 0:
            raise invalid("after_position", f"{after} is below 0; 0 starts at the log's begin")

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
        """Return of whose runs something was appended after a position, the oldest first."""
        return self._store.read(
            lambda session: session.appended(after=after, limit=APPENDED_AT_ONCE)
        )


def _refuse_closed(run: Run) -> NoReturn:
    if run.outcome is not None:
        raise FailedPrecondition(f"run {run.id!r} is finished ({run.outcome}); start another")
    # A controller is deleted only when its runs are all finished or abandoned.
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
    """Whether a report repeats the one that made `decision`, to the bit."""
    return (
        report.losses.tobytes() == decision.state.tobytes()
        and report.feedback == decision.feedback
        and report.applied == decision.applied
    )
