"""Every algorithm by its kind: the one place that tells them apart."""

from __future__ import annotations

from agent_service.controllers.bayesian import BayesianSettings
from agent_service.controllers.constant import ConstantSettings
from agent_service.controllers.ppo import PPOSettings
from agent_service.controllers.pretrained import PretrainedSettings
from agent_service.controllers.random import RandomSettings
from agent_service.controllers.replay import ReplaySettings
from agent_service.controllers.schedule import ScheduleSettings
from agent_service.domain.checks import quoted
from agent_service.domain.errors import invalid
from agent_service.domain.specs import Settings

KINDS: dict[str, type[Settings]] = {
    "ppo": PPOSettings,
    "constant": ConstantSettings,
    "schedule": ScheduleSettings,
    "random": RandomSettings,
    "bayesian": BayesianSettings,
    "replay": ReplaySettings,
    "pretrained": PretrainedSettings,
}


def settings_class(kind: str) -> type[Settings]:
    """Return the settings of a kind; raises InvalidArgument naming those that there are."""
    if kind not in KINDS:
        raise invalid("algorithm", f"{quoted(kind)} is not one of {', '.join(KINDS)}")
    return KINDS[kind]
