"""Bayesian optimization of a constant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from agent_service.controllers.bayesian import BayesianSettings
from agent_service.domain.specs import Settings
from trainer_service.study.methods.choosing import Learning

if TYPE_CHECKING:
    from trainer_service.study.spec import StudySpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Bayesian(Learning):
    """The best constant that Optuna's TPE proposed, by final validation scores (Figure 4)."""

    kind: Literal["bayesian"] = "bayesian"
    is_search = True

    def algorithm(self, study: StudySpec) -> Settings:
        """Return TPE's settings."""
        return BayesianSettings()
