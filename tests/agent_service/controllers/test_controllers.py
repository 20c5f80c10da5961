"""Each kind of controller decides as documented."""

import math

import numpy as np
import pytest
from scipy import stats

from agent_service.controllers.constant import ConstantSettings
from agent_service.controllers.ppo import FrozenStart, PPOSettings
from agent_service.controllers.random import RandomSettings
from agent_service.controllers.schedule import ScheduleSettings, Shape
from agent_service.domain.hyperparameters import named_values
from agent_service.domain.runs import Choice, Mode
from agent_service.domain.specs import ControllerSpec
from agent_service.domain.store import Situation
from agent_service.learning import policies
from tests.agent_service.specs import DROPOUT, NOISE, spec


def decide(
    of: ControllerSpec, *, run_id: str = "r", chunk: int = 1, mode: Mode = Mode.LEARNING
) -> Choice:
    data = policies.initial(of)
    policy = None if data is None else policies.load(data, of)
    state = np.zeros(4) if chunk == 1 else np.array([2.0, 1.5, 1.0, 0.5])
    return of.algorithm.decide(
        of,
        Situation(
            run_id=run_id,
            chunk=chunk,
            observation=state,
            mode=mode,
            previous=None,
            policy=policy,
        ),
    )


def schedule(shape: Shape, *, chunks: int = 5, steps: int = 1) -> ScheduleSettings:
    return ScheduleSettings(
        shape=shape, start={"dropout": 0.8}, end={"dropout": 0.2}, chunks=chunks, steps=steps
    )


def test_a_constant_is_what_was_given_in_every_chunk() -> None:
    """To the bit, for each hyperparameter."""
    of = spec(
        algorithm=ConstantSettings(values={"dropout": 0.3, "noise": 0.25}),
        hyperparameters=(DROPOUT, NOISE),
    )

    for chunk in (1, 2, 500):
        values = named_values(of.hyperparameters, decide(of, chunk=chunk).sample)
        assert values == {"dropout": 0.3, "noise": 0.25}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (schedule(Shape.LINEAR), [0.8, 0.65, 0.5, 0.35, 0.2, 0.2, 0.2]),
        (schedule(Shape.STEP), [0.8, 0.8, 0.8, 0.8, 0.2, 0.2, 0.2]),
        (schedule(Shape.STEP, steps=2), [0.8, 0.8, 0.5, 0.5, 0.2, 0.2, 0.2]),
        (
            schedule(Shape.COSINE),
            [0.5 + 0.3 * math.cos(math.pi * x) for x in (0, 0.25, 0.5, 0.75, 1, 1, 1)],
        ),
        (
            schedule(Shape.EXPONENTIAL),
            [*(0.2 + 0.6 * math.exp(-10 * x) for x in (0, 0.25, 0.5, 0.75)), 0.2, 0.2, 0.2],
        ),
    ],
)
def test_a_schedule_goes_from_start_to_end(
    settings: ScheduleSettings, expected: list[float]
) -> None:
    """Chunk 1 runs under start, chunk `chunks` and all after it under end (Figure 2, Diagram 2)."""
    of = spec(algorithm=settings)

    values = [
        named_values(of.hyperparameters, decide(of, chunk=chunk).sample)["dropout"]
        for chunk in range(1, 8)
    ]

    assert values == pytest.approx(expected, abs=1e-11)


def test_random_actions_are_uniform_in_every_mode() -> None:
    """By Kolmogorov-Smirnov over chunks, each hyperparameter for itself, uncorrelated."""
    of = spec(algorithm=RandomSettings(), hyperparameters=(DROPOUT, NOISE))
    chunks = range(1, 1001)
    samples = np.array([decide(of, chunk=chunk, mode=Mode.FROZEN).sample for chunk in chunks])

    for column in samples.T:
        assert stats.kstest((column + 1) / 2, "uniform").pvalue > 0.001
    assert abs(np.corrcoef(samples.T)[0, 1]) < 0.1


@pytest.mark.parametrize("algorithm", [PPOSettings(), RandomSettings()])
def test_the_first_action_of_a_learning_run_is_uniform(
    algorithm: PPOSettings | RandomSettings,
) -> None:
    """A_0 ~ U(low, high) (Eq. 4), and its log density is the uniform's, -h log 2."""
    of = spec(algorithm=algorithm, hyperparameters=(DROPOUT, NOISE))
    choices = [decide(of, run_id=f"r{i}") for i in range(1000)]

    for column in np.array([c.sample for c in choices]).T:
        assert stats.kstest((column + 1) / 2, "uniform").pvalue > 0.001
    assert {c.log_probability for c in choices} == {-2 * math.log(2)}
    assert all(c.explored for c in choices)


def test_a_learning_policy_samples_from_its_own_normal_law() -> None:
    """After A_0: mean and deviation of the policy, and that sample's log density."""
    of = spec(algorithm=PPOSettings(log_std_init=-0.5))
    mean = decide(of, chunk=2, mode=Mode.FROZEN).sample[0]
    law = stats.norm(mean, math.exp(-0.5))

    choices = [decide(of, run_id=f"r{i}", chunk=2) for i in range(1000)]

    samples = np.array([c.sample[0] for c in choices])
    assert stats.kstest(samples, law.cdf).pvalue > 0.001
    assert [c.log_probability for c in choices] == pytest.approx(law.logpdf(samples), abs=1e-6)
    assert any(abs(sample) > 1 for sample in samples), "samples are kept unclipped"


def test_a_frozen_run_may_start_uniformly_as_in_the_paper() -> None:
    """With `frozen_start: uniform` A_0 is drawn, and the mean follows."""
    of = spec(algorithm=PPOSettings(frozen_start=FrozenStart.UNIFORM))
    starts = {decide(of, run_id=f"r{i}", mode=Mode.FROZEN) for i in range(20)}
    second = {decide(of, run_id=f"r{i}", chunk=2, mode=Mode.FROZEN) for i in range(20)}

    assert len(starts) == 20
    assert len(second) == 1
