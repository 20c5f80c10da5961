"""A run that starts later, as its agent is away when the training starts."""

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
"""Training steps between attempts to start the run."""

_NOT_YET = "nothing is driven: the run has not started, and the model keeps its own rates"


class _Undecided(dict[str, float]):
    """Values before the first action: NaN for any name, so that scripts can log them."""

    def __missing__(self, name: str) -> float:
        return math.nan


class DeferredRun(Run):
    """Drives nothing and discards steps until the agent is back, then starts.

    Chunk 1 is the N steps after the start. Before it, the model trains under its own rates, and
    `chunk_full` is never true.
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
            delivery: sends the run's calls.
            run_id: the run's id.
            begin: returns the arguments of the started run; None while the agent is away. In a
                distributed training every process calls it after the same steps.
        """
        super().__init__(delivery, run_id=run_id, chunk_size=0, action=pb.Action())
        self._begin = begin
        self._steps = 0

    def describe(self) -> Description:
        """Return what the run drives: nothing before it has started."""
        return super().describe() if self.chunk_size else Description(nothing=_NOT_YET)

    @property
    def hyperparameters(self) -> dict[str, float]:
        """The values to train under; before the run has started, NaN for any name."""
        return super().hyperparameters if self.chunk_size else _Undecided()

    def step(self, *step: Any, **score: Any) -> None:
        """Record a step; before the run has started, discard it and try to start now and then."""
        if self._is_idle:
            self._steps += 1
            if not self.is_finished and self._steps % LOOK_STEPS == 0:
                self._try_to_start()
        else:
            super().step(*step, **score)

    def _try_to_start(self) -> None:
        try:
            begun = self._begin()
        except Exception as error:  # of any kind: the training must not be interrupted
            log.warning(
                "%s does not start, and the training continues: %s", named(self.run_id), error
            )
            self.is_finished = True
            self._delivery.flush()  # so that no other rank waits for this one
            return
        if begun is not None:
            super().__init__(**begun)
            self._has_reported = True  # so that an error of the score does not raise
            log.warning("the agent is back; %s starts", named(self.run_id))

    def _finish(self, *end: Any, **how: Any) -> None:
        if self._is_idle and not self.is_finished:
            log.warning("%s never started: the agent was away", named(self.run_id))
            self.is_finished = True
        super()._finish(*end, **how)
