"""A PyTorch model that keeps its own regularization, while an agent says what it would have set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from agent_service.client.model.drives import rate_of
from agent_service.client.model.scores import Score, Scoring, scoring_of
from agent_service.client.model.selection import select, unwrapped
from agent_service.domain.errors import invalid
from agent_service.domain.hyperparameters import Hyperparameter


class ShadowedModel:
    """Reads a model's own rates; changes nothing."""

    def __init__(
        self,
        model: nn.Module,
        hyperparameters: Sequence[Hyperparameter],
        *,
        drives: Mapping[str, str] | None = None,
        score: Score | None = None,
    ) -> None:
        """Find what each hyperparameter is about, as `SteeredModel` does.

        Raises:
            InvalidArgument: as there.
        """
        self.scoring: Scoring = scoring_of(score)
        """How the batches of its run are scored."""
        names = [h.name for h in hyperparameters]
        self._modules = select(unwrapped(model), names, drives)
        if missing := sorted(set(names) - set(self._modules)):
            raise invalid("drives", f"the model has no dropout of its own for {missing}")

    def own_values(self) -> dict[str, float]:
        """Return the rates that the model trains under now, by hyperparameter.

        Raises:
            InvalidArgument: modules of one hyperparameter have different rates.
        """
        return {name: _common_rate(name, modules) for name, modules in self._modules.items()}

    def apply(self, values: Mapping[str, float]) -> None:
        """Change nothing."""

    def remove(self) -> None:
        """Nothing was put in."""


def _common_rate(name: str, modules: Sequence[nn.Module]) -> float:
    rates = {rate_of(module) for module in modules}
    if len(rates) > 1:
        raise invalid(
            f"applied[{name}]",
            f"its modules have different rates, {sorted(rates)}; name those of one rate by drives=",
        )
    return rates.pop()
