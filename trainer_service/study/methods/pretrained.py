"""A policy of the package, learned across other problems: it trains no child of this one before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from agent_service.controllers.pretrained import PretrainedSettings
from agent_service.domain.specs import Settings
from trainer_service.study.methods.choosing import Choosing
from trainer_service.study.methods.steered import Steered

if TYPE_CHECKING:
    from trainer_service.study.spec import StudySpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Pretrained(Steered):
    """A policy that comes with the agent service, frozen: always its mean action."""

    kind: Literal["pretrained"] = "pretrained"
    policy: str = ""
    """Its name; empty takes the first of the regularizer, as `dropout-1`."""

    def __post_init__(self) -> None:
        """Name the policy, so that a report says which one it was; check the name's form."""
        Choosing.__post_init__(self)
        object.__setattr__(self, "policy", self.policy or f"{self.regularizer}-1")
        PretrainedSettings(policy=self.policy)

    @property
    def learned(self) -> Steered | None:
        """This method, whose schedules can be replayed and whose values have a mean."""
        return self

    def algorithm(self, study: StudySpec) -> Settings:
        """Return the settings of its controller."""
        return PretrainedSettings(policy=self.policy)
