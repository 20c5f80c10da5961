"""The pretrained controller: it decides by a policy of the package, and learns nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from agent_service.controllers.observations import check_scores
from agent_service.controllers.ppo import PPOSettings, mean_choice
from agent_service.domain.checks import check_name, fields_by_name
from agent_service.domain.errors import invalid
from agent_service.domain.hyperparameters import LONGEST_NAME, NAME, Hyperparameter
from agent_service.domain.runs import Choice
from agent_service.domain.specs import ControllerSpec, Observe, Settings

if TYPE_CHECKING:
    from agent_service.domain.store import Situation

POLICY_SETTINGS = PPOSettings(observe=Observe.UNIVERSAL, net_arch=(64, 64), center_rewards=False)
"""What gives every policy of the package its form."""


@fields_by_name
@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainedSettings(Settings):
    """Decides by a policy that comes with the package, learned across problems and frozen.

    Always its mean action, from the first chunk on, in learning, frozen and shadow runs alike. The
    controller has one hyperparameter, of any name, with the policy's own range and scale. The store
    keeps the policy as version 1, which others may begin with.
    """

    observe = Observe.UNIVERSAL

    kind: Literal["pretrained"] = "pretrained"
    policy: str
    """Its name, e.g. `dropout-1`."""

    def __post_init__(self) -> None:
        """Check the name's form; raises InvalidArgument. Which there are, the service knows."""
        check_name(self.policy, NAME, longest=LONGEST_NAME, field="policy")

    @property
    def policy_settings(self) -> PPOSettings:
        """Settings of the policies of the package."""
        return POLICY_SETTINGS

    @property
    def shipped_policy(self) -> str:
        """The policy's name."""
        return self.policy

    def check(self, hyperparameters: Sequence[Hyperparameter]) -> None:
        """Check that there is one hyperparameter; raises InvalidArgument."""
        if len(hyperparameters) != 1:
            raise invalid(
                "policy",
                f"{self.policy!r} decides one hyperparameter, and {len(hyperparameters)} are "
                "given; make a controller of each",
            )

    def check_size(self, spec: ControllerSpec) -> None:
        """Check that runs report the scores that the policy sees; raises InvalidArgument."""
        check_scores(spec, field="policy")

    def decide(self, spec: ControllerSpec, situation: Situation) -> Choice:
        """Return the policy's mean action, in every mode."""
        return mean_choice(situation)


def pretrained(policy: str) -> PretrainedSettings:
    """Return the settings of a controller that decides by a policy of the package.

    Args:
        policy: its name, `dropout-1` or `noise-1`.

    Raises:
        InvalidArgument: it does not have the form of a name.
    """
    return PretrainedSettings(policy=policy)
