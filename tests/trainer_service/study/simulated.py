"""Studies on simulated children: their truth is known, and a study takes no time."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest

from agent_service.controllers.schedule import Shape
from tests.trainer_service.runs.test_store import FINISHED
from trainer_service.runs.run import RunSpec
from trainer_service.simulation.child import SimulatedChild
from trainer_service.study.methods.carried import Carried
from trainer_service.study.methods.derived import MeanOf, Replayed
from trainer_service.study.methods.entry import Entry
from trainer_service.study.methods.fixed import Fixed
from trainer_service.study.methods.learning import Learned
from trainer_service.study.methods.plan import Child, Phase, Plan
from trainer_service.study.methods.searches import Grid, RandomSearch
from trainer_service.study.methods.steered import Scheduled
from trainer_service.study.report import courses, forest, pictures
from trainer_service.study.results.results import Result, ResultsFolder
from trainer_service.study.results.suite_folder import SuiteFolder
from trainer_service.study.results.trace import Trace
from trainer_service.study.spec import StudySpec
from trainer_service.study.suite import Suite
from trainer_service.training.spec import Method, TrainingSpec, fixed_values, hyperparameters

TRAINING = TrainingSpec(chunks=20)
METHODS: tuple[Entry, ...] = (
    Fixed(name="vanilla", title="Vanilla", method=Method.VANILLA),
    Fixed(name="d", title="D", method=Method.D),
    Grid(name="grid", title="Best constant", values=(0.2, 0.4, 0.6, 0.8)),
    RandomSearch(name="search"),
    Scheduled(name="linear", course=Shape.LINEAR, start=0.1, end=0.8),
    Learned(name="rd", title="RD"),
    Replayed(name="replay", of="rd"),
    Replayed(name="shuffled", of="rd", shuffled=True),
    MeanOf(name="mean", of="rd"),
    Carried(name="carried", study="another", of="grid"),
)
STUDY = StudySpec(seeds=4, budget=16, training=TRAINING, methods=METHODS, references=("grid", "d"))
COMMIT = "c" * 40
POLICY = "d" * 64

Rates = Callable[[float], float]
"""The drop rate at a progress in (0, 1]."""


def result(child: Child, rate: Rates, *, noise: float = 0.0, ended_at: float = 100.0) -> Result:
    """Return the result of a simulated child under a course of the drop rate.

    Its test score is its mean validation score, and `noise`.
    """
    training = child.spec.training
    simulated = SimulatedChild(chunks=TRAINING.chunks or 1, seed=training.seed)
    taus = np.arange(1, simulated.chunks + 1) / simulated.chunks
    rates = [rate(tau) for tau in taus]
    chunks = [simulated.step(one) for one in rates]
    validated = tuple(chunk.validation_score for chunk in chunks)
    score = float(np.mean(validated)) + noise
    names = [one.name for one in hyperparameters(training)]
    return Result(
        key=child.key,
        run_id=child.run_id,
        spec=child.spec,
        finished=replace(
            FINISHED,
            scores=replace(
                FINISHED.scores,
                test_score_best=score,
                test_score_last=score - 0.01,
                validation_score_best=float(np.mean(validated)),
            ),
        ),
        trace=Trace(
            training_loss=tuple(float(chunk.losses.mean()) for chunk in chunks),
            validation_loss=tuple(float(chunk.losses.mean()) + 0.2 for chunk in chunks),
            training_score=tuple(chunk.training_score for chunk in chunks),
            validation_score=validated,
            values={name: tuple(rates) for name in names},
        ),
        policy=POLICY
        if child.spec.controller.endswith("rd") and child.key.phase == "judged"
        else "",
        versions={"torch": "2.13.0"},
        commit=COMMIT,
        ended_at=ended_at,
    )


def simulate(folder: ResultsFolder, spec: StudySpec = STUDY, *, luck_of: int = 0) -> None:
    """Have a whole study in a folder, as if `compare` had run it."""
    folder.open(spec)
    for entry in spec.methods:
        for child in folder.plan().tuning(entry.name):
            folder.add(result(child, course(child.spec)))
        plan = folder.plan()
        for seed in range(spec.seeds):
            child = judged(entry, plan, seed)
            # Without luck differences would be the same for all seeds.
            draws = np.random.default_rng([crc32(entry.name.encode()), seed, luck_of])
            luck = draws.normal(0, 1e-4)
            folder.add(result(child, course(child.spec), noise=luck))


def course(spec: RunSpec) -> Rates:
    """Return what a child trains under: its fixed value, or a rise that stands for a controller."""
    if spec.controller:
        return lambda tau: 0.1 + 0.7 * tau
    value = next(iter(fixed_values(spec.training).values()), 0.0)
    return lambda _tau: value


def judged(entry: Entry, plan: Plan, seed: int) -> Child:
    """Return the judged child of a seed; what is carried over is a constant of 0.3."""
    if entry.origin:
        entry = Fixed(name=entry.name, method="d", values={"dropout": 0.3})
    run = entry.judged(plan, seed)
    assert run is not None
    return plan.child(entry.name, Phase.JUDGED, seed, run)


def simulated_folder(path: Path, spec: StudySpec = STUDY) -> ResultsFolder:
    """Return a folder with a whole simulated study."""
    folder = ResultsFolder(path)
    simulate(folder, spec)
    return folder


def simulated_suite(path: Path, suite: Suite) -> SuiteFolder:
    """Return a folder with a whole simulated suite; its problems differ in luck alone."""
    folder = SuiteFolder(path)
    folder.open(suite)
    for number, problem in enumerate(suite.problems):
        simulate(folder.folder(problem.name), problem.study, luck_of=number)
    return folder


def draw_nothing(patch: pytest.MonkeyPatch) -> None:
    """Leave a report's pictures empty: drawing takes most of its time."""
    for module in (pictures, courses, forest):
        for name in [name for name in vars(module) if name.startswith("draw_")]:
            patch.setattr(module, name, lambda *_, **__: b"")
