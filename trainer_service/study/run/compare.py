"""Runs a study, or a part of it: each kind of method in its own way, all of them at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

from agent_service.client import AgentClient
from agent_service.controllers.replay import ReplaySettings
from agent_service.domain.errors import AgentError, invalid
from trainer_service.client import TrainerClient
from trainer_service.run import RunSpec, RunState, StateChanged
from trainer_service.study.entries import (
    Bayesian,
    Carried,
    Drawn,
    Entry,
    Fixed,
    Grid,
    Learned,
    MeanOf,
    Population,
    RandomSearch,
    Replayed,
    Scheduled,
)
from trainer_service.study.methods.choices import (
    Values,
    best_constant,
    mean_values,
    replayed_values,
)
from trainer_service.study.methods.plan import (
    Child,
    Steering,
    controller_name,
    controller_spec,
    judged_fixed,
    judged_steered,
    tuning,
)
from trainer_service.study.results.results import Key, Phase, Result, ResultsFolder
from trainer_service.study.run.carried import Constant, Policy, source_of
from trainer_service.study.run.children import (
    Children,
    RunFailed,
    StudyStopped,
    submit,
    wait_for_all,
)
from trainer_service.study.run.controllers import Controllers
from trainer_service.study.run.populations import Populations
from trainer_service.study.run.progress import StudyProgress
from trainer_service.study.spec import StudySpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Which part of a study is run; all of it by default."""

    only: tuple[str, ...] = ()
    """Names of methods; empty for all."""
    seeds: tuple[int, ...] = ()
    """Seeds that are judged; empty for all."""
    minutes: float | None = None
    """After which the study stops; None for never."""

    def check(self, spec: StudySpec) -> None:
        """Check the part against the study; raises InvalidArgument naming the option."""
        names = [entry.name for entry in spec.methods]
        for name in self.only:
            if name not in names:
                raise invalid("only", f"{name!r} is none of the methods: {', '.join(names)}")
        for seed in self.seeds:
            if not 0 <= seed < spec.seeds:
                raise invalid("only_seeds", f"{seed} is not in [0, {spec.seeds - 1}]")
        if self.minutes is not None and not self.minutes > 0:
            raise invalid("minutes", f"{self.minutes} must be above 0")

    def methods(self, spec: StudySpec) -> list[Entry]:
        """Return the methods of this part, in the study's order."""
        return [entry for entry in spec.methods if not self.only or entry.name in self.only]

    def judged(self, spec: StudySpec) -> list[int]:
        """Return the seeds of this part."""
        return sorted(set(self.seeds)) or list(range(spec.seeds))


WHOLE = Part()
"""All of a study."""


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

        Args:
            spec: the study.
            folder: where its results are.
            agent: decides.
            trainers: train.
            part: which part is run.

        Raises:
            AgentError: what is carried over is not there.
            InvalidArgument: the part is not of this study.
        """
        part.check(spec)
        self._spec = spec
        self._part = part
        self._folder = folder
        self._trainers = trainers
        self._sources = {
            entry.name: source_of(entry, spec)
            for entry in part.methods(spec)
            if isinstance(entry, Carried)
        }
        self._controllers = Controllers(agent, folder)

    def check_agent(self) -> None:
        """Ask the agent, before anything is written, where a method of the part needs it.

        Raises:
            AgentError: it is not there, is another service, or does not know the token.
        """
        methods = self._part.methods(self._spec)
        carried = (self._sources.get(entry.name) for entry in methods)
        if any(isinstance(entry, Steering | Replayed) for entry in methods) or any(
            isinstance(source, Policy) for source in carried
        ):
            self._controllers.check_agent()

    def open(self) -> None:
        """Begin the study in its folder, which the caller holds; or go on with it.

        Raises:
            AgentError: the folder holds another study.
        """
        self._is_begun = self._folder.has_study
        self._id = self._folder.open(self._spec)

    def run(self, progress: StudyProgress) -> bool:
        """Run it; what is interrupted is cancelled, and can be continued later.

        Returns:
            Whether all of the part is finished; else its time was up.

        Raises:
            RunFailed: where a run failed.
        """
        if not self._folder.results():
            self._check_trainers(progress)
        with Children(self._folder, self._trainers, progress) as self._children:
            limit = self._part.minutes
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
        """Have each trainer service train one chunk that counts nowhere.

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
                for entry in sorted(methods, key=lambda e: isinstance(e, Replayed | MeanOf)):
                    judged[entry.name] = pool.submit(self._run_method, entry, dict(judged))
                wait_for_all(judged.values())
            except BaseException:
                # Leaving the pool waits for its threads, so this comes before.
                self._children.stop()
                raise

    def _run_method(self, entry: Entry, others: Mapping[str, Future[list[Result]]]) -> list[Result]:
        """Tune or learn, as the method does, then judge it; return its judged results."""
        seeds = self._part.judged(self._spec)
        if isinstance(entry, Population):
            return Populations(self._id, self._spec, entry, self._children).train(seeds)
        child, policy = self._ready(entry, others)
        return self._children.train([child(seed) for seed in seeds], policy=policy)

    def _ready(
        self, entry: Entry, others: Mapping[str, Future[list[Result]]]
    ) -> tuple[Callable[[int], Child], str]:
        """Make a method ready to be judged: return its child of a seed, and its policy's digest."""
        match entry:
            case Fixed():
                return self._under({}, entry), ""
            case Grid() | RandomSearch():
                return self._under(best_constant(entry, self._tune(entry)), entry), ""
            case MeanOf():
                return self._under(mean_values(self._judged(entry, others)), entry), ""
            case Scheduled() | Drawn():
                self._controllers.decide_only(controller_spec(self._id, self._spec, entry))
                return self._steered(entry, like=entry), ""
            case Replayed():
                return self._replayed(entry, self._judged(entry, others)), ""
            case Learned() | Bayesian():
                self._learn(entry)
                return self._frozen(entry, like=entry)
            case Carried():
                return self._carried(entry, self._sources[entry.name])
            case Population():
                raise AssertionError("a population has no child of one seed")

    def _under(self, values: Values, entry: Entry) -> Callable[[int], Child]:
        return lambda seed: judged_fixed(self._id, self._spec, entry, seed, values)

    def _steered(self, entry: Entry, *, like: Steering) -> Callable[[int], Child]:
        name = controller_name(self._id, entry)
        return lambda seed: judged_steered(
            self._id, self._spec, entry, seed, controller=name, like=like
        )

    def _tune(self, entry: Entry) -> list[Result]:
        return self._children.train(tuning(self._id, self._spec, entry))

    def _learn(self, entry: Learned | Bayesian) -> None:
        """Have a method's policy frozen in the folder; nothing where it is there."""
        if self._folder.policy(entry.name) is not None:
            return
        made = controller_spec(self._id, self._spec, entry)
        keys = [child.key for child in tuning(self._id, self._spec, entry)]
        self._controllers.learn(entry.name, made, is_new=not self._children.finished(keys))
        self._tune(entry)
        rollout = entry.ppo.rollout_size if isinstance(entry, Learned) else 0
        self._controllers.freeze(entry.name, made, rollout_size=rollout)

    def _frozen(
        self, entry: Entry, *, like: Learned | Bayesian
    ) -> tuple[Callable[[int], Child], str]:
        name = controller_name(self._id, entry)
        made = replace(controller_spec(self._id, self._spec, like), name=name)
        return self._steered(entry, like=like), self._controllers.frozen(entry.name, made)

    def _carried(
        self, entry: Carried, source: Constant | Policy
    ) -> tuple[Callable[[int], Child], str]:
        if isinstance(source, Constant):
            return self._under(source.values, entry), ""
        self._folder.add_policy(entry.name, source.data)
        return self._frozen(entry, like=source.like)

    def _replayed(self, entry: Replayed, source: list[Result]) -> Callable[[int], Child]:
        """Give each child a controller of its own, which plays another seed's run."""
        like = self._spec.entry(entry.of)
        assert isinstance(like, Learned)

        def child(seed: int) -> Child:
            made = replace(
                controller_spec(self._id, self._spec, like),
                name=controller_name(self._id, entry, seed),
                algorithm=ReplaySettings(values=tuple(replayed_values(entry, source, seed=seed))),
            )
            self._controllers.decide_only(made)
            return judged_steered(
                self._id, self._spec, entry, seed, controller=made.name, like=like
            )

        return child

    def _judged(
        self, entry: Replayed | MeanOf, others: Mapping[str, Future[list[Result]]]
    ) -> list[Result]:
        """Return all judged runs of the method that another is made of; waits for them.

        Raises:
            AgentError: they are not all there, and not of this part.
        """
        if entry.of in others:
            others[entry.of].result()
        keys = [
            Key(method=entry.of, phase=Phase.JUDGED, index=seed) for seed in range(self._spec.seeds)
        ]
        found = self._children.finished(keys)
        if len(found) < len(keys):
            raise AgentError(
                f"{entry.name} needs all {len(keys)} judged runs of {entry.of}, and {len(found)} "
                f"are finished; run {entry.of} first, or leave {entry.name} out of this part"
            )
        return found


def _follow_check(trainer: TrainerClient, attempt: str) -> None:
    """Wait for the end of a check; raises RunFailed."""
    for event in trainer.watch(attempt):
        if isinstance(event.what, StateChanged) and event.what.state is RunState.FAILED:
            raise RunFailed(f"nothing was begun, since {attempt} failed: {event.what.cause}")
