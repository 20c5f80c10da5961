"""Conformance suite of all kinds of controllers."""

import math
import pickle
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_service.controllers.bayesian import BayesianSettings
from agent_service.controllers.constant import ConstantSettings
from agent_service.controllers.derivation import action_values
from agent_service.controllers.observations import observation_size
from agent_service.controllers.ppo import FrozenStart, PPOSettings
from agent_service.controllers.pretrained import PretrainedSettings
from agent_service.controllers.random import RandomSettings
from agent_service.controllers.registry import KINDS
from agent_service.controllers.replay import ReplaySettings
from agent_service.controllers.schedule import ScheduleSettings, Shape
from agent_service.domain.errors import InvalidArgument
from agent_service.domain.runs import Choice, Mode
from agent_service.domain.specs import ControllerSpec, Observe, Settings, WarmStart
from agent_service.domain.store import AnyPolicy, Situation
from agent_service.domain.trials import TrialHistory
from agent_service.learning.snapshot import initial_snapshot
from agent_service.store.rows.rows import spec_from_text, spec_to_text
from agent_service.v1 import agent_pb2 as pb
from agent_service.wire.convert import spec_from_message, spec_to_message
from tests.agent_service.specs import DROPOUT, NOISE, spec

MIDDLE = {"dropout": 0.3, "noise": 0.5}
ALGORITHMS: dict[str, Settings] = {
    "ppo": PPOSettings(log_std_init=1.0),
    "ppo, all options": PPOSettings(
        log_std_init=1.0,
        observe_action=True,
        observe_progress=True,
        observe_scores=True,
        max_change=0.3,
        frozen_start=FrozenStart.UNIFORM,
        center_rewards=False,
        gamma=0.0,
        net_arch=(8,),
        warm_start=WarmStart(controller="other", policy_version=3),
    ),
    "ppo, begun with the package's": PPOSettings(
        log_std_init=1.0, observe=Observe.UNIVERSAL, warm_start=WarmStart(pretrained="dropout-1")
    ),
    "constant": ConstantSettings(values=MIDDLE),
    "schedule": ScheduleSettings(
        shape=Shape.COSINE, start={"dropout": 0.0, "noise": 1.0}, end=MIDDLE, chunks=9
    ),
    "random": RandomSettings(),
    "bayesian": BayesianSettings(n_startup_trials=1),
    "replay": ReplaySettings(run_id="r", values=(MIDDLE, {"dropout": 0.0, "noise": 1.0})),
    "pretrained": PretrainedSettings(policy="dropout-1"),
}
SPECS = {
    kind: spec(
        algorithm=algorithm,
        hyperparameters=(DROPOUT,) if algorithm.shipped_policy else (DROPOUT, NOISE),
    )
    for kind, algorithm in ALGORITHMS.items()
}


TRIALS = np.array([[-0.5, 0.25], [1.0, 1.0], [0.0, -1.0]])


def policy_of(of: ControllerSpec) -> AnyPolicy | None:
    if of.algorithm.learns_from_scores:
        return TrialHistory(TRIALS, np.array([0.25, math.nan, 0.75]))
    return None if of.algorithm.policy_settings is None else initial_snapshot(of)


POLICIES = {kind: policy_of(of) for kind, of in SPECS.items()}


SURE = Choice((0.5, 0.5), log_probability=0.0, explored=False)


def decide(of: ControllerSpec, situation: Situation) -> Choice:
    return of.algorithm.decide(of, situation)


def drawing(kind: str) -> Situation:
    """Return a situation in which chance takes part: for one value a run, its start."""
    return Situation(
        run_id="r",
        chunk=1 if kind == "bayesian" else 2,
        observation=np.ones(observation_size(SPECS[kind])),
        mode=Mode.LEARNING,
        previous=None if kind == "bayesian" else SURE,
        policy=POLICIES[kind],
    )


def situations(kind: str) -> st.SearchStrategy[Situation]:
    size = observation_size(SPECS[kind])
    observations = st.lists(st.floats(-1e6, 1e6), min_size=size, max_size=size)
    return st.builds(
        Situation,
        run_id=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True),
        chunk=st.integers(1, 10_000),
        observation=observations.map(np.array),
        mode=st.sampled_from(Mode),
        previous=st.none()
        | st.builds(
            Choice,
            st.tuples(*[st.floats(-3, 3)] * len(SPECS[kind].hyperparameters)),
            log_probability=st.just(0.0),
            explored=st.booleans(),
        ),
        policy=st.just(POLICIES[kind]),
    )


def values_before() -> st.SearchStrategy[dict[str, float]]:
    """Return what a chunk before ran under, which bounded changes start from."""
    return st.fixed_dictionaries({"dropout": st.floats(0, 0.9), "noise": st.floats(0.001, 1)})


def test_the_suite_covers_every_controller() -> None:
    """A controller that is registered and not tested here fails this test."""
    assert {a.kind: type(a) for a in ALGORITHMS.values()} == KINDS


@pytest.mark.parametrize("kind", ALGORITHMS)
def test_specs_come_back_as_they_were(kind: str) -> None:
    """From the store, from another process, and from a client, whom no run's values are told."""
    made = SPECS[kind]
    asked = replace(made, algorithm=made.algorithm.as_asked())

    assert spec_from_text(spec_to_text(made)) == made
    assert pickle.loads(pickle.dumps(made)) == made
    assert spec_from_message(spec_to_message(made)) == asked


@pytest.mark.parametrize("kind", KINDS)
def test_a_zero_on_the_wire_is_not_read_as_the_default(kind: str) -> None:
    """A number records whether it is set, `optional` in the contract, or 0 is refused."""
    message = pb.ControllerSpec.DESCRIPTOR.fields_by_name[kind].message_type
    assert message is not None
    made: Any = ALGORITHMS[kind]
    defaults = {f.name: f.default for f in fields(made)}

    for field in message.fields:
        if isinstance(defaults[field.name], int | float) and not field.has_presence:
            with pytest.raises(InvalidArgument):
                replace(made, **{field.name: 0})


def test_pickles_of_older_releases_are_read() -> None:
    """Written when all settings stood in `domain.specs`."""
    path = Path(__file__).parents[2] / "data/specs/settings-in-domain.pickle"

    made = {spec.name: spec.algorithm for spec in pickle.loads(path.read_bytes())}

    assert len(made) == 6
    assert all(type(settings) is KINDS[kind] for kind, settings in made.items())
    assert made["schedule"].shape is Shape.STEP
    assert made["ppo"].observe is Observe.LOSSES
    assert made["ppo"].warm_start == WarmStart(controller="other", policy_version=3)


@pytest.mark.parametrize("kind", ALGORITHMS)
@given(data=st.data())
@settings(deadline=None)
def test_actions_never_leave_their_bounds(kind: str, data: st.DataObject) -> None:
    """One finite number for each hyperparameter, each value in its range, in any situation."""
    situation = data.draw(situations(kind))

    choice = decide(SPECS[kind], situation)

    before = data.draw(st.none() | values_before())
    values = action_values(SPECS[kind], choice.sample, before=before)
    assert np.isfinite(choice.sample).all()
    assert 0 <= values["dropout"] <= 0.9
    assert 0.001 <= values.get("noise", 1) <= 1
    assert np.isfinite(choice.log_probability)


@pytest.mark.parametrize("kind", ALGORITHMS)
@given(data=st.data())
@settings(deadline=None)
def test_equal_situations_give_equal_choices(kind: str, data: st.DataObject) -> None:
    """To the bit, from another instance, whatever was decided in between."""
    one, other = data.draw(situations(kind)), data.draw(situations(kind))

    first = decide(SPECS[kind], one)
    decide(SPECS[kind], other)

    assert decide(pickle.loads(pickle.dumps(SPECS[kind])), one) == first


@pytest.mark.parametrize("change", [{"run_id": "other"}, {"chunk": 3}, {"seed": 8}])
@pytest.mark.parametrize("kind", ["ppo", "ppo, all options", "random", "bayesian"])
def test_each_decision_draws_its_own_numbers(kind: str, change: dict[str, Any]) -> None:
    """Another run, another chunk in the same state, or another seed draws other numbers."""
    of, situation = SPECS[kind], drawing(kind)
    if "seed" in change:
        changed = decide(replace(of, **change), situation)
    else:
        changed = decide(of, replace(situation, **change))

    assert changed != decide(of, situation)


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("place", range(7))
def test_a_policy_decides_by_all_of_its_context(mode: Mode, place: int) -> None:
    """Each number that is seen beside the losses counts, in every mode."""
    kind = "ppo, all options"
    situation = replace(drawing(kind), mode=mode)

    other = replace(situation, observation=situation.observation + np.eye(11)[4 + place])

    assert decide(SPECS[kind], other).sample != decide(SPECS[kind], situation).sample
