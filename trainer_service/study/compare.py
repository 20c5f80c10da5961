"""Runs a study through the agent and trainer services; what is finished is never done again."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from itertools import cycle

from agent_service.client import AgentClient
from agent_service.domain.errors import AgentError, NotFound
from agent_service.domain.runs import Mode
from trainer_service.client import TrainerClient
from trainer_service.run import ChunkTrained, Finished, Planned, RunSpec, RunState, StateChanged
from trainer_service.study.progress import StudyProgress
from trainer_service.study.results import ResultsFolder, make_result
from trainer_service.study.spec import (
    Stage,
    StudySpec,
    controller_name,
    controller_spec,
    stages,
)
from trainer_service.v1 import trainer_pb2 as pb

LEARNER_SECONDS = 120.0
"""How long the learner may take for what waits when a stage ends."""


class RunFailed(AgentError):
    """A run of the study failed; the message has its id and cause."""


class Comparison:
    """One study under way."""

    def __init__(
        self,
        spec: StudySpec,
        folder: ResultsFolder,
        *,
        agent: AgentClient,
        trainers: Sequence[TrainerClient],
    ) -> None:
        """Open the folder; the clients stay the caller's.

        Raises:
            AgentError: the folder holds another study.
        """
        self._spec = spec
        self._folder = folder
        self._agent = agent
        self._trainers = trainers
        self.id = folder.open(spec)
        self.stages = stages(self.id, spec)
        self._lock = threading.Lock()
        self._is_stopping = False
        self._running: dict[str, TrainerClient] = {}

    def run(self, progress: StudyProgress) -> None:
        """Run all stages; what is interrupted is cancelled, and can be continued later.

        Raises:
            RunFailed: where a run failed.
        """
        for stage in self.stages:
            self._run_stage(stage, progress)

    def _run_stage(self, stage: Stage, progress: StudyProgress) -> None:
        progress.started(stage)
        done = {result.run_id: result for result in self._folder.results()}
        missing = [(run_id, spec) for run_id, spec in stage.runs if run_id not in done]
        for run_id, _spec in stage.runs:
            if run_id in done:
                progress.finished(stage, run_id, done[run_id].finished)
        if stage.is_learning:
            self._prepare_controller(stage, is_new=len(missing) == len(stage.runs))
        self._run_all(stage, missing, progress)
        if stage.is_learning:
            self._freeze(controller_name(self.id, stage.method))

    def _run_all(
        self, stage: Stage, missing: Sequence[tuple[str, RunSpec]], progress: StudyProgress
    ) -> None:
        """Run what is missing of a stage; at the first error, or Ctrl-C, stop the rest."""
        trainers = cycle(self._trainers)
        # One thread for each run only waits; the services' queues decide how many train at once.
        with ThreadPoolExecutor(max(1, len(missing))) as pool:
            try:
                futures = [
                    pool.submit(self._run_one, stage, run_id, spec, next(trainers), progress)
                    for run_id, spec in missing
                ]
                done, _waiting = wait(futures, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
            except BaseException:
                # Leaving the pool waits for its threads, so this comes before.
                self._stop()
                raise

    def _stop(self) -> None:
        """Submit nothing more, and cancel what waits or trains."""
        # Before the lock, so that those who wait for it to submit give up instead.
        self._is_stopping = True
        with self._lock:
            running = dict(self._running)
        for run_id, trainer in running.items():
            trainer.cancel(run_id)

    def _prepare_controller(self, stage: Stage, *, is_new: bool) -> None:
        """Create the controller; where it has learned already, it must still be there."""
        spec = controller_spec(self.id, self._spec, stage.method)
        if not is_new:
            self._agent.get_controller(spec.name)
        self._agent.create_controller(spec)

    def _freeze(self, controller: str) -> None:
        """Let the learner finish what waits, then freeze the policy for good.

        Raises:
            AgentError: the learner does not finish, or the policy is still the initial one.
        """
        deadline = time.monotonic() + LEARNER_SECONDS
        size = self._spec.ppo.rollout_size
        while self._agent.get_controller(controller).ready_transitions >= size:
            if time.monotonic() > deadline:
                raise AgentError(f"the learner of {controller} is stuck; see the agent's log")
            time.sleep(0.1)
        if self._agent.set_mode(controller, Mode.FROZEN).policy_version == 1:
            raise AgentError(
                f"{controller} learned nothing: its runs brought fewer transitions than one update "
                f"takes, {size}; give a smaller rollout size or more runs, and a new folder"
            )

    def _run_one(
        self,
        stage: Stage,
        run_id: str,
        spec: RunSpec,
        trainer: TrainerClient,
        progress: StudyProgress,
    ) -> None:
        attempt = self._submit(run_id, spec, trainer)
        chunks, finished = self._watch(stage, run_id, trainer, attempt, progress)
        result = make_result(run_id, spec, finished, chunks, is_learning=stage.is_learning)
        with self._lock:
            self._folder.add(result)
            del self._running[attempt]
        progress.finished(stage, run_id, finished)

    def _submit(self, run_id: str, spec: RunSpec, trainer: TrainerClient) -> str:
        """Submit a run, under a new id if earlier attempts were lost; return the id."""
        with self._lock:
            if self._is_stopping:
                raise RunFailed(f"run {run_id} was not submitted, since the study stops")
            attempt, attempt_id = 1, run_id
            while _was_lost(trainer, attempt_id):
                attempt += 1
                attempt_id = f"{run_id}-try{attempt}"
            trainer.submit(attempt_id, spec)
            self._running[attempt_id] = trainer
        return attempt_id

    def _watch(
        self,
        stage: Stage,
        run_id: str,
        trainer: TrainerClient,
        attempt: str,
        progress: StudyProgress,
    ) -> tuple[list[ChunkTrained], Finished]:
        """Follow a run to its end; raises RunFailed."""
        chunks: list[ChunkTrained] = []
        planned, result = 1, None
        for event in trainer.watch(attempt):
            match event.what:
                case Planned(chunks=count):
                    planned = count
                case ChunkTrained() as trained:
                    chunks.append(trained)
                    progress.trained(stage, run_id, trained, planned)
                case Finished() as finished:
                    result = finished
                case StateChanged(state=RunState.FAILED | RunState.CANCELLED as state, cause=cause):
                    raise RunFailed(f"run {attempt}: {state} {cause}".rstrip())
        if result is None:
            raise RunFailed(f"run {attempt} ended without a result")
        return chunks, result


def _was_lost(trainer: TrainerClient, run_id: str) -> bool:
    try:
        state = trainer.get(run_id).state
    except NotFound:
        return False
    return state in (pb.RUN_STATE_FAILED, pb.RUN_STATE_CANCELLED)
