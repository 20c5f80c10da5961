"""What a study is made of: its stages, and which seeds they take."""

from dataclasses import replace

import pytest

from agent_service.domain.errors import InvalidArgument
from agent_service.domain.rewards import Reward
from agent_service.domain.runs import Mode
from agent_service.domain.specs import PPOSettings
from tests.trainer_service.specs import run_spec
from trainer_service.study.spec import Stage, StudySpec, controller_spec, stages
from trainer_service.training.spec import Method, Sites

TRAINING = run_spec().training


def study(**changes: object) -> StudySpec:
    content: dict[str, object] = {"ppo": PPOSettings(rollout_size=3, batch_size=3)} | changes
    return StudySpec(training=TRAINING, **content)  # type: ignore[arg-type]


def seeds(stage: Stage) -> list[int]:
    return [spec.training.seed for _id, spec in stage.runs]


def test_controllers_learn_before_anyone_is_judged() -> None:
    """RNI and RD learn; then all six methods are judged, the reinforced ones frozen."""
    made = stages("s", study(seeds=2, learning_runs=3))

    assert [(s.method, s.is_learning) for s in made] == [
        (Method.RNI, True),
        (Method.RD, True),
        *((method, False) for method in Method),
    ]
    for stage in made:
        modes = {spec.mode for _id, spec in stage.runs}
        expected = Mode.LEARNING if stage.is_learning else Mode.FROZEN
        assert modes == ({expected} if stage.method.is_reinforced else {None})


def test_all_methods_are_judged_on_the_same_fresh_children() -> None:
    """The same seeds for each method, and none of them one that a controller learned on."""
    made = stages("s", study(seeds=3, learning_runs=5))
    judged = [seeds(s) for s in made if not s.is_learning]
    learned = {seed for s in made if s.is_learning for seed in seeds(s)}

    assert judged == [[0, 1, 2]] * 6
    assert len(learned) == 5
    assert not learned & {0, 1, 2}


def test_run_ids_are_unique() -> None:
    """Over all stages of a study, and between two studies."""
    ids = [id_ for name in ("s", "t") for s in stages(name, study()) for id_, _ in s.runs]

    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("sites", list(Sites))
def test_a_controller_decides_what_its_children_have(sites: Sites) -> None:
    """Its hyperparameters are those of the method's sites, its chunk the child's."""
    spec = StudySpec(
        training=replace(TRAINING, sites=sites),
        reward=Reward.VALIDATION,
        ppo=PPOSettings(rollout_size=30),
    )
    made = controller_spec("s", spec, Method.RD)

    assert len(made.hyperparameters) == (1 if sites is Sites.SHARED else 5)
    assert made.chunk_size == TRAINING.chunk_size
    assert (made.reward, made.algorithm) == (Reward.VALIDATION, PPOSettings(rollout_size=30))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"methods": ()}, "methods"),
        ({"methods": (Method.D, Method.D)}, "methods"),
        ({"seeds": 0}, "seeds"),
        ({"learning_runs": 0}, "learning_runs"),
        ({"learning_runs": 1001}, "learning_runs"),
        ({"learning_runs": 85, "ppo": PPOSettings(rollout_size=256)}, "learning_runs"),
    ],
)
def test_a_wrong_study_is_refused_by_field(changes: dict[str, object], field: str) -> None:
    """Before anything is started."""
    with pytest.raises(InvalidArgument) as raised:
        study(**changes)

    assert [v.field for v in raised.value.violations] == [field]


def test_a_study_without_controllers_needs_no_transitions() -> None:
    """Baselines alone may be compared under any rollout size."""
    assert study(methods=(Method.D,), ppo=PPOSettings(rollout_size=10_000)).seeds == 3
