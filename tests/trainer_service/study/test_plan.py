"""Which children a study trains: paired, fresh, and at the same budget."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from agent_service.controllers.ppo import PPOSettings
from agent_service.controllers.schedule import ScheduleSettings, Shape
from agent_service.domain.runs import Mode
from tests.trainer_service.study.simulated import STUDY, TRAINING, simulated_folder
from trainer_service.study.methods.derived import Replayed, mean_values
from trainer_service.study.methods.entry import Entry
from trainer_service.study.methods.learning import Bayesian, Learned
from trainer_service.study.methods.plan import TUNING_SEEDS, Phase, Plan
from trainer_service.study.methods.searches import Grid, RandomSearch
from trainer_service.study.methods.steered import Drawn, Scheduled
from trainer_service.study.report.flags import departs
from trainer_service.study.results.results import Result, ResultsFolder
from trainer_service.study.spec import StudySpec, table_1
from trainer_service.training.spec import Method, Sites


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ResultsFolder:
    return simulated_folder(tmp_path_factory.mktemp("study"))


def planned(*methods: Entry) -> Plan:
    """Return a study of other methods that has not begun."""
    return Plan(id="s", spec=replace(STUDY, methods=methods, references=()), results=())


def of(results: Sequence[Result], method: str, phase: Phase) -> list[Result]:
    return [r for r in results if r.key.method == method and r.key.phase is phase]


def test_all_methods_are_judged_on_the_same_fresh_children(folder: ResultsFolder) -> None:
    """The same seeds for each method, none of them one that anybody tuned on; the rest is equal."""
    results = folder.results()
    for entry in STUDY.methods:
        judged = of(results, entry.name, Phase.JUDGED)
        assert [r.spec.training.seed for r in judged] == [0, 1, 2, 3]
        for r in judged:
            alike = replace(r.spec.training, method=Method.VANILLA, values={}, seed=0)
            assert alike == TRAINING
    tuned = [r.spec.training.seed for r in results if not r.is_judged]
    assert min(tuned) >= TUNING_SEEDS


def test_searches_and_controllers_have_the_same_budget(folder: ResultsFolder) -> None:
    """Each trains as many children; a grid as many of each value, on the same seeds."""
    results = folder.results()
    counts = {e.name: len(of(results, e.name, Phase.TUNING)) for e in STUDY.methods}
    assert counts == dict.fromkeys(counts, 0) | {"grid": 16, "search": 16, "rd": 16}

    trained = of(results, "grid", Phase.TUNING)
    pairs = [(r.spec.training.values["dropout"], r.spec.training.seed) for r in trained]
    assert sorted(pairs) == [
        (v, s) for v in (0.2, 0.4, 0.6, 0.8) for s in range(TUNING_SEEDS, TUNING_SEEDS + 4)
    ]


@pytest.mark.parametrize(
    "method",
    [
        Grid(name="grid", values=(0.2, 0.4), budget=6),
        RandomSearch(name="search", budget=6),
        Bayesian(name="tpe", budget=6),
        Learned(name="rd", budget=6, ppo=PPOSettings(rollout_size=64)),
    ],
    ids=lambda method: method.kind,
)
def test_a_method_may_have_a_budget_of_its_own(method: Entry) -> None:
    """It trains as many children, whatever the study's budget is."""
    plan = planned(method)

    assert method.tuned_children(plan.spec) == 6
    assert len(plan.tuning(method.name)) == 6


def test_the_best_constant_is_the_truth(folder: ResultsFolder) -> None:
    """Of the simulated child the best of the grid is known: 0.4 lies nearest to 0.47."""
    entry = STUDY.entry("grid")
    assert isinstance(entry, Grid)
    tuned = of(folder.results(), "grid", Phase.TUNING)

    assert entry.best(tuned) == 0.4
    judged = of(folder.results(), "grid", Phase.JUDGED)
    assert {r.spec.training.values["dropout"] for r in judged} == {0.4}


def test_replays_are_of_another_seed_and_shuffles_keep_the_values(folder: ResultsFolder) -> None:
    """Chunk by chunk as it was; shuffled another order of the same; the mean is the mean."""
    judged = of(folder.results(), "rd", Phase.JUDGED)
    replay = Replayed(name="r", of="rd")
    expected = [v["dropout"] for v in replay.values(judged, seed=3)]
    shuffled = [v["dropout"] for v in replace(replay, shuffled=True).values(judged, seed=3)]

    assert expected == list(judged[0].trace.values["dropout"])
    assert shuffled != expected
    assert sorted(shuffled) == sorted(expected)
    assert mean_values(judged) == pytest.approx({"dropout": np.mean(expected)})


@pytest.mark.parametrize(
    ("course", "until", "chunks"),
    [
        (Shape.LINEAR, 1.0, 20),
        (Shape.EXPONENTIAL, 1.0, 20),
        # Early dropout stands for the first 5 of 20 chunks.
        (Shape.STEP, 0.25, 6),
        (Shape.COSINE, 0.5, 10),
    ],
)
def test_a_schedules_end_is_a_share_of_the_training(
    course: Shape, until: float, chunks: int
) -> None:
    """In chunks of the study's children."""
    entry = Scheduled(name="s", course=course, start=0.0, end=0.3, until=until)
    algorithm = entry.algorithm(STUDY)

    assert isinstance(algorithm, ScheduleSettings)
    assert (algorithm.shape, algorithm.chunks) == (course, chunks)


@pytest.mark.parametrize("sites", list(Sites))
def test_a_controller_decides_what_its_children_have(sites: Sites) -> None:
    """Its hyperparameters are those of the method's sites, its chunk the child's."""
    entry = Learned(name="rd", sites=sites)
    plan = planned(entry)
    made = entry.controller(plan)

    assert len(made.hyperparameters) == (1 if sites is Sites.SHARED else 5)
    assert made.chunk_size == TRAINING.chunk_size
    for child in plan.tuning("rd"):
        assert (child.spec.controller, child.spec.mode) == (made.name, Mode.LEARNING)
        assert child.spec.training.sites is sites


@pytest.mark.parametrize("kind", [Learned, Drawn])
def test_a_controller_stays_below_the_largest_value_of_its_method(
    kind: type[Learned | Drawn],
) -> None:
    """The range is the method's own; without one it is what children can have."""
    ranges = [
        [(h.low, h.high) for h in entry.controller(planned(entry)).hyperparameters]
        for entry in (kind(name="rd", high=0.5), kind(name="rd"))
    ]

    assert ranges == [[(0.0, 0.5)], [(0.0, 0.9)]]


def test_nothing_of_a_study_departs_from_its_plan(folder: ResultsFolder) -> None:
    """And what was trained under other things does, wherever it stands."""
    plan = folder.plan()
    results = plan.results
    assert not [r.key for r in results if departs(r, plan)]

    for place, r in enumerate(results):
        training = replace(r.spec.training, learning_rate=0.1)
        changed = replace(r, spec=replace(r.spec, training=training))
        others = [*results[:place], changed, *results[place + 1 :]]
        assert departs(changed, replace(plan, results=others)), r.key


def test_a_study_goes_on_with_more_methods_and_seeds() -> None:
    """And with other words; not with other children, fewer seeds, or a changed method."""
    first = StudySpec(training=TRAINING, methods=table_1([Method.D, Method.RD]))
    more = replace(first, seeds=9, methods=table_1(Method), title="t", references=("d",))

    assert more.goes_on_with(first)
    assert first.goes_on_with(first)
    for other in (
        replace(more, seeds=4),
        replace(more, budget=41),
        replace(more, training=replace(TRAINING, learning_rate=0.1)),
        replace(more, methods=table_1([Method.D])),
        replace(more, methods=(*table_1([Method.D]), Learned(name="rd"))),
    ):
        assert not other.goes_on_with(first)
