"""A PyTorch model in a shadow run: it keeps its own regularization, which is only read."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from torch import nn

from agent_service.client.description import Description
from agent_service.client.model.known_modules import Rate
from agent_service.client.model.scores import Score, Scoring, scoring_of
from agent_service.client.model.selection import nothing_driven, select, unwrapped
from agent_service.client.sites import Drives
from agent_service.domain.errors import invalid
from agent_service.domain.hyperparameters import Hyperparameter

log = logging.getLogger("agent_service.client")


class ShadowedModel:
    """Reads a model's own rates; changes nothing."""

    def __init__(
        self,
        model: nn.Module,
        hyperparameters: Sequence[Hyperparameter],
        *,
        drives: Drives | None = None,
        score: Score | None = None,
    ) -> None:
        """Find the rates of each hyperparameter, as `SteeredModel` does.

        Raises:
            InvalidArgument: as there, or the modules of a hyperparameter have different rates.
        """
        self.scoring: Scoring = scoring_of(score)
        """Starts the score of a chunk."""
        selection = select(unwrapped(model), [h.name for h in hyperparameters], drives)
        self._rates: Mapping[str, Sequence[Rate]] = selection.driven
        for name in sorted({h.name for h in hyperparameters} - self._rates.keys()):
            hint = nothing_driven(name, selection.left_alone)
            raise invalid(f"hyperparameters[{name}]", f"a shadow run reads no rate for it: {hint}")
        for name, rates in self._rates.items():
            if len(different := {rate.number for rate in rates}) > 1:
                raise invalid(
                    f"hyperparameters[{name}]",
                    f"a shadow run reports one rate for it, but the model has {sorted(different)}; "
                    f"select modules of one rate by drives={{{name!r}: 'MODULE'}}",
                )
        self.description = Description(tuple(selection.found), selection.left_alone, is_shadow=True)
        self._is_warned = False
        log.info("%s", self.description.summary())

    def own_values(self) -> dict[str, float]:
        """Return the model's current rates, by hyperparameter.

        If the script has since set different rates for one hyperparameter, their mean.
        """
        return {name: self._mean(name, rates) for name, rates in self._rates.items()}

    def _mean(self, name: str, rates: Sequence[Rate]) -> float:
        numbers = [rate.number for rate in rates]
        if len(set(numbers)) == 1:
            return numbers[0]
        if not self._is_warned:
            self._is_warned = True
            log.warning("the modules of %s now have different rates; reporting their mean", name)
        return sum(numbers) / len(numbers)

    def apply(self, values: Mapping[str, float]) -> None:
        """Do nothing: a shadow run changes no rate."""

    def remove(self) -> None:
        """Do nothing: the model was not changed."""
