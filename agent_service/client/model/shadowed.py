"""A PyTorch model that keeps its own regularization, while an agent says what it would have set."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from torch import nn

from agent_service.client.description import Description
from agent_service.client.model.kinds import Rate
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
        """Find what each hyperparameter is about, as `SteeredModel` does.

        Raises:
            InvalidArgument: as there, or a hyperparameter is about modules of different rates.
        """
        self.scoring: Scoring = scoring_of(score)
        """How the batches of its run are scored."""
        selection = select(unwrapped(model), [h.name for h in hyperparameters], drives)
        self._rates: Mapping[str, Sequence[Rate]] = selection.driven
        for name in sorted({h.name for h in hyperparameters} - self._rates.keys()):
            hint = nothing_driven(name, selection.left_alone)
            raise invalid(f"hyperparameters[{name}]", f"a shadow run reads no rate for it: {hint}")
        for name, rates in self._rates.items():
            if len(different := {rate.number for rate in rates}) > 1:
                raise invalid(
                    f"hyperparameters[{name}]",
                    f"a shadow run tells one rate for it, and the model has {sorted(different)}; "
                    f"name modules of one rate by drives={{{name!r}: 'MODULE'}}",
                )
        self.description = Description(tuple(selection.found), selection.left_alone, is_shadow=True)
        self._is_warned = False
        log.info("%s", self.description.summary())

    def own_values(self) -> dict[str, float]:
        """Return the rates that the model trains under now, by hyperparameter.

        Where the script has set those of one hyperparameter apart since the start, their mean.
        """
        return {name: self._mean(name, rates) for name, rates in self._rates.items()}

    def _mean(self, name: str, rates: Sequence[Rate]) -> float:
        numbers = [rate.number for rate in rates]
        if len(set(numbers)) == 1:
            return numbers[0]
        if not self._is_warned:
            self._is_warned = True
            log.warning("the modules of %s have different rates now; their mean is told", name)
        return sum(numbers) / len(numbers)

    def apply(self, values: Mapping[str, float]) -> None:
        """Change nothing."""

    def remove(self) -> None:
        """Nothing was put in."""
