"""How large what a spec asks for is, as a whole: each of its parts may be within its own bound.

Looked at where a controller is new. One that is stored goes on: an update of it takes no more
passes than `affordable_epochs`.
"""

from __future__ import annotations

import itertools

from agent_service.controllers.observations import observation_size
from agent_service.domain.errors import invalid
from agent_service.domain.specs import ControllerSpec, PPOSettings, ReplaySettings

MAX_PARAMETERS = 2_000_000
"""Of policy and value network together: a version takes 12 bytes for each, 24 MB."""
MAX_ROLLOUT_NUMBERS = 2**24
"""Numbers observed in a rollout; an update has some 50 bytes in memory for each."""
MAX_UPDATE_WORK = 250_000_000_000
"""Of one update, in the units of `_work_of_epoch`: some 25 s of a core. One of PPO's defaults, for
256 transitions, takes 0.1 s."""
MAX_REPLAYED_VALUES = 100_000
"""Chunks by hyperparameters of a replay; as JSON some 2 MB."""


def check_sizes(spec: ControllerSpec) -> None:
    """Check what a new controller's parts come to together.

    Raises:
        InvalidArgument: naming a field, how much too much it is, and the fields to lower.
    """
    if isinstance(spec.algorithm, PPOSettings):
        _check_ppo(spec, spec.algorithm)
    if isinstance(spec.algorithm, ReplaySettings):
        _check_replay(spec, spec.algorithm)


def _check_ppo(spec: ControllerSpec, settings: PPOSettings) -> None:
    count, observed = parameters(spec), observation_size(spec)
    if count > MAX_PARAMETERS:
        raise invalid(
            "spec.ppo.net_arch",
            f"{list(settings.net_arch)} makes {count:,} parameters of the {observed:,} numbers "
            f"observed; at most {MAX_PARAMETERS:,}: lower net_arch or chunk_size",
        )
    if (numbers := settings.rollout_size * observed) > MAX_ROLLOUT_NUMBERS:
        raise invalid(
            "spec.ppo.rollout_size",
            f"{settings.rollout_size} times {observed:,} numbers observed are {numbers:,}; at most "
            f"{MAX_ROLLOUT_NUMBERS:,}: lower rollout_size or chunk_size",
        )
    if settings.n_epochs > (most := MAX_UPDATE_WORK // _work_of_epoch(spec)):
        raise invalid(
            "spec.ppo.n_epochs",
            f"{settings.n_epochs} passes over {settings.rollout_size} transitions would keep other "
            f"controllers from learning; at most {most}: lower n_epochs, rollout_size or "
            "net_arch, or raise batch_size",
        )


def _check_replay(spec: ControllerSpec, replay: ReplaySettings) -> None:
    chunks, each = len(replay.values), len(spec.hyperparameters)
    if chunks * each > MAX_REPLAYED_VALUES:
        raise invalid(
            "spec.replay.values",
            f"{chunks} chunks of {each} hyperparameters are {chunks * each:,} values; at most "
            f"{MAX_REPLAYED_VALUES:,}: replay fewer chunks, or fewer hyperparameters",
        )


def parameters(spec: ControllerSpec) -> int:
    """Return how many parameters the policy of a PPO controller has, its value network's too."""
    assert isinstance(spec.algorithm, PPOSettings)
    widths = (observation_size(spec), *spec.algorithm.net_arch)
    hidden = sum((inputs + 1) * outputs for inputs, outputs in itertools.pairwise(widths))
    actions = len(spec.hyperparameters)
    return 2 * hidden + (widths[-1] + 1) * (actions + 1) + actions


def affordable_epochs(spec: ControllerSpec) -> int:
    """Return how many passes over its rollout an update may take at the most; 1 at least."""
    return max(1, MAX_UPDATE_WORK // _work_of_epoch(spec))


def _work_of_epoch(spec: ControllerSpec) -> int:
    """Return the work of one pass, in multiplications of a parameter with a sample, 0.1 ns each.

    A gradient step costs 20 million of them, 2 ms, and Adam as much as 80 samples (measured).
    """
    assert isinstance(spec.algorithm, PPOSettings)
    count, size = parameters(spec), spec.algorithm.rollout_size
    steps = -(-size // min(spec.algorithm.batch_size, size))
    return size * count + steps * (20_000_000 + 80 * count)
