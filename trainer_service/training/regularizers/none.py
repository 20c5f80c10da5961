"""No regularization: the paper's Vanilla."""

from __future__ import annotations

from collections.abc import Sequence

from agent_service.domain.hyperparameters import Hyperparameter
from trainer_service.training.child.models import STAGES
from trainer_service.training.regularizers.regularizer import Regularizer


class NoRegularizer(Regularizer):
    """Changes nothing."""

    name = "none"
    fixed = "Vanilla"

    def hyperparameters(
        self, *, each: bool, stages: Sequence[str] = STAGES
    ) -> tuple[Hyperparameter, ...]:
        """Return no value."""
        return ()
