"""A run whose agent is away as its training begins."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

from agent_service.client.delivery import Delivery, named
from agent_service.client.description import Description
from agent_service.client.run import Run
from agent_service.v1 import agent_pb2 as pb

log = logging.getLogger("agent_service.client")

LOOK_STEPS = 20
"""Training steps between two looks whether the agent is back."""

_NOT_YET = "nothing is driven: the run has not begun, and the model keeps its own rates"


class _Undecided(dict[str, float]):
    """Values that nobody decided yet, NaN by any name: a script that logs them goes on."""

    def __missing__(self, name: str) -> float:
        return math.nan


class LateRun(Run):
    """Steers nothing, and takes steps without keeping them, until the agent is back.

    Then it begins: chunk 1 is the N steps that follow. Before, the model trains under its own
    rates, and `chunk_full` is never true.
    """

    def __init__(
        self,
        delivery: Delivery,
        *,
        run_id: str,
        begin: Callable[[], Mapping[str, Any] | None],
    ) -> None:
        """Wait for the agent.

        Args:
            delivery: of the run's calls.
            run_id: the run's.
            begin: returns the arguments of the run that has begun; None while the agent is away.
                Of several processes each calls it after the same steps.
        """
        super().__init__(delivery, run_id=run_id, chunk_size=0, action=pb.Action())
        self._begin = begin
        self._steps = 0

    def describe(self) -> Description:
        """See `Run`."""
        return super().describe() if self.chunk_size else Description(nothing=_NOT_YET)

    @property
    def hyperparameters(self) -> dict[str, float]:
        """See `Run`; before the run begins, NaN by any name."""
        return super().hyperparameters if self.chunk_size else _Undecided()

    def step(self, *told: Any, **score: Any) -> None:
        """See `Run`."""
        if self._is_idle:
            self._steps += 1
            if not self.is_finished and self._steps % LOOK_STEPS == 0:
                self._look()
        else:
            super().step(*told, **score)

    def _look(self) -> None:
        try:
            begun = self._begin()
        except Exception as error:  # whatever it is, this is the middle of a training
            log.warning(
                "%s does not begin, and the training goes on: %s", named(self.run_id), error
            )
            self.is_finished = True
            self._delivery.flush()  # so that no other rank waits for this one
            return
        if begun is not None:
            super().__init__(**begun)
            self._has_reported = True  # a score that fails is no first one, which would raise
            log.warning("the agent is back; %s begins", named(self.run_id))

    def _finish(self, *end: Any, **how: Any) -> None:
        if self._is_idle and not self.is_finished:
            log.warning("%s never began: the agent was away", named(self.run_id))
            self.is_finished = True
        super()._finish(*end, **how)
