"""Which class decides for which settings: the only place that tells controllers apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agent_service.controllers.bayesian import BayesianController
from agent_service.controllers.constant import ConstantController
from agent_service.controllers.ppo import PPOController
from agent_service.controllers.random import RandomController
from agent_service.controllers.replay import ReplayController
from agent_service.controllers.schedule import ScheduleController
from agent_service.domain.specs import (
    BayesianSettings,
    ConstantSettings,
    ControllerSpec,
    PPOSettings,
    RandomSettings,
    ReplaySettings,
    ScheduleSettings,
)
from agent_service.domain.store import Decider

CONTROLLERS: dict[type[Any], Callable[[ControllerSpec], Decider]] = {
    PPOSettings: PPOController,
    ConstantSettings: ConstantController,
    ScheduleSettings: ScheduleController,
    RandomSettings: RandomController,
    BayesianSettings: BayesianController,
    ReplaySettings: ReplayController,
}


def make_decider(spec: ControllerSpec) -> Decider:
    """Return what decides for a controller of this spec."""
    return CONTROLLERS[type(spec.algorithm)](spec)
