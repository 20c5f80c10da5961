"""Sizes of specs as a whole: what each part's own bound lets through may be too much together."""

from dataclasses import replace

import numpy as np
import pytest
import safetensors.numpy

from agent_service.client import AgentClient
from agent_service.controllers import ppo
from agent_service.controllers.ppo import PPOSettings
from agent_service.controllers.replay import ReplaySettings
from agent_service.domain.errors import InvalidArgument
from agent_service.domain.hyperparameters import Hyperparameter
from agent_service.domain.rewards import Reward
from agent_service.domain.specs import ControllerSpec
from agent_service.learning.snapshot import parameter_shapes
from tests.agent_service.learned import learn_once
from tests.agent_service.specs import DROPOUT, NOISE, spec
from tests.given import ServedAgent

MANY = tuple(Hyperparameter(name=f"h{i}", low=0.0, high=0.9) for i in range(64))
ALL_OBSERVED = {"observe_action": True, "observe_progress": True, "observe_scores": True}


def replay(chunks: int, hyperparameters: tuple[Hyperparameter, ...]) -> ControllerSpec:
    values = {h.name: 0.5 for h in hyperparameters}
    algorithm = ReplaySettings(values=(values,) * chunks)
    return spec(algorithm=algorithm, hyperparameters=hyperparameters)


@pytest.mark.parametrize(
    ("of", "field"),
    [
        (spec(chunk_size=10_000, algorithm=PPOSettings(net_arch=(512,) * 4)), "ppo.net_arch"),
        (spec(algorithm=PPOSettings(n_epochs=2**31 - 1)), "ppo.n_epochs"),
        (spec(algorithm=PPOSettings(batch_size=2, rollout_size=2**20)), "ppo.n_epochs"),
        (spec(algorithm=PPOSettings(rollout_size=2**31 - 1)), "ppo.rollout_size"),
        (spec(chunk_size=10_000, algorithm=PPOSettings(rollout_size=2048)), "ppo.rollout_size"),
        (replay(2_000, MANY), "replay.values"),
    ],
)
def test_what_is_too_much_together_is_refused(
    client: AgentClient, of: ControllerSpec, field: str
) -> None:
    """Though each part is within its own bound; the error names the fields to lower."""
    with pytest.raises(InvalidArgument, match=r"lower|fewer") as raised:
        client.create_controller(of)

    assert [v.field for v in raised.value.violations] == [f"spec.{field}"]
    assert list(client.list_controllers()) == []


@pytest.mark.parametrize(
    "of",
    [
        spec(),
        spec(chunk_size=10_000),
        spec(algorithm=PPOSettings(rollout_size=65_536)),
        spec(algorithm=PPOSettings(rollout_size=2048, net_arch=(512,) * 4)),
        spec(chunk_size=20, hyperparameters=MANY, algorithm=PPOSettings(net_arch=(512,) * 4)),
        replay(10_000, MANY[:8]),
    ],
)
def test_what_people_use_is_not(of: ControllerSpec) -> None:
    """The paper's settings, large networks, long chunks and fleets' rollouts are within all."""
    of.algorithm.check_size(of)


@pytest.mark.parametrize("net_arch", [(), (8,), (16, 4, 32)])
def test_parameters_are_those_of_the_policy(net_arch: tuple[int, ...]) -> None:
    """Counted from the spec, they are as many as the arrays of a snapshot have."""
    settings = PPOSettings(net_arch=net_arch, **ALL_OBSERVED)  # type: ignore[arg-type]
    of = spec(algorithm=settings, hyperparameters=(DROPOUT, NOISE))

    shapes = parameter_shapes(of).values()

    assert ppo.parameters(of) == sum(int(np.prod(shape)) for shape in shapes)


def test_a_stored_spec_over_a_limit_goes_on(
    served: ServedAgent, client: AgentClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It serves, its creation answers again, and an update takes the passes that it may."""
    settings = PPOSettings(rollout_size=8, batch_size=4, n_epochs=7, net_arch=(4,))
    of, one = spec(algorithm=settings, reward=Reward.GIVEN), replace(settings, n_epochs=1)
    client.create_controller(of)
    client.create_controller(replace(of, name="one", algorithm=one))
    monkeypatch.setattr(ppo, "MAX_UPDATE_WORK", 1)
    monkeypatch.setattr(ppo, "MAX_PARAMETERS", 1)

    client.create_controller(of)
    for name in ("c", "one"):
        with client.run(name, run_id=f"of-{name}") as run:
            for chunk in range(8):
                run.report_reward([1.0] * 4, 0.1 * chunk)
    assert learn_once(served.store) == 2

    policies = [safetensors.numpy.load(client.export_policy(name)) for name in ("c", "one")]
    steps = [int(arrays["optimizer.log_std.step"]) for arrays in policies]
    assert steps == [2, 2], "one pass over 8 transitions, 4 at once"
