"""Runs a study, or a part of it: each kind of method in its own way, all of them at once."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from agent_service.client import AgentClient
from trainer_service.client import TrainerClient
from trainer_service.runs.run import RunSpec, RunState, StateChanged
from trainer_service.study.methods.entry import Entry
from trainer_service.study.methods.plan import Plan
from trainer_service.study.results.results import Result, ResultsFolder
from trainer_service.study.run.children import (
    Children,
    RunFailed,
    StudyStopped,
    submit,
    wait_for_all,
)
from trainer_service.study.run.controllers import Controllers
from trainer_service.study.run.part import WHOLE, Part
from trainer_service.study.run.progress import StudyProgress
from trainer_service.study.run.work import Work
from trainer_service.study.spec import StudySpec


class Comparison:
    """One study under way, or a part of it."""

    def __init__(
        self,
        spec: StudySpec,
        folder: ResultsFolder,
        *,
        agent: AgentClient,
        trainers: Sequence[TrainerClient],
        part: Part = WHOLE,
    ) -> None:
        """Check what is asked for; `open` is to follow. The clients stay the caller's.

        Raises:
            AgentError: what is carried over is not there.
            InvalidArgument: the part is not of this study.
        """
        part.check(spec)
        self._spec = spec
        self._part = part
        self._folder = folder
        self._trainers = trainers
        # A list: each is asked, and says what it lacks.
        asked = [entry.asks_agent(spec, _study_of) for entry in part.methods(spec)]
        self._asks_agent = any(asked)
        self._controllers = Controllers(agent, folder)

    def check_agent(self) -> None:
        """Ask the agent, before anything is written, where a method of the part needs it.

        Raises:
            AgentError: it is not there, is another service, or does not know the token.
        """
        if self._asks_agent:
            self._controllers.check_agent()

    def open(self) -> None:
        """Begin the study in its folder, which the caller holds; or go on with it.

        Raises:
            AgentError: the folder holds another study.
        """
        self._is_begun = self._folder.has_study
        self._id = self._folder.open(self._spec)

    def run(self, progress: StudyProgress, *, minutes: float | None = None) -> bool:
        """Run it; what is interrupted is cancelled, and can be continued later.

        Args:
            progress: shows it.
            minutes: after which it stops; None for those of the part.

        Returns:
            Whether all of the part is finished; else its time was up.

        Raises:
            RunFailed: where a run failed.
        """
        if not self._folder.results():
            self._check_trainers(progress)
        with Children(self._folder, self._trainers, progress) as self._children:
            limit = self._part.minutes if minutes is None else minutes
            timer = threading.Timer(0 if limit is None else limit * 60, self._children.stop)
            if limit is not None:
                timer.start()
            try:
                self._run_methods()
            except StudyStopped:
                return False
            finally:
                timer.cancel()
        return True

    def _check_trainers(self, progress: StudyProgress) -> None:
        """Let each trainer service train one chunk that counts nowhere.

        So what is missing there, data or a device, is known before the study begins; a folder that
        was new belongs to no study then, so that the mended one may begin in it.

        Raises:
            RunFailed: with the cause.
        """
        try:
            self._train_a_chunk(progress)
        except BaseException:
            if not self._is_begun:
                self._folder.remove_study()
            raise

    def _train_a_chunk(self, progress: StudyProgress) -> None:
        spec = RunSpec(training=replace(self._spec.training, chunks=1, epochs=None))
        for place, trainer in enumerate(self._trainers):
            device = trainer.device()
            attempt = submit(trainer, f"{self._id}-check-{place}", spec)
            # In a thread: an interrupt inside of gRPC may leave a call that its channel waits for.
            with ThreadPoolExecutor(1, thread_name_prefix="check") as pool:
                try:
                    progress.checking(trainer.address, ahead=device.running + device.queued)
                    wait_for_all([pool.submit(_follow_check, trainer, attempt)])
                except KeyboardInterrupt:
                    trainer.cancel(attempt)
                    raise

    def _run_methods(self) -> None:
        """Run all methods of the part at once; those that need another's runs wait for it."""
        methods = self._part.methods(self._spec)
        judged: dict[str, Future[list[Result]]] = {}
        with ThreadPoolExecutor(len(methods), thread_name_prefix="method") as pool:
            try:
                # Sources first, so that all that somebody waits for is there.
                for entry in sorted(methods, key=lambda entry: bool(entry.source)):
                    judged[entry.name] = pool.submit(self._run_method, entry, dict(judged))
                wait_for_all(judged.values())
            except BaseException:
                # Leaving the pool waits for its threads, so this comes before.
                self._children.stop()
                raise

    def _run_method(self, entry: Entry, others: Mapping[str, Future[list[Result]]]) -> list[Result]:
        plan = Plan(id=self._id, spec=self._spec, results=(), policy=self._folder.policy)
        work = Work(
            method=entry.name,
            begun=plan,
            seeds=self._part.judged(self._spec),
            folder=self._folder,
            children=self._children,
            controllers=self._controllers,
            studies=_study_of,
            others=others,
        )
        return entry.judge(work)


def _study_of(folder: str) -> Plan:
    """Return another study with its results so far; raises AgentError if there is none."""
    return ResultsFolder(Path(folder)).plan()


def _follow_check(trainer: TrainerClient, attempt: str) -> None:
    for event in trainer.watch(attempt):
        if isinstance(event.what, StateChanged) and event.what.state is RunState.FAILED:
            raise RunFailed(f"nothing was begun, since {attempt} failed: {event.what.cause}")
